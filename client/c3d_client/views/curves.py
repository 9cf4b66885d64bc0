"""What the timeline and the page both draw: the best classes over time, their colours, the clock.

The mean over the clips picks the classes. A film of many clips is drawn in spans of several clips
each: their mean as a line, their lowest and highest as a band.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from c3d_client.core.text import one_line
from c3d_client.results import ClassScore, top_classes

if TYPE_CHECKING:
    from c3d_client.results import VideoClassification

# On white and on near-black: six hues that stay apart for every kind of colour vision (closest
# pair 19 and 13 in CIELAB after Machado's simulation), each 3:1 or more against its ground.
LIGHT = ("#0b69c7", "#d55e00", "#009e73", "#c2489b", "#6b4e00", "#111111")
DARK = ("#4aa8f0", "#f07a3c", "#14b98a", "#f0a6d2", "#d9c93a", "#ffffff")
# Lengths of stroke and gap; the second six are dashed, and so on.
DASHES: tuple[tuple[int, ...], ...] = ((), (6, 3), (2, 2), (8, 2, 2, 2))
MAX_CURVES = len(LIGHT) * len(DASHES)
MAX_POINTS = 400
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_CEILINGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Curve:
    """One class over time.

    Args:
        score: the class, and its mean over the clips.
        hue: index into :data:`LIGHT` and :data:`DARK`.
        dash: lengths of stroke and gap; empty for a whole line.
        times_s: float64 ``[p]``, rising.
        mean, low, high: float64 ``[p]``, probabilities at those times; the three are equal where
            every clip is drawn for itself.
    """

    score: ClassScore
    hue: int
    dash: tuple[int, ...]
    times_s: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def end_s(classification: VideoClassification, film_s: float) -> float:
    """Where the time axis ends, in seconds: with the film, or with the last clip if that is later.

    The film goes on after the last clip where its last frames do not fill one.
    """
    return max(film_s, float(classification.clip_times_s[:, 1].max()))


def clips_a_point(clips: int) -> int:
    """How many clips one point of a curve stands for."""
    return -(-clips // MAX_POINTS)


def best_curves(classification: VideoClassification, *, top_k: int) -> list[Curve]:
    """The curves of the best classes, best first: ``top_k``, though no more than 24.

    A point lies at the middle of its clip or clips; the first and last reach on to where the first
    clip starts and the last one ends, so that one clip is a line too.

    Raises:
        UsageError: top_k is below 1.
    """
    scores = top_classes(classification.probabilities, classification.labels, top_k=top_k)
    times_s = classification.clip_times_s
    size = clips_a_point(len(times_s))
    starts = np.arange(0, len(times_s), size)
    counts = np.diff(np.append(starts, len(times_s)))
    middles = np.add.reduceat(times_s.mean(axis=1), starts) / counts
    at = np.concatenate(([times_s[0, 0]], middles, [times_s[:, 1].max()]))
    curves = []
    for rank, score in enumerate(scores[:MAX_CURVES]):
        values = classification.clip_probabilities[:, score.index].astype(np.float64)
        mean, low, high = (
            np.pad(line, 1, mode="edge")
            for line in (
                np.add.reduceat(values, starts) / counts,
                np.minimum.reduceat(values, starts),
                np.maximum.reduceat(values, starts),
            )
        )
        dash, hue = divmod(rank, len(LIGHT))
        curves.append(Curve(score, hue, DASHES[dash], at, mean, low, high))
    return curves


def ceiling(curves: Sequence[Curve]) -> float:
    """Where the axis of probabilities ends: a round number not below any that is drawn."""
    highest = max(float(curve.high.max()) for curve in curves)
    return next((top for top in _CEILINGS if highest <= top), 1.0)


def clock(time_s: float, *, end_s: float, digits: int = 0) -> str:
    """A time as people read it: seconds in a film of under two minutes, else m:ss or h:mm:ss."""
    if end_s < 120:
        return f"{time_s:.{digits}f} s"
    whole = round(time_s, digits)
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{seconds:0{3 + digits if digits else 2}.{digits}f}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def ticks(end_s: float, *, most: int = 10) -> list[tuple[float, str]]:
    """Round times from 0 to the end with their texts, at most ``most`` and the one at 0."""
    fitting = [step for step in _STEPS_S if end_s / step <= most]
    step = fitting[0] if fitting else float(np.ceil(end_s / most / 3600) * 3600)
    times = np.arange(int(end_s / step + 1e-9) + 1) * step
    digits = 1 if step < 1 else 0
    return [(float(time), clock(float(time), end_s=end_s, digits=digits)) for time in times]


def label_text(label: str, index: int) -> str:
    """A label as it is shown; its index where there is nothing to be seen of it."""
    return one_line(label) or f"class {index}"


def film_name(source: str | os.PathLike[str]) -> str:
    """The last part of a path or URL, without what follows a URL's path (it may be a secret)."""
    text = os.fspath(source)
    if "://" in text:
        text = urlsplit(text).path
    return one_line(os.path.basename(text.rstrip("/\\")) or text) or "film"
