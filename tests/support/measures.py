"""Distances between two sets of rows."""

from __future__ import annotations

import numpy as np


def relative(answer: np.ndarray, reference: np.ndarray) -> float:
    """Return the length of the difference over that of the reference, for the worst row."""
    lengths = np.linalg.norm(reference, axis=-1)
    return float((np.linalg.norm(answer - reference, axis=-1) / lengths).max())


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the lowest cosine of two corresponding rows."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).min())
