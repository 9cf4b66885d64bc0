"""How fast a worker's core and a server are, and how many of them a run has.

The third step of the estimate. Speeds come from ``c3d bench --json``, or from whoever knows them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from c3d_client.core.errors import UsageError

from c3d_pipelines.estimates.footage import Resolution, require

# Preparing a frame (112x112, whatever the film's size) costs as much as decoding so many pixels:
# of two films at six sizes each, H.264 on one core, the time a frame is within 13 % of
# 2.75e-9 s x (pixels + this). In us a frame, decoded and prepared: 426x240 386 and 437, 640x360 650
# and 707, 854x480 1226 and 1275, 1280x720 2439 and 2722, 1920x1080 5723 and 5437, 3840x2160 24826
# and 22754.
FRAME_PIXELS = 36_000


@dataclass(frozen=True)
class Rates:
    """Speeds that were measured.

    Args:
        frames_per_core_s: frames that one core decodes and prepares in a second.
        clips_per_s: clips that one replica of the server answers in a second.
        request_s: what a request costs the server beside its clips, in seconds.
        video_s: how long a core waits for one video beside its frames: until it is open, and for
            its last answer. 0.1 stands for a store's first byte (Amazon: 100 to 200 ms) or a batch
            of 8 clips on a GPU; :func:`rates_of_bench` measures it.
        core_share: what each of several cores gives of one alone: 0.9, two videos at a time are
            1.81 times as fast as one (docs/client.md).

    Raises:
        UsageError: a number is out of its range.
    """

    frames_per_core_s: float
    clips_per_s: float
    request_s: float = 0.0
    video_s: float = 0.1
    core_share: float = 0.9

    def __post_init__(self) -> None:
        require("frames_per_core_s", self.frames_per_core_s, above=0)
        require("clips_per_s", self.clips_per_s, above=0)
        require("request_s", self.request_s, least=0)
        require("video_s", self.video_s, least=0)
        require("core_share", self.core_share, above=0)

    def cores_worth(self, cores: int) -> float:
        """What so many cores give together, in cores that work alone."""
        return 1.0 if cores == 1 else cores * self.core_share

    def faster(self, factor: float) -> Rates:
        """All of it so many times as fast."""
        return replace(
            self,
            frames_per_core_s=self.frames_per_core_s * factor,
            clips_per_s=self.clips_per_s * factor,
            request_s=self.request_s / factor,
            video_s=self.video_s / factor,
        )


@dataclass(frozen=True)
class Cluster:
    """What a run is given to work with.

    Args:
        pods: shards at a time.
        cores: of each of these pods, and so videos at a time in it.
        replicas: of the server.
        gpus_per_replica: 0 for a server without.
        pod_start_s: until a pod runs, in seconds: scheduled, image pulled, Python imported.
        preemptions_per_h: how often a worker's pod is taken away, in an hour; its shard starts
            over.
        retries: how often it may.
        network_gbit: of each worker pod and each replica, each way, in 10^9 bits a second.
        storage_mb_per_s: of one video that is read, in 10^6 bytes a second; 85 is an assumption,
            of the size that one request to an object store gives.
        one_machine: the server computes on the same cores as the one pod, so their times add up.

    Raises:
        UsageError: a number is out of its range.
    """

    pods: int = 8
    cores: int = 4
    replicas: int = 1
    gpus_per_replica: int = 1
    pod_start_s: float = 30.0
    preemptions_per_h: float = 0.0
    retries: int = 2
    network_gbit: float = 10.0
    storage_mb_per_s: float = 85.0
    one_machine: bool = False

    def __post_init__(self) -> None:
        for name in ("pods", "cores", "replicas"):
            require(name, getattr(self, name), least=1)
        for name in ("gpus_per_replica", "pod_start_s", "preemptions_per_h", "retries"):
            require(name, getattr(self, name), least=0)
        require("network_gbit", self.network_gbit, above=0)
        require("storage_mb_per_s", self.storage_mb_per_s, above=0)
        if self.one_machine and (self.pods != 1 or self.replicas != 1):
            raise UsageError(
                f"pods is {self.pods} and replicas {self.replicas}; one machine has 1 of each"
            )


@dataclass(frozen=True)
class Bench:
    """What ``c3d bench --json`` found.

    Args:
        rates: as far as it was measured; None where it had no server.
        frames_per_core_s: frames that one core decodes and prepares in a second.
        film: the size of the film that it was measured with.
        cores: of that machine.
    """

    rates: Rates | None
    frames_per_core_s: float
    film: Resolution
    cores: int

    def frames_at(self, size: Resolution) -> float:
        """``frames_per_core_s`` for films of another size; see :data:`FRAME_PIXELS`."""
        factor = (self.film.pixels + FRAME_PIXELS) / (size.pixels + FRAME_PIXELS)
        return self.frames_per_core_s * factor


def read_bench(text: str | bytes, *, batch_size: int, source: str = "bench") -> Bench:
    """Read what ``c3d bench --json`` printed.

    With the server measured at two sizes of batch, a request's own cost is told from its clips': a
    short video's last request is seldom full.

    Args:
        text: the JSON object.
        batch_size: clips in a request of the run.
        source: where it is from, for the error.

    Raises:
        UsageError: it is not that, or a number in it is none.
    """
    try:
        found: Mapping[str, Any] = json.loads(text)
        decode = found["decode"]
        film = Resolution(int(decode["width"]), int(decode["height"]), math.nan)
        frames_per_core_s, cores = float(found["frames_per_core_s"]), int(found["cores"])
        require("frames_per_core_s", frames_per_core_s, above=0)
        require("the film's pixels", film.pixels, least=1)
        rates = None
        if found["server"] is not None:
            rates = _served(found["server"]["batches"], frames_per_core_s, batch_size=batch_size)
        return Bench(rates, frames_per_core_s, film, cores)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{source}: is not what `c3d bench --json` prints ({what}); run that into a file"
        ) from error


def _served(
    batches: list[Mapping[str, Any]], frames_per_core_s: float, *, batch_size: int
) -> Rates:
    rows = sorted(batches, key=lambda row: abs(math.log(float(row["batch_size"]) / batch_size)))
    if not rows:
        raise ValueError("no batch was measured")
    size, clips_per_s = float(rows[0]["batch_size"]), float(rows[0]["clips_per_s"])
    require("clips_per_s", clips_per_s, above=0)
    clip_s, request_s = 1 / clips_per_s, 0.0
    for other in rows[1:]:
        other_size = float(other["batch_size"])
        if other_size < size:
            # size / rate = request_s + size x clip_s, and the same at the other size.
            slope = size / clips_per_s - other_size / float(other["clips_per_s"])
            clip_s = min(clip_s, max(slope / (size - other_size), clip_s / 100))
            request_s = size * (1 / clips_per_s - clip_s)
            break
    return Rates(
        frames_per_core_s, 1 / clip_s, request_s=request_s, video_s=float(rows[0]["alone_s"])
    )
