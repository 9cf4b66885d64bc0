"""`c3d-pipelines estimate`: what a run would take, before it is begun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # NumPy and pyarrow are loaded only when there is work for them
    from c3d_pipelines.estimates.footage import Footage, Resolution
    from c3d_pipelines.estimates.rates import Bench, Rates
    from c3d_pipelines.estimates.workload import Workload

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
_SIZES = ("240p", "360p", "480p", "720p", "1080p", "4k")
_POD_START_S = 30.0
# On one machine a step is a process: its three starts are those of Python and its imports.
_STEP_START_S = 1.0


@click.command()
@click.option("--videos", type=int, metavar="N", help="How many videos.")
@click.option("--mean-duration", type=float, metavar="SECONDS", help="Their mean length.")
@click.option(
    "--spread",
    type=float,
    default=1.2,
    show_default=True,
    help="Of their lengths: standard deviation of the logarithm; 0 for all alike.",
)
@click.option("--plan", type=_FILE, help="The videos themselves: a run's plan or a manifest.")
@click.option(
    "--resolution",
    type=click.Choice(_SIZES),
    help="Of the videos; 720p by default, or as the film of --bench.",
)
@click.option("--bytes-per-s", type=float, help="Of the videos; by default as usual at their size.")
@click.option(
    "--fps", type=float, default=25.0, show_default=True, help="Frames a second of the videos."
)
@click.option(
    "--stride",
    type=int,
    default=8,
    show_default=True,
    help="Frames from one clip's start to the next.",
)
@click.option("--frames-per-core-s", type=float, help="Decoded and prepared, at that resolution.")
@click.option("--clips-per-s", type=float, help="That one replica of the server answers.")
@click.option(
    "--bench", type=_FILE, help="What `c3d bench --json` printed: both of these, measured."
)
@click.option(
    "--batch-size", type=int, default=8, show_default=True, help="Clips in a request of the run."
)
@click.option("--classify", is_flag=True, help="Class probabilities instead of fc6 features.")
@click.option(
    "--clip-rows/--no-clip-rows", default=True, show_default=True, help="Keep each clip's answer."
)
@click.option("--pods", type=int, help="Shards at a time.  [default: 8]")
@click.option("--workers-per-pod", type=int, help="Cores, and videos at a time.  [default: 4]")
@click.option("--replicas", type=int, default=1, show_default=True, help="Of the server.")
@click.option("--gpus-per-replica", type=int, default=1, show_default=True)
@click.option("--one-machine", is_flag=True, help="All on this machine, the server too.")
@click.option("--shard-minutes", type=float, default=240.0, show_default=True)
@click.option("--shard-mb", type=float, default=4000.0, show_default=True)
@click.option("--max-shards", type=int, default=200, show_default=True)
@click.option(
    "--failure-rate",
    type=float,
    default=0.01,
    show_default=True,
    help="Share of the videos that fail on their way.",
)
@click.option(
    "--preemption-rate",
    type=float,
    default=0.0,
    show_default=True,
    help="How often a pod is taken away in an hour; its shard starts over.",
)
@click.option("--pod-start-s", type=float, help="Until a pod runs.  [default: 30]")
@click.option(
    "--network-gbit",
    type=float,
    default=10.0,
    show_default=True,
    help="Of each pod and replica, each way.",
)
@click.option(
    "--storage-mb-per-s",
    type=float,
    default=85.0,
    show_default=True,
    help="At which one video is read.",
)
@click.option("--gpu-hour", type=float, default=0.0, help="Price of a GPU for an hour.")
@click.option("--cpu-hour", type=float, default=0.0, help="Price of a core for an hour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def estimate(as_json: bool, **given: Any) -> int:
    """Reckon what a run would take: hours, pods, GPU-hours, CPU-hours, bytes, and why.

    Either --videos with --mean-duration, or --plan. Speeds are --frames-per-core-s and
    --clips-per-s, or those of --bench; one that is given wins.
    """
    from c3d_pipelines.estimates import estimate as reckoning
    from c3d_pipelines.estimates.course import Job
    from c3d_pipelines.estimates.remedies import remedies

    notes: list[str] = []
    bench = _bench(given)
    footage, size = _footage(given, bench)
    rates = _rates(given, bench, size, notes)
    job = Job(
        _workload(given, footage),
        rates,
        _cluster(given, bench),
        failure_rate=given["failure_rate"],
    )
    found = reckoning.estimate(
        job,
        prices=reckoning.Prices(gpu_hour=given["gpu_hour"], cpu_hour=given["cpu_hour"]),
        answer="classes" if given["classify"] else "features",
        clip_rows=given["clip_rows"],
    )
    changes = remedies(job, found)
    assumed = [*job.workload.notes, *notes]
    if as_json:
        import json
        from dataclasses import asdict

        told = {**asdict(found), "to_change": changes, "assumed": assumed}
        click.echo(json.dumps(told, indent=2, allow_nan=False))
    else:
        from rich.console import Console

        from c3d_pipelines.estimates.text import show

        show(Console(highlight=False), job, found, changes=changes, assumed=assumed)
    return 0


def _bench(given: dict[str, Any]) -> Bench | None:
    from c3d_client.core.errors import UsageError

    from c3d_pipelines.estimates.rates import read_bench

    path = given["bench"]
    if path is None:
        return None
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    return read_bench(text, batch_size=given["batch_size"], source=str(path))


def _footage(given: dict[str, Any], bench: Bench | None) -> tuple[Footage, Resolution]:
    from c3d_client import ClipWindow

    from c3d_pipelines.estimates.footage import RESOLUTIONS, Footage

    name = given["resolution"]
    if name is None and bench is not None:
        size = bench.film
        name = min(RESOLUTIONS, key=lambda one: abs(RESOLUTIONS[one].pixels - size.pixels))
    else:
        name = name or "720p"
        size = RESOLUTIONS[name]
    bytes_per_s = given["bytes_per_s"]
    if bytes_per_s is None:
        bytes_per_s = RESOLUTIONS[name].bits_per_s / 8
    footage = Footage(
        fps=given["fps"],
        bytes_per_s=bytes_per_s,
        window=ClipWindow(stride=given["stride"]),
        batch_size=given["batch_size"],
    )
    return footage, size


def _rates(given: dict[str, Any], bench: Bench | None, size: Resolution, notes: list[str]) -> Rates:
    from dataclasses import replace

    from c3d_client.core.errors import UsageError

    from c3d_pipelines.estimates.rates import Rates

    frames, clips = given["frames_per_core_s"], given["clips_per_s"]
    if frames is None and bench is not None:
        frames = bench.frames_at(size)
        if bench.film.pixels != size.pixels:
            notes.append(
                f"frames/s reckoned for {size.width}x{size.height} from {bench.film.width}x"
                f"{bench.film.height}, where they were measured: {frames:,.0f} from "
                f"{bench.frames_per_core_s:,.0f}; good to some 15 %"
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


def _workload(given: dict[str, Any], footage: Footage) -> Workload:
    from c3d_client.core.errors import UsageError

    from c3d_pipelines.estimates.workload import (
        ShardLimits,
        known_workload,
        read_shards,
        typical_workload,
    )

    limits = ShardLimits(given["shard_mb"], given["shard_minutes"], given["max_shards"])
    videos, mean_s, plan = given["videos"], given["mean_duration"], given["plan"]
    if plan is not None:
        if videos is not None:
            raise UsageError("--plan says how many videos there are; give it or --videos")
        shards = read_shards(str(plan), limits=limits)
        return known_workload(shards, mean_duration_s=mean_s or 0.0, footage=footage)
    if videos is None or mean_s is None:
        raise UsageError("what is there to do? give --videos and --mean-duration, or --plan FILE")
    return typical_workload(
        videos, mean_duration_s=mean_s, spread=given["spread"], footage=footage, limits=limits
    )


def _cluster(given: dict[str, Any], bench: Bench | None) -> Any:
    from c3d_pipelines.estimates.rates import Cluster

    alone = given["one_machine"]
    pods, cores, start_s = given["pods"], given["workers_per_pod"], given["pod_start_s"]
    if pods is None:
        pods = 1 if alone else Cluster.pods
    if cores is None:
        cores = bench.cores if alone and bench is not None else Cluster.cores
    if start_s is None:
        start_s = _STEP_START_S if alone else _POD_START_S
    return Cluster(
        pods=pods,
        cores=cores,
        replicas=given["replicas"],
        gpus_per_replica=given["gpus_per_replica"],
        pod_start_s=start_s,
        preemptions_per_h=given["preemption_rate"],
        network_gbit=given["network_gbit"],
        storage_mb_per_s=given["storage_mb_per_s"],
        one_machine=alone,
    )
