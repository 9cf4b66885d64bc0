"""Shards in a dataset's folder: their names, and the reports of those that are done.

A shard is done when its report exists and fits its files. A worker stores a long shard in parts,
which are ordinary shards: a part has a report and files of its own, and its name begins with the
name of the shard that it is a part of.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.core.files import TEMPORARY_PREFIX
from c3d_client.core.uri import redact

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.in_hand import FOLDER
from c3d_pipelines.shards.reader import parquet_file
from c3d_pipelines.shards.schema import (
    OK,
    STATUSES,
    TIMINGS,
    ShardReport,
    clip_file,
    report_file,
    shard_name,
    video_file,
)
from c3d_pipelines.storage import Storage, run_folder, temporary_prefix

# A worker writes more often than this; an older temporary file is of a worker that was killed.
_STALE_S = 24 * 3600.0
_SHARD_FOLDERS = ("shards", "clips", FOLDER)

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


def part_name(settings: JobSettings, name: str, rows: Sequence[ManifestRow]) -> str:
    """Return the name of a part of a shard, which depends on the videos of the part.

    Args:
        settings: as for :func:`name_of`.
        name: the name of the whole shard.
        rows: the part's videos, in order.
    """
    return f"{name}-{name_of(settings, rows)}"


def read_parts(storage: Storage, name: str) -> list[ShardReport]:
    """Return the reports of a shard's parts that are done, the newest first.

    Args:
        storage: the dataset.
        name: the name of the whole shard.

    Raises:
        StorageError: the dataset's folder cannot be read.
    """
    suffix = ".json"
    files = storage.names("shards", prefix=f"{name}-")
    names = [file.removeprefix("shards/").removesuffix(suffix) for file in files if suffix in file]
    reports = [report for part in names if (report := read_report(storage, part)) is not None]
    return sorted(reports, key=lambda report: report.ended_at, reverse=True)


def done_in_parts(
    storage: Storage, settings: JobSettings, rows: Sequence[ManifestRow]
) -> tuple[set[str], list[ShardReport]]:
    """Return which videos of a shard are done in its parts, and what these parts have of them.

    Videos that this run has done are done. Of another run's videos only those are done that are ok
    and have the planned key: a video without a key may have changed.

    Args:
        storage: the dataset.
        settings: the run's settings, with the provenance.
        rows: the videos of the whole shard, in order.

    Returns:
        The ``video_id`` of each video, and the reports of the parts, of which each counts only
        videos that are not in a newer part.

    Raises:
        StorageError: the dataset's folder cannot be read.
    """
    planned = {row.video_id: (redact(row.uri), row.key) for row in rows}
    done: set[str] = set()
    reports = []
    for report in read_parts(storage, name_of(settings, rows)):
        try:
            with parquet_file(storage, video_file(report.name)) as file:
                stored = file.read(
                    ["video_id", "uri", "key", "status", "n_clips", *TIMINGS], use_threads=False
                )
        except ShardError as error:
            _log.warning("%s", error)
            continue
        taken = []
        for row in stored.to_pylist():
            video_id, is_own = row["video_id"], report.run == settings.run
            is_same = row["key"] and (row["uri"], row["key"]) == planned.get(video_id)
            if video_id in planned.keys() - done and (is_own or (row["status"] == OK and is_same)):
                taken.append(row)
                done.add(video_id)
        if taken:
            reports.append(_restricted(report, taken))
    return done, reports


def total(reports: Sequence[ShardReport], name: str) -> ShardReport:
    """Return one report of a shard that is stored in parts: the sums over the parts.

    Args:
        reports: of the parts; one or more.
        name: the name of the whole shard.
    """
    newest = max(reports, key=lambda report: report.ended_at)
    counts: Counter[str] = Counter()
    timings: Counter[str] = Counter()
    for report in reports:
        counts.update(report.counts)
        timings.update(report.timings)
    return replace(
        newest,
        name=name,
        videos=sum(report.videos for report in reports),
        clips=sum(report.clips for report in reports),
        counts=dict(counts),
        video_bytes=sum(report.video_bytes for report in reports),
        clip_bytes=sum(report.clip_bytes for report in reports),
        started_at=min(report.started_at for report in reports),
        timings=dict(timings),
        clips_answered=sum(report.clips_answered for report in reports),
        retries=sum(report.retries for report in reports),
    )


def _restricted(report: ShardReport, rows: Sequence[dict[str, Any]]) -> ShardReport:
    """Return a shard's report as if the shard had only some of its videos.

    Args:
        report: of the shard.
        rows: the rows of the videos, with their status, clips and times.
    """
    if len(rows) == report.videos:
        return report
    statuses = Counter(row["status"] for row in rows)
    return replace(
        report,
        videos=len(rows),
        counts={status: statuses[status] for status in STATUSES},
        clips=sum(row["n_clips"] or 0 for row in rows) if report.clip_bytes else 0,
        timings={name: sum(row[name] or 0.0 for row in rows) for name in TIMINGS},
    )


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
    _remove_hidden(storage, TEMPORARY_PREFIX, folders=_SHARD_FOLDERS, older_than_s=_STALE_S)


def remove_temporary(storage: Storage, run: str, shard: int | None = None) -> None:
    """Remove the half-written local files of a run that has ended, or of one of its shards.

    Args:
        storage: the dataset.
        run: the run's name.
        shard: the number of a shard that no worker is doing; None for the whole run.
    """
    # The dataset's folder has the half-written index and cards.
    folders = _SHARD_FOLDERS if shard is not None else (*_SHARD_FOLDERS, run_folder(run), ".")
    _remove_hidden(storage, temporary_prefix(run, shard), folders=folders)


def _remove_hidden(
    storage: Storage, prefix: str, *, folders: Sequence[str], older_than_s: float = -math.inf
) -> None:
    if not storage.is_local:
        return
    for folder in folders:
        for path in storage.path_of(folder).glob(f"{glob.escape(prefix)}*"):
            with contextlib.suppress(OSError):  # another worker may remove it at the same time
                if time.time() - path.stat().st_mtime > older_than_s:
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
