"""An estimate for people: what will be done, what it takes, what holds it up, what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from c3d_pipelines.estimates.course import PODS_AROUND, PODS_PER_SHARD, Job
from c3d_pipelines.estimates.estimate import Estimate, Range
from c3d_pipelines.estimates.remedies import hours

if TYPE_CHECKING:
    from rich.console import Console

_TITLE = 12
_STAGES = {
    "decode": "decoding",
    "storage": "reading from storage",
    "wire": "sending clips",
    "server": "computing in the server",
}


def show(
    console: Console, job: Job, found: Estimate, *, changes: Sequence[str], assumed: Sequence[str]
) -> None:
    """Print an estimate.

    Args:
        console: where; one that is no terminal gets plain text.
        job: what was asked.
        found: the answer.
        changes: what would move it, from :func:`c3d_pipelines.estimates.remedies.remedies`.
        assumed: what it rests on, in sentences.
    """
    for row in _facts(job, found):
        _say(console, *row)
    console.print()
    console.print(_ranges(found))
    console.print()
    console.print(_stages(found))
    for title, lines in (("to change", changes), ("assumed", assumed)):
        for number, line in enumerate(lines):
            if not number:
                console.print()
            _say(console, "" if number else title, line)


def _say(console: Console, title: str, line: str) -> None:
    from rich.table import Table
    from rich.text import Text

    if not console.is_terminal:
        console.print(Text(f"{title:<{_TITLE}}{line}"), soft_wrap=True)
        return
    grid = Table.grid()
    grid.add_column(width=_TITLE, style="bold")
    grid.add_column()
    grid.add_row(title, Text(line))
    console.print(grid)


def _facts(job: Job, found: Estimate) -> Iterator[tuple[str, str]]:
    work, cluster = job.workload, job.cluster
    length = work.total("duration_s") / 3600
    yield "videos", f"{found.videos:,}, {_large(length)} hours of film"
    yield "", f"{_large(found.frames)} frames, {_large(found.clips)} clips"
    if found.too_short >= 0.5 or found.failed >= 0.5:
        yield "", f"{found.too_short:,.0f} too short, {found.failed:,.0f} fail"
    yield "shards", f"{found.shards:,}, {job.places} at a time, {cluster.cores} cores each"
    around = f"{PODS_PER_SHARD} a shard, {PODS_AROUND} around them"
    again = f", {found.preempted:.0f} preempted" if found.preempted >= 0.5 else ""
    if cluster.one_machine:
        yield "server", "on the same machine"
    else:
        yield "pods", f"{found.pods:,}: {around}{again}"
        yield "servers", f"{_count(cluster.replicas, 'replica')}, {_gpus(cluster.gpus_per_replica)}"
    yield "read", _amount(found.bytes_in)
    yield "sent", f"{_amount(found.bytes_wire)} to the server"
    yield "written", _amount(found.bytes_out)


def _ranges(found: Estimate) -> Any:
    table = _table("", "likely", "low", "high")
    table.add_row("wall time", *_range(found.wall_h, hours))
    if found.gpu_h.high:
        table.add_row("GPU-hours", *_range(found.gpu_h, _large))
    table.add_row("CPU-hours", *_range(found.cpu_h, _large))
    if found.cost is not None:
        table.add_row("cost", *_range(found.cost, _large))
    return table


def _stages(found: Estimate) -> Any:
    table = _table("each alone", "takes", "")
    for name, alone_h in found.stages_h.items():
        mark = "holds it up" if name == found.bottleneck else ""
        table.add_row(_STAGES[name], hours(alone_h), mark)
    table.add_row("starting pods", hours(found.starts_h), "on top")
    if found.tail_h > 0.005 * found.wall_h.likely:
        table.add_row("the last shards", hours(found.tail_h), "on top")
    return table


def _table(first: str, *others: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(first, min_width=9)
    for name in others:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _range(three: Range, text: Any) -> tuple[str, str, str]:
    return text(three.likely), text(three.low), text(three.high)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _gpus(number: int) -> str:
    return f"{_count(number, 'GPU')} each" if number else "without GPUs"


def _large(number: float) -> str:
    """Three digits are more than an estimate tells."""
    if number < 10:
        return f"{number:.2g}"
    digits = len(str(int(number))) - 3
    return f"{round(number, -digits) if digits > 0 else number:,.0f}"


def _amount(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"
