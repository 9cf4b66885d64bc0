"""What a run on this machine shows while it goes on: a line that lives, or a few plain ones."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from c3d_pipelines.local.folder import LocalFolder
from c3d_pipelines.local.step import DONE, RUNNING, Step, read_steps

if TYPE_CHECKING:
    from rich.progress import Progress

_NAME = "c3d-pipelines"


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Args:
        step: the step at work, such as ``extract``; empty before the first.
        videos: to be done by this run; None while there is no plan.
        skipped: inputs that the plan found need nothing, or nothing new.
        shards: to be done; 0 while there is no plan.
        shards_done: of those.
        done: videos that have their row: ``ok`` and ``failed`` together.
        ok: of those, well.
        failed: of those, not.
        clips: answered by the server.
    """

    step: str = ""
    videos: int | None = None
    skipped: int = 0
    shards: int = 0
    shards_done: int = 0
    done: int = 0
    ok: int = 0
    failed: int = 0
    clips: int = 0


class StateReader:
    """Reads from a run's folder how far it is; the plan once, the rest each time.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder
        self._planned: tuple[int, int, int] | None = None

    def read(self) -> RunState:
        """How far the run is now."""
        steps = read_steps(self._folder)
        at_work = [step.name for step in steps if step.state == RUNNING] or [
            step.name for step in steps[-1:]
        ]
        videos, skipped, shards = self._plan(steps) or (None, 0, 0)
        extracted = sum(step.name == "extract" and step.state == DONE for step in steps)
        counts = {"done": 0, "ok": 0, "failed": 0, "clips": 0}
        for path in self._folder.progress.glob("[!.]*.json"):
            with contextlib.suppress(OSError, ValueError):
                values = json.loads(path.read_bytes())
                for name in counts:
                    counts[name] += int(values[name])
        return RunState(
            step=at_work[-1] if at_work else "",
            videos=videos,
            skipped=skipped,
            shards=shards,
            shards_done=min(extracted, shards),
            **counts,
        )

    def _plan(self, steps: list[Step]) -> tuple[int, int, int] | None:
        if self._planned is None:
            for step in steps:
                if step.name == "plan" and step.state == DONE and "plan" in step.artifacts:
                    self._planned = _counted(step.artifacts["plan"])
        return self._planned


def _counted(plan: str) -> tuple[int, int, int]:
    """Videos to be done, inputs that need nothing, and shards."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from c3d_pipelines.inputs.plan import DO

    # As columns: there may be millions of rows, and somebody is looking.
    inputs = pq.read_table(plan, columns=["decision", "shard"])
    to_do = inputs.filter(pc.equal(inputs["decision"], DO))
    return len(to_do), len(inputs) - len(to_do), len(to_do["shard"].unique())


@contextlib.contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[Callable[[RunState], None]]:
    """Show how far a run is while the block lasts, on standard error.

    Args:
        quiet: show nothing.

    Yields:
        What to call with each new state, often.
    """
    if quiet:
        yield lambda state: None
    elif sys.stderr.isatty():
        with _drawing() as progress:
            yield _Drawn(progress).show
    else:
        yield _Lines().show


class _Lines:
    """For logs: a line when there is a plan, and one for each tenth of the videos."""

    def __init__(self) -> None:
        self._tenths = -1
        self._began = time.monotonic()

    def show(self, state: RunState) -> None:
        if state.videos is None:
            return
        if self._tenths < 0:
            self._tenths = 0
            print(f"{_NAME}: {_planned(state)}", file=sys.stderr, flush=True)
        tenths = 10 * state.done // max(state.videos, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            rate = state.clips / max(time.monotonic() - self._began, 1e-9)
            text = f"{state.done} of {state.videos} videos, {_ended(state)}, {rate:.1f} clips/s"
            print(f"{_NAME}: {text}", file=sys.stderr, flush=True)


class _Drawn:
    """For people: one line that is drawn again and again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task(
            "", total=None, step="starting", ended="", rate="", shards=""
        )
        self._began: float | None = None
        self._said = False

    def show(self, state: RunState) -> None:
        if state.videos is not None and not self._said:
            self._said = True
            self._progress.console.print(
                f"{_NAME}: {_planned(state)}", markup=False, highlight=False, soft_wrap=True
            )
        if state.step == "extract" and self._began is None:
            self._began = time.monotonic()
        seconds = time.monotonic() - self._began if self._began is not None else 0.0
        self._progress.update(
            self._task,
            total=state.videos,
            completed=state.done,
            step=state.step or "starting",
            ended=_ended(state) if state.done else "",
            rate=f"{state.clips / seconds:.1f} clips/s" if state.clips and seconds else "",
            shards=f"shard {state.shards_done} of {state.shards}" if state.shards else "",
        )


def _planned(state: RunState) -> str:
    videos, shards = state.videos or 0, state.shards
    text = f"{videos} video{'s' * (videos != 1)} to do"
    text += f" in {shards} shard{'s' * (shards != 1)}" if shards else ""
    return text + (f", {state.skipped} done or known before" if state.skipped else "")


def _ended(state: RunState) -> str:
    return f"{state.ok} ok" + (f", {state.failed} failed" if state.failed else "")


@contextlib.contextmanager
def _drawing() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.fields[step]}", markup=False),
        MofNCompleteColumn(),
        TextColumn("videos"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[ended]}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[shards]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress
