"""The commands about weight files: convert, inspect, fetch."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from c3d_export.errors import AssetError


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.npz")
def convert(source: str, target: Path) -> None:
    """Turn any published weight file, or random:SEED, into the project's own .npz.

    Its keys are conv1/kernel, conv1/bias ... fc8/bias, in Keras's layout, conv1's input BGR.
    """
    from c3d_export.weights import npz, read_weights

    weights = read_weights(source)
    npz.write(target, weights)
    click.echo(
        f"{target}: {weights.parameters:,} parameters from {weights.source}, {weights.format}"
    )
    click.echo(f"  sha256 {weights.sha256}")


@click.command()
@click.argument("source", metavar="FILE")
def inspect(source: str) -> None:
    """Say what a weight file is: format, layers, shapes, digests, classes, and what is missing."""
    from c3d_export.weights import read_weights

    weights = read_weights(source)
    click.echo(f"{weights.source}: {weights.format}")
    if weights.file_sha256:
        click.echo(f"  file sha256    {weights.file_sha256}")
    click.echo(f"  arrays sha256  {weights.sha256}")
    for key, layer in weights.layers().items():
        click.echo(f"  {key:14} {layer['shape']!s:22} {layer['sha256'][:16]}")
    click.echo(f"  parameters     {weights.parameters:,}")
    click.echo("  channels       BGR")
    click.echo(f"  classes        {weights.classes or 'none: fc8 is missing, so features only'}")
    if weights.note:
        click.echo(f"  note           {weights.note}")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    metavar="DIR",
    help="Where to put them.",
)
@click.option("--overwrite", is_flag=True, help="Fetch over a file that is not the right one.")
def fetch(names: tuple[str, ...], folder: Path, overwrite: bool) -> None:
    """Fetch published files by NAME, resumed and checked; weights, mean and labels by default.

    What cannot be fetched is told in words: where to get it by hand and where to put it.
    """
    from c3d_export.assets import licence_note
    from c3d_export.fetch import ProgressLine, by_hand
    from c3d_export.fetch import fetch as fetch_files

    click.echo(licence_note())
    line, failed = ProgressLine(sys.stderr), []
    for result in fetch_files(names, folder, overwrite=overwrite, progress=line):
        line.clear()
        click.echo(str(result))
        if result.outcome == "failed":
            failed.append(result.asset)
    if failed:
        click.echo(by_hand(failed, folder))
        missing = ", ".join(asset.name for asset in failed)
        raise AssetError(f"{len(failed)} not fetched: {missing}; see above")
