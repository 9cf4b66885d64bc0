"""Videos of a run for the estimate: resolutions, lengths, frames and clips, cut into shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client import ClipWindow
from c3d_client.core.errors import UsageError

from c3d_pipelines.inputs.manifest import ManifestRow, read_manifest
from c3d_pipelines.inputs.plan import DO, cut_into_shards, read_plan, shard_ends
from c3d_pipelines.parameters import JobParameters

Numbers = npt.NDArray[np.float64]

# Above this many videos, a sample of this size represents all of them.
MAX_SAMPLE = 1_000_000
_MAX_VIDEOS, _MAX_MEAN_S, _MAX_SPREAD = 10**12, 1e9, 4
_MAX_SHARDS = 10_000


def require(
    name: str, value: float, *, above: float = -math.inf, at_least: float = -math.inf
) -> None:
    """Check the range of a number.

    Raises:
        UsageError: the number is not finite or out of its range.
    """
    try:
        valid = math.isfinite(value) and value > above and value >= at_least
    except OverflowError:
        raise UsageError(f"{name} is too large for an estimate") from None
    if not valid:
        expected = f"more than {above:g}" if above > -math.inf else f"{at_least:g} or more"
        raise UsageError(f"{name} is {value:g}; give {expected}")


@dataclass(frozen=True)
class Resolution:
    """Frame size with a common name.

    Args:
        width, height: in pixels.
        bits_per_s: assumed bit rate of a video of that size, as streaming services encode H.264. A
            plan or ``--bytes-per-s`` has the real one.
    """

    width: int
    height: int
    bits_per_s: float

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.width * self.height

    @classmethod
    def of(cls, width: int, height: int) -> Resolution:
        """Return a frame size with the bit rate of the common one nearest to it."""
        usual = min(RESOLUTIONS.values(), key=lambda other: abs(other.pixels - width * height))
        return cls(width, height, usual.bits_per_s)


RESOLUTIONS = {
    "240p": Resolution(426, 240, 0.3e6),
    "360p": Resolution(640, 360, 0.7e6),
    "480p": Resolution(854, 480, 1.2e6),
    "720p": Resolution(1280, 720, 2.7e6),
    "1080p": Resolution(1920, 1080, 5.0e6),
    "4k": Resolution(3840, 2160, 16e6),
}


@dataclass(frozen=True)
class VideoStats:
    """Properties that all videos of a run share.

    Args:
        fps: frames per second.
        bytes_per_s: bytes of the file per second of video.
        window: how a video is cut into clips; ``window.fps`` applies to clips, not to decoding.
        batch_size: clips in a request.

    Raises:
        UsageError: a number is out of its range.
    """

    fps: float = 25.0
    bytes_per_s: float = RESOLUTIONS["720p"].bits_per_s / 8
    window: ClipWindow = ClipWindow()
    batch_size: int = 8

    def __post_init__(self) -> None:
        require("fps", self.fps, above=0)
        require("bytes_per_s", self.bytes_per_s, above=0)
        require("batch_size", self.batch_size, at_least=1)

    def frames(self, lengths: Numbers) -> Numbers:
        """Frames of videos of these lengths in seconds, at least one each."""
        return np.maximum(np.round(lengths * self.fps), 1)

    def clips(self, lengths: Numbers) -> Numbers:
        """Clips of videos of these lengths in seconds; 0 for a video that is too short."""
        frames = np.maximum(np.round(lengths * (self.window.fps or self.fps)), 1)
        numbers, indexes = np.unique(frames, return_inverse=True)
        counts = [self.window.count(int(number)) for number in numbers]
        return np.array(counts, np.float64)[indexes]


@dataclass(frozen=True)
class ShardLimits:
    """Size limits of a shard, as in :func:`c3d_pipelines.inputs.plan.cut_into_shards`.

    A plan counts minutes where it knows all lengths, and megabytes otherwise. An estimate from a
    mean length uses whichever makes more shards.

    Args:
        shard_mb: megabytes of videos in a shard.
        shard_minutes: minutes of videos in a shard.
        max_shards: shards in a run; shards grow where the limits above would make more.

    Raises:
        UsageError: a number is out of its range.
    """

    shard_mb: float = JobParameters.shard_mb
    shard_minutes: float = JobParameters.shard_minutes
    max_shards: int = JobParameters.max_shards

    def __post_init__(self) -> None:
        require("shard_mb", self.shard_mb, above=0)
        require("shard_minutes", self.shard_minutes, above=0)
        require("max_shards", self.max_shards, at_least=1)
        if self.max_shards > _MAX_SHARDS:
            raise UsageError(
                f"max_shards is {self.max_shards}; an estimate allows at most {_MAX_SHARDS}, and "
                "Kubernetes allows fewer"
            )


@dataclass(frozen=True, eq=False)
class Workload:
    """Videos of a run in the order of their shards.

    Args:
        lengths: in seconds, float64 ``[videos]``.
        sizes: of the files in bytes, float64 ``[videos]``.
        ends: for each shard the index after its last video, int64 ``[shards]``; no empty shards.
        stats: properties that all videos share.
        weight: how many videos each one represents; 1 unless they are a sample.
        limits: of shards, where the lengths are only a sample; None where each length is known.
        notes: what was assumed, in sentences.

    Raises:
        UsageError: there are no videos.
    """

    lengths: Numbers
    sizes: Numbers
    ends: npt.NDArray[np.int64]
    stats: VideoStats
    weight: float = 1.0
    limits: ShardLimits | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ends):
            raise UsageError("there is no video to be done, so there is nothing to estimate")

    def total(self, values: npt.NDArray[Any]) -> float:
        """Sum the values of videos, ``[videos]``."""
        return float(values.sum()) * self.weight

    def per_shard(self, values: Numbers) -> Numbers:
        """Sum the values of videos over each shard: ``[videos]`` to ``[shards]``."""
        sums: Numbers = np.add.reduceat(values, np.r_[0, self.ends[:-1]]) * self.weight
        return sums

    def resample(self, rng: np.random.Generator) -> Workload:
        """Draw other lengths from the same distribution; known lengths stay."""
        if self.limits is None:
            return self
        lengths = rng.choice(self.lengths, len(self.lengths))
        return _cut(lengths, self.stats, self.limits, self.weight)


def typical_workload(
    videos: int,
    *,
    mean_duration_s: float,
    spread: float = 1.2,
    stats: VideoStats | None = None,
    limits: ShardLimits | None = None,
) -> Workload:
    """Return the workload of videos of which only the number and the mean length are known.

    Args:
        videos: how many, 1 or more.
        mean_duration_s: in seconds.
        spread: standard deviation of the logarithm of the lengths; 0 for equal lengths. 1.2 is an
            assumption: one video in twenty is then longer than 3.5 times the mean.
        stats: properties that all videos share.
        limits: where a shard ends.

    Raises:
        UsageError: a number is out of its range.
    """
    require("videos", videos, at_least=1)
    require("mean_duration_s", mean_duration_s, above=0)
    require("spread", spread, at_least=0)
    if videos > _MAX_VIDEOS or spread > _MAX_SPREAD or mean_duration_s > _MAX_MEAN_S:
        raise UsageError(
            f"videos is {videos}, mean_duration_s {mean_duration_s:g} and spread {spread:g}; "
            f"an estimate allows at most {_MAX_VIDEOS}, {_MAX_MEAN_S:g} and {_MAX_SPREAD}"
        )
    lengths, weight = spread_lengths(videos, mean_s=mean_duration_s, spread=spread)
    note = (
        f"lengths are log-normal with mean {mean_duration_s:g} s and spread {spread:g}, the "
        f"longest is {lengths.max() / 60:.3g} minutes; a plan has the real ones"
    )
    notes = (note,) if spread else ()
    return _cut(lengths, stats or VideoStats(), limits or ShardLimits(), weight, notes)


def spread_lengths(videos: int, *, mean_s: float, spread: float) -> tuple[Numbers, float]:
    """Return log-normal lengths with exactly this mean, in a fixed random order.

    They are quantiles of the distribution and not random, so the longest is as long as is usual.

    Returns:
        Seconds, float64, at most :data:`MAX_SAMPLE`, and how many videos each length represents.
    """
    count = min(videos, MAX_SAMPLE)
    scores = np.linspace(-8, 8, 8001)
    below = np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in scores])
    lengths = np.exp(spread * np.interp((np.arange(count) + 0.5) / count, below, scores))
    lengths *= mean_s / lengths.mean()
    return np.random.default_rng(0).permutation(lengths), videos / count


def known_workload(
    shards: Sequence[Sequence[ManifestRow]],
    *,
    mean_duration_s: float = 0.0,
    stats: VideoStats | None = None,
) -> Workload:
    """Return the workload of known videos.

    An unknown length is computed from the size, and an unknown size from the length. Where both are
    unknown, the length is ``mean_duration_s``.

    Args:
        shards: the videos of each shard; empty shards are left out.
        mean_duration_s: of videos of which nothing is known; 0 refuses such videos.
        stats: properties that all videos share.

    Raises:
        UsageError: nothing is known of a video, or there is none.
    """
    stats = stats or VideoStats()
    require("mean_duration_s", mean_duration_s, at_least=0)
    rows = [row for shard in shards for row in shard]
    lengths = np.array([row.duration_s for row in rows], np.float64)
    sizes = np.array([row.size_bytes for row in rows], np.float64)
    from_size = (lengths <= 0) & (sizes > 0)
    unknown = (lengths <= 0) & (sizes <= 0)
    notes = []
    if from_size.any():
        rate = f"{stats.bytes_per_s * 8 / 1e6:.3g} Mbit/s"
        notes.append(
            f"lengths computed from sizes, at {rate}: {int(from_size.sum())} of {len(rows)}"
        )
        lengths = np.where(from_size, sizes / stats.bytes_per_s, lengths)
    if unknown.any():
        if mean_duration_s <= 0:
            raise UsageError(
                f"{int(unknown.sum())} videos have neither length nor size, the first is "
                f"{rows[int(unknown.argmax())].video_id}; give their mean length in seconds"
            )
        notes.append(
            f"lengths assumed to be {mean_duration_s:g} s: {int(unknown.sum())} of {len(rows)}"
        )
        lengths = np.where(unknown, mean_duration_s, lengths)
    sizes = np.where(sizes > 0, sizes, lengths * stats.bytes_per_s)
    ends = np.cumsum([len(shard) for shard in shards if shard], dtype=np.int64)
    return Workload(lengths, sizes, ends, stats, notes=tuple(notes))


def read_shards(path: str, *, limits: ShardLimits | None = None) -> list[list[ManifestRow]]:
    """Read the videos that a run has to do, shard by shard.

    Args:
        path: a run's plan, which has a decision and a shard for each video; or a manifest, of which
            all videos are to be done and which is cut as a plan would be.
        limits: where the shards of a manifest end.

    Raises:
        ManifestError: the file cannot be read, or is neither.
    """
    try:
        is_plan = "decision" in pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        is_plan = False
    if is_plan:
        shards: dict[int, list[ManifestRow]] = {}
        for planned in read_plan(path):
            if planned.decision == DO:
                shards.setdefault(planned.shard, []).append(planned.row)
        return [shards[index] for index in sorted(shards)]
    limits = limits or ShardLimits()
    cut = cut_into_shards(
        read_manifest(path),
        shard_mb=limits.shard_mb,
        shard_minutes=limits.shard_minutes,
        max_shards=limits.max_shards,
    )
    return [list(shard.rows) for shard in cut]


def _cut(
    lengths: Numbers,
    stats: VideoStats,
    limits: ShardLimits,
    weight: float,
    notes: tuple[str, ...] = (),
) -> Workload:
    sizes = lengths * stats.bytes_per_s
    limit_ms, limit_bytes = limits.shard_minutes * 60_000, limits.shard_mb * 1e6
    work, most = lengths * 1000 * weight, limit_ms
    if sizes.sum() * weight / limit_bytes > work.sum() / limit_ms:
        work, most = sizes * weight, limit_bytes
    whole = np.maximum(np.round(work), 1).astype(np.int64).tolist()
    ends = shard_ends(whole, most=most, max_shards=limits.max_shards)
    return Workload(lengths, sizes, np.array(ends, np.int64), stats, weight, limits, notes)
