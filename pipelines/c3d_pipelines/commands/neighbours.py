"""`c3d-pipelines neighbours`: the videos of a dataset that are most like one of them."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


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
