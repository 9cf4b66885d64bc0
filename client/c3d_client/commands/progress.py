"""Progress of a run: a live line on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from c3d_client.client import C3DClient
from c3d_client.commands.waits import unprinted_waits

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class RunProgress:
    """Videos done, clips per second, time left, and requests in flight.

    Args:
        progress: the display; None for none.
        total: number of videos in the run.
        c3d: the client of the run.
    """

    def __init__(self, progress: Progress | None, total: int, c3d: C3DClient) -> None:
        self._progress = progress
        self._c3d = c3d
        self._started = time.monotonic()
        self._task: TaskID | None = None
        if progress is not None:
            self._task = progress.add_task("", total=total, clips=self._clips, server=self._server)

    def advance(self) -> None:
        """Count one more video."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def print(self, line: str) -> None:
        """Print a line on standard error, above the display."""
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr)

    def _clips(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{self._c3d.clips_answered / max(seconds, 1e-9):.1f} clips/s"

    def _server(self) -> str:
        concurrency = self._c3d.serving.concurrency
        state = f"{concurrency.in_flight} of {concurrency.limit} in flight"
        return f"{state}, {concurrency.rejected} pushed back" if concurrency.rejected else state


@contextlib.contextmanager
def run_progress(total: int, c3d: C3DClient, *, quiet: bool) -> Iterator[RunProgress]:
    """Show the progress of a run while the block lasts.

    Args:
        total: number of videos in the run.
        c3d: the client of the run.
        quiet: show nothing even on a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield RunProgress(None, total, c3d)
        return
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class FunctionColumn(ProgressColumn):
        """A column whose text is the result of a function, called at each refresh."""

        def __init__(self, field: str) -> None:
            self._field = field
            super().__init__()

        def render(self, task: Task) -> Text:
            return Text(task.fields[self._field]())

    class WaitingProgress(Progress):
        """A display with a line below it while the server is away or full."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            if waiting := c3d.serving.waiting:
                yield Text(str(waiting), no_wrap=True, overflow="ellipsis")

    columns = (
        MofNCompleteColumn(),
        TextColumn("videos"),
        BarColumn(bar_width=24),
        FunctionColumn("clips"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        FunctionColumn("server"),
    )
    console = Console(stderr=True)
    with unprinted_waits(), WaitingProgress(*columns, console=console, transient=True) as progress:
        yield RunProgress(progress, total, c3d)
