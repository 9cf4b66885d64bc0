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
    from c3d_client.clips import Clip, ClipWindow, iter_clips
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
        VideoUnreadableError,
    )
    from c3d_client.extract import C3DClient
    from c3d_client.many import Outcome
    from c3d_client.model_info import ModelInfo
    from c3d_client.options import ServingOptions
    from c3d_client.outputs import convert, read_features, read_npz, write_features, write_npz
    from c3d_client.page import write_page
    from c3d_client.picture import Picture, prepare_frame
    from c3d_client.provenance import mean_feature, provenance_digest, require_same
    from c3d_client.results import Timings, VideoClassification, VideoFeatures
    from c3d_client.serving import VersionStatus
    from c3d_client.sources import VIDEO_SUFFIXES, Source, expand
    from c3d_client.timeline import write_timeline
    from c3d_client.video import Frame, decode_frames
    from c3d_client.walk import Cancelled

_HOMES = {
    "aggregate": ("ClassScore",),
    "atomic": ("atomic_file",),
    "clips": ("Clip", "ClipWindow", "iter_clips"),
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
        "VideoUnreadableError",
    ),
    "extract": ("C3DClient",),
    "many": ("Outcome",),
    "model_info": ("ModelInfo",),
    "options": ("ServingOptions",),
    "outputs": ("convert", "read_features", "read_npz", "write_features", "write_npz"),
    "page": ("write_page",),
    "picture": ("Picture", "prepare_frame"),
    "provenance": ("mean_feature", "provenance_digest", "require_same"),
    "results": ("Timings", "VideoClassification", "VideoFeatures"),
    "serving": ("VersionStatus",),
    "sources": ("VIDEO_SUFFIXES", "Source", "expand"),
    "timeline": ("write_timeline",),
    "video": ("Frame", "decode_frames"),
    "walk": ("Cancelled",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "C3DClient",
    "C3DError",
    "Cancelled",
    "ClassScore",
    "Clip",
    "ClipWindow",
    "ContractMismatch",
    "Frame",
    "ModelInfo",
    "ModelNotFound",
    "Outcome",
    "OutputError",
    "Picture",
    "ProvenanceError",
    "RequestRejected",
    "ServingError",
    "ServingOptions",
    "ServingOverloaded",
    "ServingTimeout",
    "ServingUnavailable",
    "Source",
    "Timings",
    "UsageError",
    "VIDEO_SUFFIXES",
    "VersionStatus",
    "VideoClassification",
    "VideoDecodeError",
    "VideoError",
    "VideoFeatures",
    "VideoTooShortError",
    "VideoUnreadableError",
    "atomic_file",
    "convert",
    "decode_frames",
    "expand",
    "iter_clips",
    "mean_feature",
    "prepare_frame",
    "provenance_digest",
    "read_features",
    "read_npz",
    "require_same",
    "write_features",
    "write_npz",
    "write_page",
    "write_timeline",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
