"""How a run goes in time: its shards, the places they wait for, and the server that all share.

The estimate's formula, in seconds. A shard's videos are read, decoded and sent while the server
answers for those before, so the slowest of these governs:

- decoding: ``(frames / frames_per_core_s + videos * video_s) / cores``, and what its longest video,
  which has one core where there are others, adds at its end (:func:`_overhang`);
- storage: ``bytes / (storage_mb_per_s * cores)``; wire: ``clips * 602112 bytes / network``;
- the server's ``clips / clips_per_s + requests * request_s``, over its replicas and shared by all
  shards that are at work (:func:`_shared`).

Shards wait in a queue for ``pods`` places (:func:`_makespan`). Before each, two pods of Kubeflow's
and its own are started, one after the other. What preemption costs is in :func:`_redone` and
:func:`_lateness`. `tests/pipelines/shard_queue.py` plays runs through event by event; this agrees.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field, replace

import numpy as np
from c3d_client.core.contract import CLIP_BYTES
from c3d_client.core.errors import UsageError

from c3d_pipelines.estimates.footage import Numbers, require
from c3d_pipelines.estimates.rates import Cluster, Rates
from c3d_pipelines.estimates.workload import Workload

# Kubeflow Pipelines starts, for each iteration of a loop, a driver for the iteration, a driver for
# its task, and the task. Only the last asks for cores.
PODS_PER_SHARD = 3
# Around the loop, one after the other: drivers of the run, of its exit handler and of the loop, and
# a driver and a task each for plan, preflight, publish, gate and report.
PODS_AROUND = 13


@dataclass(frozen=True)
class Job:
    """All that decides how long a run takes.

    Args:
        workload: what there is to do.
        rates: how fast a core and a replica are.
        cluster: how many of them there are.
        failure_rate: the share of videos that fail, half-way on average.

    Raises:
        UsageError: a number is out of its range.
    """

    workload: Workload
    rates: Rates
    cluster: Cluster = field(default_factory=Cluster)
    failure_rate: float = 0.01

    def __post_init__(self) -> None:
        require("failure_rate", self.failure_rate, least=0)
        if self.failure_rate > 1:
            raise UsageError(f"failure_rate is {self.failure_rate:g}; give 0 to 1")

    @property
    def places(self) -> int:
        """Shards at a time."""
        return min(self.cluster.pods, len(self.workload.shards))

    def faster(self, factor: float) -> Job:
        """The same with all speeds so many times as high."""
        cluster = replace(
            self.cluster,
            network_gbit=self.cluster.network_gbit * factor,
            storage_mb_per_s=self.cluster.storage_mb_per_s * factor,
        )
        return replace(self, rates=self.rates.faster(factor), cluster=cluster)


@dataclass(frozen=True)
class Course:
    """How a run goes, in seconds.

    Args:
        wall_s: from its begin to its end.
        held_s: that shards' own pods are there, all together.
        busy_s: that the server has work.
        tail_s: of ``wall_s``, that only the last shards are left.
        preempted: pods that are taken away.
        lost: shards that are taken away more often than they may.
    """

    wall_s: float
    held_s: float
    busy_s: float
    tail_s: float
    preempted: float
    lost: float


def course(job: Job, *, lucky: bool = False, unlucky: bool = False) -> Course:
    """Reckon how a run goes.

    Args:
        job: what there is to do, and with what.
        lucky: no pod is taken away and no place waits for the last shards.
        unlucky: as many more are taken away as in one run of forty, and one of them at its end.
    """
    if lucky:
        job = replace(job, cluster=replace(job.cluster, preemptions_per_h=0.0))
    start_s, shards = job.cluster.pod_start_s, len(job.workload.shards)
    places = job.places
    drivers_s, begin_s = (PODS_PER_SHARD - 1) * start_s, PODS_PER_SHARD * start_s
    work = np.maximum.reduce(_pod_stages(job))
    server = np.maximum(*_server_stages(job))
    if job.cluster.one_machine:
        work = work + server
    alone = start_s + _shared(work, server, places, starts_s=begin_s)
    held, taken, lost = _redone(alone, job)
    preempted = float(taken.sum())
    level = float((drivers_s + alone).sum()) / places
    queue = _makespan(drivers_s + alone, places)
    idle = places * (queue - level) / float((drivers_s + alone).mean())
    last = (shards % places or places) / shards
    late = _lateness(preempted, last=last, idle=idle) * float((start_s + work).mean())
    if unlucky and preempted:
        held = alone + (held - alone) * (1 + 2 / math.sqrt(preempted))
        late = float((start_s + work).max())
    again = float(held.sum() / alone.sum())
    if lucky:
        queue = max(level, float((drivers_s + start_s + work).max()))
    busy = float(server.sum()) * again
    wall = max(queue + late, _makespan(drivers_s + held, places), begin_s + busy + late)
    return Course(
        wall_s=PODS_AROUND * start_s + wall,
        held_s=float(held.sum()),
        busy_s=busy,
        tail_s=max(0.0, wall - max(level * again, begin_s + busy)),
        preempted=preempted,
        lost=float(lost.sum()),
    )


def starts_s(job: Job) -> float:
    """Seconds in which a place in the queue, and the run itself, only waits for pods."""
    rounds = len(job.workload.shards) / job.places
    return (PODS_AROUND + PODS_PER_SHARD * rounds) * job.cluster.pod_start_s


def stages_s(job: Job) -> dict[str, float]:
    """Seconds that each part takes alone, all places at work."""
    decode, storage, wire = _pod_stages(job)
    server, received = _server_stages(job)
    return {
        "decode": float(decode.sum()) / job.places,
        "storage": float(storage.sum()) / job.places,
        "wire": max(float(wire.sum()) / job.places, float(received.sum())),
        "server": float(server.sum()),
    }


def _pod_stages(job: Job) -> tuple[Numbers, Numbers, Numbers]:
    """Seconds a shard for decoding, reading and sending, each float64 ``[shards]``."""
    work, rates, cluster = job.workload, job.rates, job.cluster
    done = 1 - job.failure_rate / 2
    cores = rates.cores_worth(cluster.cores)
    # As the worker shares its cores (c3d_client.parallel.share_cores): videos at a time, threads each.
    at_once = np.clip(np.floor(work.each("videos")), 1, cluster.cores)
    speed = rates.frames_per_core_s * cores / cluster.cores * np.floor(cluster.cores / at_once)
    lane_s = work.each("frames") * done / speed + work.each("videos") * rates.video_s
    longest = np.minimum(work.each("longest_frames") / speed + rates.video_s, lane_s)
    videos = np.maximum(work.each("videos"), 1)
    decode = np.where(
        videos <= at_once,
        longest,
        np.maximum(
            lane_s / at_once + _overhang(lane_s, longest, at_once),
            np.ceil(videos / at_once) * lane_s / videos,  # all alike: whole rounds
        ),
    )
    network = cluster.network_gbit * 1e9 / 8
    reading = np.minimum(cluster.storage_mb_per_s * 1e6 * at_once, network)
    return (
        decode,
        work.each("size_bytes") / reading,
        work.each("clips") * done * CLIP_BYTES / network,
    )


def _server_stages(job: Job) -> tuple[Numbers, Numbers]:
    """Seconds a shard that the server computes, and that its replicas' network receives."""
    work, rates, cluster = job.workload, job.rates, job.cluster
    done = 1 - job.failure_rate / 2
    clips = work.each("clips") * done
    server = clips / rates.clips_per_s + work.each("requests") * done * rates.request_s
    network = cluster.network_gbit * 1e9 / 8
    return server / cluster.replicas, clips * CLIP_BYTES / network / cluster.replicas


def _overhang(total: Numbers, longest: Numbers, at_once: Numbers) -> Numbers:
    """What a shard's longest video adds to ``total / at_once``, being one of so many at a time.

    It begins when some part u of the others is done, u being anything from 0 to 1: the others take
    ``rest = (total - longest) / at_once``, and it ends at ``u * rest + longest``. That is later
    than ``total / at_once`` by ``u * rest - (rest - late)`` with
    ``late = longest * (1 - 1 / at_once)``, where that is positive; the mean of it over u is this.
    """
    rest = (total - longest) / at_once
    late = longest * (1 - 1 / at_once)
    fits = late < rest
    return np.where(fits, late**2 / 2 / np.where(fits, rest, 1.0), late - rest / 2)


def _makespan(times: Numbers, places: int) -> float:
    """When the last of a queue is done, each begun in turn as a place is free.

    It is between ``sum / places`` and that plus the longest.
    """
    free = [0.0] * min(places, len(times))
    for time in times.tolist():
        heapq.heapreplace(free, free[0] + time)
    return max(free)


def _shared(work: Numbers, server: Numbers, places: int, *, starts_s: float) -> Numbers:
    """How long each shard works where the server is shared.

    As many begin together as there are places, the last ones fewer: ``n``. Each gets an n-th of the
    server; after the first, shards start while others work. One that is larger than all that is
    left beside it is left alone when those are done, after ``rest * n / (n - 1)``, and by then has
    had ``rest / (n - 1)`` of its own.

    Args:
        work: seconds that a shard needs with a server to itself.
        server: seconds that the whole server needs for it.
        places: shards at a time.
        starts_s: until a shard's pod works.
    """
    number = np.arange(len(work))
    first = number // places * places
    beside = np.minimum(places, len(work) - first).astype(np.float64)
    left = np.append(np.cumsum(server[::-1])[::-1], 0.0)
    rest = left[first] - server
    others = np.maximum(beside - 1, 1)
    own = np.maximum(0.0, 1 - rest / others / np.maximum(server, 1e-300))
    alone = rest * beside / others + np.maximum(work, server) * own
    together = server * beside - np.where(first > 0, starts_s, 0.0)
    longest: Numbers = np.maximum(work, np.minimum(together, alone))
    return longest


def _redone(alone: Numbers, job: Job) -> tuple[Numbers, Numbers, Numbers]:
    """Of pods that need so long: how long they take with what is done over, how many are taken
    away, and the chance that it is once more than allowed.

    A try is taken away with probability ``q = 1 - exp(-rate * alone)`` and lasts ``q / rate`` in
    the mean; there are ``1 + q + q^2 + ...`` of them.
    """
    rate = job.cluster.preemptions_per_h / 3600
    if not rate:
        return alone, np.zeros_like(alone), np.zeros_like(alone)
    lost = -np.expm1(-rate * alone)
    tries = np.ones_like(lost)
    for _ in range(job.cluster.retries):
        tries = 1 + lost * tries
    return tries * lost / rate, tries * lost, lost ** (job.cluster.retries + 1)


def _lateness(taken: float, *, last: float, idle: float) -> float:
    """By what part of a shard preemption makes the end later.

    A shard that was taken away is late by some part of itself, anything from 0 to 1. Among the last
    it makes the end late. Before, its place does; but the last shards are begun by the places that
    are free, so as many late ones do no harm as have nothing left to do. Of ``k`` that do harm the
    latest is late by ``k / (k + 1)``; the mean of it for a Poisson number around m is this.

    Args:
        taken: pods that are taken away.
        last: the share of shards that no other follows.
        idle: places with nothing left to do while the last shards are done.
    """
    harmful = taken * last + max(0.0, taken * (1 - last) - idle)
    return 1 + math.expm1(-harmful) / harmful if harmful > 1e-9 else 0.0
