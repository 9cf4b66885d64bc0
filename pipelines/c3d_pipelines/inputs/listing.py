"""List the inputs of a bulk run: a folder, a pattern, a bucket, one video or a manifest.

This is the first step of a run; :mod:`c3d_pipelines.run.plan` decides what to do with each input.
"""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from c3d_client.core.arguments import path_text
from c3d_client.core.errors import UsageError
from c3d_client.core.uri import Uri
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
from c3d_pipelines.parameters import QUICK

_log = logging.getLogger(__name__)


def list_inputs(videos: str | os.PathLike[str], *, keys: str = QUICK) -> list[ManifestRow]:
    """List the inputs of a run, always in the same order.

    Args:
        videos: a folder, searched for files with a video's suffix, hidden ones left out; a shell
            pattern, with ``**`` for any folders; a prefix or pattern of ``s3://`` or ``gs://``; one
            video, also ``https://``; or a manifest, a file named .csv, .jsonl, .ndjson or .parquet
            (see :mod:`c3d_pipelines.inputs.manifest`).
        keys: how videos are identified: ``quick``, by a file's size and time, and by the properties
            that the store reports of an object; or ``content``, by the SHA-256 of a file's bytes,
            which are all read; objects keep the properties of the store.

    Returns:
        Rows with absolute paths or URLs. The id of a listed video is its path below the folder, or
        below the part before the pattern, with forward slashes. A video that cannot be looked up
        has no key and is an input all the same.

    Raises:
        ManifestError: there are no videos, they cannot be listed, or a manifest has bad rows.
        StorageError: a manifest cannot be read.
        UsageError: an argument is out of its range.
    """
    check_kind(keys)
    videos = path_text(videos, "videos")
    if not videos.strip():
        raise UsageError("videos is empty; give a folder, a pattern, a bucket or a manifest")
    rows = _list(videos)
    if not rows:
        problem = "matches no videos" if is_pattern(videos) else "no videos there"
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
        raise ManifestError(f"{Uri(videos)}: {problem} (files named {suffixes})")
    return with_keys(rows, keys=keys)


def list_bucket(uri: str) -> list[ManifestRow]:
    """List the videos below a prefix, or those that match a pattern, sorted by path.

    Hidden objects, and objects without a video's suffix, are left out as in a folder on disk. The
    URL of one object returns that object, without a key.

    Args:
        uri: ``s3://…`` or ``gs://…``.

    Raises:
        ManifestError: the bucket does not exist, or cannot be listed.
        UsageError: the library for this kind of URL is not installed.
    """
    folder, pattern = uri.rstrip("/"), EVERYTHING
    if not uri.endswith("/") and is_object(uri):
        return [ManifestRow(posixpath.basename(folder), uri)]
    if is_pattern(uri):
        parts = folder.split("/")
        fixed = next(index for index, part in enumerate(parts) if is_pattern(part))
        folder, pattern = "/".join(parts[:fixed]), tuple(parts[fixed:])
    rows = []
    try:
        for below, info in _objects(folder, pattern):
            if is_wanted(below, pattern):
                properties = fingerprint_of(info)
                name = "/".join(below)
                size = int(properties.get("size", 0))
                key = quick_key(properties)
                rows.append(ManifestRow(name, f"{folder}/{name}", size, key=key))
    except Exception as error:
        # Not chained: libraries put secrets into their messages.
        message = str(error) if isinstance(error, ManifestError) else reason(error, uri)
        raise ManifestError(f"{Uri(uri)}: cannot be listed: {message}") from None
    return sorted(rows, key=lambda row: row.video_id.split("/"))


def _list(videos: str) -> list[ManifestRow]:
    uri = Uri(videos)
    if uri.local_path is not None:
        return _list_local(os.path.abspath(uri.local_path))
    if not uri.store:
        raise ManifestError(f"{uri}: videos cannot be listed there; give a path, s3:// or gs://")
    # A query is not part of a file name, as in https://host/a.mp4?token=…
    name = videos if uri.is_object_store else videos.partition("?")[0]
    if uri.is_object_store and not is_manifest(name):
        return _only_videos(videos, list_bucket(videos))
    if is_manifest(name):
        return read_manifest(videos)
    if not is_video(name):
        raise ManifestError(f"{uri}: a web server's folder cannot be listed")
    return [ManifestRow(posixpath.basename(name), videos)]


def _list_local(path: str) -> list[ManifestRow]:
    if is_manifest(path) and not os.path.isdir(path):
        return read_manifest(path)
    if not os.path.exists(path) and not is_pattern(path):
        raise ManifestError(f"{path}: no such file or folder; give what holds the videos")
    try:
        sources = expand([path])
    except UsageError as error:  # no videos, or a folder that cannot be listed
        raise ManifestError(str(error)) from error
    if len(sources) == 1 and sources[0].uri == path:
        return _only_videos(path, [ManifestRow(sources[0].name, path)])
    rows = []
    for source in sources:
        name, uri = _as_text(source.name), _as_text(source.uri)
        if uri != source.uri:
            _log.warning("%s: its name is not UTF-8 and cannot be stored; rename it", uri)
        rows.append(ManifestRow(name, uri))
    return rows


def _only_videos(videos: str, rows: list[ManifestRow]) -> list[ManifestRow]:
    """Refuse a single file that was named by the user and has no video's suffix."""
    if len(rows) == 1 and rows[0].uri == videos and not is_video(videos):
        raise ManifestError(
            f"{Uri(videos)}: has neither the name of a video ({', '.join(sorted(VIDEO_SUFFIXES))}) "
            "nor of a manifest (.csv, .jsonl, .ndjson, .parquet)"
        )
    return rows


def _as_text(name: str) -> str:
    # A name that is not UTF-8 cannot be written to a file. The row has a name that does not exist,
    # and its status becomes unreadable.
    return name.encode("utf-8", "backslashreplace").decode()


def _objects(folder: str, pattern: Parts) -> Iterator[tuple[Parts, Mapping[str, Any]]]:
    """Yield each object's path below the folder, in parts, and its properties in the store."""
    store, path = open_store(folder)
    path = path.rstrip("/")

    def below(name: str) -> Parts:
        return tuple(name[len(path) + 1 :].split("/"))

    def matching(prefix: str) -> Iterator[tuple[Parts, Mapping[str, Any]]]:
        for info in store.ls(prefix, detail=True):
            name = info["name"].rstrip("/")
            if info["type"] != "directory":
                yield below(info["name"]), info
            elif name != prefix and leads(below(name), pattern):
                yield from matching(name)

    if pattern[0] == "**":  # a thousand objects per request, whatever their folders
        for name, info in store.find(path, detail=True).items():
            yield below(name), info
    else:  # only the folders that the pattern leads to, not the whole bucket
        yield from matching(path)
