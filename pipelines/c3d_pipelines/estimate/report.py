"""Report of an estimate: its figures as text, and recommendations with what each would change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from c3d_pipelines.estimate.rates import Cluster
from c3d_pipelines.estimate.simulate import (
    PODS_PER_RUN,
    PODS_PER_SHARD,
    Estimate,
    Job,
    Range,
    estimate,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Part of the run from which on something is mentioned, and part that a change has to save.
_MIN_SHARE, _MIN_GAIN = 0.1, 0.05
# Bounds of the search for an amount: growth of a step, and number of steps.
_MAX_GROWTH, _MAX_STEPS = 100.0, 4

# What a run can have more of, by its bottleneck.
_RESOURCES = {
    "decode": ("pods", "cores"),
    "storage": ("pods",),
    "wire": ("network_gbit",),
    "server": ("replicas",),
}
_RESOURCE_TEXT = {
    "pods": "{} pods at a time",
    "cores": "{} cores per pod",
    "replicas": "{} replicas of the server",
    "network_gbit": "a network of {:.3g} Gbit/s",
}
_STAGES = {
    "decode": "decoding",
    "storage": "reading from storage",
    "wire": "sending clips",
    "server": "computing in the server",
}
_TITLE_WIDTH = 12


def show(
    console: Console,
    job: Job,
    result: Estimate,
    *,
    recommendations: Sequence[str],
    assumptions: Sequence[str],
) -> None:
    """Print an estimate.

    Args:
        console: a console without a terminal gets plain text.
        job: what was estimated.
        result: its estimate.
        recommendations: from :func:`recommend`.
        assumptions: in sentences.
    """
    for title, line in _facts(job, result):
        _print_line(console, title, line)
    console.print()
    console.print(_ranges(result))
    console.print()
    console.print(_stages(result))
    for title, lines in (("to change", recommendations), ("assumed", assumptions)):
        for number, line in enumerate(lines):
            if not number:
                console.print()
            _print_line(console, "" if number else title, line)


def recommend(job: Job, result: Estimate) -> list[str]:
    """Return what to change, in sentences, the most important first.

    What a change would bring is estimated with the change.
    """
    lines = []
    if job.cluster.one_machine:
        lines.append("server and workers share these cores; a server on its own machine is faster")
    else:
        lines += _more_of_bottleneck(job, result)
        lines += _fewer_replicas(job, result)
    lines += _larger_shards(job, result)
    lines += _last_shards(job, result)
    lines += _preemption(job, result)
    return lines


def duration(hours: float) -> str:
    """Format hours as seconds, minutes, hours or days."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    if hours < 1:
        return f"{hours * 60:.{0 if hours > 1 / 6 else 1}f} min"
    if hours < 72:
        return f"{hours:.1f} h"
    return f"{hours / 24:,.1f} days"


def _more_of_bottleneck(job: Job, result: Estimate) -> list[str]:
    """Recommend the first resource that helps."""
    for resource in _RESOURCES[result.bottleneck]:
        cluster, changed = _enough(job, result, resource)
        if _is_faster(changed, result):
            return [
                f"{_RESOURCE_TEXT[resource].format(getattr(cluster, resource))} instead of "
                f"{getattr(job.cluster, resource):.3g}: {duration(changed.wall_h.likely)} instead "
                f"of {duration(result.wall_h.likely)}, then {_STAGES[changed.bottleneck]} is the "
                "bottleneck"
            ]
    long = result.starts_h < result.wall_h.likely / 3
    if long and result.shards <= job.cluster.pods and result.bottleneck in ("decode", "storage"):
        return [f"all {result.shards} shards run at once; smaller shards can use more pods"]
    return []


def _enough(job: Job, result: Estimate, resource: str) -> tuple[Cluster, Estimate]:
    """Increase a resource until another part is the bottleneck; return the cluster and estimate."""
    cluster, now = job.cluster, result
    for _ in range(_MAX_STEPS):
        second = max(hours for name, hours in now.stages_h.items() if name != result.bottleneck)
        growth = now.stages_h[result.bottleneck] / max(second, 1e-12)
        amount = getattr(cluster, resource) * min(max(growth, 1 + _MIN_GAIN), _MAX_GROWTH)
        if resource != "network_gbit":
            amount = math.ceil(amount)
        if resource == "pods":
            amount = min(amount, result.shards)
        larger = replace(cluster, **{resource: amount})
        changed = estimate(replace(job, cluster=larger))
        if not _is_faster(changed, now):
            break
        cluster, now = larger, changed
        if now.bottleneck != result.bottleneck:
            break
    return cluster, now


def _is_faster(changed: Estimate, before: Estimate) -> bool:
    return changed.wall_h.likely < before.wall_h.likely * (1 - _MIN_GAIN)


def _fewer_replicas(job: Job, result: Estimate) -> list[str]:
    replicas = job.cluster.replicas
    enough = max(1, math.ceil(replicas * result.server_busy * (1 + _MIN_SHARE)))
    if enough >= replicas:
        return []
    changed = estimate(replace(job, cluster=replace(job.cluster, replicas=enough)))
    return [
        f"the server is busy {result.server_busy:.0%} of the time; with {enough} replicas instead "
        f"of {replicas} the run takes {duration(changed.wall_h.likely)}"
    ]


def _larger_shards(job: Job, result: Estimate) -> list[str]:
    share = result.starts_h / result.wall_h.likely
    if share < _MIN_SHARE:
        return []
    advice = "; larger shards start fewer pods" if result.shards > 2 * job.parallel_shards else ""
    return [f"starting pods takes {share:.0%} of the run, {PODS_PER_SHARD} for each shard{advice}"]


def _last_shards(job: Job, result: Estimate) -> list[str]:
    share = result.tail_h / result.wall_h.likely
    if share < _MIN_SHARE:
        return []
    lengths_s = job.workload.per_shard(job.workload.lengths)
    advice = (
        "one shard is much longer than the others"
        if lengths_s.max() > 2 * lengths_s.mean()
        else "make more and smaller shards, or a multiple of the shards at a time"
    )
    return [f"{share:.0%} of the run only waits for the last shards; {advice}"]


def _preemption(job: Job, result: Estimate) -> list[str]:
    if result.preempted < 1:
        return []
    line = f"about {result.preempted:.0f} pods are preempted; smaller shards lose less"
    if result.lost_shards >= 0.5:
        line += (
            f"; about {result.lost_shards:.0f} of {result.shards} shards are preempted more than "
            f"{job.cluster.retries} times, and are left for the next run"
        )
    return [line]


def _print_line(console: Console, title: str, line: str) -> None:
    from rich.table import Table
    from rich.text import Text

    if not console.is_terminal:
        console.print(Text(f"{title:<{_TITLE_WIDTH}}{line}"), soft_wrap=True)
        return
    grid = Table.grid()
    grid.add_column(width=_TITLE_WIDTH, style="bold")
    grid.add_column()
    grid.add_row(title, Text(line))
    console.print(grid)


def _facts(job: Job, result: Estimate) -> Iterator[tuple[str, str]]:
    cluster = job.cluster
    length_h = job.workload.total(job.workload.lengths) / 3600
    yield "videos", f"{result.videos:,}, {_rounded(length_h)} hours of video"
    yield "", f"{_rounded(result.frames)} frames, {_rounded(result.clips)} clips"
    if result.too_short >= 0.5 or result.failed >= 0.5:
        yield "", f"{result.too_short:,.0f} too short, {result.failed:,.0f} fail"
    yield (
        "shards",
        f"{result.shards:,}, {job.parallel_shards} at a time, {cluster.cores} cores each",
    )
    if cluster.one_machine:
        yield "server", "on the same machine"
    else:
        preempted = f", {result.preempted:.0f} preempted" if result.preempted >= 0.5 else ""
        pods = f"{PODS_PER_SHARD} per shard, {PODS_PER_RUN} for the run{preempted}"
        yield "pods", f"{result.pods:,}: {pods}"
        yield "servers", f"{_count(cluster.replicas, 'replica')}, {_gpus(cluster.gpus_per_replica)}"
    yield "read", _bytes(result.bytes_in)
    yield "sent", f"{_bytes(result.bytes_wire)} to the server"
    yield "written", _bytes(result.bytes_out)


def _ranges(result: Estimate) -> Table:
    table = _table("", "likely", "low", "high")
    rows: list[tuple[str, Range, Callable[[float], str]]] = [
        ("wall time", result.wall_h, duration),
        ("GPU-hours", result.gpu_h, _rounded),
        ("CPU-hours", result.cpu_h, _rounded),
    ]
    if result.cost is not None:
        rows.append(("cost", result.cost, _rounded))
    for name, values, text in rows:
        if values.high or name != "GPU-hours":
            table.add_row(name, text(values.likely), text(values.low), text(values.high))
    return table


def _stages(result: Estimate) -> Table:
    table = _table("each alone", "takes", "")
    for name, alone_h in result.stages_h.items():
        mark = "bottleneck" if name == result.bottleneck else ""
        table.add_row(_STAGES[name], duration(alone_h), mark)
    table.add_row("starting pods", duration(result.starts_h), "in addition")
    if result.tail_h > 0.005 * result.wall_h.likely:
        table.add_row("the last shards", duration(result.tail_h), "in addition")
    return table


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(first, min_width=9)
    for name in others:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _gpus(number: int) -> str:
    return f"{_count(number, 'GPU')} each" if number else "without GPUs"


def _rounded(number: float) -> str:
    """Format a number with two or three significant digits."""
    if number < 10:
        return f"{number:.2g}"
    digits = len(str(int(number))) - 3
    return f"{round(number, -digits) if digits > 0 else number:,.0f}"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"
