"""The command `c3d-pipelines`; its subcommands are in commands/.

Exit codes: 0 done; 1 more videos failed than allowed; 2 nothing could be done; 130 interrupted; 143
ended by SIGTERM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click
from c3d_client.core.cli import CommandGroup, run_command
from c3d_client.core.completion import completion_command

from c3d_pipelines.commands.cluster import compile_command, schedule, submit, upload
from c3d_pipelines.commands.dataset import export, merge, neighbours, pca
from c3d_pipelines.commands.estimate import estimate
from c3d_pipelines.commands.plan import plan
from c3d_pipelines.commands.run import run
from c3d_pipelines.commands.runs import logs, retry, status, terminate


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; a C3DError is one line on standard error and exit code 2."""
    run_command(cli, arguments, name="c3d-pipelines", interrupted="nothing half-written is left")


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="c3d-pipelines", prog_name="c3d-pipelines")
def cli() -> None:
    """Bulk C3D extraction that accounts for every video."""


for command in (
    *(plan, run, compile_command, upload, submit, schedule, status, logs, terminate, retry),
    *(estimate, merge, export, pca, neighbours),
):
    cli.add_command(command)
cli.add_command(completion_command("c3d-pipelines"))
