"""What made a feature, and whether two features may meet in one mean or one file.

Numbers of different weights, means, precisions, crops, strides or decoders look alike and are not
comparable. Which video they are of, and the number under which the model was served, do not matter.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.aggregate import RunningMean, l2_normalise
from c3d_client.clips import ClipWindow
from c3d_client.contract import CLIP_FRAMES, CONTRACT_VERSION, PREPROCESSING
from c3d_client.errors import ProvenanceError, UsageError
from c3d_client.model_info import ModelInfo
from c3d_client.video import decoder_versions

# What must agree: the path of each value in a provenance. Digests stand for what they are of.
COMPARED = (
    ("contract_version",),
    ("model", "weights", "sha256"),
    ("model", "mean", "sha256"),
    ("model", "precision"),
    ("preprocessing",),
    ("clips",),
    ("software", "opencv"),
    ("software", "pyav"),
    ("software", "libavcodec"),
)
_FAST_RESIZE = "171x128 opencv-linear on Y, U and V, then colours"
# What is repeated of the model card's weights and mean: enough to know them again.
_KEPT = ("source", "format", "random", "note", "known_as", "sha256", "file_sha256")


def model_provenance(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a model card says that belongs into every result: weights, mean and precision."""
    kept: dict[str, Any] = {"precision": card.get("precision")}
    for part in ("weights", "mean"):
        said = card.get(part) or {}
        kept[part] = {key: said[key] for key in _KEPT if key in said}
    return kept


def made_by(model: str, info: ModelInfo, window: ClipWindow) -> dict[str, Any]:
    """What a result says of how it was made, all but the video.

    Args:
        model: the served model's name.
        info: its version and card.
        window: how clips are made of the film.
    """
    preprocessing = dict(PREPROCESSING)
    if window.resize == "fast":
        preprocessing["resize"] = _FAST_RESIZE
    return {
        "contract_version": CONTRACT_VERSION,
        "model": {"name": model, "version": info.version, **model_provenance(info.card)},
        "preprocessing": preprocessing,
        "clips": {
            "frames": CLIP_FRAMES,
            "stride": window.stride,
            "frame_step": window.frame_step,
            "tail": window.tail,
            "short": window.short,
            "fps": window.fps,
        },
        "software": {
            "c3d_client": importlib.metadata.version("c3d-client"),
            "opencv": cv2.__version__,
            **decoder_versions(),
        },
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what two provenances differ, of what must agree; empty where the numbers may meet."""
    found = []
    for path in COMPARED:
        here, there = _value(one, path), _value(other, path)
        if here != there:
            found.append(f"{'.'.join(path)}: {here!r} against {there!r}")
    return found


def provenance_digest(provenance: Mapping[str, Any]) -> str:
    """One name for all that must agree: sha256, 64 hex digits; equal where `differences` has none.

    Numbers under one digest may be averaged, merged and taken from a cache.
    """
    values = [_value(provenance, path) for path in COMPARED]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def require_same(provenances: Iterable[Mapping[str, Any]]) -> None:
    """See that results may be averaged or merged.

    Raises:
        ProvenanceError: two of them differ; the message names in what.
    """
    first: Mapping[str, Any] | None = None
    for provenance in provenances:
        if first is None:
            first = provenance
        elif found := differences(first, provenance):
            raise ProvenanceError(
                f"features of {_name(first)} and {_name(provenance)} were made differently and "
                f"cannot be mixed: {'; '.join(found)}; extract them again the same way"
            )


def mean_feature(
    features: Sequence[tuple[npt.NDArray[Any], Mapping[str, Any]]],
) -> npt.NDArray[np.float32]:
    """The mean of several videos' features, for a class or a query: length 1.

    Args:
        features: pairs of a video feature ``[4096]`` and its provenance.

    Returns:
        float32 ``[4096]``.

    Raises:
        UsageError: there are none.
        ProvenanceError: they were made differently.
        ValueError: their mean is zero or not finite.
    """
    if not features:
        raise UsageError("the mean of no features; give at least one")
    require_same(provenance for _, provenance in features)
    mean = RunningMean()
    for feature, _ in features:
        mean.add(np.asarray(feature)[None])
    return l2_normalise(mean.value())


def _value(provenance: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = provenance
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _name(provenance: Mapping[str, Any]) -> str:
    return str(_value(provenance, ("video", "source")) or "an unnamed video")
