"""`c3d-pipelines run`: a bulk run on this machine, from the videos to the report."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click
from c3d_client.commands.options import clip_options, request_options
from c3d_client.core.cli import print_error
from c3d_client.core.signals import exit_code, sigterm_as_ctrl_c

from c3d_pipelines.commands.options import kind_options, shard_options, videos_option

if TYPE_CHECKING:  # pyarrow and numpy are loaded only when there is work for them
    from c3d_pipelines.local.run import LocalRun
    from c3d_pipelines.reports.summary import RunSummary

_NAME = "c3d-pipelines"
_MOST_SHOWN = 20


@click.command()
@videos_option
@click.option(
    "--out", required=True, metavar="PLACE", help="The dataset: a folder, s3:// or gs://."
)
@click.option(
    "--server",
    default="localhost:8500",
    show_default=True,
    envvar="C3D_SERVER",
    show_envvar=True,
    metavar="HOST:PORT",
    help="gRPC address of TensorFlow Serving; dns:///host:port spreads over its pods.",
)
@click.option("--model", default="c3d", show_default=True, help="Served model.")
@click.option(
    "--model-version",
    default="newest",
    show_default=True,
    help="A version of it: newest, a number, or label:NAME.",
)
@click.option(
    "--model-digest",
    default="any",
    show_default=True,
    help="Refuse another model than this, as the run's preflight says it.",
)
@kind_options
@click.option(
    "--max-failed",
    type=click.IntRange(min=-1),
    default=0,
    show_default=True,
    metavar="N",
    help="More videos of this run than this fail the run; -1 for any number.",
)
@click.option(
    "--clips/--no-clips",
    "clip_rows",
    default=True,
    help="Keep each clip's numbers, not only each video's; kept by default.",
)
@shard_options
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Videos at a time in a shard; 0 for one a core. Two shards go at a time.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Deadline of one request.",
)
@click.option(
    "--patience",
    "patience_s",
    type=float,
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a server or a store that went away.",
)
@request_options
@clip_options
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.option("--keep-logs", is_flag=True, help="Keep the folder of temporary files, and name it.")
def run(
    classify: bool, as_json: bool, quiet: bool, keep_logs: bool, fps: float | None, **given: Any
) -> int:
    """Extract the features of a place full of videos, on this machine.

    Runs the compiled pipeline, the same one that a cluster runs: plan, preflight, extract, publish,
    report. What an earlier run did is skipped; stopped at any moment, the same command goes on.
    Each input has one row in the dataset, with a status and a reason.

    Certificates and tokens come from the environment, as in a pod: C3D_TLS=1, C3D_CA, C3D_CERT,
    C3D_KEY, C3D_OVERRIDE_NAME, C3D_TOKEN_FILE.

    Exit code: 0 no more videos of this run failed than --max-failed, 1 more did, 2 nothing could be
    done or the run failed.
    """
    from c3d_pipelines.local.progress import show_progress
    from c3d_pipelines.local.run import run_local

    with sigterm_as_ctrl_c() as told_to_go:
        try:
            with show_progress(quiet=quiet) as show:
                ended = run_local(
                    {**given, "fps": fps or 0.0},
                    answer="classes" if classify else "features",
                    keep_logs=keep_logs,
                    show=show,
                    note=lambda line: print_error(_NAME, line),
                )
        except KeyboardInterrupt:
            print_error(_NAME, "interrupted; the same command goes on with what is left")
            return exit_code(signal.SIGTERM if told_to_go else signal.SIGINT)
    if as_json and ended.summary is not None:
        click.echo(ended.summary.to_json())
    elif ended.summary is not None:
        for line in told(ended, ended.summary):
            click.echo(line)
    if ended.error:
        log = f"; the log is {ended.log}" if ended.log and not ended.refused else ""
        print_error(_NAME, f"{ended.error}{log}")
    return ended.exit_code


def told(ended: LocalRun, summary: RunSummary) -> list[str]:
    """What became of a run, in lines for people."""
    from c3d_client.core.uri import redact

    from c3d_pipelines.shards.schema import STATUSES
    from c3d_pipelines.text import count

    by_status = [f"{count(summary.ended(one))} {one}" for one in STATUSES if summary.ended(one)]
    lines = [f"{summary.verdict}." + (f" ({', '.join(by_status)})" if by_status else "")]
    if summary.processed and summary.wall_s:
        rate = summary.rate(summary.clips) or 0.0
        lines.append(
            f"this run    {count(summary.processed)} video{'s' * (summary.processed != 1)}, "
            f"{count(summary.clips)} clip{'s' * (summary.clips != 1)} in "
            f"{summary.wall_s:.1f} s, {rate:.1f} clips/s"
        )
    for failure in summary.failures[:_MOST_SHOWN]:
        reason = " ".join(failure.error_message.removeprefix(f"{failure.uri}: ").split())
        lines.append(f"  {failure.status:<10}  {failure.video_id}: {reason}")
    if len(summary.failures) > _MOST_SHOWN:
        lines.append(f"  and {count(len(summary.failures) - _MOST_SHOWN)} more, in the report")
    lines.append(f"dataset     {redact(ended.out)}")
    lines.append(f"report      {redact(ended.file('report.html'))}")
    return lines + _again(summary)


def _again(summary: RunSummary) -> list[str]:
    """How to have failures tried again."""
    from c3d_pipelines.shards.schema import FINAL, OK
    from c3d_pipelines.text import count

    lasting = sum(summary.ended(status) for status in FINAL - {OK})
    passing = len(summary.failures) - lasting
    lines = []
    if passing:
        lines.append(f"retry       {count(passing)} of them by the same command")
    if lasting:
        lines.append(f"retry       {count(lasting)} of them when mended, or with --retry-failed")
    return lines
