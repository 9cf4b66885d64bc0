"""`c3d convert`: features in another file format."""

from __future__ import annotations

from pathlib import Path

import click

from c3d_client.core.cli import print_error
from c3d_client.core.text import escape_controls


@click.command()
@click.argument(
    "inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(path_type=Path)
)
@click.option("--to", required=True, metavar="FORMAT", help="The format to write.")
@click.option(
    "--from",
    "format",
    metavar="FORMAT",
    help="The format to read, if file names do not show it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="Folder to write to; for activitynet, the file of all videos.",
)
def convert(inputs: tuple[Path, ...], to: str, format: str | None, out: Path) -> int:
    """Write features in another format.

    INPUT is a file of features, or a folder with such files.

    Exit code: 0 all done, 1 some files failed, 2 nothing could be done.
    """
    from c3d_client.outputs import convert as convert_files

    done = failed = 0
    for source, target, error in convert_files(inputs, out, to=to, format=format):
        if error is not None:
            failed += 1
            print_error("c3d", str(error))
        else:
            done += 1
            click.echo(escape_controls(f"{source} -> {target}"))
    if failed:
        print_error("c3d", f"{failed} of {done + failed} files failed")
    return 2 if not done else 1 if failed else 0
