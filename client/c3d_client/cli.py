"""The command `c3d`. Its subcommands are in :mod:`c3d_client.commands`.

Exit codes: 0 all done; 1 some videos failed; 2 nothing could be done; 130 interrupted; 143 ended by
SIGTERM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from c3d_client.commands.bench import bench
from c3d_client.commands.classify import bars, classify
from c3d_client.commands.convert import convert
from c3d_client.commands.extract import extract
from c3d_client.commands.pca import pca
from c3d_client.commands.status import status
from c3d_client.core.cli import CommandGroup, run_command
from c3d_client.core.completion import completion_command

__all__ = ["bars", "cli", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; a C3DError is one line on standard error and exit code 2."""
    run_command(cli, arguments, name="c3d", interrupted="files already written are complete")


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="c3d-client", prog_name="c3d")
def cli() -> None:
    """Videos to C3D features and Sports-1M labels, computed by a TensorFlow Serving server."""


for command in (extract, classify, status, convert, pca, bench, completion_command("c3d")):
    cli.add_command(command)
