"""The command `c3d-pipelines`: arguments, printing and exit codes; the work is the library's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
from c3d_client.command import run_command

from c3d_pipelines.manifest import cut_into_shards, list_folder, write_manifest

_MEGABYTE = 1_000_000


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; an error of ours is one line on standard error and exit code 2."""
    run_command(cli, arguments, name="c3d-pipelines", interrupted="nothing half-made is left")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="c3d-pipelines", prog_name="c3d-pipelines")
def cli() -> None:
    """Bulk C3D extraction that accounts for every video."""


@cli.command()
@click.argument("videos", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("manifest.csv"),
    show_default=True,
    metavar="FILE",
    help="The manifest: one row a video.",
)
@click.option(
    "--shard-mb", type=int, default=2000, show_default=True, help="Videos in a shard, in MB."
)
def plan(videos: Path, out: Path, shard_mb: int) -> None:
    """List the videos below DIR into a manifest and say how it would be cut into shards."""
    rows = list_folder(videos)
    shards = cut_into_shards(rows, shard_bytes=shard_mb * _MEGABYTE)
    write_manifest(out, rows)
    total = sum(row.size_bytes for row in rows) / _MEGABYTE
    click.echo(f"{out}: {len(rows)} videos, {total:.1f} MB, {len(shards)} shards")
