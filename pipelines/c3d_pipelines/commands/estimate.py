"""`c3d-pipelines estimate`: duration and cost of a run before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # NumPy and pyarrow are imported only when the command runs
    from c3d_pipelines.estimate.rates import Bench, Cluster, Rates
    from c3d_pipelines.estimate.video_stats import Resolution, VideoStats, Workload

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
_RESOLUTIONS = ("240p", "360p", "480p", "720p", "1080p", "4k")
# On one machine a step is a process: its start is that of Python and its imports.
_PROCESS_START_S = 1.0


@click.command()
@click.option("--videos", type=int, metavar="N", help="Number of videos.")
@click.option("--mean-duration", type=float, metavar="SECONDS", help="Their mean length.")
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
@click.option("--pods", type=int, help="Shards at a time.  [default: 8]")
@click.option(
    "--workers-per-pod", type=int, help="Cores of a pod, and videos at a time.  [default: 4]"
)
@click.option("--replicas", type=int, default=1, show_default=True, help="Replicas of the server.")
@click.option("--gpus-per-replica", type=int, default=1, show_default=True)
@click.option("--one-machine", is_flag=True, help="Run all on this machine, the server too.")
@click.option("--shard-minutes", type=float, default=240.0, show_default=True)
@click.option("--shard-mb", type=float, default=4000.0, show_default=True)
@click.option("--max-shards", type=int, default=200, show_default=True)
@click.option(
    "--failure-rate",
    type=float,
    default=0.01,
    show_default=True,
    help="Share of the videos that fail, each at a random frame.",
)
@click.option(
    "--preemption-rate",
    type=float,
    default=0.0,
    show_default=True,
    help="How often per hour a pod is preempted; its shard starts over.",
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
def estimate(as_json: bool, **options: Any) -> int:
    """Estimate the duration of a run, its pods, GPU-hours, CPU-hours and bytes, and its bottleneck.

    Give --videos and --mean-duration, or --plan. Speeds are --frames-per-core-s and --clips-per-s,
    or those in --bench; a given speed replaces that in --bench.
    """
    from c3d_pipelines.estimate import simulate
    from c3d_pipelines.estimate.report import recommend, show

    assumptions: list[str] = []
    bench = _bench(options)
    stats, resolution = _video_stats(options, bench)
    rates = _rates(options, bench, resolution, assumptions)
    job = simulate.Job(
        _workload(options, stats),
        rates,
        _cluster(options, bench),
        failure_rate=options["failure_rate"],
    )
    result = simulate.estimate(
        job,
        gpu_hour=options["gpu_hour"],
        cpu_hour=options["cpu_hour"],
        answer="classes" if options["classify"] else "features",
        clip_rows=options["clip_rows"],
    )
    recommendations = recommend(job, result)
    assumptions = [*job.workload.notes, *assumptions]
    if as_json:
        import json
        from dataclasses import asdict

        output = {**asdict(result), "to_change": recommendations, "assumed": assumptions}
        click.echo(json.dumps(output, indent=2, allow_nan=False))
    else:
        from rich.console import Console

        show(
            Console(highlight=False),
            job,
            result,
            recommendations=recommendations,
            assumptions=assumptions,
        )
    return 0


def _bench(options: dict[str, Any]) -> Bench | None:
    from c3d_client.core.errors import UsageError

    from c3d_pipelines.estimate.rates import read_bench

    path = options["bench"]
    if path is None:
        return None
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    return read_bench(text, batch_size=options["batch_size"], source=str(path))


def _video_stats(options: dict[str, Any], bench: Bench | None) -> tuple[VideoStats, Resolution]:
    from c3d_client import ClipWindow

    from c3d_pipelines.estimate.video_stats import RESOLUTIONS, VideoStats

    name = options["resolution"]
    if name is None and bench is not None:
        resolution = bench.resolution
        # The bit rate is that of the resolution with the nearest number of pixels.
        name = min(
            RESOLUTIONS, key=lambda other: abs(RESOLUTIONS[other].pixels - resolution.pixels)
        )
    else:
        name = name or "720p"
        resolution = RESOLUTIONS[name]
    bytes_per_s = options["bytes_per_s"]
    if bytes_per_s is None:
        bytes_per_s = RESOLUTIONS[name].bits_per_s / 8
    stats = VideoStats(
        fps=options["fps"],
        bytes_per_s=bytes_per_s,
        window=ClipWindow(stride=options["stride"]),
        batch_size=options["batch_size"],
    )
    return stats, resolution


def _rates(
    options: dict[str, Any], bench: Bench | None, resolution: Resolution, assumptions: list[str]
) -> Rates:
    from dataclasses import replace

    from c3d_client.core.errors import UsageError

    from c3d_pipelines.estimate.rates import Rates

    frames, clips = options["frames_per_core_s"], options["clips_per_s"]
    if frames is None and bench is not None:
        frames = bench.frames_at(resolution)
        measured_at = bench.resolution
        if measured_at.pixels != resolution.pixels:
            assumptions.append(
                f"frames/s computed for {resolution.width}x{resolution.height} from the "
                f"{measured_at.width}x{measured_at.height} that was measured: {frames:,.0f} from "
                f"{bench.frames_per_core_s:,.0f}; accurate to about 15 %"
            )
    if frames is None:
        raise UsageError("how fast are frames decoded? give --frames-per-core-s or --bench FILE")
    measured = bench.rates if bench is not None else None
    if clips is None and measured is None:
        raise UsageError(
            "how fast is the server? give --clips-per-s, or a --bench FILE that was made with one"
        )
    if measured is None:
        return Rates(frames, clips)
    measured = replace(measured, frames_per_core_s=frames)
    return measured if clips is None else replace(measured, clips_per_s=clips, request_s=0.0)


def _workload(options: dict[str, Any], stats: VideoStats) -> Workload:
    from c3d_client.core.errors import UsageError

    from c3d_pipelines.estimate.video_stats import (
        ShardLimits,
        known_workload,
        read_shards,
        typical_workload,
    )

    limits = ShardLimits(options["shard_mb"], options["shard_minutes"], options["max_shards"])
    videos, mean_s, plan = options["videos"], options["mean_duration"], options["plan"]
    if plan is not None:
        if videos is not None:
            raise UsageError("--plan has the number of videos; give it or --videos")
        shards = read_shards(str(plan), limits=limits)
        return known_workload(shards, mean_duration_s=mean_s or 0.0, stats=stats)
    if videos is None or mean_s is None:
        raise UsageError("what is there to do? give --videos and --mean-duration, or --plan FILE")
    return typical_workload(
        videos, mean_duration_s=mean_s, spread=options["spread"], stats=stats, limits=limits
    )


def _cluster(options: dict[str, Any], bench: Bench | None) -> Cluster:
    from c3d_pipelines.estimate.rates import Cluster

    one_machine = options["one_machine"]
    pods, cores, start_s = options["pods"], options["workers_per_pod"], options["pod_start_s"]
    if pods is None:
        pods = 1 if one_machine else Cluster.pods
    if cores is None:
        cores = bench.cores if one_machine and bench is not None else Cluster.cores
    if start_s is None:
        start_s = _PROCESS_START_S if one_machine else Cluster.pod_start_s
    return Cluster(
        pods=pods,
        cores=cores,
        replicas=options["replicas"],
        gpus_per_replica=options["gpus_per_replica"],
        pod_start_s=start_s,
        preemptions_per_h=options["preemption_rate"],
        network_gbit=options["network_gbit"],
        storage_mb_per_s=options["storage_mb_per_s"],
        one_machine=one_machine,
    )
