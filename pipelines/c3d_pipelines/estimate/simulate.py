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
from dataclasses import dataclass, field

import numpy as np
from c3d_client.core.contract import CLIP_BYTES, FEATURE_SIZE, SPORTS1M_CLASSES
from c3d_client.core.errors import UsageError

from c3d_pipelines.estimate.rates import Cluster, Rates
from c3d_pipelines.estimate.video_stats import Numbers, Workload, require

# Kubeflow Pipelines starts a driver for each iteration of a loop, a driver for its task, and the
# task. Only the task requests cores.
PODS_PER_SHARD = 3
# Drivers of the run, its exit handler and the loop; a driver and a task each for plan, preflight,
# publish, gate and report.
PODS_PER_RUN = 13
# Duration of those, in starts of a pod: with Kubeflow Pipelines 2.17 the pods of a shard take 30 s
# (10 s each), and those of a run 155 s.
STARTS_PER_RUN = 15.5
# Difference between two measurements of the same speed, on a machine that others use too.
RATE_ERROR = 0.1
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

    def shard_stages(self, sample: int | None = None) -> dict[str, Numbers]:
        """Return the seconds of each shard for each part; see :func:`_shard_stages`."""
        return _shard_stages(
            self.workload,
            self.rates,
            cores=self.cluster.cores,
            network_gbit=self.cluster.network_gbit,
            storage_mb_per_s=self.cluster.storage_mb_per_s,
            failure_rate=self.failure_rate,
            sample=sample,
        )


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
        pods: that are started, three per shard, those of the run, and those after preemption.
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
) -> Estimate:
    """Simulate a run with several seeds and return the percentiles. The result is reproducible.

    Args:
        job: the videos, speeds and machines.
        gpu_hour: price of a GPU per hour, in any currency; 0 leaves GPUs out of the cost.
        cpu_hour: price of a core per hour.
        answer: ``features``, 4096 float32 per row, or ``classes``, 487.
        clip_rows: write a row for each clip, not only for each video.

    Raises:
        UsageError: ``answer`` is neither, or a price is negative or not a number.
    """
    require("gpu_hour", gpu_hour, at_least=0)
    require("cpu_hour", cpu_hour, at_least=0)
    if answer not in _ROW_BYTES:
        raise UsageError(f"answer is {answer!r}; give {' or '.join(_ROW_BYTES)}")
    work, cluster, runs = job.workload, job.cluster, simulate(job)
    wall_h = np.array([run.wall_s for run in runs]) / 3600
    cpu_h = np.array([run.held_s for run in runs]) / 3600 * cluster.cores
    gpu_h = wall_h * cluster.replicas * cluster.gpus_per_replica
    preempted = float(np.mean([run.preempted for run in runs]))
    shards, videos = len(work.ends), round(work.total(np.ones(len(work.lengths))))
    frames, clips = work.stats.frames(work.lengths), work.stats.clips(work.lengths)
    processed = work.total(clips) * (1 - job.failure_rate / 2)
    too_short, failed = work.total(clips == 0), videos * job.failure_rate
    rows = max(0.0, videos - too_short - failed)
    if clip_rows:
        rows += work.total(clips) * (1 - job.failure_rate)
    stages_h = _stages_h(job)
    starts = STARTS_PER_RUN + PODS_PER_SHARD * shards / job.parallel_shards
    has_cost = gpu_hour > 0 or cpu_hour > 0
    return Estimate(
        videos=videos,
        too_short=too_short,
        failed=failed,
        shards=shards,
        pods=round(shards * PODS_PER_SHARD + PODS_PER_RUN + preempted),
        clips=processed,
        frames=work.total(frames) * (1 - job.failure_rate / 2),
        wall_h=_range(wall_h),
        cpu_h=_range(cpu_h),
        gpu_h=_range(gpu_h),
        bytes_in=work.total(work.sizes),
        bytes_wire=processed * CLIP_BYTES,
        bytes_out=rows * _ROW_BYTES[answer],
        stages_h=stages_h,
        bottleneck=max(stages_h, key=stages_h.__getitem__),
        starts_h=starts * cluster.pod_start_s / 3600,
        tail_h=float(np.median([run.tail_s for run in runs])) / 3600,
        server_busy=float(np.median([run.busy_s / run.wall_s for run in runs])),
        preempted=preempted,
        lost_shards=float(np.mean([run.lost for run in runs])),
        cost=_range(cpu_h * cpu_hour + gpu_h * gpu_hour) if has_cost else None,
    )


def _stages_h(job: Job) -> dict[str, float]:
    pods, replicas = job.parallel_shards, job.cluster.replicas
    machines = {"decode": pods, "storage": pods, "wire": min(pods, replicas), "server": replicas}
    return {
        name: float(seconds.sum()) / machines[name] / 3600
        for name, seconds in job.shard_stages().items()
    }


def _range(values: Numbers) -> Range:
    low, likely, high = (float(value) for value in np.percentile(values, [5, 50, 95]))
    return Range(low, likely, high)


@dataclass(frozen=True)
class SimulatedRun:
    """One simulated run.

    Args:
        wall_s: seconds from the start of the run to its end.
        held_s: seconds that the shards' pods exist, summed over pods.
        busy_s: seconds that the server computes, as if fully used.
        tail_s: see :class:`Estimate`.
        preempted: pods that are preempted.
        lost: shards that are preempted more often than retried.
    """

    wall_s: float
    held_s: float
    busy_s: float
    tail_s: float
    preempted: int
    lost: int


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
        runs.append(simulate_queue(pod_s / speed, server_s / speed, cluster, rng=rng))
    return runs


def simulate_queue(
    pod_s: Numbers, server_s: Numbers, cluster: Cluster, *, rng: np.random.Generator
) -> SimulatedRun:
    """Simulate shards that queue for the pods and share the server, event by event.

    Args:
        pod_s: seconds that each shard takes with an infinitely fast server, ``[shards]``.
        server_s: seconds that one replica takes for each shard, ``[shards]``.
        cluster: pods, replicas, start times and preemptions.
        rng: of start times and preemptions.
    """
    return _Queue(pod_s, server_s, cluster, rng).run()


class _Queue:
    """State of a simulated run. A slot has one shard at a time; there is a slot for each pod."""

    def __init__(
        self, pod_s: Numbers, server_s: Numbers, cluster: Cluster, rng: np.random.Generator
    ):
        shards, slots = len(pod_s), min(cluster.pods, len(pod_s))
        self.pod_s, self.server_s, self.cluster = np.maximum(pod_s, 1e-9), server_s, cluster
        self.attempts = cluster.retries + 1 if cluster.preemptions_per_h else 1
        # Drawn beforehand, so that a shard has the same ones whatever the cluster is.
        self.run_start_s = cluster.pod_start_s * float(rng.uniform(0.5, 1.5, PODS_PER_RUN).mean())
        drivers = (shards, PODS_PER_SHARD - 1)
        self.driver_s = cluster.pod_start_s * rng.uniform(0.5, 1.5, drivers).sum(axis=1)
        self.start_s = cluster.pod_start_s * rng.uniform(0.5, 1.5, (shards, self.attempts))
        self.life_s = rng.exponential(1.0, (shards, self.attempts))
        self.life_s *= 3600 / (cluster.preemptions_per_h or np.inf)

        self.queued, self.active = list(range(shards))[::-1], slots
        self.shard = np.full(slots, -1)  # -1: no shard is left for this slot
        self.attempt = [0] * slots
        self.working = np.zeros(slots, bool)  # its pod runs
        self.left = np.zeros(slots)  # part of the shard that is still to do
        self.speeds: Numbers = np.zeros(slots)
        self.busy = 0.0
        self.events: list[tuple[float, int, str, int, int]] = []
        self.now = self.held_s = self.busy_s = self.tail_s = 0.0
        self.pods = self.preempted = self.lost = 0

    def run(self) -> SimulatedRun:
        for slot in range(len(self.shard)):
            self._next_shard(slot)
        while self.active:
            ends_s = np.full(len(self.left), np.inf)
            np.divide(self.left, self.speeds, out=ends_s, where=self.working)
            first = int(ends_s.argmin())
            event_s = self.events[0][0] - self.now if self.events else np.inf
            passed = max(0.0, min(float(ends_s[first]), event_s))
            self.now += passed
            self.held_s += passed * self.pods
            self.busy_s += passed * self.busy
            if not self.queued:
                self.tail_s += passed * (1 - max(self.active / len(self.shard), self.busy))
            self.left -= self.speeds * passed
            if event_s <= ends_s[first]:
                self._handle(*heapq.heappop(self.events)[1:])
            else:
                self._remove_pod(first)
                self._next_shard(first)
        wall_s = STARTS_PER_RUN * self.run_start_s + self.now
        return SimulatedRun(
            wall_s, self.held_s, self.busy_s, self.tail_s, self.preempted, self.lost
        )

    def _next_shard(self, slot: int) -> None:
        self.attempt[slot] = 0
        if self.queued:
            self.shard[slot] = self.queued.pop()
            self._schedule(float(self.driver_s[self.shard[slot]]), slot, "create")
        else:
            self.shard[slot] = -1
            self.active -= 1

    def _schedule(self, delay_s: float, slot: int, event: str) -> None:
        pod = int(self.shard[slot]), self.attempt[slot]
        heapq.heappush(self.events, (self.now + delay_s, slot, event, *pod))

    def _handle(self, slot: int, event: str, shard: int, attempt: int) -> None:
        if (shard, attempt) != (self.shard[slot], self.attempt[slot]):
            return  # of a pod that has ended
        if event == "create":
            self.pods += 1
            self._schedule(float(self.start_s[shard, attempt]), slot, "work")
            if self.cluster.preemptions_per_h:
                self._schedule(float(self.life_s[shard, attempt]), slot, "preempt")
        elif event == "work":
            self._set_working(slot, True)
        else:
            self.preempted += 1
            self._remove_pod(slot)
            self.attempt[slot] += 1
            if self.attempt[slot] < self.attempts:
                self._schedule(0.0, slot, "create")
            else:
                self.lost += 1
                self._next_shard(slot)

    def _remove_pod(self, slot: int) -> None:
        self.pods -= 1
        self._set_working(slot, False)

    def _set_working(self, slot: int, working: bool) -> None:
        self.working[slot], self.left[slot] = working, 1.0
        self.speeds, self.busy = self._shared_speeds()

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


# Recommendations simulate the same videos on other clusters.
@functools.lru_cache(maxsize=2 * MAX_SEEDS)
def _shard_stages(
    work: Workload,
    rates: Rates,
    *,
    cores: int,
    network_gbit: float,
    storage_mb_per_s: float,
    failure_rate: float,
    sample: int | None,
) -> dict[str, Numbers]:
    """Return the seconds of each shard for each part, on one pod and one replica: ``[shards]``.

    Args:
        work: the videos.
        rates: speeds of a core and of a replica.
        cores: of a pod.
        network_gbit: of a pod or a replica.
        storage_mb_per_s: read speed of one video.
        failure_rate: share of the videos that fail.
        sample: seed of the lengths and failures; None for the workload itself, in which each video
            is the mean of failing and not failing.
    """
    processed: Numbers | float = 1 - failure_rate / 2
    if sample is not None:
        rng = np.random.default_rng([sample, 0])
        work = work.resample(rng)
        fails = rng.random(len(work.lengths)) < failure_rate
        processed = np.where(fails, rng.random(len(work.lengths)), 1.0)
    clips = work.stats.clips(work.lengths)
    requests = np.ceil(clips / work.stats.batch_size)
    server_s = clips / rates.clips_per_s + requests * rates.request_s
    videos = work.per_shard(np.ones(len(work.lengths)))
    # As c3d_client.parallel.share_cores: where videos are fewer than cores, each has several.
    parallel = np.clip(np.floor(videos), 1, cores)
    threads = np.repeat(cores // parallel, np.diff(work.ends, prepend=0))
    core_share = rates.core_share if cores > 1 else 1.0
    frames_per_s = rates.frames_per_core_s * core_share * threads
    video_s = work.stats.frames(work.lengths) * processed / frames_per_s + rates.video_s
    network = network_gbit * 1e9 / 8
    return {
        "decode": _decode_s(work, video_s, parallel),
        "storage": work.per_shard(work.sizes)
        / np.minimum(storage_mb_per_s * 1e6 * parallel, network),
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
