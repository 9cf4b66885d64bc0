"""Shards as the dataset's folder holds them: their names, and whether one is done.

The worker asks before it begins, the index before it reads. Nothing but a report that fits its
files says that a shard is there.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.core.files import TEMPORARY_PREFIX
from c3d_client.core.provenance import provenance_digest
from c3d_client.core.uri import redact

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import ShardReport, clip_file, report_file, shard_name, video_file
from c3d_pipelines.storage import Storage

# No worker writes nothing for so long; what is older was left by one that was killed.
_STALE_S = 24 * 3600.0

_log = logging.getLogger(__name__)


def name_of(settings: JobSettings, rows: Sequence[ManifestRow]) -> str:
    """The name of the shard of these videos: of what they are, and of all that makes its content.

    Args:
        settings: of the run, with its provenance.
        rows: the shard's videos, in order.
    """
    made = f"{provenance_digest(settings.provenance)} {settings.answer} {settings.clip_rows}"
    return shard_name(((row.video_id, row.uri, row.key) for row in rows), made)


def read_report(storage: Storage, name: str) -> ShardReport | None:
    """The report of a shard that is done.

    Returns:
        None where there is none, or it cannot be read, or a file that it speaks of is missing or
        has another size or another number of rows: then the shard is not done.

    Raises:
        StorageError: the place cannot be read.
    """
    text = storage.read(report_file(name))
    if text is None:
        return None
    try:
        report = ShardReport.from_json(text)
    except ShardError as error:
        _log.warning("%s: %s", redact(storage.uri_of(report_file(name))), error)
        return None
    files = [(video_file(name), report.video_bytes, report.videos)]
    if report.clip_bytes:
        files.append((clip_file(name), report.clip_bytes, report.clips))
    for file, size, rows in files:
        if storage.size(file) != size or _rows(storage, file) != rows:
            _log.warning("%s: is not what its report says", redact(storage.uri_of(file)))
            return None
    return report if report.name == name else None


def remove_stale(storage: Storage) -> None:
    """Remove what workers that were killed left half-written on this disk, a day ago or earlier.

    It takes room and does no other harm: readers pass over hidden files, and a bucket has none.
    """
    if not storage.is_local:
        return
    for file in (video_file(""), clip_file("")):
        folder = Path(storage.uri_of(file)).parent
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            with contextlib.suppress(OSError):  # another worker may be at it, too
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()
                    _log.info("%s: removed what a worker left half-written", path)


def _rows(storage: Storage, name: str) -> int | None:
    """How many rows a Parquet file says that it has; None where it is no such file."""
    with storage.reading(name) as file:
        try:
            return int(pq.read_metadata(file).num_rows)
        except pa.ArrowException:
            return None
        except OSError as error:
            if error.errno is not None:  # the disk's word; Arrow's for bytes without sense has none
                raise
            return None
