"""Clip outputs to one answer for the video: mean, norm, and the best classes.

The paper's video descriptor is the average of the clips' fc6 activations, L2-normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.errors import UsageError


class RunningMean:
    """The mean of rows that arrive in batches, summed in float64 so that order hardly matters."""

    def __init__(self) -> None:
        self._sum: npt.NDArray[np.float64] | None = None
        self.count = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add a batch of rows ``[n, size]``."""
        total = rows.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self.count += len(rows)

    def value(self) -> npt.NDArray[np.float64]:
        """The mean so far, float64 ``[size]``.

        Raises:
            ValueError: nothing was added.
        """
        if self._sum is None or not self.count:
            raise ValueError("the mean of no rows")
        return self._sum / self.count


def l2_normalise(vector: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale a vector to length 1.

    Returns:
        float32, the same shape.

    Raises:
        ValueError: the vector holds a NaN or infinity, or its length is zero: that is never a
            feature, but the sign of a broken model.
    """
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm):
        raise ValueError("the feature holds NaN or infinity")
    if norm == 0.0:
        raise ValueError("the feature is zero everywhere")
    return (vector / norm).astype(np.float32)


@dataclass(frozen=True)
class ClassScore:
    """One class of an answer: its index, its label and its probability (0 to 1)."""

    index: int
    label: str
    probability: float


def top_classes(
    probabilities: npt.NDArray[Any], labels: Sequence[str], *, top_k: int
) -> tuple[ClassScore, ...]:
    """The most probable classes, best first; among equals the lower index first.

    Args:
        probabilities: ``[classes]``.
        labels: one for each class.
        top_k: how many, 1 or more; no more than there are.

    Raises:
        UsageError: top_k is below 1.
    """
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; give 1 or more")
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(ClassScore(int(i), labels[i], float(probabilities[i])) for i in order)
