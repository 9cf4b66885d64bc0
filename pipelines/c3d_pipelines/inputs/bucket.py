"""The videos that a bucket holds, with their sizes and keys as the listing itself tells them.

Used by `listing.py`. A listing brings a thousand objects in one request, each with its size and
ETag; asking for each object would take a million requests for a million videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from c3d_client import remote
from c3d_client.errors import ManifestError
from c3d_client.patterns import EVERYTHING, Parts, is_pattern, is_wanted, leads
from c3d_client.stores import display, reason, store_of

from c3d_pipelines.inputs.keys import quick_key
from c3d_pipelines.inputs.manifest import ManifestRow


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
    if not uri.endswith("/") and remote.is_object(uri):
        return [ManifestRow(folder.rpartition("/")[2], uri)]
    if is_pattern(uri):
        parts = folder.split("/")
        fixed = next(at for at, part in enumerate(parts) if is_pattern(part))
        folder, pattern = "/".join(parts[:fixed]), tuple(parts[fixed:])
    rows = []
    try:
        for below, info in _objects(folder, pattern):
            if is_wanted(below, pattern):
                told = remote.fingerprint_of(info)
                name = "/".join(below)
                size = int(told.get("size", 0))
                rows.append(ManifestRow(name, f"{folder}/{name}", size, key=quick_key(told)))
    except Exception as error:
        # Not chained: libraries put what is secret into theirs.
        said = str(error) if isinstance(error, ManifestError) else reason(error, uri)
        raise ManifestError(f"{display(uri)}: cannot be listed: {said}") from None
    return sorted(rows, key=lambda row: row.video_id.split("/"))


def _objects(folder: str, pattern: Parts) -> Iterator[tuple[Parts, Mapping[str, Any]]]:
    """Each object's path below the folder, in parts, and what the store tells of it."""
    store, path = store_of(folder)
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
