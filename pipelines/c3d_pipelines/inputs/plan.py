"""The plan of a run: what to do with each input, as one Parquet file, and the cut into shards.

Every row of a plan is exactly one row in the dataset's index.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.core.errors import UsageError

from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.manifest import COLUMNS, ManifestRow

# The decision about an input: extract it; it has a row from an earlier run; it failed in an earlier
# run and has not changed; it is the same video as another input.
DO, DONE, KNOWN_FAILURE, DUPLICATE = "do", "done", "known_failure", "duplicate"
DECISIONS = (DO, DONE, KNOWN_FAILURE, DUPLICATE)

_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),
    ]
)
# A column that plans of release 0.1.0 lack.
_DEATHS = pa.field("deaths", pa.int32(), nullable=False)

_NOTES = b"notes"  # in the file's metadata
_MEGABYTE = 1_000_000
_MINUTE_MS = 60_000
# The work of a video when neither sizes nor durations are known: a shard of 600 minutes then has
# 600 videos.
_UNKNOWN_MS = _MINUTE_MS


@dataclass(frozen=True)
class PlannedRow:
    """One input and the decision about it.

    Args:
        row: the input.
        decision: ``do``, ``done``, ``known_failure`` or ``duplicate``.
        shard: the number of its shard, from 0; -1 unless the decision is ``do``.
        duplicate_of: the ``video_id`` of the input that it equals; empty unless a duplicate.
        unknown: the columns of a plan that this release does not know.
        deaths: how often workers were killed while they processed the video, where that is
            enough to record it as ``failed`` without trying it again; otherwise 0.

    Raises:
        ManifestError: the decision, the shard and the duplicate contradict each other.
    """

    row: ManifestRow
    decision: str = DO
    shard: int = -1
    duplicate_of: str = ""
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    deaths: int = 0

    def __post_init__(self) -> None:
        is_consistent = (
            self.decision in DECISIONS
            and (self.shard >= 0) == (self.decision == DO)
            and bool(self.duplicate_of) == (self.decision == DUPLICATE)
        )
        if not is_consistent:
            raise ManifestError(
                f"{self.row.video_id}: decision {self.decision!r}, shard {self.shard} and "
                f"duplicate of {self.duplicate_of!r} do not go together"
            )


def write_plan(
    path: str | os.PathLike[str],
    rows: Iterable[PlannedRow],
    *,
    notes: Sequence[str] = (),
) -> None:
    """Write a plan to a path on this machine.

    Args:
        path: the path.
        rows: the inputs.
        notes: lines about the plan, for :func:`read_notes`.

    Raises:
        OSError: the file cannot be written.
    """
    rows = list(rows)
    records = [
        {
            **{name: getattr(planned.row, name) for name in COLUMNS},
            "decision": planned.decision,
            "shard": planned.shard,
            "duplicate_of": planned.duplicate_of,
            "deaths": planned.deaths,
        }
        for planned in rows
    ]
    table = pa.Table.from_pylist(records, schema=_SCHEMA.append(_DEATHS))
    for name in dict.fromkeys(chain.from_iterable(planned.unknown for planned in rows)):
        table = table.append_column(name, [[planned.unknown.get(name) for planned in rows]])
    if notes:
        metadata = {**(table.schema.metadata or {}), _NOTES: json.dumps(list(notes)).encode()}
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, os.fspath(path))


def read_notes(source: Any) -> list[str]:
    """Return the lines about the plan that its file, a path or an open file, has as metadata."""
    metadata = pq.read_schema(source).metadata or {}
    notes: list[str] = json.loads(metadata.get(_NOTES, b"[]"))
    return notes


def read_plan(source: Any) -> list[PlannedRow]:
    """Read a plan, from a path or an open file.

    Raises:
        ManifestError: the file is not a plan.
    """
    try:
        # Without threads, as `shards.reader.parquet_file` explains.
        with pq.ParquetFile(source, pre_buffer=False) as file:
            table = file.read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{source}: the plan cannot be read ({error})") from error
    if not set(_SCHEMA.names) <= set(table.schema.names):
        raise ManifestError(f"{source}: is not a plan; its columns are {table.schema.names}")
    unknown = [name for name in table.schema.names if name not in (*_SCHEMA.names, "deaths")]
    return [
        PlannedRow(
            ManifestRow(*(values[name] for name in COLUMNS)),
            values["decision"],
            values["shard"],
            values["duplicate_of"],
            {name: values[name] for name in unknown},
            values.get("deaths") or 0,
        )
        for values in table.to_pylist()
    ]


def shard_rows(rows: Sequence[PlannedRow], index: int) -> list[ManifestRow]:
    """Return the inputs of one shard in order; none where the plan has nothing left to do."""
    return [planned.row for planned in rows if planned.shard == index]


@dataclass(frozen=True)
class Shard:
    """A part of the inputs, for one worker.

    Args:
        index: counted from 0.
        rows: at least one.
    """

    index: int
    rows: tuple[ManifestRow, ...]

    @property
    def size_bytes(self) -> int:
        """The total size of the videos."""
        return sum(row.size_bytes for row in self.rows)

    @property
    def duration_s(self) -> float:
        """The total length of the videos, in seconds."""
        return sum(row.duration_s for row in self.rows)


def cut_into_shards(
    rows: Sequence[ManifestRow], *, shard_mb: float, shard_minutes: float, max_shards: int
) -> list[Shard]:
    """Cut inputs into consecutive shards of about equal work.

    Work is duration where all rows have one; else bytes, where a row without a size counts as the
    mean of the others; else each row counts as a minute. There are as few shards as the limit
    allows, with work as even as the order of the rows allows.

    A shard costs three pods, and a run with hundreds of shards is too large for one object of
    Kubernetes. Where the limit results in more than ``max_shards``, the limit is raised.

    Args:
        rows: the inputs; none result in no shards.
        shard_mb: most megabytes (10^6 bytes) in a shard; a larger video is a shard by itself.
        shard_minutes: most minutes in a shard, where work is duration.
        max_shards: most shards.

    Raises:
        UsageError: a limit is not above 0.
    """
    for name, limit in (("shard_mb", shard_mb), ("shard_minutes", shard_minutes)):
        if not (math.isfinite(limit) and limit > 0):
            raise UsageError(f"{name} is {limit}; give more than 0")
    if max_shards < 1:
        raise UsageError(f"max_shards is {max_shards}; give 1 or more")
    if not rows:
        return []
    work, most = _work(rows, shard_mb, shard_minutes)
    start = 0
    shards: list[Shard] = []
    for end in shard_ends(work, most=most, max_shards=max_shards):
        shards.append(Shard(len(shards), tuple(rows[start:end])))
        start = end
    return shards


def shard_ends(work: Sequence[int], *, most: float, max_shards: int) -> list[int]:
    """Return for each shard the index after its last row.

    Args:
        work: of each row, 1 or more.
        most: work of a shard, unless that results in more than ``max_shards``.
        max_shards: most shards.
    """
    # ends[n] is the work of the first n rows. Integers, so that sums of a million rows are exact.
    ends = [0, *accumulate(work)]
    allowed = max(1, int(most))
    count = _count(ends, allowed, max_shards)
    low, high = 1, allowed
    if count > max_shards:
        count, low, high = max_shards, allowed, ends[-1]
    # The smallest limit that results in this number of shards makes them even.
    while low < high:
        middle = (low + high) // 2
        if _count(ends, middle, count) <= count:
            high = middle
        else:
            low = middle + 1
    rows = [0]
    while rows[-1] < len(work):
        rows.append(_end(ends, rows[-1], low))
    return rows[1:]


def _work(
    rows: Sequence[ManifestRow], shard_mb: float, shard_minutes: float
) -> tuple[list[int], float]:
    """Return each row's work, 1 or more, and the most work of a shard."""
    if all(row.duration_s for row in rows):
        return [max(1, round(row.duration_s * 1000)) for row in rows], shard_minutes * _MINUTE_MS
    known = [row.size_bytes for row in rows if row.size_bytes]
    if not known:
        return [_UNKNOWN_MS] * len(rows), shard_minutes * _MINUTE_MS
    mean = sum(known) // len(known)
    return [row.size_bytes or mean for row in rows], shard_mb * _MEGABYTE


def _end(ends: Sequence[int], start: int, limit: int) -> int:
    """Return the end of the shard that begins at a row: one row, or all rows within the limit."""
    return max(start + 1, bisect_right(ends, ends[start] + limit) - 1)


def _count(ends: Sequence[int], limit: int, most: int) -> int:
    """Return the number of shards for a limit, counted up to one more than ``most``."""
    count = start = 0
    while start < len(ends) - 1 and count <= most:
        start = _end(ends, start, limit)
        count += 1
    return count
