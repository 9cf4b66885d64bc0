"""C3D features and class labels of videos, computed by TensorFlow Serving.

    from c3d_client import C3DClient

    with C3DClient("localhost:8500") as c3d:
        feature = c3d.extract("video.mp4").video_feature      # float32 [4096], length 1
        best = c3d.classify("video.mp4", top_k=5).top[0]      # .label, .probability

Start with :class:`c3d_client.client.C3DClient`. The packages are ``video`` (videos to clips),
``serving`` (requests to the server), ``outputs`` (files of features), ``views`` (tables and pages),
``commands`` (the command ``c3d``) and ``core`` (contract, errors and helpers for all of them).

Names are imported on first use, so that code that needs only the contract does not import the
decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_client.client import C3DClient
    from c3d_client.core.errors import (
        C3DError,
        Cancelled,
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
        VideoTooLarge,
        VideoTooShortError,
        VideoUnreadableError,
    )
    from c3d_client.core.files import atomic_file
    from c3d_client.core.provenance import provenance_digest, require_same
    from c3d_client.outputs import convert, read_features, read_npz, write_features, write_npz
    from c3d_client.parallel import Outcome
    from c3d_client.pca import PCA, fit_pca
    from c3d_client.results import (
        ClassScore,
        Timings,
        VideoClassification,
        VideoFeatures,
        mean_feature,
    )
    from c3d_client.serving.client import VersionStatus
    from c3d_client.serving.model_info import ModelInfo
    from c3d_client.serving.options import ServingOptions
    from c3d_client.video.clips import Clip, ClipWindow, iter_clips
    from c3d_client.video.decode import Frame, decode_frames
    from c3d_client.video.frame import Picture, prepare_frame
    from c3d_client.video.sources import VIDEO_SUFFIXES, Scan, Source, expand
    from c3d_client.views.page import write_page
    from c3d_client.views.timeline import write_timeline

_MODULES = {
    "client": ("C3DClient",),
    "core.errors": (
        "C3DError",
        "Cancelled",
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
        "VideoTooLarge",
        "VideoTooShortError",
        "VideoUnreadableError",
    ),
    "core.files": ("atomic_file",),
    "core.provenance": (
        "provenance_digest",
        "require_same",
    ),
    "outputs": (
        "convert",
        "read_features",
        "read_npz",
        "write_features",
        "write_npz",
    ),
    "parallel": ("Outcome",),
    "pca": ("PCA", "fit_pca"),
    "results": (
        "ClassScore",
        "Timings",
        "VideoClassification",
        "VideoFeatures",
        "mean_feature",
    ),
    "serving.client": ("VersionStatus",),
    "serving.model_info": ("ModelInfo",),
    "serving.options": ("ServingOptions",),
    "video.clips": (
        "Clip",
        "ClipWindow",
        "iter_clips",
    ),
    "video.decode": (
        "Frame",
        "decode_frames",
    ),
    "video.frame": (
        "Picture",
        "prepare_frame",
    ),
    "video.sources": (
        "VIDEO_SUFFIXES",
        "Scan",
        "Source",
        "expand",
    ),
    "views.page": ("write_page",),
    "views.timeline": ("write_timeline",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

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
    "PCA",
    "Picture",
    "ProvenanceError",
    "RequestRejected",
    "Scan",
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
    "VideoTooLarge",
    "VideoTooShortError",
    "VideoUnreadableError",
    "atomic_file",
    "convert",
    "decode_frames",
    "expand",
    "fit_pca",
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
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
