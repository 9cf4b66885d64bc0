"""The videos most like another: the cosine of features, over a dataset that is streamed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client import VideoFeatures
from c3d_client.contract import FEATURE_SIZE
from c3d_client.errors import ProvenanceError, UsageError
from c3d_client.provenance import differences


@dataclass(frozen=True)
class Neighbour:
    """A video and how like the query it is.

    Args:
        video_id: in the dataset.
        similarity: the cosine, -1 to 1; 1 is the same direction.
    """

    video_id: str
    similarity: float


def query_vector(
    query: npt.NDArray[Any] | VideoFeatures, *, provenance: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """What to compare with a dataset: float32 ``[4096]``, length 1.

    Args:
        query: a feature, or a video's features.
        provenance: of the dataset.

    Raises:
        UsageError: it is not a feature.
        ProvenanceError: the features were made differently from the dataset's.
    """
    if isinstance(query, VideoFeatures):
        if found := differences(provenance, query.provenance):
            raise ProvenanceError(
                "the dataset's features and the query's were made differently and cannot be "
                f"compared: {'; '.join(found)}; extract the query as the dataset was"
            )
        query = query.video_feature
    vector = np.asarray(query, np.float64)
    length = np.linalg.norm(vector)
    if vector.shape != (FEATURE_SIZE,) or not np.isfinite(length) or not length:
        raise UsageError(
            f"the query is of shape {list(vector.shape)} and length {length:g}; give a video_id "
            f"or a feature of shape [{FEATURE_SIZE}] that is finite and not zero"
        )
    unit: npt.NDArray[np.float32] = (vector / length).astype(np.float32)
    return unit


def nearest_of(
    parts: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]],
    query: npt.NDArray[np.float32],
    *,
    k: int,
    but: int = -1,
) -> list[tuple[int, float]]:
    """The k rows most like a query, most like first; of equals, the one with the lower number.

    Args:
        parts: numbers of rows, int64 ``[m]``, and the rows, float32 ``[m, size]``.
        query: float32 ``[size]``, length 1.
        k: how many.
        but: the number of a row to leave out.
    """
    numbers: npt.NDArray[np.int64] = np.empty(0, np.int64)
    cosines: npt.NDArray[np.float32] = np.empty(0, np.float32)
    for at, rows in parts:
        lengths = np.linalg.norm(rows, axis=1)
        found = np.divide(rows @ query, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        numbers = np.append(numbers, at[at != but])
        cosines = np.append(cosines, found[at != but])
        best = np.lexsort((numbers, -cosines))[:k]
        numbers, cosines = numbers[best], cosines[best]
    return list(zip(numbers.tolist(), cosines.tolist(), strict=True))
