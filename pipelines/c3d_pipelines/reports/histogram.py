"""How long the videos are and how many clips they have: counts in bins that suit heavy tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Films of seconds and of hours fit on one page when a bin is about twice the one before it.
DURATION_EDGES_S = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
CLIP_EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


@dataclass(frozen=True)
class Bin:
    """The values from ``low`` up to but without ``high``; the last bin has no ``high``."""

    low: float
    high: float | None
    count: int


@dataclass(frozen=True)
class Histogram:
    """How values are spread.

    Args:
        bins: from the first that holds a value to the last that does; none without values.
        count: of the values.
        total: their sum.
        median, p95, largest: of the values; None without any.
    """

    bins: tuple[Bin, ...]
    count: int
    total: float
    median: float | None
    p95: float | None
    largest: float | None

    @classmethod
    def of(cls, values: npt.NDArray[Any], edges: Sequence[float]) -> Histogram:
        """Count values ``[n]``, none below the first edge, into bins that begin at the edges."""
        if not len(values):
            return cls((), 0, 0.0, None, None, None)
        counts = np.histogram(values, [*edges, np.inf])[0].tolist()
        highs = [*edges[1:], None]
        filled = [place for place, number in enumerate(counts) if number]
        kept = range(filled[0], filled[-1] + 1)
        median, p95 = np.percentile(values, [50, 95])
        return cls(
            bins=tuple(Bin(edges[place], highs[place], counts[place]) for place in kept),
            count=len(values),
            total=float(values.sum(dtype=np.float64)),
            median=float(median),
            p95=float(p95),
            largest=float(values.max()),
        )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Histogram:
        """From what :func:`dataclasses.asdict` makes of one."""
        return cls(**{**value, "bins": tuple(Bin(**one) for one in value["bins"])})
