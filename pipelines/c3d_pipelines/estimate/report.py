"""Report of an estimate: its figures as text, and recommendations with what each would change."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from c3d_pipelines.estimate.simulate import STORED_EVERY_S, Estimate, Job, Range, estimate
from c3d_pipelines.parameters import JobParameters
from c3d_pipelines.text import count, significant, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Part of the run from which on something is mentioned, and part that a change has to save.
_MIN_SHARE, _MIN_GAIN = 0.1, 0.05
# Bounds of what is recommended: growth of a resource, and cores of a usual machine.
_MAX_GROWTH, _MAX_CORES = 100.0, 64
# What a run can have more of, and the stages that it makes faster.
_RESOURCES = {
    "pods": ("{} pods at a time", {"decode", "storage", "wire"}),
    "cores": ("{} cores per pod", {"decode", "storage"}),
    "replicas": ("{} replicas of the server", {"wire", "server"}),
    "network_gbit": ("a network of {:.3g} Gbit/s", {"storage", "wire"}),
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
    console.print(_stages(job, result))
    for title, lines in (("to change", recommendations), ("assumed", assumptions)):
        for number, line in enumerate(lines):
            if not number:
                console.print()
            _print_line(console, "" if number else title, line)


def recommend(job: Job, result: Estimate) -> list[str]:
    """Return what to change, in sentences: the two best additions, then what is wasted.

    Shards that are too many for a cluster come first.

    What a change would bring is estimated with the change.
    """
    wall_h, shards, pods = result.wall_h.likely, result.shards, _pods(job)
    most = JobParameters.max_shards
    if job.cluster.one_machine:
        lines = ["server and workers share these cores; a server on its own machine is faster"]
    else:
        lines = [*_additions(job, result), *_fewer_replicas(job, result)]
        if shards > most:
            lines.insert(
                0,
                f"Kubeflow Pipelines does not hold {shards:,} shards, and a run with more than "
                f"{most} is refused; make larger shards, or several runs",
            )
    if (share := result.starts_h / wall_h) >= _MIN_SHARE:
        each = f"{job.cluster.pods_per_shard} for each shard"
        advice = f"; larger shards start fewer {pods}" if shards > 2 * job.parallel_shards else ""
        lines.append(f"starting {pods} takes {share:.0%} of the run, {each}{advice}")
    if (share := result.tail_h / wall_h) >= _MIN_SHARE:
        lengths_s = job.workload.per_shard(job.workload.lengths)
        advice = (
            "one shard is much longer than the others"
            if lengths_s.max() > 2 * lengths_s.mean()
            else "make more and smaller shards, or a multiple of the shards at a time"
        )
        lines.append(f"{share:.0%} of the run only waits for the last shards; {advice}")
    if result.preempted >= 1:
        minutes = STORED_EVERY_S / 60
        lines.append(
            f"about {result.preempted:.0f} pods are preempted; each loses up to {minutes:.0f} "
            "minutes of work and the videos in progress"
        )
    if result.lost_shards >= 0.5:
        lines.append(
            f"about {result.lost_shards:.0f} of {shards} shards are preempted more than "
            f"{job.cluster.retries} times, and are left for the next run"
        )
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


def _additions(job: Job, result: Estimate) -> list[str]:
    """Simulate more of each resource, until other stages limit the run; return the two best."""
    wall_h, most = result.wall_h.likely, {"pods": result.shards, "cores": _MAX_CORES}
    changes: list[tuple[float, str]] = []
    for resource, (text, faster) in _RESOURCES.items():
        stages_h = result.stages_h
        others_h = max(hours for name, hours in stages_h.items() if name not in faster)
        growth = max(stages_h[name] for name in faster) / max(others_h, 1e-12)
        if growth <= 1:
            continue
        now = getattr(job.cluster, resource)
        amount = now * min(growth, _MAX_GROWTH)
        if resource != "network_gbit":
            amount = math.ceil(amount)
        if resource in most:
            amount = min(amount, most[resource])
        changed = estimate(job.with_cluster(**{resource: amount}))
        if changed.wall_h.likely < wall_h * (1 - _MIN_GAIN):
            line = (
                f"{text.format(amount)} instead of {now:.3g}: {duration(changed.wall_h.likely)} "
                f"instead of {duration(wall_h)}, then {_STAGES[changed.bottleneck]} is the "
                "bottleneck"
            )
            changes.append((changed.wall_h.likely, line))
    return [line for _, line in sorted(changes)[:2]]


def _fewer_replicas(job: Job, result: Estimate) -> list[str]:
    replicas = job.cluster.replicas
    enough = max(1, math.ceil(replicas * result.server_busy * (1 + _MIN_SHARE)))
    if enough >= replicas:
        return []
    changed = estimate(job.with_cluster(replicas=enough))
    return [
        f"the server is busy {result.server_busy:.0%} of the time; with "
        f"{count(enough, 'replica')} instead of {replicas} the run takes "
        f"{duration(changed.wall_h.likely)}"
    ]


def _print_line(console: Console, title: str, line: str) -> None:
    from rich.text import Span, Text

    text = f"{title:<{_TITLE_WIDTH}}{line}"
    if console.is_terminal:
        indent = " " * _TITLE_WIDTH
        text = textwrap.fill(text, max(console.width, 40), subsequent_indent=indent)
    console.print(Text(text, spans=[Span(0, len(title), "bold")]), soft_wrap=True)


def _pods(job: Job) -> str:
    return "processes" if job.cluster.one_machine else "pods"


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
        pods = f"{cluster.pods_per_shard} per shard, {cluster.pods_per_run} for the run{preempted}"
        yield "pods", f"{result.pods:,}: {pods}"
        number = cluster.gpus_per_replica
        gpus = f"{count(number, 'GPU')} each" if number else "without GPUs"
        yield "servers", f"{count(cluster.replicas, 'replica')}, {gpus}"
    yield "read", size(result.bytes_in)
    yield "sent", f"{size(result.bytes_wire)} to the server"
    yield "written", size(result.bytes_out)


def _ranges(result: Estimate) -> Table:
    rows: list[tuple[str, Range, Callable[[float], str]]] = [
        ("wall time", result.wall_h, duration),
        ("GPU-hours", result.gpu_h, _rounded),
        ("CPU-hours", result.cpu_h, _rounded),
    ]
    if not result.gpu_h.high:
        del rows[1]
    if result.cost is not None:
        rows.append(("cost", result.cost, _rounded))
    table = _table("", "likely", "low", "high")
    for name, values, text in rows:
        table.add_row(name, text(values.likely), text(values.low), text(values.high))
    return table


def _stages(job: Job, result: Estimate) -> Table:
    table = _table("each alone", "takes", "")
    for name, alone_h in result.stages_h.items():
        mark = "bottleneck" if name == result.bottleneck else ""
        table.add_row(_STAGES[name], duration(alone_h), mark)
    table.add_row(f"starting {_pods(job)}", duration(result.starts_h), "in addition")
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


def _rounded(number: float) -> str:
    """Format a number with two or three significant digits."""
    return f"{number:.2g}" if number < 10 else significant(float(f"{number:.3g}"))
