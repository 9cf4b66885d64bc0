"""What a bulk run has before it: videos, frames, clips and bytes, cut into shards.

The second step of the estimate. Either each video is known, from a plan or a manifest, or a mean
length stands for all of them and the lengths are spread around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from c3d_client.core.errors import UsageError

from c3d_pipelines.estimates.footage import Footage, Numbers, require, spread_lengths

if TYPE_CHECKING:
    from c3d_pipelines.inputs.manifest import ManifestRow

_MOST_VIDEOS = 10**12
_MOST_SHARDS = 10_000


@dataclass(frozen=True)
class ShardLimits:
    """Where a shard ends, as :func:`c3d_pipelines.inputs.plan.cut_into_shards` takes it.

    A plan counts minutes where it knows all lengths, megabytes where it does not. An estimate from
    a mean takes what makes more shards.

    Args:
        shard_mb: megabytes of videos.
        shard_minutes: minutes of videos.
        max_shards: with more, shards grow instead.

    Raises:
        UsageError: a number is out of its range.
    """

    shard_mb: float = 4000.0
    shard_minutes: float = 240.0
    max_shards: int = 200

    def __post_init__(self) -> None:
        require("shard_mb", self.shard_mb, above=0)
        require("shard_minutes", self.shard_minutes, above=0)
        require("max_shards", self.max_shards, least=1)
        if self.max_shards > _MOST_SHARDS:
            raise UsageError(
                f"max_shards is {self.max_shards}; at most {_MOST_SHARDS} are reckoned with, and "
                "Kubernetes takes fewer"
            )


@dataclass(frozen=True)
class ShardLoad:
    """What one shard asks for; sums over its videos.

    Args:
        videos: how many; not whole where one stands for several.
        duration_s: in seconds.
        size_bytes: to be read.
        frames: to be decoded.
        clips: to be sent.
        requests: that they make.
        longest_frames: of the video that has most.
    """

    videos: float
    duration_s: float
    size_bytes: float
    frames: float
    clips: float
    requests: float
    longest_frames: float


@dataclass(frozen=True)
class Workload:
    """All of a run, shard by shard.

    Args:
        shards: in the order in which they are begun; one at least.
        too_short: videos with fewer frames than a clip needs.
        error: the standard error of the run's length, as a share of it: 0 where each video's
            length is known.
        notes: what was assumed, in sentences.

    Raises:
        UsageError: there are no shards.
    """

    shards: tuple[ShardLoad, ...]
    too_short: float = 0.0
    error: float = 0.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.shards:
            raise UsageError("there is no video to be done, so there is nothing to estimate")

    def total(self, what: str) -> float:
        """The sum of one of :class:`ShardLoad`'s numbers over all shards."""
        return math.fsum(getattr(shard, what) for shard in self.shards)

    def each(self, what: str) -> Numbers:
        """One of :class:`ShardLoad`'s numbers for each shard, float64 ``[shards]``."""
        return np.array([getattr(shard, what) for shard in self.shards], np.float64)


def typical_workload(
    videos: int,
    *,
    mean_duration_s: float,
    spread: float = 1.2,
    footage: Footage | None = None,
    limits: ShardLimits | None = None,
) -> Workload:
    """A run of which only the number of videos and their mean length is known.

    Args:
        videos: how many, 1 or more.
        mean_duration_s: in seconds.
        spread: see :func:`spread_lengths`; 1.2 is an assumption: one video in twenty is then
            longer than 3.5 times the mean. 0 for all alike.
        footage: what they are like.
        limits: where a shard ends.

    Raises:
        UsageError: a number is out of its range.
    """
    footage, limits = footage or Footage(), limits or ShardLimits()
    require("videos", videos, least=1)
    require("mean_duration_s", mean_duration_s, above=0)
    require("spread", spread, least=0)
    if videos > _MOST_VIDEOS or spread > 4 or mean_duration_s > 1e9:
        raise UsageError(
            f"videos is {videos}, mean_duration_s {mean_duration_s:g} and spread {spread:g}; "
            f"at most {_MOST_VIDEOS}, 1e9 and 4 can be reckoned with"
        )
    lengths, stands_for = spread_lengths(videos, mean_s=mean_duration_s, spread=spread)
    sizes = lengths * footage.bytes_per_s
    minutes, megabytes = lengths * stands_for / 60, sizes * stands_for / 1e6
    work = max(minutes / limits.shard_minutes, megabytes / limits.shard_mb, key=np.sum)
    ends = _ends(work, limits)
    note = (
        f"lengths log-normal around {mean_duration_s:g} s, spread {spread:g}, the longest "
        f"{lengths.max() / 60:.3g} minutes; a plan gives the real ones"
    )
    return Workload(
        _shards(lengths, sizes, ends, footage, stands_for=stands_for),
        too_short=stands_for * float((footage.clips(lengths) == 0).sum()),
        error=math.sqrt(math.expm1(spread**2) / videos),
        notes=(note,) if spread else (),
    )


def known_workload(
    shards: Sequence[Sequence[ManifestRow]],
    *,
    mean_duration_s: float = 0.0,
    footage: Footage | None = None,
) -> Workload:
    """A run of which each video is known, cut as it will be.

    A length that nobody said is reckoned from the size; a size, from the length. Where there is
    neither, both are ``mean_duration_s``'s.

    Args:
        shards: the videos of each; empty ones are left out.
        mean_duration_s: of those of which nothing is known; 0 refuses them.
        footage: what they are like.

    Raises:
        UsageError: nothing is known of a video, or there is none.
    """
    footage = footage or Footage()
    require("mean_duration_s", mean_duration_s, least=0)
    rows = [row for shard in shards for row in shard]
    lengths = np.array([row.duration_s for row in rows], np.float64)
    sizes = np.array([row.size_bytes for row in rows], np.float64)
    reckoned = (lengths <= 0) & (sizes > 0)
    unknown = (lengths <= 0) & (sizes <= 0)
    if unknown.any() and mean_duration_s <= 0:
        first = rows[int(unknown.argmax())].video_id
        raise UsageError(
            f"{int(unknown.sum())} videos have neither length nor size, the first is {first}; "
            "give their mean length in seconds"
        )
    lengths = np.where(reckoned, sizes / footage.bytes_per_s, lengths)
    lengths = np.where(unknown, mean_duration_s, lengths)
    sizes = np.where(sizes > 0, sizes, lengths * footage.bytes_per_s)
    notes = []
    if reckoned.any():
        rate = f"{footage.bytes_per_s * 8 / 1e6:.3g} Mbit/s"
        notes.append(
            f"lengths reckoned from sizes, at {rate}: {int(reckoned.sum())} of {len(rows)}"
        )
    if unknown.any():
        notes.append(
            f"lengths taken to be {mean_duration_s:g} s: {int(unknown.sum())} of {len(rows)}"
        )
    ends = np.cumsum([len(shard) for shard in shards if shard])
    return Workload(
        _shards(lengths, sizes, ends.tolist(), footage),
        too_short=float((footage.clips(lengths) == 0).sum()),
        notes=tuple(notes),
    )


def read_shards(path: str, *, limits: ShardLimits | None = None) -> list[list[ManifestRow]]:
    """The videos that are to be done, shard by shard.

    Args:
        path: a run's plan, which says what is to be done and in which shard; or a manifest, all of
            which is, cut as a plan would.
        limits: where a manifest's shards end.

    Raises:
        ManifestError: it cannot be read, or is neither.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from c3d_pipelines.inputs.manifest import read_manifest
    from c3d_pipelines.inputs.plan import DO, cut_into_shards, read_plan

    try:
        planned = "decision" in pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        planned = False
    if planned:
        shards: dict[int, list[ManifestRow]] = {}
        for one in read_plan(path):
            if one.decision == DO:
                shards.setdefault(one.shard, []).append(one.row)
        return [shards[index] for index in sorted(shards)]
    limits = limits or ShardLimits()
    cut = cut_into_shards(
        read_manifest(path),
        shard_mb=limits.shard_mb,
        shard_minutes=limits.shard_minutes,
        max_shards=limits.max_shards,
    )
    return [list(shard.rows) for shard in cut]


def _ends(work: Numbers, limits: ShardLimits) -> list[int]:
    """Where each shard ends, as `cut_into_shards` of ``inputs/sharding.py`` cuts: as few as the
    limit of 1 allows, but no more than may be, and those as even as can be."""
    upto = np.concatenate([[0.0], np.cumsum(work)])

    def cut(limit: float) -> list[int]:
        ends = [0]
        while ends[-1] < len(work) and len(ends) <= most + 1:
            room = upto[ends[-1]] + limit * (1 + 1e-12)
            ends.append(max(ends[-1] + 1, int(np.searchsorted(upto, room, side="right")) - 1))
        return ends[1:]

    most = limits.max_shards
    low, high = 0.0, 1.0
    if len(cut(high)) > most:
        low, high = 1.0, float(upto[-1])
    else:
        most = len(cut(high))
    while high - low > high * 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if len(cut(middle)) <= most else (middle, high)
    return cut(high)


def _shards(
    lengths: Numbers,
    sizes: Numbers,
    ends: Iterable[int],
    footage: Footage,
    *,
    stands_for: float = 1.0,
) -> tuple[ShardLoad, ...]:
    frames, clips = footage.frames(lengths), footage.clips(lengths)
    requests = np.ceil(clips / footage.batch_size)
    shards, begin = [], 0
    for end in ends:
        part = slice(begin, end)
        shards.append(
            ShardLoad(
                (end - begin) * stands_for,
                float(lengths[part].sum()) * stands_for,
                float(sizes[part].sum()) * stands_for,
                float(frames[part].sum()) * stands_for,
                float(clips[part].sum()) * stands_for,
                float(requests[part].sum()) * stands_for,
                float(frames[part].max()),
            )
        )
        begin = end
    return tuple(shards)
