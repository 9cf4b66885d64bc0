"""Progress of a run: a live line on a terminal, elsewhere a plain line every 30 seconds."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from c3d_client.commands.waits import unprinted_waits
from c3d_client.core.text import duration_text, escape_controls, shortened_middle

if TYPE_CHECKING:
    from rich.progress import Progress

    from c3d_client.client import C3DClient

PLAIN_EVERY_S = 30.0
# The time left follows the rate of this many last seconds: videos differ in length, and those that
# are done already are skipped fast.
_RATE_OVER_S = 300.0
_BAR_WIDTHS = (10, 24)


@dataclass(frozen=True)
class Part:
    """A part of a line of progress.

    Args:
        text: the text; an empty part is left out.
        rank: the part with the highest rank is left out first where the line is too long.
    """

    text: str
    rank: int


BAR = Part("#" * _BAR_WIDTHS[0], 8)


def fitting(parts: Sequence[Part], width: int) -> list[Part]:
    """Return the parts, in their order, that fit on a line; the least important are left out.

    Args:
        parts: the parts of the line; two characters separate them.
        width: the number of characters of the line.
    """
    kept = [part for part in parts if part.text]
    while len(kept) > 1 and sum(len(part.text) + 2 for part in kept) - 2 > width:
        kept.remove(max(kept, key=lambda part: part.rank))
    if kept and len(kept[0].text) > width:
        kept[0] = Part(shortened_middle(kept[0].text, width), kept[0].rank)
    return kept


class Pace:
    """The time that is left, from the rate at which videos end.

    Args:
        total: number of videos; None while it is not known.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.started = time.monotonic()
        self._marks = deque([(self.started, 0)])

    def restart(self) -> None:
        """Forget the time that passed: the work begins now."""
        self.started = time.monotonic()
        self._marks = deque([(self.started, self.done)])

    def reach(self, done: int) -> None:
        """Record how many videos are done."""
        if done != self.done:
            self.done = done
            self._marks.append((time.monotonic(), done))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self.started, 1e-9)

    def text(self) -> str:
        """Return the time that is left as ``h:mm:ss left``; without digits while unknown."""
        now = time.monotonic()
        while len(self._marks) > 2 and self._marks[1][0] < now - _RATE_OVER_S:
            self._marks.popleft()
        began, before = self._marks[0]
        if self.total is None or self.done == before:
            return "-:--:-- left"
        left_s = (self.total - self.done) * (now - began) / (self.done - before)
        return f"{duration_text(left_s)} left"


def terminal_columns(file: TextIO) -> int:
    """Return the width of a terminal in characters; 80 where it is not known."""
    try:
        return os.get_terminal_size(file.fileno()).columns or 80
    except OSError:
        return 80


@contextlib.contextmanager
def live_line(
    parts: Callable[[], Sequence[Part]],
    pace: Pace,
    *,
    file: TextIO,
    redirect: bool,
    below: Callable[[], str] = str,
) -> Iterator[Progress]:
    """Draw a line again and again, no longer than the terminal is wide, while the block lasts.

    Args:
        parts: called for the parts of the line; :data:`BAR` is the place of the bar.
        pace: how many videos are done of how many.
        file: the terminal.
        redirect: show what the program prints to standard error above the line.
        below: called for the text of a second line, which is shown unless it is empty.
    """
    from rich.console import Console, RenderableType
    from rich.progress import Progress, ProgressColumn, Task
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table
    from rich.text import Text

    # The width is that of this terminal: rich looks at the standard streams, which may be files.
    console = Console(file=file, width=terminal_columns(file))

    class Line(ProgressColumn):
        """All parts that fit, in one column."""

        def __init__(self) -> None:
            super().__init__(table_column=Column(no_wrap=True))

        def render(self, task: Task) -> Table:
            console.width = terminal_columns(file)
            # One column less: some terminals wrap after the last one.
            width = console.width - 1
            kept = fitting(parts(), width)
            spare = width - sum(len(part.text) + 2 for part in kept) + 2
            grid = Table.grid(padding=0)
            cells: list[Text | ProgressBar] = []
            for is_bar, group in itertools.groupby(kept, key=lambda part: part is BAR):
                if is_bar:
                    narrow, wide = _BAR_WIDTHS
                    bar = ProgressBar(
                        pace.total, pace.done, width=min(wide, narrow + spare), pulse=not pace.total
                    )
                    cells += [Text("  "), bar, Text("  ")]
                else:
                    cells.append(Text(", ".join(part.text for part in group)))
            grid.add_row(*cells)
            return grid

    class Lines(Progress):
        """The line of progress, and the text below it."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            if text := below():
                yield Text(text, no_wrap=True, overflow="ellipsis")

    with Lines(
        Line(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=redirect,
    ) as progress:
        progress.add_task("", total=None)
        yield progress


@contextlib.contextmanager
def plain_lines(text: Callable[[], str], print_line: Callable[[str], None]) -> Iterator[None]:
    """Print a line every 30 seconds while the block lasts, in a thread.

    Args:
        text: called for the line.
        print_line: called with the line.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(PLAIN_EVERY_S):
            print_line(text())

    thread = threading.Thread(target=run, name="c3d-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class RunProgress:
    """Videos done and failed, clips per second, time left, and requests in flight.

    Args:
        total: number of videos in the run.
        c3d: the client of the run.
    """

    def __init__(self, total: int, c3d: C3DClient) -> None:
        self._c3d = c3d
        self._pace = Pace(total)
        self._failed = 0
        self._live: Progress | None = None

    def advance(self, *, failed: bool = False) -> None:
        """Count one more video."""
        self._failed += failed
        self._pace.reach(self._pace.done + 1)

    def print(self, line: str) -> None:
        """Print a line on standard error, above the display; control characters are escaped."""
        line = escape_controls(" ".join(line.split()))
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            # One call: a plain line of another thread does not come between text and line end.
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Remove the display from the terminal, for lines on standard output, during the block."""
        if self._live is None or not sys.stdout.isatty():
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            sys.stdout.flush()
            self._live.start()

    @contextlib.contextmanager
    def shown(self, *, quiet: bool) -> Iterator[RunProgress]:
        """Show the progress while the block lasts, unless it is ``quiet``."""
        if quiet:
            yield self
        elif sys.stderr.isatty():
            line = live_line(
                self._parts, self._pace, file=sys.stderr, redirect=True, below=self._waiting
            )
            with unprinted_waits(), line as live:
                self._live = live
                try:
                    yield self
                finally:
                    self._live = None
        else:
            with plain_lines(self._plain, self.print):
                yield self

    def _parts(self) -> list[Part]:
        pace = self._pace
        return [
            Part(f"{pace.done}/{pace.total} videos", 0),
            BAR,
            Part(f"{self._failed} failed" if self._failed else "", 2),
            Part(self._rate(), 3),
            Part(pace.text(), 1),
            Part(self._server(), 4),
            Part(f"{duration_text(pace.elapsed_s)} elapsed", 9),
        ]

    def _plain(self) -> str:
        pace = self._pace
        parts = [f"{pace.done} of {pace.total} videos"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        return f"c3d: {', '.join([*parts, self._rate(), pace.text()])}"

    def _rate(self) -> str:
        return f"{self._c3d.clips_answered / self._pace.elapsed_s:.1f} clips/s"

    def _waiting(self) -> str:
        return str(self._c3d.serving.waiting or "")

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
    with RunProgress(total, c3d).shown(quiet=quiet) as progress:
        yield progress
