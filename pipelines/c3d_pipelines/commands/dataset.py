"""`c3d-pipelines merge`, `export`, `pca fit` and `neighbours`: commands that work on data sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from c3d_client.commands.convert import print_sultani_notes, stride_option
from c3d_client.commands.options import pca_option
from c3d_client.commands.pca import fit_and_save, fit_options
from c3d_client.core.cli import CommandGroup, print_error
from c3d_client.core.completion import FOLDER_OR_URL
from c3d_client.core.text import escape_controls

from c3d_pipelines.commands.options import PROGRAM

if TYPE_CHECKING:
    from c3d_client import VideoFeatures


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
@click.argument("video_ids", nargs=-1, metavar="[VIDEO_ID]...")
@click.option(
    "--to",
    metavar="FORMAT",
    help="A format of c3d extract; by default that of the suffix of --name, or npz; hdf5 is h5.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="Folder to write to; for activitynet, the file of all videos.",
)
@click.option(
    "--list",
    "list_file",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="The videos to write, one VIDEO_ID a line; - for standard input.",
)
@click.option(
    "--name",
    metavar="PATTERN",
    help="Names of files, such as '{stem}.npy'; as for c3d extract.",
)
@stride_option
@pca_option
@click.option("--overwrite", is_flag=True, help="Write files that exist too.")
def export(
    dataset: str,
    video_ids: tuple[str, ...],
    to: str | None,
    out: Path,
    list_file: TextIO | None,
    name: str | None,
    stride: int | None,
    pca: str | None,
    overwrite: bool,
) -> int:
    """Write the features in DATASET as files, one for each video that is ok.

    All videos, or those that are named by VIDEO_ID or --list. The files are those of c3d extract
    and c3d convert. Files that exist and hold the same features are skipped, so that the same
    command continues an export; the one file of activitynet is written as a whole. Videos that have
    no features in DATASET are listed with their status. Needs a dataset that stores its clips.

    Exit code: 0 all done, 1 some videos failed, or were named and have no features, 2 nothing could
    be done.
    """
    from c3d_client import PCA
    from c3d_client.core.errors import UsageError
    from c3d_client.outputs import output_format

    from c3d_pipelines.dataset import open as open_dataset
    from c3d_pipelines.dataset.export import (
        FAILED,
        NO_FEATURES,
        SKIPPED,
        WRITTEN,
        export_dataset,
    )

    to = output_format(to, name)
    opened = open_dataset(dataset)
    ids = list(video_ids)
    if list_file is not None:
        try:
            ids += filter(None, (line.rstrip("\r\n") for line in list_file))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{list_file.name}: cannot be read ({error})") from error
    if list_file is not None and not ids:
        raise UsageError(f"{list_file.name}: names no video; give one id a line")
    outcomes: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    for video in export_dataset(
        opened,
        out,
        to=to,
        ids=ids or None,
        stride=stride,
        pca=None if pca is None else PCA.load(pca),
        overwrite=overwrite,
        name=name,
    ):
        outcomes[video.outcome] += 1
        if video.outcome == WRITTEN:
            click.echo(escape_controls(f"{video.video_id} -> {video.path}"))
        elif video.outcome == FAILED:
            print_error(PROGRAM, f"{video.video_id}: {video.reason}")
        elif video.outcome == NO_FEATURES:
            statuses[video.status] += 1
            print_error(PROGRAM, f"{video.video_id}: {video.status}: {video.reason}")
    if to == "sultani" and outcomes[WRITTEN]:
        print_sultani_notes(PROGRAM, [stride or opened.card.provenance.clips.get("stride")])
    parts = [f"{outcomes[WRITTEN]} videos written"]
    if outcomes[SKIPPED]:
        parts.append(f"{outcomes[SKIPPED]} skipped, written before")
    if outcomes[FAILED]:
        parts.append(f"{outcomes[FAILED]} failed")
    if statuses:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        parts.append(f"{outcomes[NO_FEATURES]} have no features ({counts})")
    print_error(PROGRAM, "; ".join(parts))
    if not outcomes[WRITTEN] and not outcomes[SKIPPED]:
        return 2
    return 1 if outcomes[FAILED] or (ids and statuses) else 0


@click.group(cls=CommandGroup)
def pca() -> None:
    """Fit a PCA, with which runs and export reduce features."""


@pca.command()
@click.argument("dataset", type=FOLDER_OR_URL)
@fit_options
def fit(dataset: str, out: Path, **options: Any) -> None:
    """Fit a PCA on the clips of DATASET, and write it to a file.

    Duplicates count once. Prints the share of the variance that the reduced features keep. Memory
    does not grow with the number of clips.

    Exit code: 0 done, 2 nothing was written.
    """

    def read() -> Iterable[VideoFeatures]:
        import pyarrow.compute as pc

        from c3d_pipelines.dataset import open as open_dataset

        opened = open_dataset(dataset)
        table = opened.table()
        originals = table.filter(pc.equal(table["duplicate_of"], ""))["video_id"].to_pylist()
        return (features for _, features in opened.each_features(originals))

    fit_and_save(read, out, **options)


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
            click.echo(escape_controls(f"{neighbour.similarity:.4f}  {neighbour.video_id}"))
