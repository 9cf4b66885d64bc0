"""The job that the options of `c3d-pipelines estimate` describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from c3d_client import ClipWindow
from c3d_client.core.errors import UsageError

from c3d_pipelines.estimate.rates import Bench, Cluster, Rates, read_bench
from c3d_pipelines.estimate.simulate import Job
from c3d_pipelines.estimate.video_stats import (
    RESOLUTIONS,
    Resolution,
    ShardLimits,
    VideoStats,
    Workload,
    known_workload,
    read_shards,
    typical_workload,
)

# Seconds until a process of `c3d-pipelines run` works: Python, its imports, and the connection. On
# two cores that other work shared, a run of 1 short video took 1.2 s and one of 9 shards 7 s.
_PROCESS_START_S = 1.0
_Fields = TypeVar("_Fields", Cluster, ShardLimits, VideoStats)


def job_from_options(options: Mapping[str, Any]) -> tuple[Job, list[str]]:
    """Return the job, and in sentences what is assumed about it.

    Args:
        options: the command's, by the names of the fields that they set.

    Raises:
        UsageError: an option is missing, contradicts another, or is out of its range.
        ManifestError: the plan cannot be read.
    """
    bench = None
    if options["bench"] is not None:
        try:
            text = options["bench"].read_bytes()
        except OSError as error:
            raise UsageError(f"{options['bench']}: cannot be read ({error.strerror})") from error
        bench = read_bench(text, batch_size=options["batch_size"], source=str(options["bench"]))
    resolution = RESOLUTIONS[options["resolution"] or "720p"]
    if options["resolution"] is None and bench is not None:
        resolution = bench.resolution
    rates, assumptions = _rates(options, bench, resolution)
    stats = _of_options(
        VideoStats,
        options,
        bytes_per_s=resolution.bits_per_s / 8,
        window=ClipWindow(stride=options["stride"]),
    )
    workload = _workload(options, stats)
    defaults: dict[str, Any] = {}
    if options["one_machine"]:
        defaults = {"pods": 1, "pod_start_s": _PROCESS_START_S}
        if bench is not None:
            defaults["cores"] = bench.cores
    cluster = _of_options(Cluster, options, **defaults)
    job = Job(workload, rates, cluster, failure_rate=options["failure_rate"])
    return job, [*workload.notes, *assumptions]


def _of_options(kind: type[_Fields], options: Mapping[str, Any], **defaults: Any) -> _Fields:
    """Return a dataclass with the options of its fields' names, where they are given."""
    names = [field.name for field in fields(kind)]
    given = {name: options[name] for name in names if options.get(name) is not None}
    return kind(**{**defaults, **given})


def _rates(
    options: Mapping[str, Any], bench: Bench | None, resolution: Resolution
) -> tuple[Rates, list[str]]:
    frames, clips = options["frames_per_core_s"], options["clips_per_s"]
    assumptions = []
    if frames is None:
        if bench is None:
            raise UsageError(
                "how fast are frames decoded? give --frames-per-core-s or --bench FILE"
            )
        frames, measured = bench.frames_at(resolution), bench.resolution
        if measured.pixels != resolution.pixels:
            assumptions.append(
                f"frames/s computed for {resolution.width}x{resolution.height} from the "
                f"{measured.width}x{measured.height} that was measured: {frames:,.0f} from "
                f"{bench.frames_per_core_s:,.0f}; accurate to about 15 %"
            )
    rates = bench.rates if bench is not None else None
    if clips is None and rates is None:
        raise UsageError(
            "how fast is the server? give --clips-per-s, or a --bench FILE that was made with one"
        )
    rates = rates or Rates(frames, clips)
    if clips is not None:
        rates = replace(rates, clips_per_s=clips, request_s=0.0)
    return replace(rates, frames_per_core_s=frames), assumptions


def _workload(options: Mapping[str, Any], stats: VideoStats) -> Workload:
    limits = _of_options(ShardLimits, options)
    videos, mean_s = options["videos"], options["mean_duration_s"]
    if options["plan"] is not None:
        if videos is not None:
            raise UsageError("--plan has the number of videos; give it or --videos")
        shards = read_shards(str(options["plan"]), limits=limits)
        return known_workload(shards, mean_duration_s=mean_s or 0.0, stats=stats)
    if videos is None or mean_s is None:
        raise UsageError("what is there to do? give --videos and --mean-duration, or --plan FILE")
    return typical_workload(
        videos, mean_duration_s=mean_s, spread=options["spread"], stats=stats, limits=limits
    )
