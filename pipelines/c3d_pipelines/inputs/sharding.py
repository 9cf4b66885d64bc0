"""Inputs cut into shards: parts of about equal work, each done by one worker at a time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from c3d_client.errors import UsageError

from c3d_pipelines.inputs.manifest import ManifestRow

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
