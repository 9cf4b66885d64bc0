"""What a run is to do with each of its inputs: the manifest, decided; kept as one Parquet file.

The plan is what a run is counted against: one row here is one row in the dataset's index.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.core.errors import UsageError

from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.manifest import ManifestRow

# What is decided for an input: extract it; it has its row from an earlier run; it failed in an
# earlier run and is the same still; it is the same video as another input.
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


@dataclass(frozen=True)
class PlannedRow:
    """One input and what is to be done with it.

    Args:
        row: the input.
        decision: ``do``, ``done``, ``known_failure`` or ``duplicate``.
        shard: which shard does it, from 0; -1 unless it is to be done.
        duplicate_of: the ``video_id`` of the input that it equals; empty unless a duplicate.

    Raises:
        ManifestError: these do not go together.
    """

    row: ManifestRow
    decision: str = DO
    shard: int = -1
    duplicate_of: str = ""

    def __post_init__(self) -> None:
        sound = (
            self.decision in DECISIONS
            and (self.shard >= 0) == (self.decision == DO)
            and bool(self.duplicate_of) == (self.decision == DUPLICATE)
        )
        if not sound:
            raise ManifestError(
                f"{self.row.video_id}: decision {self.decision!r}, shard {self.shard} and "
                f"duplicate of {self.duplicate_of!r} do not go together"
            )


def write_plan(path: str | os.PathLike[str], rows: Iterable[PlannedRow]) -> None:
    """Write a plan to a path on this machine.

    Raises:
        OSError: it cannot be written.
    """
    records = [
        {
            "video_id": one.row.video_id,
            "uri": one.row.uri,
            "size_bytes": one.row.size_bytes,
            "duration_s": one.row.duration_s,
            "key": one.row.key,
            "decision": one.decision,
            "shard": one.shard,
            "duplicate_of": one.duplicate_of,
        }
        for one in rows
    ]
    pq.write_table(pa.Table.from_pylist(records, schema=_SCHEMA), os.fspath(path))


def read_plan(source: Any) -> list[PlannedRow]:
    """Read a plan, from a path or an open file.

    Raises:
        ManifestError: it is not a plan.
    """
    try:
        table = pq.read_table(source)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{source}: the plan cannot be read ({error})") from error
    if table.schema.names != _SCHEMA.names:
        raise ManifestError(f"{source}: is not a plan; its columns are {table.schema.names}")
    return [
        PlannedRow(
            ManifestRow(
                one["video_id"], one["uri"], one["size_bytes"], one["duration_s"], one["key"]
            ),
            one["decision"],
            one["shard"],
            one["duplicate_of"],
        )
        for one in table.to_pylist()
    ]


def shard_rows(rows: Sequence[PlannedRow], index: int) -> list[ManifestRow]:
    """The inputs of one shard, in order; none where the plan has nothing left to do."""
    return [one.row for one in rows if one.shard == index]


_MEGABYTE = 1_000_000
_MINUTE_MS = 60_000
# Where nobody said how large or long videos are: as if each took a minute. A shard of 240 minutes
# then has 240 videos.
_UNKNOWN_MS = _MINUTE_MS


@dataclass(frozen=True)
class Shard:
    """A part of the inputs that one worker does.

    Args:
        index: counted from 0.
        rows: at least one.
    """

    index: int
    rows: tuple[ManifestRow, ...]

    @property
    def size_bytes(self) -> int:
        """All its videos together."""
        return sum(row.size_bytes for row in self.rows)

    @property
    def duration_s(self) -> float:
        """All its videos together, in seconds."""
        return sum(row.duration_s for row in self.rows)


def cut_into_shards(
    rows: Sequence[ManifestRow], *, shard_mb: float, shard_minutes: float, max_shards: int
) -> list[Shard]:
    """Cut inputs into consecutive shards of about equal work.

    Work is duration where all rows have one; else bytes, a row without counting as the mean of the
    others; else each row counts as a minute. As few shards are made as the limit allows, and those
    as even as can be without changing the order.

    A shard costs three pods, and a run with thousands of them more than etcd takes in one object:
    where more than `max_shards` would come out, the limit grows until no more do.

    Args:
        rows: the inputs; none give no shards.
        shard_mb: the most megabytes (10^6 bytes) in a shard; a larger video has one of its own.
        shard_minutes: the same in minutes, where work is duration.
        max_shards: the most shards.

    Raises:
        UsageError: a limit that is not above 0.
    """
    for name, limit in (("shard_mb", shard_mb), ("shard_minutes", shard_minutes)):
        if not (math.isfinite(limit) and limit > 0):
            raise UsageError(f"{name} is {limit}; give more than 0")
    if max_shards < 1:
        raise UsageError(f"max_shards is {max_shards}; give 1 or more")
    if not rows:
        return []
    work, most = _work(rows, shard_mb, shard_minutes)
    # ends[n] is the work of the first n rows. Whole numbers: sums of a million stay exact.
    ends = [0, *accumulate(work)]
    allowed = max(1, int(most))
    count = _count(ends, allowed, max_shards)
    low, high = 1, allowed
    if count > max_shards:
        count, low, high = max_shards, allowed, ends[-1]
    # The smallest limit that gives no more shards than that is what makes them even.
    while low < high:
        middle = (low + high) // 2
        if _count(ends, middle, count) <= count:
            high = middle
        else:
            low = middle + 1
    shards: list[Shard] = []
    start = 0
    while start < len(rows):
        end = _end(ends, start, low)
        shards.append(Shard(len(shards), tuple(rows[start:end])))
        start = end
    return shards


def _work(
    rows: Sequence[ManifestRow], shard_mb: float, shard_minutes: float
) -> tuple[list[int], float]:
    """Each row's work, 1 or more, and how much of it a shard may have."""
    if all(row.duration_s for row in rows):
        return [max(1, round(row.duration_s * 1000)) for row in rows], shard_minutes * _MINUTE_MS
    known = [row.size_bytes for row in rows if row.size_bytes]
    if not known:
        return [_UNKNOWN_MS] * len(rows), shard_minutes * _MINUTE_MS
    mean = sum(known) // len(known)
    return [row.size_bytes or mean for row in rows], shard_mb * _MEGABYTE


def _end(ends: Sequence[int], start: int, limit: int) -> int:
    """Where the shard ends that begins there: one row at least, else as many as have room."""
    return max(start + 1, bisect_right(ends, ends[start] + limit) - 1)


def _count(ends: Sequence[int], limit: int, most: int) -> int:
    """How many shards a limit gives; counted up to one more than `most`."""
    count = start = 0
    while start < len(ends) - 1 and count <= most:
        start = _end(ends, start, limit)
        count += 1
    return count
