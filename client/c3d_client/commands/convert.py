"""`c3d convert`: features in another file format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from c3d_client.commands.options import pca_option
from c3d_client.core.cli import print_error
from c3d_client.core.text import escape_controls

if TYPE_CHECKING:
    from c3d_client.outputs import Conversion


stride_option = click.option(
    "--stride",
    type=int,
    metavar="FRAMES",
    help="For sultani: the clips that start every so many frames; 16 in the original work.",
)


def sultani_note(stride: int) -> str:
    """Return the note about a stride that is not that of the original work."""
    from c3d_client.outputs.sultani import ORIGINAL_STRIDE

    return (
        f"note: sultani: the segments are of clips every {stride} frames; the original work has "
        f"{ORIGINAL_STRIDE} (--stride {ORIGINAL_STRIDE})"
    )


def print_sultani_notes(name: str, strides: Iterable[int | None]) -> None:
    """Print a note for each stride that is known and is not that of the original work.

    Args:
        name: the command's name.
        strides: of the clips that were written, in frames.
    """
    from c3d_client.outputs.sultani import ORIGINAL_STRIDE

    for stride in sorted(known for known in strides if known not in (None, ORIGINAL_STRIDE)):
        print_error(name, sultani_note(stride))


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
@click.option(
    "--name",
    metavar="PATTERN",
    help="Names of files, such as '{stem}.npy'; as for extract.",
)
@stride_option
@pca_option
def convert(
    inputs: tuple[Path, ...],
    to: str,
    format: str | None,
    out: Path,
    name: str | None,
    stride: int | None,
    pca: str | None,
) -> int:
    """Write features in another format.

    INPUT is a file of features, or a folder with such files.

    Exit code: 0 all done, 1 some files failed, 2 nothing could be done.
    """
    from c3d_client.outputs import convert as convert_files

    conversions = convert_files(
        inputs, out, to=to, format=format, stride=stride, name=name, pca=pca
    )
    return print_conversions("c3d", conversions, to=to)


def print_conversions(name: str, conversions: Iterable[Conversion], *, to: str) -> int:
    """Print each conversion, and notes about all; return the exit code.

    Args:
        name: the command's name.
        conversions: of :func:`c3d_client.outputs.convert` or ``export``.
        to: the format that is written.
    """
    from c3d_client.outputs import read_provenance
    from c3d_client.outputs.sultani import stride_of

    done = failed = 0
    strides: set[int | None] = set()
    for source, target, error in conversions:
        if error is not None:
            failed += 1
            print_error(name, str(error))
        else:
            done += 1
            click.echo(escape_controls(f"{source} -> {target}"))
        if target is not None and to == "sultani":
            strides.add(stride_of(read_provenance(target)))
    print_sultani_notes(name, strides)
    if failed:
        print_error(name, f"{failed} of {done + failed} files failed")
    return 2 if not done else 1 if failed else 0
