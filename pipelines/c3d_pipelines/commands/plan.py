"""`c3d-pipelines plan`: what a run would do, without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from c3d_client.commands.options import clip_options

from c3d_pipelines.commands.options import kind_options, shard_options, videos_option

if TYPE_CHECKING:  # pyarrow and the decoder are loaded only when there is work for them
    from collections.abc import Sequence

    from c3d_pipelines.inputs.manifest import ManifestRow
    from c3d_pipelines.inputs.plan import PlannedRow

_MEGABYTE = 1_000_000


@click.command()
@videos_option
@click.option("--out", default="", metavar="PLACE", help="The dataset: what it has is not to do.")
@click.option(
    "--manifest",
    metavar="FILE",
    help="Write the inputs there, with their keys: .csv, .jsonl or .parquet; --videos takes it.",
)
@kind_options
@shard_options
@clip_options
def plan(
    videos: str,
    out: str,
    manifest: str | None,
    classify: bool,
    retry_failed: bool,
    keys: str,
    shard_mb: float,
    shard_minutes: float,
    max_shards: int,
    stride: int,
    frame_step: int,
    tail: str,
    short: str,
    fps: float | None,
    resize: str,
) -> int:
    """Say what a run would do, and do nothing.

    Lists the inputs, finds those that the dataset has already and those that come twice, and cuts
    the rest into shards.
    """
    from c3d_client import ClipWindow

    from c3d_pipelines.inputs.manifest import check_name, write_manifest
    from c3d_pipelines.run.plan import make_plan

    if manifest:
        check_name(manifest)  # listing may take hours
    planned = make_plan(
        videos,
        out,
        answer="classes" if classify else "features",
        window=ClipWindow(
            stride=stride, frame_step=frame_step, tail=tail, short=short, fps=fps, resize=resize
        ),
        keys=keys,
        shard_mb=shard_mb,
        shard_minutes=shard_minutes,
        max_shards=max_shards,
        retry_failed=retry_failed,
    )
    if manifest:
        write_manifest(manifest, (one.row for one in planned))
    for line in _lines(planned):
        click.echo(line)
    if manifest:
        from c3d_client.core.uri import redact

        click.echo(f"manifest        {redact(manifest)}")
    return 0


def _lines(planned: Sequence[PlannedRow]) -> list[str]:
    from c3d_pipelines.inputs.plan import DO, DONE, DUPLICATE, KNOWN_FAILURE

    by = {
        decision: [one.row for one in planned if one.decision == decision]
        for decision in (DO, DONE, KNOWN_FAILURE, DUPLICATE)
    }
    shards = len({one.shard for one in planned if one.decision == DO})
    rows = [one.row for one in planned]
    again = " (--retry-failed tries them again)" if by[KNOWN_FAILURE] else ""
    return [
        f"inputs          {len(rows)} videos, {_amount(rows)}",
        f"done            {len(by[DONE])}",
        f"known failures  {len(by[KNOWN_FAILURE])}{again}",
        f"duplicates      {len(by[DUPLICATE])}",
        f"to do           {len(by[DO])} videos, {_amount(by[DO])}",
        f"shards          {shards}",
    ]


def _amount(rows: Sequence[ManifestRow]) -> str:
    """Megabytes and hours, and of how many rows nobody knows them."""
    sizes = [row.size_bytes for row in rows]
    lengths = [row.duration_s for row in rows]
    said = [_known(sizes, f"{sum(sizes) / _MEGABYTE:,.1f} MB", "size")]
    if any(lengths):
        said.append(_known(lengths, f"{sum(lengths) / 3600:,.1f} hours", "length"))
    return ", ".join(said)


def _known(values: Sequence[float], total: str, what: str) -> str:
    unknown = sum(1 for value in values if not value)
    return f"{total} ({what} unknown of {unknown})" if unknown else total
