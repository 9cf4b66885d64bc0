"""`c3d-pipelines submit`: one run of a pipeline on a cluster."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click
from c3d_client.command import complain
from c3d_client.signals import exit_code

from c3d_pipelines.commands.compile import cluster_options
from c3d_pipelines.commands.sending import access_options, open_backend, read_what, what_options

if TYPE_CHECKING:  # kfp is loaded only when there is work for it
    from c3d_pipelines.sending.submit import SentRun

_NAME = "c3d-pipelines"


@click.command()
@what_options
@click.option("--name", default="", help="The run's; the pipeline's with the time by default.")
@click.option("--wait", "waits", is_flag=True, help="Until it ends: 0 well, 1 failed.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to ask.",
)
@access_options
@cluster_options
def submit(name: str, waits: bool, every_s: float, **given: Any) -> int:
    """Start a run of PIPELINE on a cluster.

    PIPELINE is c3d-bulk-extraction, c3d-bulk-classification or c3d-export-and-verify; it is
    compiled with the settings given. Prints the run's address.

    Exit code: 0 sent, or with --wait ended well; 1 the run failed; 2 it could not be sent.
    """
    from c3d_pipelines.sending import submit as library

    package, parameters, options = read_what(given)  # before anyone is asked
    with open_backend(given) as backend:
        sent = library.submit(backend, package, parameters, name=name, options=options)
        click.echo(sent.url)
        if not waits:
            return 0
        try:
            ended = library.wait(backend, sent, every_s=every_s, on_state=_say)
        except KeyboardInterrupt:
            complain(_NAME, f"interrupted; the run goes on: {sent.url}")
            return exit_code(signal.SIGINT)
    if not ended.succeeded:
        why = f": {ended.message}" if ended.message else ""
        complain(_NAME, f"{ended.name} ended as {ended.state}{why}; {ended.url}")
    return 0 if ended.succeeded else 1


def _say(run: SentRun) -> None:
    click.echo(f"{_NAME}: {run.name} {run.state}", err=True)
