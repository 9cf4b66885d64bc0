"""Videos to C3D features and labels, asked from a TensorFlow Serving server over gRPC.

    from c3d_client import C3DClient

    with C3DClient("localhost:8500") as c3d:
        feature = c3d.extract("video.mp4").video_feature      # float32 [4096], length 1
        best = c3d.classify("video.mp4", top_k=5).top[0]      # .label, .probability

Names are loaded on first use, so that a module of the package that needs only the contract does
not pay for the decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_client.aggregate import ClassScore
    from c3d_client.atomic import atomic_file
    from c3d_client.channel import ServingOptions
    from c3d_client.clips import Clip, ClipWindow, iter_clips, prepare_frame
    from c3d_client.errors import (
        C3DError,
        ContractMismatch,
        ModelNotFound,
        OutputError,
        ProvenanceError,
        RequestRejected,
        ServingError,
        ServingOverloaded,
        ServingTimeout,
        ServingUnavailable,
        UsageError,
        VideoDecodeError,
        VideoError,
        VideoTooShortError,
    )
    from c3d_client.extract import C3DClient, Timings, VideoClassification, VideoFeatures
    from c3d_client.model_info import ModelInfo
    from c3d_client.outputs import read_npz, write_npz
    from c3d_client.provenance import mean_feature, require_same
    from c3d_client.serving import VersionStatus
    from c3d_client.video import Frame, decode_frames

_HOMES = {
    "aggregate": ("ClassScore",),
    "atomic": ("atomic_file",),
    "channel": ("ServingOptions",),
    "clips": ("Clip", "ClipWindow", "iter_clips", "prepare_frame"),
    "errors": (
        "C3DError",
        "ContractMismatch",
        "ModelNotFound",
        "OutputError",
        "ProvenanceError",
        "RequestRejected",
        "ServingError",
        "ServingOverloaded",
        "ServingTimeout",
        "ServingUnavailable",
        "UsageError",
        "VideoDecodeError",
        "VideoError",
        "VideoTooShortError",
    ),
    "extract": ("C3DClient", "Timings", "VideoClassification", "VideoFeatures"),
    "model_info": ("ModelInfo",),
    "outputs": ("read_npz", "write_npz"),
    "provenance": ("mean_feature", "require_same"),
    "serving": ("VersionStatus",),
    "video": ("Frame", "decode_frames"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "C3DClient",
    "C3DError",
    "ClassScore",
    "Clip",
    "ClipWindow",
    "ContractMismatch",
    "Frame",
    "ModelInfo",
    "ModelNotFound",
    "OutputError",
    "ProvenanceError",
    "RequestRejected",
    "ServingError",
    "ServingOptions",
    "ServingOverloaded",
    "ServingTimeout",
    "ServingUnavailable",
    "Timings",
    "UsageError",
    "VersionStatus",
    "VideoClassification",
    "VideoDecodeError",
    "VideoError",
    "VideoFeatures",
    "VideoTooShortError",
    "atomic_file",
    "decode_frames",
    "iter_clips",
    "mean_feature",
    "prepare_frame",
    "read_npz",
    "require_same",
    "write_npz",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
