"""`c3d-pipelines merge` and `c3d-pipelines neighbours`: commands that work on data sets."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
from c3d_client.commands.convert import print_conversions, stride_option
from c3d_client.core.completion import FOLDER_OR_URL

from c3d_pipelines.commands.options import PROGRAM


@click.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...", type=FOLDER_OR_URL)
@click.option(
    "--out",
    required=True,
    type=FOLDER_OR_URL,
    metavar="FOLDER|URL",
    help="A folder, or an s3:// or gs:// address.",
)
def merge(datasets: tuple[str, ...], out: str) -> None:
    """Make one dataset of several.

    DATASET is a folder or address that runs have written to. The newest result of each video is
    used. Datasets whose numbers were made differently are refused.
    """
    from c3d_pipelines.dataset.card import versions_note
    from c3d_pipelines.dataset.merge import merge as merge_datasets
    from c3d_pipelines.shards.schema import STATUSES

    merged = merge_datasets(datasets, out)
    videos = merged.card.videos
    counts = ", ".join(f"{videos[status]} {status}" for status in STATUSES if videos[status])
    click.echo(f"{out}: {len(merged)} videos ({counts}), {merged.card.shards} shards")
    if note := versions_note(merged.card.versions):
        click.echo(f"{out}: note: {note}", err=True)


@click.command()
@click.argument("dataset", type=FOLDER_OR_URL)
@click.option(
    "--to", default="npz", show_default=True, metavar="FORMAT", help="A format of c3d extract."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="Folder to write to; for activitynet, the file of all videos.",
)
@stride_option
def export(dataset: str, to: str, out: Path, stride: int | None) -> int:
    """Write the features in DATASET as files, one for each video that is ok.

    The files are those of c3d extract and c3d convert. Needs a dataset that stores its clips.

    Exit code: 0 all done, 1 some videos failed, 2 nothing could be done.
    """
    from c3d_client.core.errors import UsageError
    from c3d_client.outputs import export as export_videos

    from c3d_pipelines.dataset import open as open_dataset

    opened = open_dataset(dataset)
    if opened.card.answer != "features":
        raise UsageError(f"{opened.uri}: holds classes, and no features")
    # An id may be a URL or an absolute path.
    videos = {
        "/".join(part for part in video_id.split("/") if part not in ("", ".", "..")): partial(
            opened.features, video_id
        )
        for video_id in opened.ids()
    }
    return print_conversions(
        PROGRAM, export_videos(videos, str(opened.uri), out, to=to, stride=stride), to=to
    )


@click.command()
@click.argument("dataset", type=FOLDER_OR_URL)
@click.argument("video_id")
@click.option("-k", "count", type=int, default=10, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def neighbours(dataset: str, video_id: str, count: int, as_json: bool) -> None:
    """List the videos of DATASET most like VIDEO_ID, by the cosine of their features."""
    from c3d_pipelines.dataset import open as open_dataset

    for neighbour in open_dataset(dataset).nearest(video_id, k=count):
        if as_json:
            click.echo(json.dumps(asdict(neighbour)))
        else:
            click.echo(f"{neighbour.similarity:.4f}  {neighbour.video_id}")
