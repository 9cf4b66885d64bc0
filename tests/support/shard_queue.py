"""A bulk run played through, event by event: what the estimate is held against.

It shares no line with the estimate: every video is put on a core of its pod in turn, pods wait for
places and start, they share the server as it is asked, videos fail at some point of theirs, pods
are taken away and begin anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CLIP_BYTES = 16 * 112 * 112 * 3
PODS_BEFORE = 7  # drivers of run, exit handler and loop, plan and preflight with theirs
PODS_AFTER = 6  # publish, gate and report, each with its driver


@dataclass(frozen=True)
class Machines:
    """What there is; rates as the estimate's Rates and Cluster name them."""

    frames_per_core_s: float
    clips_per_s: float
    pods: int
    cores: int
    replicas: int = 1
    video_s: float = 0.1
    core_share: float = 0.9
    pod_start_s: float = 30.0
    preemptions_per_h: float = 0.0
    retries: int = 2
    network_gbit: float = 10.0
    storage_mb_per_s: float = 85.0


@dataclass(frozen=True)
class Played:
    """What the run took.

    Args:
        wall_s: from its begin to its end.
        cpu_s: cores held by shards' pods, times seconds.
        gpu_s: replicas, times seconds.
        clips: answered, those done again too.
        preempted: pods taken away.
        lost: shards that were taken away once too often.
    """

    wall_s: float
    cpu_s: float
    gpu_s: float
    clips: float
    preempted: int
    lost: int


@dataclass(frozen=True)
class Shard:
    """A shard's needs when nobody else is there: seconds on its pod, and clips."""

    alone_s: float
    clips: float


def played(
    shards: Sequence[Sequence[float]],
    machines: Machines,
    *,
    seed: int,
    failure_rate: float = 0.01,
    fps: float = 25.0,
    stride: int = 8,
    bytes_per_s: float = 2.7e6 / 8,
) -> Played:
    """Play a run of shards, each the lengths of its videos in seconds."""
    chance = np.random.default_rng(seed)
    needs = [
        shard_needs(
            np.asarray(lengths, float),
            machines,
            chance,
            failure_rate=failure_rate,
            fps=fps,
            stride=stride,
            bytes_per_s=bytes_per_s,
        )
        for lengths in shards
    ]
    return _Queue(needs, machines, chance).play()


def shard_needs(
    lengths: np.ndarray,
    machines: Machines,
    chance: np.random.Generator,
    *,
    failure_rate: float,
    fps: float,
    stride: int,
    bytes_per_s: float,
) -> Shard:
    """Put a shard's videos on the cores of its pod, in turn."""
    frames = np.round(lengths * fps)
    fails = chance.random(len(lengths)) < failure_rate
    seen = np.where(fails, np.floor(frames * chance.random(len(lengths))), frames)
    clips = np.where(seen >= 16, (seen - 16) // stride + 1, 0)
    share = machines.core_share if machines.cores > 1 else 1.0
    at_once = min(machines.cores, len(lengths))
    speed = machines.frames_per_core_s * share * (machines.cores // at_once)
    times = seen / speed + machines.video_s
    free = [0.0] * at_once
    for time in times.tolist():
        heapq.heapreplace(free, free[0] + time)
    network = machines.network_gbit * 1e9 / 8
    reading = min(machines.storage_mb_per_s * 1e6 * at_once, network)
    read_s = lengths.sum() * bytes_per_s / reading
    sent_s = clips.sum() * CLIP_BYTES / network
    return Shard(max(max(free), read_s, sent_s), float(clips.sum()))


class _Queue:
    """Places, in each a shard: waiting for its pods, at work, or gone."""

    def __init__(self, shards: list[Shard], machines: Machines, chance: np.random.Generator):
        self.shards, self.machines, self.chance = shards, machines, chance
        places = machines.pods
        self.shard = np.full(places, -1)
        self.tries = np.zeros(places, int)
        self.drivers_s = np.zeros(places)  # left, of pods before it that ask for no cores
        self.start_s = np.zeros(places)  # left, of its own pod's start
        self.work = np.zeros(places)  # left, as a part of the shard
        self.taken_s = np.full(places, np.inf)  # left until its pod is taken away
        self.waiting = list(range(len(shards)))[::-1]
        self.cpu_s = self.clips = 0.0
        self.preempted = self.lost = 0

    def play(self) -> Played:
        machines = self.machines
        wall_s = sum(self._start() for _ in range(PODS_BEFORE))
        for place in range(machines.pods):
            self._fill(place)
        while (self.shard >= 0).any():
            wall_s += self._step()
        wall_s += sum(self._start() for _ in range(PODS_AFTER))
        return Played(
            wall_s,
            self.cpu_s,
            wall_s * machines.replicas,
            self.clips,
            self.preempted,
            self.lost,
        )

    def _start(self) -> float:
        return self.machines.pod_start_s * self.chance.uniform(0.5, 1.5)

    def _fill(self, place: int) -> None:
        self.shard[place] = self.waiting.pop() if self.waiting else -1
        self.tries[place] = 0
        self.drivers_s[place] = self._start() + self._start()
        self._begin(place)

    def _begin(self, place: int) -> None:
        self.start_s[place] = self._start()
        self.work[place] = 1.0
        rate = self.machines.preemptions_per_h / 3600
        self.taken_s[place] = self.chance.exponential(1 / rate) if rate else np.inf

    def _step(self) -> float:
        """Go on to the next thing that happens; gives how long that took."""
        here = self.shard >= 0
        asked = here & (self.drivers_s > 0)
        starting = here & ~asked & (self.start_s > 0)
        working = here & ~asked & ~starting
        speed = np.zeros(len(here))
        speed[working] = self._speeds(np.flatnonzero(working))
        left = np.full(len(here), np.inf)
        left[asked] = self.drivers_s[asked]
        left[starting] = self.start_s[starting]
        left[working] = self.work[working] / np.maximum(speed[working], 1e-300)
        held = starting | working
        left[held] = np.minimum(left[held], self.taken_s[held])
        place = int(left.argmin())
        passed = float(left[place])
        self.cpu_s += passed * int(held.sum()) * self.machines.cores
        clips = np.array([self.shards[shard].clips for shard in self.shard[working]])
        self.clips += float((speed[working] * clips).sum()) * passed
        self.drivers_s[asked] -= passed
        self.start_s[starting] -= passed
        self.work[working] -= passed * speed[working]
        self.taken_s[held] -= passed
        if held[place] and self.taken_s[place] <= 0:
            self._take_away(place)
        elif asked[place]:
            self.drivers_s[place] = 0
        elif starting[place]:
            self.start_s[place] = 0
        else:
            self._fill(place)
        return passed

    def _take_away(self, place: int) -> None:
        self.preempted += 1
        self.tries[place] += 1
        if self.tries[place] > self.machines.retries:
            self.lost += 1
            self._fill(place)
        else:
            self._begin(place)

    def _speeds(self, places: np.ndarray) -> np.ndarray:
        """Parts of their shards a second: each as fast as its pod can, as far as the server and
        its network, which they share evenly, let them."""
        shards = [self.shards[shard] for shard in self.shard[places]]
        alone = np.array([1 / max(shard.alone_s, 1e-9) for shard in shards])
        clips = np.array([shard.clips for shard in shards])
        network = self.machines.network_gbit * 1e9 / 8 / CLIP_BYTES
        room = self.machines.replicas * min(self.machines.clips_per_s, network)
        wanted = alone * clips
        given = np.zeros(len(wanted))
        for number, which in enumerate(np.argsort(wanted)):
            given[which] = min(wanted[which], room / (len(wanted) - number))
            room -= given[which]
        return np.where(clips > 0, given / np.maximum(clips, 1), alone)
