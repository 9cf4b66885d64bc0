"""`c3d-pipelines merge`: one dataset of several."""

from __future__ import annotations

import json
from dataclasses import asdict

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
    from c3d_pipelines.shards.schema import STATUSES

    made = merge_datasets(datasets, out)
    videos = made.card.videos
    counts = ", ".join(f"{videos[name]} {name}" for name in STATUSES if videos[name])
    click.echo(f"{out}: {len(made)} videos ({counts}), {made.card.shards} shards")


@click.command()
@click.argument("dataset")
@click.argument("video_id")
@click.option("-k", "count", type=int, default=10, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def neighbours(dataset: str, video_id: str, count: int, as_json: bool) -> None:
    """List the videos of DATASET most like VIDEO_ID, by the cosine of their features."""
    from c3d_pipelines.dataset import open as open_dataset

    for near in open_dataset(dataset).nearest(video_id, k=count):
        if as_json:
            click.echo(json.dumps(asdict(near)))
        else:
            click.echo(f"{near.similarity:.4f}  {near.video_id}")
