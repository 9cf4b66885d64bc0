"""What holds a run up, and by how much one change or another would move it.

Each remedy is reckoned, not guessed: the same estimate is made again with the change.
"""

from __future__ import annotations

import math
from dataclasses import replace

from c3d_pipelines.estimates.course import PODS_PER_SHARD, Job
from c3d_pipelines.estimates.estimate import Estimate, estimate
from c3d_pipelines.estimates.rates import Cluster

# Below this share of the run, something is not worth a word.
_WORTH = 0.1
# A change that brings less is none.
_LEAST_GAIN = 0.05
# One thing can be had in plenty only where another is waiting for it.
_MOST_MORE, _MOST_STEPS = 100.0, 4

# What there can be more of, by what holds a run up.
_WHAT = {
    "decode": ("pods", "cores"),
    "storage": ("pods",),
    "wire": ("network_gbit",),
    "server": ("replicas",),
}
_WORDS = {
    "pods": "{} pods at a time",
    "cores": "{} cores a pod",
    "replicas": "{} replicas of the server",
    "network_gbit": "a network of {:.3g} Gbit/s",
}
_HOLDS = {
    "decode": "decoding holds it up",
    "storage": "reading from storage holds it up",
    "wire": "the wire to the server holds it up",
    "server": "the server holds it up",
}


def remedies(job: Job, found: Estimate) -> list[str]:
    """What to change, in sentences, the most important first; none where all is in balance."""
    said = []
    if job.cluster.one_machine:
        said.append("server and workers share these cores; a server of its own does not wait")
    else:
        said += _stage(job, found)
        said += _idle_server(job, found)
    said += _starts(job, found)
    said += _tail(job, found)
    said += _preemption(job, found)
    return said


def hours(value: float) -> str:
    """Hours as people say them."""
    if value < 1 / 60:
        return f"{value * 3600:.0f} s"
    if value < 1:
        return f"{value * 60:.{0 if value > 1 / 6 else 1}f} min"
    if value < 72:
        return f"{value:.1f} h"
    return f"{value / 24:,.1f} days"


def _stage(job: Job, found: Estimate) -> list[str]:
    """More of what holds the run up, until the next part does: the first thing that helps."""
    for what in _WHAT[found.bottleneck]:
        cluster, then = _enough(job, found, what)
        if _gains(found, then):
            return [
                f"{_WORDS[what].format(getattr(cluster, what))} instead of "
                f"{getattr(job.cluster, what):.3g}: {hours(then.wall_h.likely)} instead of "
                f"{hours(found.wall_h.likely)}, then {_HOLDS[then.bottleneck]}"
            ]
    worth = found.starts_h < found.wall_h.likely / 3
    if worth and found.shards <= job.cluster.pods and found.bottleneck in ("decode", "storage"):
        return [f"all {found.shards} shards are done at once; smaller ones can have more pods"]
    return []


def _enough(job: Job, found: Estimate, what: str) -> tuple[Cluster, Estimate]:
    """As much of one thing as another part can keep up with, and what the run takes then."""
    cluster, now = job.cluster, found
    for _ in range(_MOST_STEPS):
        following = max(hour for name, hour in now.stages_h.items() if name != found.bottleneck)
        ratio = now.stages_h[found.bottleneck] / max(following, 1e-12)
        amount = getattr(cluster, what) * min(max(ratio, 1 + _LEAST_GAIN), _MOST_MORE)
        if what != "network_gbit":
            amount = math.ceil(amount)
        if what == "pods":
            amount = min(amount, found.shards)
        more = replace(cluster, **{what: amount})
        then = estimate(replace(job, cluster=more))
        if not _gains(now, then):
            break
        cluster, now = more, then
        if now.bottleneck != found.bottleneck:
            break
    return cluster, now


def _gains(before: Estimate, after: Estimate) -> bool:
    return after.wall_h.likely < before.wall_h.likely * (1 - _LEAST_GAIN)


def _idle_server(job: Job, found: Estimate) -> list[str]:
    replicas = job.cluster.replicas
    enough = max(1, math.ceil(replicas * found.server_busy * (1 + _WORTH)))
    if enough >= replicas:
        return []
    then = estimate(replace(job, cluster=replace(job.cluster, replicas=enough)))
    return [
        f"the server is busy {found.server_busy:.0%} of the time; with replicas {enough} and not "
        f"{replicas} it takes {hours(then.wall_h.likely)}"
    ]


def _starts(job: Job, found: Estimate) -> list[str]:
    share = found.starts_h / found.wall_h.likely
    if share < _WORTH:
        return []
    advice = "larger shards start fewer" if len(job.workload.shards) > 2 * job.places else ""
    return [
        f"starting pods is {share:.0%} of it, {PODS_PER_SHARD} for each shard"
        + (f"; {advice}" if advice else "")
    ]


def _tail(job: Job, found: Estimate) -> list[str]:
    share = found.tail_h / found.wall_h.likely
    if share < _WORTH:
        return []
    longest = max(shard.duration_s for shard in job.workload.shards)
    mean = job.workload.total("duration_s") / found.shards
    cause = (
        "one shard is much longer than the others"
        if longest > 2 * mean
        else "make more and smaller shards, or so many that each place gets as many"
    )
    return [f"{share:.0%} of it only waits for the last shards; {cause}"]


def _preemption(job: Job, found: Estimate) -> list[str]:
    if found.preempted < 1:
        return []
    said = f"about {found.preempted:.0f} pods are preempted; smaller shards lose less"
    if found.lost_shards >= 0.5:
        said += (
            f"; about {found.lost_shards:.0f} of {found.shards} shards are preempted more than "
            f"{job.cluster.retries} times, and are left for the next run"
        )
    return [said]
