"""What a bulk run will take: hours, pods, GPU-hours, CPU-hours, bytes, money.

The last step of the estimate: `footage.py` is what videos are like, `workload.py` what there is to
do, `rates.py` how fast, `course.py` how long that takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from c3d_client.core.contract import CLIP_BYTES, FEATURE_SIZE, SPORTS1M_CLASSES
from c3d_client.core.errors import UsageError

from c3d_pipelines.estimates.course import (
    PODS_AROUND,
    PODS_PER_SHARD,
    Job,
    course,
    stages_s,
    starts_s,
)
from c3d_pipelines.estimates.footage import require

# A row's numbers, float32; the other columns are hundreds of bytes at most.
_ROW_BYTES = {"features": 4 * FEATURE_SIZE, "classes": 4 * SPORTS1M_CLASSES}
# How far the same measure is off the next time, on a machine that others use too.
RATE_ERROR = 0.1


@dataclass(frozen=True)
class Prices:
    """Money for an hour, in any currency; 0 leaves a part out.

    Raises:
        UsageError: below 0, or no number.
    """

    gpu_hour: float = 0.0
    cpu_hour: float = 0.0

    def __post_init__(self) -> None:
        require("gpu_hour", self.gpu_hour, least=0)
        require("cpu_hour", self.cpu_hour, least=0)


@dataclass(frozen=True)
class Range:
    """A number and between which it will be.

    Args:
        low: nothing is taken away, no place waits, and rates are 10 % better than measured.
        likely: what is expected.
        high: bad luck with lengths and preemption, and rates 10 % worse.
    """

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Range:
        """All three so many times."""
        return Range(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Args:
        videos: in all.
        too_short: those with fewer frames than a clip.
        failed: those that fail.
        shards: of the run.
        pods: that are started, three a shard and those around them.
        clips: that the server answers.
        frames: that are decoded.
        wall_h: hours from its begin to its end.
        cpu_h: hours of the workers' cores, while their pods hold them.
        gpu_h: hours of the server's GPUs, which are there all the time.
        bytes_in: read from storage.
        bytes_wire: from workers to the server.
        bytes_out: the dataset's numbers.
        stages_h: the hours that each part would take if it alone held the run up: ``decode``,
            ``storage``, ``wire``, ``server``.
        bottleneck: the longest of them.
        starts_h: of ``wall_h``, starting pods.
        tail_h: of ``wall_h``, the last shards, while other places are empty already.
        server_busy: the share of the time that the server has work.
        preempted: pods that are taken away.
        lost_shards: shards that are taken away more often than they may; the next run does them.
        cost: of GPUs and cores, None without prices.
    """

    videos: int
    too_short: float
    failed: float
    shards: int
    pods: int
    clips: float
    frames: float
    wall_h: Range
    cpu_h: Range
    gpu_h: Range
    bytes_in: float
    bytes_wire: float
    bytes_out: float
    stages_h: Mapping[str, float]
    bottleneck: str
    starts_h: float
    tail_h: float
    server_busy: float
    preempted: float
    lost_shards: float
    cost: Range | None = None


def estimate(
    job: Job, *, prices: Prices | None = None, answer: str = "features", clip_rows: bool = True
) -> Estimate:
    """Reckon what a run will take.

    Args:
        job: what there is to do, and with what.
        prices: what GPUs and cores cost.
        answer: ``features``, 4096 float32 a row, or ``classes``, 487.
        clip_rows: keep each clip's row, not only the video's.

    Raises:
        UsageError: ``answer`` is neither.
    """
    if answer not in _ROW_BYTES:
        raise UsageError(f"answer is {answer!r}; give {' or '.join(_ROW_BYTES)}")
    work, cluster = job.workload, job.cluster
    expected = course(job)
    best = course(job.faster(1 + RATE_ERROR), lucky=True)
    worst = course(job.faster(1 - RATE_ERROR), unlucky=True)
    # Two standard errors of what there is to do.
    shorter, longer = 1 - min(2 * work.error, 0.9), 1 + 2 * work.error
    wall_h = Range(best.wall_s * shorter, expected.wall_s, worst.wall_s * longer).times(1 / 3600)
    held_h = Range(best.held_s * shorter, expected.held_s, worst.held_s * longer).times(1 / 3600)
    cpu_h = held_h.times(cluster.cores)
    gpu_h = wall_h.times(cluster.replicas * cluster.gpus_per_replica)
    parts_h = {name: seconds / 3600 for name, seconds in stages_s(job).items()}
    videos, shards = round(work.total("videos")), len(work.shards)
    done = 1 - job.failure_rate / 2
    clips, failed = work.total("clips"), videos * job.failure_rate
    rows = max(0.0, videos - work.too_short - failed)
    if clip_rows:
        rows += clips * (1 - job.failure_rate)
    return Estimate(
        videos=videos,
        too_short=work.too_short,
        failed=failed,
        shards=shards,
        pods=round(shards * PODS_PER_SHARD + PODS_AROUND + expected.preempted),
        clips=clips * done,
        frames=work.total("frames") * done,
        wall_h=wall_h,
        cpu_h=cpu_h,
        gpu_h=gpu_h,
        bytes_in=work.total("size_bytes"),
        bytes_wire=clips * done * CLIP_BYTES,
        bytes_out=rows * _ROW_BYTES[answer],
        stages_h=parts_h,
        bottleneck=max(parts_h, key=parts_h.__getitem__),
        starts_h=starts_s(job) / 3600,
        tail_h=expected.tail_s / 3600,
        server_busy=min(1.0, expected.busy_s / expected.wall_s),
        preempted=expected.preempted,
        lost_shards=expected.lost,
        cost=_cost(prices or Prices(), cpu_h, gpu_h),
    )


def _cost(prices: Prices, cpu_h: Range, gpu_h: Range) -> Range | None:
    if not prices.cpu_hour and not prices.gpu_hour:
        return None
    cpus, gpus = cpu_h.times(prices.cpu_hour), gpu_h.times(prices.gpu_hour)
    return Range(cpus.low + gpus.low, cpus.likely + gpus.likely, cpus.high + gpus.high)
