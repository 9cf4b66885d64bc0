"""Speeds of a worker's core and of a server, and how many of each a run has.

Speeds come from the output of ``c3d bench --json`` or are given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from c3d_client.core.errors import UsageError

from c3d_pipelines.estimate.video_stats import Resolution, require

# Preparing a frame (112x112, whatever the video's size) costs as much as decoding this many pixels:
# of two videos at six sizes each, H.264 on one core, the time per frame is within 13 % of
# 2.75e-9 s x (pixels + this). In us per frame, decoded and prepared: 426x240 386 and 437, 640x360
# 650 and 707, 854x480 1226 and 1275, 1280x720 2439 and 2722, 1920x1080 5723 and 5437, 3840x2160
# 24826 and 22754.
FRAME_PIXELS = 36_000
# Speed of each of several cores, relative to one core alone: two videos at a time are 1.81 times as
# fast as one (docs/client.md).
CORE_SHARE = 0.9


@dataclass(frozen=True)
class Rates:
    """Measured speeds.

    Args:
        frames_per_core_s: frames that one core decodes and prepares per second.
        clips_per_s: clips that one replica of the server answers per second.
        request_s: cost of a request for the server in seconds, in addition to its clips.
        video_s: seconds per video in addition to its frames: to open it, and to wait for its last
            answer. 0.1 is an assumption: an object store's first byte (Amazon: 100 to 200 ms) or a
            batch of 8 clips on a GPU; :func:`read_bench` has the measured value.

    Raises:
        UsageError: a number is out of its range.
    """

    frames_per_core_s: float
    clips_per_s: float
    request_s: float = 0.0
    video_s: float = 0.1

    def __post_init__(self) -> None:
        for name in ("frames_per_core_s", "clips_per_s"):
            require(name, getattr(self, name), above=0)
        for name in ("request_s", "video_s"):
            require(name, getattr(self, name), at_least=0)


# Kubeflow Pipelines starts a driver for each iteration of a loop, a driver for its task, and the
# task; only the task requests cores. In addition it starts drivers of the run, its exit handler,
# its condition and the loop, and a driver and a task each for plan, publish and report.
#
# Measured with Kubeflow Pipelines 2.17 on two cores, on nodes with the image: a shard's pods take
# 30 s (3 s a driver, 6 s a task, the rest in Argo's rounds of 10 s), 10 s each; the 13 pods of a
# run of release 0.1.0 took 155 s. Derived from that, not measured: a run of this release starts 3
# pods fewer, so that it takes 125 s, 12.5 starts of a pod. `c3d-pipelines run` is one process and
# starts one for each shard.
_PODS_PER_SHARD, _PODS_PER_RUN, _STARTS_PER_RUN = 3, 10, 12.5


@dataclass(frozen=True)
class Cluster:
    """Machines of a run.

    Args:
        pods: shards at a time.
        cores: of each shard's pod, and so videos at a time in it.
        replicas: of the server.
        gpus_per_replica: 0 for a server without GPUs.
        pod_start_s: seconds until a pod runs; with ``one_machine``, until a process runs.
        preemptions_per_h: how often per hour a worker's pod is preempted; its shard continues from
            what the worker stored.
        retries: how often a preempted shard is retried; 3 as in the settings of the pods.
        network_gbit: of each worker pod and each replica, each way, in 10^9 bits per second.
        storage_mb_per_s: read speed of one video, in 10^6 bytes per second; 85 is an assumption,
            about what one request to an object store reaches.
        one_machine: ``c3d-pipelines run``, with the server on the same cores as the one worker, so
            their times add up.

    Raises:
        UsageError: a number is out of its range.
    """

    pods: int = 8
    cores: int = 4
    replicas: int = 1
    gpus_per_replica: int = 1
    pod_start_s: float = 10.0
    preemptions_per_h: float = 0.0
    retries: int = 3
    network_gbit: float = 10.0
    storage_mb_per_s: float = 85.0
    one_machine: bool = False

    def __post_init__(self) -> None:
        for name in ("pods", "cores", "replicas"):
            require(name, getattr(self, name), at_least=1)
        for name in ("gpus_per_replica", "pod_start_s", "preemptions_per_h", "retries"):
            require(name, getattr(self, name), at_least=0)
        for name in ("network_gbit", "storage_mb_per_s"):
            require(name, getattr(self, name), above=0)
        if self.one_machine and (self.pods != 1 or self.replicas != 1):
            raise UsageError(
                f"pods is {self.pods} and replicas {self.replicas}; one machine has 1 of each"
            )

    @property
    def pods_per_shard(self) -> int:
        """Pods that a shard starts, one after the other."""
        return 1 if self.one_machine else _PODS_PER_SHARD

    @property
    def pods_per_run(self) -> int:
        """Pods of a run in addition to those of its shards."""
        return 1 if self.one_machine else _PODS_PER_RUN

    @property
    def starts_per_run(self) -> float:
        """Duration of those, in starts of a pod."""
        return 1.0 if self.one_machine else _STARTS_PER_RUN


@dataclass(frozen=True)
class Bench:
    """Output of ``c3d bench --json``.

    Args:
        rates: None where no server was measured.
        frames_per_core_s: frames that one core decodes and prepares per second.
        resolution: of the video that was measured.
        cores: of the machine.
    """

    rates: Rates | None
    frames_per_core_s: float
    resolution: Resolution
    cores: int

    def frames_at(self, resolution: Resolution) -> float:
        """Scale ``frames_per_core_s`` to another resolution; see :data:`FRAME_PIXELS`."""
        factor = (self.resolution.pixels + FRAME_PIXELS) / (resolution.pixels + FRAME_PIXELS)
        return self.frames_per_core_s * factor


def read_bench(text: str | bytes, *, batch_size: int, source: str = "bench") -> Bench:
    """Parse the output of ``c3d bench --json``.

    Two measured batch sizes separate the cost of a request from the cost of its clips: the last
    request of a short video is seldom full.

    Args:
        text: the JSON object.
        batch_size: clips in a request of the run.
        source: name of the file, for the error.

    Raises:
        UsageError: the text is not such an output, or a number in it is invalid.
    """
    try:
        bench: Mapping[str, Any] = json.loads(text)
        decode = bench["decode"]
        resolution = Resolution.of(int(decode["width"]), int(decode["height"]))
        frames_per_core_s, cores = float(bench["frames_per_core_s"]), int(bench["cores"])
        require("frames_per_core_s", frames_per_core_s, above=0)
        require("number of pixels", resolution.pixels, at_least=1)
        rates = None
        if bench["server"] is not None:
            batches = bench["server"]["batches"]
            rates = _server_rates(batches, frames_per_core_s, batch_size=batch_size)
        return Bench(rates, frames_per_core_s, resolution, cores)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{source}: is not what `c3d bench --json` prints ({reason}); "
            "write its output into a file"
        ) from error


def _server_rates(
    batches: list[Mapping[str, Any]], frames_per_core_s: float, *, batch_size: int
) -> Rates:
    rows = sorted(batches, key=lambda row: abs(math.log(float(row["batch_size"]) / batch_size)))
    if not rows:
        raise ValueError("no batch was measured")
    size, clips_per_s = float(rows[0]["batch_size"]), float(rows[0]["clips_per_s"])
    require("clips_per_s", clips_per_s, above=0)
    clip_s = 1 / clips_per_s
    for other in rows[1:]:
        other_size = float(other["batch_size"])
        if other_size < size:
            # size / clips_per_s = request_s + size * clip_s, for both sizes.
            slope = size / clips_per_s - other_size / float(other["clips_per_s"])
            clip_s = min(clip_s, max(slope / (size - other_size), clip_s / 100))
            break
    return Rates(
        frames_per_core_s,
        1 / clip_s,
        request_s=size * (1 / clips_per_s - clip_s),
        video_s=float(rows[0]["alone_s"]),
    )
