"""`c3d-pipelines plan`: the work of a run, without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from c3d_client.commands.options import clip_options
from c3d_client.core.completion import FOLDER_OR_URL, PATH_OR_URL

from c3d_pipelines.commands.options import (
    any_option,
    kind_options,
    shard_options,
    videos_option,
)

if TYPE_CHECKING:  # pyarrow and the decoder are loaded only when they are needed
    from collections.abc import Sequence

    from c3d_pipelines.inputs.manifest import ManifestRow
    from c3d_pipelines.inputs.plan import PlannedRow

_MEGABYTE = 1_000_000


@click.command()
@videos_option
@click.option(
    "--out",
    default="",
    type=FOLDER_OR_URL,
    metavar="FOLDER|URL",
    help="The dataset; what it holds already is not to be done.",
)
@click.option(
    "--manifest",
    type=PATH_OR_URL,
    metavar="FILE",
    help="Write the inputs with their keys to a .csv, .jsonl or .parquet file, for --videos.",
)
@any_option
@kind_options
@shard_options
@clip_options
def plan(
    videos: str,
    out: str,
    manifest: str | None,
    any_file: bool,
    classify: bool,
    retry_failed: bool,
    keys: str,
    shard_mb: float,
    shard_minutes: float,
    max_shards: int,
    **window: Any,
) -> int:
    """Show what a run would do, and do nothing.

    Lists the inputs, finds those that the dataset has already and those that come twice, and cuts
    the rest into shards.
    """
    from c3d_client import ClipWindow

    from c3d_pipelines.inputs.manifest import check_name, write_manifest
    from c3d_pipelines.run.plan import make_plan

    if manifest:
        check_name(manifest)  # before the listing, which may take hours
    notes: list[str] = []
    planned = make_plan(
        videos,
        out,
        answer="classes" if classify else "features",
        window=ClipWindow(**window),
        keys=keys,
        shard_mb=shard_mb,
        shard_minutes=shard_minutes,
        max_shards=max_shards,
        retry_failed=retry_failed,
        any_file=any_file,
        notes=notes,
    )
    if manifest:
        write_manifest(manifest, (planned_row.row for planned_row in planned))
    for line in _summary_lines(planned):
        click.echo(line)
    for note in notes:
        click.echo(f"note            {note}")
    if manifest:
        from c3d_client.core.uri import Uri

        click.echo(f"manifest        {Uri(manifest)}")
    return 0


def _summary_lines(planned: Sequence[PlannedRow]) -> list[str]:
    from c3d_pipelines.inputs.plan import DO, DONE, DUPLICATE, KNOWN_FAILURE

    by_decision = {
        decision: [item.row for item in planned if item.decision == decision]
        for decision in (DO, DONE, KNOWN_FAILURE, DUPLICATE)
    }
    shards = len({item.shard for item in planned if item.decision == DO})
    rows = [item.row for item in planned]
    retry = " (--retry-failed tries them again)" if by_decision[KNOWN_FAILURE] else ""
    return [
        f"inputs          {len(rows)} videos, {_amount(rows)}",
        f"done            {len(by_decision[DONE])}",
        f"known failures  {len(by_decision[KNOWN_FAILURE])}{retry}",
        f"duplicates      {len(by_decision[DUPLICATE])}",
        f"to do           {len(by_decision[DO])} videos, {_amount(by_decision[DO])}",
        f"shards          {shards}",
    ]


def _amount(rows: Sequence[ManifestRow]) -> str:
    """Return megabytes and hours, and of how many rows they are unknown."""
    sizes = [row.size_bytes for row in rows]
    lengths = [row.duration_s for row in rows]
    amounts = [_with_unknown(sizes, f"{sum(sizes) / _MEGABYTE:,.1f} MB", "size")]
    if any(lengths):
        amounts.append(_with_unknown(lengths, f"{sum(lengths) / 3600:,.1f} hours", "length"))
    return ", ".join(amounts)


def _with_unknown(values: Sequence[float], total: str, quantity: str) -> str:
    unknown = sum(1 for value in values if not value)
    return f"{total} ({quantity} unknown of {unknown})" if unknown else total
