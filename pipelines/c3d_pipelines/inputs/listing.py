"""The inputs of a bulk run, from what the user names: a folder, a pattern, a bucket, a manifest.

The first step of a run; ``steps/plan.py`` decides what is to be done with each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from c3d_client.core.errors import UsageError
from c3d_client.core.uri import OBJECT_STORES, STORES, redact, scheme
from c3d_client.video.sources import (
    EVERYTHING,
    VIDEO_SUFFIXES,
    Parts,
    expand,
    fingerprint_of,
    is_object,
    is_pattern,
    is_video,
    is_wanted,
    leads,
    open_store,
    reason,
)

from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.content_keys import check_kind, quick_key, with_keys
from c3d_pipelines.inputs.manifest import ManifestRow, is_manifest, read_manifest
from c3d_pipelines.inputs.uris import local_path
from c3d_pipelines.parameters import QUICK

_log = logging.getLogger(__name__)


def list_inputs(videos: str, *, keys: str = QUICK) -> list[ManifestRow]:
    """List the inputs of a run, the same place always in the same order.

    Args:
        videos: a folder, searched through for files named as videos are, the hidden ones left out;
            a pattern, as for a shell, with ``**`` for any folders; a prefix or pattern of
            ``s3://`` or ``gs://``; one video, also ``https://``; or a manifest, a file named
            .csv, .jsonl, .ndjson or .parquet (see `manifest.py`).
        keys: how a video is told from another: ``quick``, by a file's size and time, and by what
            the store tells of an object; or ``content``, by the SHA-256 of a file's bytes, which
            are all read; objects keep what the store tells.

    Returns:
        Rows with absolute paths or URLs. Where videos are listed the id is the path below the
        folder, or below the part before the pattern, with forward slashes. What cannot be asked
        for its key has none, and is an input all the same.

    Raises:
        ManifestError: nothing there, or it cannot be listed, or a manifest with bad rows.
        StorageError: a manifest that cannot be read.
        UsageError: an argument is not one of these.
    """
    check_kind(keys)
    if not videos.strip():
        raise UsageError("videos is empty; give a folder, a pattern, a bucket or a manifest")
    rows = _listed(videos)
    if not rows:
        what = "matches no videos" if is_pattern(videos) else "no videos there"
        named = ", ".join(sorted(VIDEO_SUFFIXES))
        raise ManifestError(f"{redact(videos)}: {what} (files named {named})")
    return with_keys(rows, keys=keys)


def _listed(videos: str) -> list[ManifestRow]:
    path = local_path(videos)
    if path is not None:
        return _local(os.path.abspath(path))
    kind = scheme(videos)
    if kind not in STORES:
        raise ManifestError(
            f"{redact(videos)}: videos cannot be listed there; give a path, s3:// or gs://"
        )
    # A query is no part of a name, as in https://host/a.mp4?token=…
    name = videos.partition("?")[0] if kind not in OBJECT_STORES else videos
    if kind in OBJECT_STORES and not is_manifest(name):
        return _only_videos(videos, list_bucket(videos))
    if is_manifest(name):
        return read_manifest(videos)
    if not is_video(name):
        raise ManifestError(f"{redact(videos)}: a web server's folder cannot be listed")
    return [ManifestRow(name.rpartition("/")[2], videos)]


def _local(path: str) -> list[ManifestRow]:
    if is_manifest(path) and not os.path.isdir(path):
        return read_manifest(path)
    if not os.path.exists(path) and not is_pattern(path):
        raise ManifestError(f"{path}: no such file or folder; give what holds the videos")
    try:
        found = expand([path])
    except UsageError as error:  # no videos, or a folder that cannot be listed
        raise ManifestError(str(error)) from error
    if len(found) == 1 and found[0].uri == path:
        return _only_videos(path, [ManifestRow(found[0].name, path)])
    rows = []
    for source in found:
        name, uri = _as_text(source.name), _as_text(source.uri)
        if uri != source.uri:
            _log.warning("%s: its name is not UTF-8 and cannot be kept; rename it", uri)
        rows.append(ManifestRow(name, uri))
    return rows


def _only_videos(videos: str, rows: list[ManifestRow]) -> list[ManifestRow]:
    """Refuse the one file that was named, where it is not called as a video is."""
    if len(rows) == 1 and rows[0].uri == videos and not is_video(videos):
        raise ManifestError(
            f"{redact(videos)}: is not called as a video ({', '.join(sorted(VIDEO_SUFFIXES))}) or "
            "a manifest (.csv, .jsonl, .ndjson, .parquet) is"
        )
    return rows


def _as_text(name: str) -> str:
    # Bytes of a name that are no text cannot be written to any file. The row stays, under a name
    # that does not exist, and ends as unreadable.
    return name.encode("utf-8", "backslashreplace").decode()


def list_bucket(uri: str) -> list[ManifestRow]:
    """List the videos below a prefix, or those that a pattern names, sorted by path.

    Hidden objects, and those without a video's suffix, are left out as in a folder on disk. A URL
    that names one object gives that one, without key.

    Args:
        uri: ``s3://…`` or ``gs://…``.

    Raises:
        ManifestError: there is nothing, or it cannot be listed.
        UsageError: the library for this kind of URL is not installed.
    """
    folder, pattern = uri.rstrip("/"), EVERYTHING
    if not uri.endswith("/") and is_object(uri):
        return [ManifestRow(folder.rpartition("/")[2], uri)]
    if is_pattern(uri):
        parts = folder.split("/")
        fixed = next(at for at, part in enumerate(parts) if is_pattern(part))
        folder, pattern = "/".join(parts[:fixed]), tuple(parts[fixed:])
    rows = []
    try:
        for below, info in _objects(folder, pattern):
            if is_wanted(below, pattern):
                told = fingerprint_of(info)
                name = "/".join(below)
                size = int(told.get("size", 0))
                rows.append(ManifestRow(name, f"{folder}/{name}", size, key=quick_key(told)))
    except Exception as error:
        # Not chained: libraries put what is secret into theirs.
        said = str(error) if isinstance(error, ManifestError) else reason(error, uri)
        raise ManifestError(f"{redact(uri)}: cannot be listed: {said}") from None
    return sorted(rows, key=lambda row: row.video_id.split("/"))


def _objects(folder: str, pattern: Parts) -> Iterator[tuple[Parts, Mapping[str, Any]]]:
    """Each object's path below the folder, in parts, and what the store tells of it."""
    store, path = open_store(folder)
    path = path.rstrip("/")

    def below(name: str) -> Parts:
        return tuple(name[len(path) + 1 :].split("/"))

    def look_into(inner: str) -> Iterator[tuple[Parts, Mapping[str, Any]]]:
        for info in store.ls(inner, detail=True):
            name = info["name"].rstrip("/")
            if info["type"] != "directory":
                yield below(info["name"]), info
            elif name != inner and leads(below(name), pattern):
                yield from look_into(name)

    if pattern[0] == "**":  # all that is below, a thousand in a request, whatever their folders
        for name, info in store.find(path, detail=True).items():
            yield below(name), info
    else:  # only where the pattern leads, not all that the bucket holds
        yield from look_into(path)
