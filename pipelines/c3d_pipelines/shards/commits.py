"""Shards in a dataset's folder: their names, and the reports of those that are done.

A shard is done when its report exists and fits its files.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.core.files import TEMPORARY_PREFIX

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import ShardReport, clip_file, report_file, shard_name, video_file
from c3d_pipelines.storage import Storage

# A worker writes more often than this; an older temporary file is of a worker that was killed.
_STALE_S = 24 * 3600.0

_log = logging.getLogger(__name__)


def name_of(settings: JobSettings, rows: Sequence[ManifestRow]) -> str:
    """Return the name of a shard of these videos, made with these settings.

    Args:
        settings: the run's settings, with the provenance.
        rows: the shard's videos, in order.
    """
    return _name_of(settings, rows, settings.provenance.digest())


def names_of(settings: JobSettings, rows: Sequence[ManifestRow]) -> tuple[str, str]:
    """Return the names under which a shard may be done: today's, and that of release 0.1.0.

    A run that began with that release may be continued by this one. Its names depend on the
    versions of the software, which the run's settings have.
    """
    return name_of(settings, rows), _name_of(settings, rows, settings.provenance.former_digest())


def _name_of(settings: JobSettings, rows: Sequence[ManifestRow], digest: str) -> str:
    digest = f"{digest} {settings.answer} {settings.clip_rows}"
    return shard_name(((row.video_id, row.uri, row.key) for row in rows), digest)


def read_report(storage: Storage, name: str) -> ShardReport | None:
    """Return the report of a shard that is done.

    Returns:
        None where the shard is not done: there is no report, the report cannot be read, or a file
        of the shard is missing or has another size or number of rows than in the report.

    Raises:
        StorageError: the dataset's folder cannot be read.
    """
    text = storage.read(report_file(name))
    if text is None:
        return None
    try:
        report = ShardReport.from_json(text)
    except ShardError as error:
        _log.warning("%s: %s", storage.uri_of(report_file(name)), error)
        return None
    files = [(video_file(name), report.video_bytes, report.videos)]
    if report.clip_bytes:
        files.append((clip_file(name), report.clip_bytes, report.clips))
    for file, size, rows in files:
        if storage.size(file) != size or _rows(storage, file) != rows:
            _log.warning("%s: does not fit its shard's report", storage.uri_of(file))
            return None
    return report if report.name == name else None


def remove_stale(storage: Storage) -> None:
    """Remove half-written local files that are older than a day, of workers that were killed.

    These files only take disk space: readers ignore hidden files. A bucket has none.
    """
    if not storage.is_local:
        return
    for file in (video_file(""), clip_file("")):
        folder = storage.path_of(file).parent
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            with contextlib.suppress(OSError):  # another worker may remove it at the same time
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()
                    _log.info(
                        "%s: removed, the half-written file of a worker that was killed", path
                    )


def _rows(storage: Storage, name: str) -> int | None:
    """Return the number of rows in a Parquet file's footer; None where it is no Parquet file."""
    with storage.reading(name) as file:
        try:
            return int(pq.read_metadata(file).num_rows)
        except pa.ArrowException:
            return None
        except OSError as error:
            # Arrow reports invalid bytes as an OSError without a number.
            if error.errno is not None:
                raise
            return None
