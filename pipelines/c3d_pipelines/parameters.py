"""The parameters of a bulk run, declared once for the command, the pipelines and the steps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from c3d_client.core.contract import CLIP_STRIDE, MAX_BATCH_SIZE, MODEL_NAME
from c3d_client.core.errors import UsageError

if TYPE_CHECKING:  # the command reads this module for its help, without the decoder and gRPC
    from c3d_client import ClipWindow

ANSWERS = ("features", "classes")
# The pipeline of each answer, for the commands in reports.
PIPELINES = {"features": "c3d-bulk-extraction", "classes": "c3d-bulk-classification"}
NEWEST = "newest"
ANY_MODEL = "any"
NO_PCA = "none"
QUICK, CONTENT = "quick", "content"
# The server of a run that names none: the address in this environment variable, which
# k8s/pipelines/ keeps in a ConfigMap, or else the server of k8s/ by its usual name.
CONFIGURED = "configured"
SERVER_VARIABLE = "C3D_SERVER"
CLUSTER_SERVER = "dns:///c3d-grpc.c3d.svc.cluster.local:8500"
LONGEST_PATIENCE_S = 86_400
# How long the pod of a step may run, in seconds; 0 for no limit. The compiled pipelines set it.
POD_TIMEOUT_VARIABLE = "C3D_POD_TIMEOUT_S"
# The most shards of a run on a cluster. Kubernetes stores a run's workflow as one object; with
# Kubeflow Pipelines 2.17, 150 shards ended at 0.62 MB of it and 299 of 320 at 1.04 MB, where the
# backend refused it: the run failed without a message, and nothing was published.
MOST_SHARDS = 200


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a bulk run: what an option, a component or a form needs to offer it.

    Args:
        name: the name in Python and in the pipelines.
        type: ``str``, ``int``, ``float`` or ``bool``.
        default: the value where none is given.
        help: one sentence, without a capital and a full stop.
        choices: the allowed values; empty where any value of the range is allowed.
        low: the smallest allowed number; None without one.
        high: the largest allowed number; None without one.
    """

    name: str
    type: type[Any]
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def convert(self, value: Any) -> Any:
        """Return a value in the parameter's type; Kubeflow passes whole numbers as floats.

        Raises:
            UsageError: the value is not of the type.
        """
        if self.type is int:
            return whole(self.name, value)
        # bool() takes every text but the empty one for True, "false" too.
        if self.type is bool and value not in (True, False):
            raise UsageError(f"{self.name} is {value!r}; give True or False")
        try:
            return self.type(value)
        except (TypeError, ValueError):
            raise UsageError(f"{self.name} is {value!r}; give a {self.type.__name__}") from None


def _declare(
    default: Any,
    description: str,
    *,
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    metadata = {"help": description, "choices": tuple(choices), "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class JobParameters:
    """The parameters of a bulk run: names, types, defaults, ranges and help texts.

    The command's options, the pipelines' signatures and the steps follow this declaration. Read
    it as :data:`PARAMETERS`; each value is described by its help text.
    """

    videos: str = _declare(
        "/data/videos", "a folder, an s3:// or gs:// prefix, or a manifest (CSV, JSONL, Parquet)"
    )
    out: str = _declare(
        "/data/features",
        "the dataset, a folder or an s3:// or gs:// prefix; a run continues what is there",
    )
    server: str = _declare(
        CONFIGURED, "the gRPC address; configured is the address that the cluster is set up with"
    )
    model: str = _declare(MODEL_NAME, "the served model's name")
    model_version: str = _declare(NEWEST, "newest, a number, or label:NAME")
    model_digest: str = _declare(
        ANY_MODEL,
        "digest of the model that the run is for, as the log of an earlier run has it; another "
        "model is refused; any accepts the model that is served",
    )
    stride: int = _declare(CLIP_STRIDE, "frames from one clip's start to the next", low=1)
    frame_step: int = _declare(1, "frames from one frame of a clip to the next", low=1)
    tail: str = _declare(
        "drop", "frames at the end that fill no clip", choices=("drop", "pad", "loop")
    )
    short: str = _declare(
        "error", "a video shorter than one clip", choices=("error", "pad", "loop")
    )
    fps: float = _declare(
        0.0, "frames per second to sample; 0 for all frames of the file", low=0, high=1000
    )
    resize: str = _declare(
        "exact",
        "OpenCV's pixels, or nearly the same pixels in less time",
        choices=("exact", "fast"),
    )
    damage: str = _declare(
        "error",
        "a video with damaged pictures; skip leaves out the clips that touch them",
        choices=("error", "skip"),
    )
    pca: str = _declare(
        NO_PCA,
        "PCA that reduces the features, a file of c3d pca fit: a path, s3:// or gs://; none for "
        "all numbers of the layer",
    )
    any_file: bool = _declare(
        False, "take the files of every suffix in folders, prefixes and patterns"
    )
    clip_rows: bool = _declare(True, "store the numbers of each clip, not only of each video")
    keys: str = _declare(
        QUICK,
        "identify videos by size and time or ETag, or by all of their bytes",
        choices=(QUICK, CONTENT),
    )
    # On a cluster a shard costs 30 s of pods that start, whatever its size. Four cores, a worker's
    # limit, decode 10 hours of 720p (12 GB at 2.7 Mbit/s) in ten minutes, at 410 frames/s a core
    # and 0.9 of that for each of several (estimate/rates.py).
    shard_mb: float = _declare(12_000.0, "most MB of videos in a shard", low=0)
    shard_minutes: float = _declare(
        600.0, "most minutes of video in a shard, where the videos' lengths are known", low=0
    )
    max_shards: int = _declare(
        MOST_SHARDS,
        "most shards in a run; shards grow past the other two limits to keep this one",
        low=1,
    )
    workers: int = _declare(0, "videos at a time in one shard; 0 for one per core", low=0)
    batch_size: int = _declare(8, "clips in a request", low=1, high=MAX_BATCH_SIZE)
    max_in_flight: int = _declare(16, "most concurrent requests of one shard", low=1)
    timeout_s: float = _declare(60.0, "the deadline of one request, in seconds", low=0)
    patience_s: float = _declare(
        600.0,
        "how long a shard waits for a server or a store that is away, in seconds",
        low=0,
        high=LONGEST_PATIENCE_S,
    )
    retry_failed: bool = _declare(False, "retry the videos that failed for good in earlier runs")
    max_failed: int = _declare(
        0,
        "how many videos of a run may end not ok, if max_failed_share does not allow more; -1 for "
        "any number",
        low=-1,
    )
    max_failed_share: float = _declare(
        0.01,
        "the share of a run's inputs that may end not ok, rounded down to whole videos; 0 leaves "
        "max_failed alone",
        low=0,
        high=1,
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> JobParameters:
        """Convert values by name, such as a pipeline's arguments; missing ones have the default.

        Raises:
            UsageError: a name is not a parameter's, or a value is not of the parameter's type.
        """
        if unknown := sorted(set(values) - set(PARAMETERS)):
            raise UsageError(
                f"{', '.join(unknown)}: not a parameter of a bulk run; give {', '.join(PARAMETERS)}"
            )
        return cls(**{name: PARAMETERS[name].convert(value) for name, value in values.items()})

    @property
    def window(self) -> ClipWindow:
        """How clips are made of a video.

        Raises:
            UsageError: a value is out of its range.
        """
        from c3d_client import ClipWindow

        return ClipWindow(
            stride=self.stride,
            frame_step=self.frame_step,
            tail=self.tail,
            short=self.short,
            resize=self.resize,
            fps=self.fps or None,
            damage=self.damage,
        )


def _parameter(declared: Field[Any]) -> Parameter:
    types = {"str": str, "int": int, "float": float, "bool": bool}
    return Parameter(
        name=declared.name,
        type=types[str(declared.type)],
        default=declared.default,
        **declared.metadata,
    )


PARAMETERS: Mapping[str, Parameter] = {
    declared.name: _parameter(declared) for declared in fields(JobParameters)
}


def allowed_failures(*, max_failed: int, max_failed_share: float, inputs: int) -> int | None:
    """Return how many of a run's videos may end not ok; None for any number.

    The larger of ``max_failed`` and ``max_failed_share`` x ``inputs``, rounded down. The share
    counts as the decimal number that it is written as: 0.29 of 100 inputs are 29, which is more
    than the product of the binary numbers.

    Args:
        max_failed: a number of videos; below 0 for any number.
        max_failed_share: a share of the inputs, 0 to 1.
        inputs: all inputs of the run's plan, also those that were done earlier.

    Raises:
        UsageError: the share is not from 0 to 1.
    """
    if not 0 <= max_failed_share <= 1:
        raise UsageError(f"max_failed_share is {max_failed_share}; give 0 to 1, such as 0.01")
    if max_failed < 0:
        return None
    return max(max_failed, math.floor(Fraction(str(max_failed_share)) * inputs))


def server_address(server: str) -> str:
    """Return the address of the server that a parameter, or else the environment, names."""
    if server != CONFIGURED:
        return server
    return os.environ.get(SERVER_VARIABLE, "").strip() or CLUSTER_SERVER


def require_few_shards(max_shards: int) -> None:
    """Refuse more shards than a run on a cluster may have.

    Raises:
        UsageError: ``max_shards`` is above :data:`MOST_SHARDS`.
    """
    if max_shards > MOST_SHARDS:
        raise UsageError(
            f"max_shards is {max_shards}; give {MOST_SHARDS} or fewer: at about 300 shards a "
            "run's workflow is too large for Kubernetes, and the run fails without a message; "
            "larger shards or several runs do the same work"
        )


def whole(name: str, value: Any) -> int:
    """Return a whole number that Kubeflow may have made a float.

    Raises:
        UsageError: the value is not a whole number.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise UsageError(f"{name} is {value}; give a whole number")
    return number
