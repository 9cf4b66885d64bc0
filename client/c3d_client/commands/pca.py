"""`c3d pca fit`: a PCA of the clips of many videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_client.commands.options import adding
from c3d_client.core.cli import CommandGroup
from c3d_client.core.completion import PATH_OR_URL
from c3d_client.core.text import escape_controls

if TYPE_CHECKING:
    from c3d_client.results import VideoFeatures

fit_options = adding(
    (
        click.option(
            "--dim",
            type=int,
            default=500,
            show_default=True,
            help="How many numbers a reduced row has; ActivityNet's features have 500.",
        ),
        click.option(
            "--out",
            type=click.Path(dir_okay=False, path_type=Path),
            required=True,
            metavar="NPZ",
            help="File to write.",
        ),
        click.option(
            "--whiten", is_flag=True, help="Divide each reduced number by its standard deviation."
        ),
        click.option(
            "--clips",
            type=click.IntRange(min=1),
            metavar="N",
            help="Fit on so many clips, drawn at random; on all by default.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Seed of the draw of --clips.",
        ),
    )
)


@click.group(cls=CommandGroup)
def pca() -> None:
    """Fit a PCA, with which extract and convert reduce features."""


@pca.command()
@click.argument("features", nargs=-1, required=True, metavar="FEATURES...", type=PATH_OR_URL)
@fit_options
@click.option(
    "--from",
    "format",
    metavar="FORMAT",
    help="The format to read, if file names do not show it.",
)
def fit(features: tuple[str, ...], out: Path, format: str | None, **options: Any) -> None:
    """Fit a PCA on the clips of FEATURES, and write it to a file.

    FEATURES are files of features, folders of them, or patterns, of any format that has clips.
    All were made in the same way: the same model, clips and layer. Prints the share of the variance
    that the reduced features keep. Memory does not grow with the number of clips.

    Exit code: 0 done, 2 nothing was written.
    """

    def read() -> Iterable[VideoFeatures]:
        from c3d_client.outputs import iter_features

        return iter_features(features, format=format)

    fit_and_save(read, out, **options)


def fit_and_save(read: Callable[[], Iterable[VideoFeatures]], out: Path, **options: Any) -> None:
    """Fit a PCA, write it, and print what it keeps.

    Args:
        read: returns the features, which are read one by one.
        out: the file to write.
        options: of :func:`c3d_client.pca.fit_pca`.
    """
    from c3d_client.outputs import prepare_folder
    from c3d_client.pca import fit_pca

    prepare_folder(out.parent)  # before hours of reading
    fitted = fit_pca(read(), **options)
    fitted.save(out)
    click.echo(escape_controls(f"{out}: {fitted.summary()}"))
