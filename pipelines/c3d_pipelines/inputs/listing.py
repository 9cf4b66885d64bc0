"""The inputs of a bulk run, from what the user names: a folder, a pattern, a bucket, a manifest.

The first step of a run; ``steps/plan.py`` decides what is to be done with each.
"""

from __future__ import annotations

import logging
import os

from c3d_client.errors import ManifestError, UsageError
from c3d_client.patterns import VIDEO_SUFFIXES, is_pattern, is_video
from c3d_client.sources import expand
from c3d_client.stores import OBJECT_STORES, STORES, display, scheme

from c3d_pipelines.inputs.bucket import list_bucket
from c3d_pipelines.inputs.keys import QUICK, check_kind, with_keys
from c3d_pipelines.inputs.manifest import ManifestRow, is_manifest, read_manifest
from c3d_pipelines.inputs.uris import local_path

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
        raise ManifestError(f"{display(videos)}: {what} (files named {named})")
    return with_keys(rows, keys=keys)


def _listed(videos: str) -> list[ManifestRow]:
    path = local_path(videos)
    if path is not None:
        return _local(os.path.abspath(path))
    kind = scheme(videos)
    if kind not in STORES:
        raise ManifestError(
            f"{display(videos)}: videos cannot be listed there; give a path, s3:// or gs://"
        )
    # A query is no part of a name, as in https://host/a.mp4?token=…
    name = videos.partition("?")[0] if kind not in OBJECT_STORES else videos
    if kind in OBJECT_STORES and not is_manifest(name):
        return _only_videos(videos, list_bucket(videos))
    if is_manifest(name):
        return read_manifest(videos)
    if not is_video(name):
        raise ManifestError(f"{display(videos)}: a web server's folder cannot be listed")
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
            f"{display(videos)}: is not called as a video ({', '.join(sorted(VIDEO_SUFFIXES))}) or "
            "a manifest (.csv, .jsonl, .ndjson, .parquet) is"
        )
    return rows


def _as_text(name: str) -> str:
    # Bytes of a name that are no text cannot be written to any file. The row stays, under a name
    # that does not exist, and ends as unreadable.
    return name.encode("utf-8", "backslashreplace").decode()
