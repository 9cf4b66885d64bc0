"""What a file of features holds, whatever its format: checked on the way out and on the way in."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.errors import UsageError
from c3d_client.core.files import CHUNK_ROWS, row_chunks
from c3d_client.results import RowStore, RunningMean, Timings, VideoFeatures, l2_normalise

# The first frame of a clip where a format does not keep it.
UNKNOWN_START = -1

_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "clip_features": ("float32", (FEATURE_SIZE,)),
    "clip_starts": ("int64", ()),
    "clip_times_s": ("float64", (2,)),
}
_UNTIMED = Timings(wall_s=0.0, decode_s=0.0, wire_s=0.0, queue_s=None, compute_s=None)


def check(features: VideoFeatures) -> None:
    """See that features are what every format expects.

    Raises:
        ValueError: an array has another dtype or shape, or there are no clips.
    """
    clips = len(features.clip_starts)
    if not clips:
        raise ValueError("no clips")
    for name, (dtype, rest) in _ARRAYS.items():
        expect(name, getattr(features, name), dtype=dtype, shape=(clips, *rest))
    expect("video_feature", features.video_feature, dtype="float32", shape=(FEATURE_SIZE,))


def expect(name: str, array: Any, *, dtype: str, shape: tuple[int, ...]) -> None:
    """See that an array, or a dataset that is not read yet, is as it should be.

    Args:
        name: what it is called.
        array: anything with a dtype and a shape.
        dtype: NumPy's name of it.
        shape: -1 stands for any length.

    Raises:
        ValueError: it is not.
    """
    found = tuple(array.shape)
    fits = len(found) == len(shape) and all(w in (-1, f) for f, w in zip(found, shape, strict=True))
    if np.dtype(array.dtype) != np.dtype(dtype) or not fits:
        wanted = ", ".join("n" if w == -1 else str(w) for w in shape)
        raise ValueError(
            f"{name} is {array.dtype} [{', '.join(map(str, found))}]; expected {dtype} [{wanted}]"
        )


def collect(chunks: Iterable[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Rows read by the chunk, float32 ``[n, 4096]``; many of them are kept on disk, as in `rows`.

    Raises:
        ValueError: there are none.
    """
    store = RowStore()
    for chunk in chunks:
        store.add(chunk)
    if not store.count:
        raise ValueError("no clips")
    return store.array()


def slices(dataset: Any) -> Iterator[npt.NDArray[np.float32]]:
    """The rows of a dataset ``[n, 4096]`` that is read where it is sliced, by the chunk."""
    for start in range(0, dataset.shape[0], CHUNK_ROWS):
        yield dataset[start : start + CHUNK_ROWS]


def features_of(
    *,
    clip_features: npt.NDArray[np.float32],
    provenance: dict[str, Any],
    clip_starts: npt.NDArray[np.int64] | None = None,
    clip_times_s: npt.NDArray[np.float64] | None = None,
    video_feature: npt.NDArray[np.float32] | None = None,
) -> VideoFeatures:
    """The features of a video out of what a format keeps of them.

    Where it keeps no more, starts are :data:`UNKNOWN_START`, times are NaN, and the video feature
    is computed again: the L2-normalised mean.

    Raises:
        ValueError: they are not features; see :func:`check`.
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
        video_feature = l2_normalise(mean.value())
    features = VideoFeatures(
        clip_starts=clip_starts,
        clip_times_s=clip_times_s,
        clip_features=clip_features,
        video_feature=video_feature,
        provenance=provenance,
        timings=_UNTIMED,
    )
    check(features)
    return features


def to_json(provenance: Mapping[str, Any]) -> str:
    """A provenance as JSON text, its keys in order.

    Raises:
        ValueError: it holds what JSON has no words for.
    """
    try:
        return json.dumps(provenance, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance is not JSON: {error}") from error


def from_json(text: str | bytes) -> dict[str, Any]:
    """A JSON object back from its text.

    Raises:
        ValueError: it is not one.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("what should be a JSON object is not one")
    return content


def needed(module: str, *, extra: str) -> Any:
    """A module of an optional library.

    Raises:
        UsageError: the library is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module.partition('.')[0]} is not installed and this format needs it; "
            f"pip install 'c3d-client[{extra}]'"
        ) from error
