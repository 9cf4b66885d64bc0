"""`c3d-pipelines run`: a bulk run on this machine, from the videos to the report."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click
from c3d_client.commands.options import clip_options, request_options
from c3d_client.core.cli import print_error
from c3d_client.core.contract import DEFAULT_TARGET
from c3d_client.core.signals import exit_code, sigterm_as_ctrl_c

from c3d_pipelines.commands.options import (
    PROGRAM,
    any_option,
    kind_options,
    parameter_option,
    shard_options,
    videos_option,
)

if TYPE_CHECKING:  # pyarrow and numpy are loaded only when they are needed
    from rich.progress import Progress

    from c3d_pipelines.reports.summary import RunSummary
    from c3d_pipelines.run.local import LocalRun, RunState

_MOST_SHOWN = 20


@click.command()
@videos_option
@click.option(
    "--out", required=True, metavar="FOLDER|URL", help="The dataset: a folder, s3:// or gs://."
)
@click.option(
    "--server",
    default=DEFAULT_TARGET,
    show_default=True,
    envvar="C3D_SERVER",
    show_envvar=True,
    metavar="HOST:PORT",
    help="gRPC address of TensorFlow Serving; dns:///host:port spreads over its pods.",
)
@parameter_option("model", metavar="NAME", help="Served model.")
@parameter_option(
    "model_version",
    metavar="VERSION",
    help="A version of the model: newest, a number, or label:NAME.",
)
@parameter_option("model_digest", metavar="DIGEST")
@any_option
@kind_options
@parameter_option("max_failed", metavar="N")
@parameter_option(
    "clip_rows",
    "--clips/--no-clips",
    help="Store each clip's numbers, not only each video's; stored by default.",
)
@shard_options
@parameter_option(
    "workers",
    metavar="N",
    help="Videos at a time in a shard; 0 for one per core. Two shards run at a time.",
)
@parameter_option("timeout_s", "--timeout", metavar="SECONDS", help="Deadline of one request.")
@parameter_option(
    "patience_s",
    "--patience",
    metavar="SECONDS",
    help="How long to wait for a server or a store that is away.",
)
@request_options
@clip_options
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.option(
    "--keep-logs", is_flag=True, help="Keep the folder of temporary files; print its path."
)
def run(
    classify: bool, as_json: bool, quiet: bool, keep_logs: bool, fps: float | None, **given: Any
) -> int:
    """Extract the features of a folder or bucket of videos, on this machine.

    Takes the same steps as the pipeline on a cluster: plan, preflight, extract, publish, report.
    What an earlier run did is skipped; stopped at any moment, the same command continues. Each
    input has one row in the dataset, with a status and a reason.

    Certificates and tokens come from the environment, as in a pod: C3D_TLS=1, C3D_CA, C3D_CERT,
    C3D_KEY, C3D_OVERRIDE_NAME, C3D_TOKEN_FILE.

    Exit code: 0 no more videos of this run failed than --max-failed, 1 more did, 2 nothing could be
    done or the run failed.
    """
    terminated: list[int] = []
    # A Ctrl-C at any moment ends in the same line: also one during the imports or the output.
    try:
        with sigterm_as_ctrl_c() as terminated, _terminal() as terminal:
            from c3d_pipelines.run.local import run_local

            with show_progress(terminal, quiet=quiet) as show:
                result = run_local(
                    {**given, "fps": fps or 0.0},
                    answer="classes" if classify else "features",
                    keep_logs=keep_logs,
                    show=show,
                    note=lambda line: print(f"{PROGRAM}: {line}", file=terminal, flush=True),
                    capture_output=True,
                )
            if as_json and result.summary is not None:
                click.echo(result.summary.to_json())
            elif result.summary is not None:
                for line in result_lines(result, result.summary):
                    click.echo(line)
            if result.error:
                log = f"; the log is {result.log}" if result.log and not result.refused else ""
                print_error(PROGRAM, f"{result.error}{log}")
            return result.exit_code
    except KeyboardInterrupt:
        print_error(PROGRAM, "interrupted; the same command goes on with what is left")
        return exit_code(signal.SIGTERM if terminated else signal.SIGINT)


def result_lines(result: LocalRun, summary: RunSummary) -> list[str]:
    """Return the result of a run as lines for the terminal."""
    from c3d_client.core.text import escape_controls
    from c3d_client.core.uri import redact

    from c3d_pipelines.shards.schema import STATUSES
    from c3d_pipelines.text import count

    by_status = [
        f"{count(summary.ended(status))} {status}" for status in STATUSES if summary.ended(status)
    ]
    lines = [f"{summary.verdict}." + (f" ({', '.join(by_status)})" if by_status else "")]
    if summary.processed and summary.wall_s:
        rate = summary.rate(summary.clips) or 0.0
        lines.append(
            f"this run    {count(summary.processed)} video{'s' * (summary.processed != 1)}, "
            f"{count(summary.clips)} clip{'s' * (summary.clips != 1)} in "
            f"{summary.wall_s:.1f} s, {rate:.1f} clips/s"
        )
    for failure in summary.failures[:_MOST_SHOWN]:
        name = escape_controls(failure.video_id)
        lines.append(f"  {failure.status:<10}  {name}: {escape_controls(failure.reason)}")
    if len(summary.failures) > _MOST_SHOWN:
        lines.append(f"  and {count(len(summary.failures) - _MOST_SHOWN)} more, in the report")
    lines.append(f"dataset     {redact(result.out)}")
    if summary.dataset_text:
        lines.append(f"            {summary.dataset_text}")
    if summary.versions_note:
        lines.append(f"note        {summary.versions_note}")
    lines.append(f"report      {redact(result.file('report.html'))}")
    return lines + _retry_lines(summary) + [f"note        {note}" for note in result.notes]


def _retry_lines(summary: RunSummary) -> list[str]:
    """Return how to retry the videos that failed."""
    from c3d_pipelines.shards.schema import FINAL, OK
    from c3d_pipelines.text import count

    final = sum(summary.ended(status) for status in FINAL - {OK})
    passing = len(summary.failures) - final
    lines = []
    if passing:
        lines.append(f"retry       {count(passing)} of them by the same command")
    if final:
        lines.append(f"retry       {count(final)} of them when mended, or with --retry-failed")
    return lines


@contextlib.contextmanager
def _terminal() -> Iterator[TextIO]:
    """Open standard error a second time, for what is shown while its descriptor goes to the log."""
    with os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as terminal:
        yield terminal


@contextlib.contextmanager
def show_progress(terminal: TextIO, *, quiet: bool) -> Iterator[Callable[[RunState], None]]:
    """Show the progress of a run within the block.

    Args:
        terminal: where to write: a live line on a terminal, a few lines elsewhere.
        quiet: show nothing.

    Yields:
        The function to call with each new state.
    """
    if quiet:
        yield lambda state: None
    elif terminal.isatty():
        with _live_line(terminal) as progress:
            yield _Live(progress).show
    else:
        yield _Lines(terminal).show


class _Lines:
    """Progress for logs: one line for the plan, and one for each tenth of the videos."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._tenths = -1
        self._began = time.monotonic()

    def show(self, state: RunState) -> None:
        if state.videos is None:
            return
        if self._tenths < 0:
            self._tenths = 0
            self._print(_plan_text(state))
        tenths = 10 * state.done // max(state.videos, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            rate = state.clips / max(time.monotonic() - self._began, 1e-9)
            counts = _counts_text(state)
            self._print(f"{state.done} of {state.videos} videos, {counts}, {rate:.1f} clips/s")

    def _print(self, text: str) -> None:
        print(f"{PROGRAM}: {text}", file=self._terminal, flush=True)


class _Live:
    """Progress for a terminal: one line that is drawn again and again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task(
            "", total=None, step="starting", ended="", rate="", shards=""
        )
        self._began: float | None = None
        self._plan_shown = False

    def show(self, state: RunState) -> None:
        if state.videos is not None and not self._plan_shown:
            self._plan_shown = True
            self._progress.console.print(
                f"{PROGRAM}: {_plan_text(state)}", markup=False, highlight=False, soft_wrap=True
            )
        if state.step == "extract" and self._began is None:
            self._began = time.monotonic()
        seconds = time.monotonic() - self._began if self._began is not None else 0.0
        self._progress.update(
            self._task,
            total=state.videos,
            completed=state.done,
            step=state.step or "starting",
            ended=_counts_text(state) if state.done else "",
            rate=f"{state.clips / seconds:.1f} clips/s" if state.clips and seconds else "",
            shards=f"shard {state.shards_done} of {state.shards}" if state.shards else "",
        )


def _plan_text(state: RunState) -> str:
    videos, shards = state.videos or 0, state.shards
    text = f"{videos} video{'s' * (videos != 1)} to do"
    text += f" in {shards} shard{'s' * (shards != 1)}" if shards else ""
    return text + (f", {state.skipped} done or known before" if state.skipped else "")


def _counts_text(state: RunState) -> str:
    return f"{state.ok} ok" + (f", {state.failed} failed" if state.failed else "")


@contextlib.contextmanager
def _live_line(terminal: TextIO) -> Iterator[Progress]:
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
    with Progress(
        *columns,
        console=Console(file=terminal),
        transient=True,
        redirect_stdout=False,  # both go to the run's log
        redirect_stderr=False,
    ) as progress:
        yield progress
