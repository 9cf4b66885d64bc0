"""`c3d-pipelines estimate`: duration and cost of a run before it starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from c3d_pipelines.parameters import JobParameters

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
_RESOLUTIONS = ("240p", "360p", "480p", "720p", "1080p", "4k")


@click.command()
@click.option("--videos", type=int, metavar="N", help="Number of videos.")
@click.option(
    "--mean-duration", "mean_duration_s", type=float, metavar="SECONDS", help="Their mean length."
)
@click.option(
    "--spread",
    type=float,
    default=1.2,
    show_default=True,
    help="Spread of their lengths: standard deviation of the logarithm; 0 for equal lengths.",
)
@click.option("--plan", type=_FILE, help="The videos themselves: a run's plan or a manifest.")
@click.option(
    "--resolution",
    type=click.Choice(_RESOLUTIONS),
    help="Resolution of the videos; by default 720p, or that of the video in --bench.",
)
@click.option(
    "--bytes-per-s",
    type=float,
    help="Bytes per second of video; by default as usual for the resolution.",
)
@click.option(
    "--fps", type=float, default=25.0, show_default=True, help="Frames per second of the videos."
)
@click.option(
    "--stride",
    type=int,
    default=8,
    show_default=True,
    help="Frames from one clip's start to the next.",
)
@click.option(
    "--frames-per-core-s",
    type=float,
    help="Frames that a core decodes and prepares per second, at that resolution.",
)
@click.option(
    "--clips-per-s", type=float, help="Clips that one replica of the server answers per second."
)
@click.option(
    "--bench", type=_FILE, help="Output of `c3d bench --json`: both of these speeds, measured."
)
@click.option(
    "--batch-size", type=int, default=8, show_default=True, help="Clips in a request of the run."
)
@click.option("--classify", is_flag=True, help="Class probabilities instead of fc6 features.")
@click.option(
    "--clip-rows/--no-clip-rows", default=True, show_default=True, help="Write a row per clip."
)
@click.option(
    "--pca-dim",
    type=int,
    metavar="N",
    help="Dimensions of the run's PCA; without one, 4096 numbers.",
)
@click.option("--pods", type=int, help="Shards at a time.  [default: 8]")
@click.option(
    "--workers-per-pod",
    "cores",
    type=int,
    help="Cores of a pod, and videos at a time.  [default: 4]",
)
@click.option("--replicas", type=int, default=1, show_default=True, help="Replicas of the server.")
@click.option("--gpus-per-replica", type=int, default=1, show_default=True)
@click.option("--one-machine", is_flag=True, help="Run all on this machine, the server too.")
@click.option("--shard-minutes", type=float, default=JobParameters.shard_minutes, show_default=True)
@click.option("--shard-mb", type=float, default=JobParameters.shard_mb, show_default=True)
@click.option("--max-shards", type=int, default=JobParameters.max_shards, show_default=True)
@click.option(
    "--failure-rate",
    type=float,
    default=0.01,
    show_default=True,
    help="Share of the videos that fail, each at a random frame.",
)
@click.option(
    "--preemption-rate",
    "preemptions_per_h",
    type=float,
    default=0.0,
    show_default=True,
    help="How often per hour a pod is preempted; its shard continues from what is stored.",
)
@click.option("--pod-start-s", type=float, help="Seconds until a pod runs.  [default: 10]")
@click.option(
    "--network-gbit",
    type=float,
    default=10.0,
    show_default=True,
    help="Network of each pod and replica, each way, in Gbit/s.",
)
@click.option(
    "--storage-mb-per-s",
    type=float,
    default=85.0,
    show_default=True,
    help="Speed at which one video is read.",
)
@click.option("--gpu-hour", type=float, default=0.0, help="Price of a GPU per hour.")
@click.option("--cpu-hour", type=float, default=0.0, help="Price of a core per hour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def estimate(
    as_json: bool,
    gpu_hour: float,
    cpu_hour: float,
    classify: bool,
    clip_rows: bool,
    pca_dim: int | None,
    **options: Any,
) -> None:
    """Estimate the duration of a run, its pods, GPU-hours, CPU-hours and bytes, and its bottleneck.

    Give --videos and --mean-duration, or --plan. Speeds are --frames-per-core-s and --clips-per-s,
    or those in --bench; a given speed replaces that in --bench.
    """
    from rich.console import Console  # NumPy and pyarrow are imported only when the command runs

    from c3d_pipelines.estimate import report, simulate
    from c3d_pipelines.estimate.job import job_from_options

    job, assumptions = job_from_options(options)
    result = simulate.estimate(
        job,
        gpu_hour=gpu_hour,
        cpu_hour=cpu_hour,
        answer="classes" if classify else "features",
        clip_rows=clip_rows,
        pca_dim=pca_dim,
    )
    changes = report.recommend(job, result)
    if as_json:
        output = {**asdict(result), "to_change": changes, "assumed": assumptions}
        click.echo(json.dumps(output, indent=2, allow_nan=False))
    else:
        console = Console(highlight=False)
        report.show(console, job, result, recommendations=changes, assumptions=assumptions)
