"""`c3d-pipelines merge`: one dataset of several."""

from __future__ import annotations

import click


@click.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option(
    "--out", required=True, metavar="PLACE", help="A folder, or an s3:// or gs:// address."
)
def merge(datasets: tuple[str, ...], out: str) -> None:
    """Make one dataset of several.

    DATASET is a folder or address that runs have written to. The newest result of each video is
    taken. Datasets whose numbers were made differently are refused.
    """
    from c3d_pipelines.dataset.merge import merge as merge_datasets
    from c3d_pipelines.shards.format import STATUSES

    made = merge_datasets(datasets, out)
    videos = made.card.videos
    counts = ", ".join(f"{videos[name]} {name}" for name in STATUSES if videos[name])
    click.echo(f"{out}: {len(made)} videos ({counts}), {made.card.shards} shards")
