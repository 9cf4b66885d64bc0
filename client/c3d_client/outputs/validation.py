"""The checks of features, whatever their format, before writing and after reading."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import LAYERS
from c3d_client.core.errors import UsageError
from c3d_client.core.files import row_chunks
from c3d_client.core.provenance import Provenance
from c3d_client.core.text import escape_bytes
from c3d_client.results import RowStore, RunningMean, Timings, VideoFeatures, l2_normalise

# The first frame of a clip where a format does not store it.
UNKNOWN_START = -1

_NO_TIMINGS = Timings(wall_s=0.0, decode_s=0.0, wire_s=0.0, queue_s=None, compute_s=None)


def check_features(features: VideoFeatures) -> None:
    """Check the shapes and dtypes that every format expects.

    Raises:
        ValueError: an array has another dtype or shape, there are no clips, or the layers are not
            those of the provenance.
    """
    clips = len(features.clip_starts)
    if not clips:
        raise ValueError("no clips")
    (_, first), *further = row_shapes(Provenance(features.provenance)).items()
    rows = {"clip_features": (features.clip_features, first)}
    if list(features.layers) != [name for name, _ in further]:
        raise ValueError(
            f"the layers after the first are {', '.join(features.layers) or 'none'}; "
            f"expected {', '.join(name for name, _ in further) or 'none'}, as in the provenance"
        )
    rows |= {name: (features.layers[name], shape) for name, shape in further}
    for name, (array, shape) in rows.items():
        check_array(name, array, dtype="float32", shape=(clips, *shape))
    check_array("clip_starts", features.clip_starts, dtype="int64", shape=(clips,))
    check_array("clip_times_s", features.clip_times_s, dtype="float64", shape=(clips, 2))
    size = math.prod(features.clip_features.shape[1:])
    check_array("video_feature", features.video_feature, dtype="float32", shape=(size,))


def row_shapes(provenance: Provenance) -> dict[str, tuple[int, ...]]:
    """Return the shape of a clip's row in each layer of a provenance; -1 for any length.

    Raises:
        ValueError: this release does not know a layer.
    """
    unknown = [name for name in provenance.layers if name not in LAYERS]
    if unknown:
        raise ValueError(
            f"layer {', '.join(unknown)}; this release knows {', '.join(LAYERS)}: "
            "install the release that wrote it"
        )
    shapes = {name: LAYERS[name].shape for name in provenance.layers}
    if provenance.get("pca") is not None:  # reduces the first layer
        shapes[provenance.layers[0]] = (provenance.feature_size,)
    return shapes


def check_array(name: str, array: Any, *, dtype: str, shape: tuple[int, ...]) -> None:
    """Check the dtype and shape of an array, or of a dataset that is not read yet.

    Args:
        name: the array's name, for the message.
        array: anything with a dtype and a shape.
        dtype: the expected dtype by NumPy's name.
        shape: the expected shape; -1 for any length.

    Raises:
        ValueError: the dtype or the shape differs.
    """
    actual = tuple(array.shape)
    fits = len(actual) == len(shape) and all(
        length in (-1, size) for size, length in zip(actual, shape, strict=True)
    )
    if np.dtype(array.dtype) != np.dtype(dtype) or not fits:
        expected = ", ".join("n" if length == -1 else str(length) for length in shape)
        raise ValueError(
            f"{name} is {array.dtype} [{', '.join(map(str, actual))}]; "
            f"expected {dtype} [{expected}]"
        )


def collect_rows(chunks: Iterable[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return rows that are read in chunks, float32 ``[n, ...]``; many rows stay on disk.

    Raises:
        ValueError: there are no rows.
    """
    store = RowStore()
    for chunk in chunks:
        store.add(chunk)
    if not store.count:
        raise ValueError("no clips")
    return store.array()


def make_features(
    *,
    clip_features: npt.NDArray[np.float32],
    provenance: Provenance,
    clip_starts: npt.NDArray[np.int64] | None = None,
    clip_times_s: npt.NDArray[np.float64] | None = None,
    video_feature: npt.NDArray[np.float32] | None = None,
    layers: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> VideoFeatures:
    """Return a video's features from the parts that a format stores.

    Starts that it does not store are :data:`UNKNOWN_START`, times are NaN, and the video feature
    is computed from the clips: their L2-normalised mean.

    Raises:
        ValueError: the parts are no features; see :func:`check_features`.
    """
    clips = len(clip_features)
    if clip_starts is None:
        clip_starts = np.full(clips, UNKNOWN_START, np.int64)
    if clip_times_s is None:
        clip_times_s = np.full((clips, 2), np.nan)
    if video_feature is None:
        mean = RunningMean()
        for chunk in row_chunks(clip_features):
            mean.add(chunk)
        video_feature = l2_normalise(mean.value().reshape(-1))
    features = VideoFeatures(
        clip_starts=clip_starts,
        clip_times_s=clip_times_s,
        clip_features=clip_features,
        video_feature=video_feature,
        provenance=provenance.to_dict(),
        timings=_NO_TIMINGS,
        layers=layers or {},
    )
    check_features(features)
    return features


def video_source(features: VideoFeatures) -> str:
    """Return the address of the video that features are of; empty where it is unknown."""
    return escape_bytes(str(Provenance(features.provenance).video.get("source", "")))


def provenance_json(features: VideoFeatures) -> str:
    """Return the provenance of features as JSON text with sorted keys, unknown fields included.

    Raises:
        ValueError: the provenance has a value that JSON cannot represent.
    """
    try:
        return json.dumps(features.provenance, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance is not JSON: {error}") from error


def parse_provenance(text: str | bytes) -> Provenance:
    """Parse a provenance, unknown fields included.

    Raises:
        ValueError: the text is not a JSON object.
    """
    return Provenance(parse_object(text))


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: the text is not a JSON object.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def load_library(module: str, *, extra: str) -> Any:
    """Import a module of an optional library.

    Raises:
        UsageError: the library is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module.partition('.')[0]} is not installed and this format needs it; "
            f"pip install 'c3d-client[{extra}]'"
        ) from error
