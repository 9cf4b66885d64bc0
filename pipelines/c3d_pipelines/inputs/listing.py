"""List the inputs of a bulk run: a folder, a pattern, a bucket, one video or a manifest.

This is the first step of a run; :mod:`c3d_pipelines.run.plan` decides what to do with each input.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from c3d_client.core.arguments import path_text
from c3d_client.core.errors import UsageError
from c3d_client.core.text import escape_bytes
from c3d_client.core.uri import Uri
from c3d_client.video.sources import (
    EVERYTHING,
    VIDEO_SUFFIXES,
    Parts,
    Scan,
    expand,
    fingerprint_of,
    is_object,
    is_pattern,
    is_video,
    leads,
    no_videos,
    open_store,
    reason,
)

from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.content_keys import check_kind, quick_key, with_keys
from c3d_pipelines.inputs.manifest import ManifestRow, is_manifest, read_manifest
from c3d_pipelines.parameters import QUICK


def list_inputs(
    videos: str | os.PathLike[str], *, keys: str = QUICK, scan: Scan | None = None
) -> list[ManifestRow]:
    r"""List the inputs of a run, always in the same order.

    Args:
        videos: a folder, searched for files with a video's suffix, hidden ones left out; a shell
            pattern, with ``**`` for any folders; a prefix or pattern of ``s3://`` or ``gs://``; one
            video, also ``https://``; or a manifest, a file named .csv, .jsonl, .ndjson or .parquet
            (see :mod:`c3d_pipelines.inputs.manifest`).
        keys: how videos are identified: ``quick``, by a file's size and time, and by the properties
            that the store reports of an object; or ``content``, by the SHA-256 of a file's bytes,
            which are all read; objects keep the properties of the store.
        scan: which files of folders, prefixes and patterns are inputs; it counts what they left
            out.

    Returns:
        Rows with absolute paths or URLs. The id of a listed video is its path below the folder, or
        below the part before the pattern, with forward slashes. A name that is not UTF-8 has
        ``\xNN`` for such a byte in its id, and a percent-encoded ``file://`` URL. A video that
        cannot be looked up has no key and is an input all the same.

    Raises:
        ManifestError: there are no videos, they cannot be listed, two have the same id, or a
            manifest has bad rows.
        StorageError: a manifest cannot be read.
        UsageError: an argument is out of its range.
    """
    check_kind(keys)
    videos = path_text(videos, "videos")
    if not videos.strip():
        raise UsageError("videos is empty; give a folder, a pattern, a bucket or a manifest")
    scan = scan or Scan()
    rows = _list(videos, scan)
    if not rows:
        raise ManifestError(str(no_videos(Uri(videos), scan)))
    return with_keys(rows, keys=keys)


def list_bucket(uri: str, *, scan: Scan | None = None) -> list[ManifestRow]:
    """List the videos below a prefix, or those that match a pattern, sorted by path.

    Hidden objects, and objects without a video's suffix, are left out as in a folder on disk. The
    URL of one object returns that object, without a key.

    Args:
        uri: ``s3://…`` or ``gs://…``.
        scan: as in :func:`list_inputs`.

    Raises:
        ManifestError: the bucket is not named, does not exist, or cannot be listed.
        UsageError: the library for this kind of URL is not installed.
    """
    address = Uri(uri)
    if not address.bucket or is_pattern(address.bucket):
        raise ManifestError(f"{address}: names no bucket; give {address.scheme}://BUCKET/DIR")
    folder, pattern = uri.rstrip("/"), EVERYTHING
    if not uri.endswith("/") and is_object(uri):
        return [ManifestRow(posixpath.basename(folder), uri)]
    if is_pattern(uri):
        parts = folder.split("/")
        fixed = next(index for index, part in enumerate(parts) if is_pattern(part))
        folder, pattern = "/".join(parts[:fixed]), tuple(parts[fixed:])
    rows = []
    search = (scan or Scan()).search(folder, pattern)
    try:
        for below, info in _objects(folder, pattern):
            if search.takes(below):
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


def _list(videos: str, scan: Scan) -> list[ManifestRow]:
    uri = Uri(videos)
    if uri.local_path is not None:
        return _list_local(os.path.abspath(uri.local_path), scan)
    if not uri.store:
        raise ManifestError(f"{uri}: videos cannot be listed there; give a path, s3:// or gs://")
    # A query is not part of a file name, as in https://host/a.mp4?token=…
    name = videos if uri.is_object_store else videos.partition("?")[0]
    if uri.is_object_store and not is_manifest(name):
        return _only_videos(videos, list_bucket(videos, scan=scan), scan)
    if is_manifest(name):
        return read_manifest(videos)
    if not is_video(name) and not scan.any_file:
        raise ManifestError(f"{uri}: a web server's folder cannot be listed")
    return [ManifestRow(posixpath.basename(name), videos)]


def _list_local(path: str, scan: Scan) -> list[ManifestRow]:
    if is_manifest(path) and not os.path.isdir(path):
        return read_manifest(path)
    if not os.path.exists(path) and not is_pattern(path):
        raise ManifestError(f"{Uri(path)}: no such file or folder; give what holds the videos")
    try:
        sources = expand([path], scan=scan)
    except UsageError as error:  # no videos, or a folder that cannot be listed
        raise ManifestError(str(error)) from error
    # expand() refuses two names that have the same id.
    rows = [
        ManifestRow(escape_bytes(source.name), Uri.of_path(source.uri).raw) for source in sources
    ]
    return _only_videos(Uri.of_path(path).raw, rows, scan)


def _only_videos(videos: str, rows: list[ManifestRow], scan: Scan) -> list[ManifestRow]:
    """Refuse a single file that was named by the user and has no video's suffix."""
    if scan.any_file:
        return rows
    if len(rows) == 1 and rows[0].uri == videos and not is_video(videos):
        raise ManifestError(
            f"{Uri(videos)}: has neither the name of a video ({', '.join(sorted(VIDEO_SUFFIXES))}) "
            "nor of a manifest (.csv, .jsonl, .ndjson, .parquet)"
        )
    return rows


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
