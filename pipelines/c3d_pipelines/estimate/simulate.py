"""Simulation of a bulk run: shards, pods and the server that they share.

The videos of a shard are decoded on the cores of its pod, each video on one core (as
:func:`c3d_client.parallel.share_cores`), while the server computes the clips before them. A shard
alone takes as long as the slowest of decoding, reading from storage and sending clips. Shards
queue for the pods, and a pod with less work for the server leaves its share to the others.

Every seed is one run: with other lengths where only their mean is known, other videos that fail,
other start times and preemptions, and speeds up to 10 % off. The estimate is the median of the
runs, between their 5th and 95th percentile.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from c3d_client.core.contract import CLIP_BYTES, FEATURE_SIZE, SPORTS1M_CLASSES
from c3d_client.core.errors import UsageError

from c3d_pipelines.estimate.rates import CORE_SHARE, Cluster, Rates
from c3d_pipelines.estimate.video_stats import Numbers, Workload, require

# Difference between two measurements of the same speed, on a machine that others use too.
RATE_ERROR = 0.1
# A worker stores the videos that are done every so many seconds, and the next attempt at its shard
# continues from there (shards/worker.py, where this grows with a shard of hours).
STORED_EVERY_S = 300.0
# Odd, so that the median is one of the runs: the one with exactly the given speeds.
MIN_SEEDS, MAX_SEEDS = 5, 101
# Shards of all seeds together; runs of many shards differ less, so that they need fewer seeds.
_MAX_SIMULATED_SHARDS = 4000
# Samples of a workload together have at most as many videos.
_MAX_SIMULATED_VIDEOS = 1_000_000
# Size of a row's float32 values; its other columns are a few hundred bytes.
_ROW_BYTES = {"features": 4 * FEATURE_SIZE, "classes": 4 * SPORTS1M_CLASSES}


@dataclass(frozen=True)
class Job:
    """Everything that decides how long a run takes.

    Args:
        workload: the videos.
        rates: speeds of a core and of a replica.
        cluster: how many of them there are.
        failure_rate: share of the videos that fail, each at a random frame.

    Raises:
        UsageError: a number is out of its range.
    """

    workload: Workload
    rates: Rates
    cluster: Cluster = field(default_factory=Cluster)
    failure_rate: float = 0.01

    def __post_init__(self) -> None:
        require("failure_rate", self.failure_rate, at_least=0)
        if self.failure_rate > 1:
            raise UsageError(f"failure_rate is {self.failure_rate:g}; give 0 to 1")

    @property
    def parallel_shards(self) -> int:
        """Shards at a time."""
        return min(self.cluster.pods, len(self.workload.ends))

    def with_cluster(self, **changes: Any) -> Job:
        """Return the same job on a cluster that differs in these fields."""
        return replace(self, cluster=replace(self.cluster, **changes))

    def shard_stages(self, sample: int | None = None) -> dict[str, Numbers]:
        """Return the seconds of each shard for each part; see :func:`_shard_stages`."""
        return _shard_stages(self.with_cluster(pods=1, replicas=1), sample)


@dataclass(frozen=True)
class Range:
    """5th percentile, median and 95th percentile of the simulated runs."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """Duration, machines, bytes and cost of a run.

    Args:
        videos: in all.
        too_short: videos with fewer frames than a clip.
        failed: videos that fail.
        shards: of the run.
        pods: that are started: those of the shards, of the run, and after preemption; processes on
            one machine.
        clips: that the server answers.
        frames: that are decoded.
        wall_h: hours from the start of the run to its end.
        cpu_h: hours of the workers' cores, while their pods hold them.
        gpu_h: hours of the server's GPUs, which are held all the time.
        bytes_in: read from storage.
        bytes_wire: sent from workers to the server.
        bytes_out: values in the dataset.
        stages_h: hours that each part would take if it alone limited the run: ``decode``,
            ``storage``, ``wire``, ``server``.
        bottleneck: the longest of them.
        starts_h: part of ``wall_h`` for starting pods.
        tail_h: part of ``wall_h`` that is lost at the end, because no shard is left for some pods
            while the server is not fully used.
        server_busy: share of the time that the server computes.
        preempted: pods that are preempted.
        lost_shards: shards that are preempted more often than retried; the next run does them.
        cost: of GPUs and cores; None without prices.
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
    job: Job,
    *,
    gpu_hour: float = 0.0,
    cpu_hour: float = 0.0,
    answer: str = "features",
    clip_rows: bool = True,
    pca_dim: int | None = None,
) -> Estimate:
    """Simulate a run with several seeds and return the percentiles. The result is reproducible.

    Args:
        job: the videos, speeds and machines.
        gpu_hour: price of a GPU per hour, in any currency; 0 leaves GPUs out of the cost.
        cpu_hour: price of a core per hour.
        answer: ``features``, 4096 float32 per row, or ``classes``, 487.
        clip_rows: write a row for each clip, not only for each video.
        pca_dim: dimensions of the PCA that reduces the features; None for no PCA.

    Raises:
        UsageError: ``answer`` is neither; a price is negative or not a number; or ``pca_dim`` is
            not from 1 to 4096, or given for classes.
    """
    require("gpu_hour", gpu_hour, at_least=0)
    require("cpu_hour", cpu_hour, at_least=0)
    if answer not in _ROW_BYTES:
        raise UsageError(f"answer is {answer!r}; give {' or '.join(_ROW_BYTES)}")
    row_bytes = _ROW_BYTES[answer]
    if pca_dim is not None:
        if answer != "features":
            raise UsageError(f"pca_dim is {pca_dim} and the answer {answer}; leave out pca_dim")
        if not 1 <= pca_dim <= FEATURE_SIZE:
            raise UsageError(f"pca_dim is {pca_dim}; give 1 to {FEATURE_SIZE}")
        row_bytes = 4 * pca_dim
    work, cluster, runs = job.workload, job.cluster, simulate(job)
    wall_h = np.array([run.wall_s for run in runs]) / 3600
    cpu_h = np.array([run.held_s for run in runs]) / 3600 * cluster.cores
    gpu_h = wall_h * cluster.replicas * cluster.gpus_per_replica
    preempted = float(np.mean([run.preempted for run in runs]))
    shards, videos = len(work.ends), round(len(work.lengths) * work.weight)
    counts = work.stats.clips(work.lengths)
    clips, too_short = work.total(counts), work.total(counts == 0)
    failed = videos * job.failure_rate
    rows = max(0.0, videos - too_short - failed)
    if clip_rows:
        rows += clips * (1 - job.failure_rate)
    processed = 1 - job.failure_rate / 2  # a video that fails does so half-way, in the mean
    machines = {
        "decode": job.parallel_shards,
        "storage": job.parallel_shards,
        "wire": min(job.parallel_shards, cluster.replicas),
        "server": cluster.replicas,
    }
    stages_h = {
        name: float(seconds.sum()) / machines[name] / 3600
        for name, seconds in job.shard_stages().items()
    }
    starts = cluster.starts_per_run + cluster.pods_per_shard * shards / job.parallel_shards
    has_cost = gpu_hour > 0 or cpu_hour > 0
    return Estimate(
        videos=videos,
        too_short=too_short,
        failed=failed,
        shards=shards,
        pods=round(shards * cluster.pods_per_shard + cluster.pods_per_run + preempted),
        clips=clips * processed,
        frames=work.total(work.stats.frames(work.lengths)) * processed,
        wall_h=_range(wall_h),
        cpu_h=_range(cpu_h),
        gpu_h=_range(gpu_h),
        bytes_in=work.total(work.sizes),
        bytes_wire=clips * processed * CLIP_BYTES,
        bytes_out=rows * row_bytes,
        stages_h=stages_h,
        bottleneck=max(stages_h, key=stages_h.__getitem__),
        starts_h=starts * cluster.pod_start_s / 3600,
        tail_h=float(np.median([run.tail_s for run in runs])) / 3600,
        server_busy=float(np.median([run.busy_s / run.wall_s for run in runs])),
        preempted=preempted,
        lost_shards=float(np.mean([run.lost for run in runs])),
        cost=_range(cpu_h * cpu_hour + gpu_h * gpu_hour) if has_cost else None,
    )


def _range(values: Numbers) -> Range:
    low, likely, high = (float(value) for value in np.percentile(values, [5, 50, 95]))
    return Range(low, likely, high)


def simulate(job: Job) -> list[SimulatedRun]:
    """Simulate the run, once for each seed."""
    work, cluster = job.workload, job.cluster
    count = max(MIN_SEEDS, min(MAX_SEEDS, _MAX_SIMULATED_SHARDS // len(work.ends))) // 2 * 2 + 1
    samples = max(1, min(count, _MAX_SIMULATED_VIDEOS // len(work.lengths)))
    runs = []
    for seed in range(count):
        # Evenly spaced instead of random, so that few seeds cover the range.
        speed = 1 + RATE_ERROR * (2 * (seed + 0.5) / count - 1)
        stages = job.shard_stages(seed % samples)
        pod_s = np.maximum.reduce([stages["decode"], stages["storage"], stages["wire"]])
        server_s = np.maximum(stages["server"], stages["wire"])
        if cluster.one_machine:
            pod_s = pod_s + server_s
        rng = np.random.default_rng([seed, 1])
        runs.append(SimulatedRun(pod_s / speed, server_s / speed, cluster, rng=rng))
    return runs


class SimulatedRun:
    """One simulated run: shards that queue for the pods and share the server, event by event.

    A slot has one shard at a time; there is a slot for each pod.

    Args:
        pod_s: seconds that each shard takes with an infinitely fast server, ``[shards]``.
        server_s: seconds that one replica takes for each shard, ``[shards]``.
        cluster: pods, replicas, start times and preemptions.
        rng: of start times and preemptions.

    Attributes:
        wall_s: seconds from the start of the run to its end.
        held_s: seconds that the shards' pods exist, summed over pods.
        busy_s: seconds that the server computes, as if fully used.
        tail_s: see :class:`Estimate`.
        preempted: pods that are preempted.
        lost: shards that are preempted more often than retried.
    """

    def __init__(
        self, pod_s: Numbers, server_s: Numbers, cluster: Cluster, *, rng: np.random.Generator
    ) -> None:
        shards, slots = len(pod_s), min(cluster.pods, len(pod_s))
        self.pod_s, self.server_s, self.cluster = np.maximum(pod_s, 1e-9), server_s, cluster
        self.attempts = cluster.retries + 1 if cluster.preemptions_per_h else 1
        # Drawn beforehand, so that a shard has the same ones whatever the cluster is.
        starts = cluster.pod_start_s * rng.uniform(0.5, 1.5, cluster.pods_per_run)
        run_start_s = cluster.starts_per_run * float(starts.mean())
        drivers = (shards, cluster.pods_per_shard - 1)
        self.driver_s = cluster.pod_start_s * rng.uniform(0.5, 1.5, drivers).sum(axis=1)
        self.start_s = cluster.pod_start_s * rng.uniform(0.5, 1.5, (shards, self.attempts))
        lives = rng.exponential(1.0, (shards, self.attempts))
        rate = cluster.preemptions_per_h / 3600
        self.life_s: Numbers = lives / rate if rate else np.full(lives.shape, np.inf)

        self.queued = list(range(shards))[::-1]
        self.shard, self.attempt = np.full(slots, -1), [0] * slots  # -1: no shard is left
        self.exists, self.working = np.zeros(slots, bool), np.zeros(slots, bool)  # of the pod
        self.left = np.ones(slots)  # part of the shard that is still to do
        # The same for a pod that is preempted now, and when it began to work.
        self.unstored, self.began_s = np.ones(slots), np.zeros(slots)
        # When the drivers have ended, the pod has started, or it is preempted.
        self.event_s, self.preempted_s = np.full(slots, np.inf), np.full(slots, np.inf)
        self.now = self.held_s = self.busy_s = self.tail_s = 0.0
        self.preempted = self.lost = 0
        self._run()
        self.wall_s = run_start_s + self.now

    def _run(self) -> None:
        slots = len(self.shard)
        for slot in range(slots):
            self._next_shard(slot)
        while active := np.count_nonzero(self.shard >= 0):
            speeds, busy = self._shared_speeds()
            ends_s = np.full(slots, np.inf)
            np.divide(self.left, speeds, out=ends_s, where=self.working)
            ends_s += self.now
            next_s = np.minimum(ends_s, self.event_s)
            slot = int(next_s.argmin())
            passed = max(0.0, float(next_s[slot]) - self.now)
            self.now += passed
            self.held_s += passed * np.count_nonzero(self.exists)
            self.busy_s += passed * busy
            if not self.queued:
                self.tail_s += passed * (1 - max(active / slots, busy))
            self.left -= speeds * passed
            if self.event_s[slot] <= ends_s[slot]:
                self._handle_event(slot)
            else:
                self._next_shard(slot)

    def _next_shard(self, slot: int) -> None:
        self.exists[slot] = self.working[slot] = False
        self.attempt[slot] = 0
        self.unstored[slot] = 1.0
        self.shard[slot] = self.queued.pop() if self.queued else -1
        drivers_s = self.driver_s[self.shard[slot]] if self.shard[slot] >= 0 else np.inf
        self.event_s[slot] = self.now + drivers_s

    def _handle_event(self, slot: int) -> None:
        pod = self.shard[slot], self.attempt[slot]
        if not self.exists[slot]:
            self.exists[slot] = True
            self.preempted_s[slot] = self.now + self.life_s[pod]
            self.event_s[slot] = min(self.now + self.start_s[pod], self.preempted_s[slot])
        elif self.event_s[slot] < self.preempted_s[slot]:
            self.working[slot], self.left[slot] = True, self.unstored[slot]
            self.began_s[slot] = self.now
            self.event_s[slot] = self.preempted_s[slot]
        else:
            self.preempted += 1
            self.attempt[slot] += 1
            if self.working[slot]:
                worked_s = self.now - self.began_s[slot]
                stored = 1 - worked_s % STORED_EVERY_S / worked_s if worked_s else 0.0
                self.unstored[slot] -= (self.unstored[slot] - self.left[slot]) * stored
            if self.attempt[slot] == self.attempts:
                self.lost += 1
                self._next_shard(slot)
            else:
                self.exists[slot] = self.working[slot] = False
                self.event_s[slot] = self.now  # a new pod is created at once

    def _shared_speeds(self) -> tuple[Numbers, float]:
        """Return the parts of their shards that pods do per second, and the server's use (0 to 1).

        The pods share the replicas evenly; what a pod does not need is shared by the others.
        """
        replicas = self.cluster.replicas
        alone = self.working / self.pod_s[self.shard]
        server_s = self.server_s[self.shard]
        needed = alone * server_s  # replicas that each pod could use
        total = float(needed.sum())
        if self.cluster.one_machine or total <= replicas:
            return alone, min(1.0, total / replicas)
        ordered = np.sort(needed)
        before = np.cumsum(ordered) - ordered
        share = ((replicas - before) / np.arange(len(needed), 0, -1)).max()
        return np.minimum(alone, self.working * share / np.maximum(server_s, 1e-300)), 1.0


# Recommendations simulate the same videos with other numbers of pods and replicas.
@functools.lru_cache(maxsize=2 * MAX_SEEDS)
def _shard_stages(job: Job, sample: int | None) -> dict[str, Numbers]:
    """Return the seconds of each shard for each part, on one pod and one replica: ``[shards]``.

    Args:
        job: the videos, speeds and machines.
        sample: seed of the lengths and failures; None for the workload itself, in which each video
            is the mean of failing and not failing.
    """
    work, rates, cluster = job.workload, job.rates, job.cluster
    processed: Numbers | float = 1 - job.failure_rate / 2
    if sample is not None:
        rng = np.random.default_rng([sample, 0])
        work = work.resample(rng)
        fails = rng.random(len(work.lengths)) < job.failure_rate
        processed = np.where(fails, rng.random(len(work.lengths)), 1.0)
    clips = work.stats.clips(work.lengths)
    requests = np.ceil(clips / work.stats.batch_size)
    server_s = clips / rates.clips_per_s + requests * rates.request_s
    videos = work.per_shard(np.ones(len(work.lengths)))
    # As c3d_client.parallel.share_cores: where videos are fewer than cores, each has several.
    parallel = np.clip(np.floor(videos), 1, cluster.cores)
    threads = np.repeat(cluster.cores // parallel, np.diff(work.ends, prepend=0))
    core_share = CORE_SHARE if cluster.cores > 1 else 1.0
    frames_per_s = rates.frames_per_core_s * core_share * threads
    video_s = work.stats.frames(work.lengths) * processed / frames_per_s + rates.video_s
    network = cluster.network_gbit * 1e9 / 8
    read_bytes_per_s = np.minimum(cluster.storage_mb_per_s * 1e6 * parallel, network)
    return {
        "decode": _decode_s(work, video_s, parallel),
        "storage": work.per_shard(work.sizes) / read_bytes_per_s,
        "wire": work.per_shard(clips * processed) * CLIP_BYTES / network,
        "server": work.per_shard(server_s * processed),
    }


def _decode_s(work: Workload, video_s: Numbers, parallel: Numbers) -> Numbers:
    """Return when each shard's last video ends, each video started as soon as a core is free."""
    totals = work.per_shard(video_s)
    ends = np.empty(len(work.ends))
    start = 0
    for shard, end in enumerate(work.ends.tolist()):
        cores = int(parallel[shard])
        free = [0.0] * cores
        for seconds in video_s[start:end].tolist():
            heapq.heapreplace(free, free[0] + seconds)
        # In a sample, only the wait for the last video is that of a single video.
        ends[shard] = max(free) + totals[shard] * (1 - 1 / work.weight) / cores
        start = end
    return ends
