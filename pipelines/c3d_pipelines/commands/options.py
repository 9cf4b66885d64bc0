"""Options that several commands share: which videos, what of them, in what pieces."""

from __future__ import annotations

import click
from c3d_client.commands.options import adding

videos_option = click.option(
    "--videos",
    required=True,
    metavar="PLACE",
    help="A folder, a pattern, s3:// or gs://, or a manifest (CSV, JSONL or Parquet).",
)

kind_options = adding(
    (
        click.option(
            "--classify", is_flag=True, help="Class probabilities instead of fc6 features."
        ),
        click.option(
            "--retry-failed", is_flag=True, help="Try damaged videos of earlier runs again."
        ),
    )
)

shard_options = adding(
    (
        click.option(
            "--keys",
            type=click.Choice(["quick", "content"]),
            default="quick",
            show_default=True,
            help="Know videos by size and time or ETag, or by all of their bytes.",
        ),
        click.option(
            "--shard-mb",
            type=float,
            default=4000.0,
            show_default=True,
            metavar="MB",
            help="Videos in a shard, at most.",
        ),
        click.option(
            "--shard-minutes",
            type=float,
            default=240.0,
            show_default=True,
            metavar="MINUTES",
            help="Film in a shard, at most, where its length is known.",
        ),
        click.option(
            "--max-shards", type=int, default=200, show_default=True, help="Most shards in a run."
        ),
    )
)
