"""The best classes over time as curves, their colours, and times as text.

The timeline and the page draw these. The mean over the clips picks the classes. In a video of many
clips, a point of a curve is the mean of several clips, and a band shows their minimum and maximum.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from c3d_client.core.errors import UsageError
from c3d_client.core.files import row_chunks
from c3d_client.core.text import one_line
from c3d_client.core.uri import Uri
from c3d_client.results import ClassScore, top_classes

if TYPE_CHECKING:
    from c3d_client.results import VideoClassification
    from c3d_client.video.frames import VideoSource

# Six hues, on white and on near-black, that differ for every kind of colour vision (closest pair
# 19 and 13 in CIELAB after Machado's simulation), each with a contrast of 3:1 or more.
LIGHT = ("#0b69c7", "#d55e00", "#009e73", "#c2489b", "#6b4e00", "#111111")
DARK = ("#4aa8f0", "#f07a3c", "#14b98a", "#f0a6d2", "#d9c93a", "#ffffff")
# Lengths of stroke and gap: curves 7 to 12 are dashed, and so on.
DASHES: tuple[tuple[int, ...], ...] = ((), (6, 3), (2, 2), (8, 2, 2, 2))
MAX_CURVES = len(LIGHT) * len(DASHES)
MAX_POINTS = 400
_TICK_STEPS_S = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900),
    *(1800, 3600, 7200, 14400),
)
_MAX_TIME_STEPS = 10
_AXIS_MAXIMA = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Curve:
    """One class over time.

    Args:
        score: the class, and its mean over the clips.
        hue: index into :data:`LIGHT` and :data:`DARK`.
        dash: lengths of stroke and gap; empty for a solid line.
        times_s: float64 ``[p]``, increasing.
        mean, low, high: float64 ``[p]``, probabilities at those times; the three are equal where
            every clip has its own point.
    """

    score: ClassScore
    hue: int
    dash: tuple[int, ...]
    times_s: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def axis_end_s(classification: VideoClassification, video_s: float) -> float:
    """Return the end of the time axis in seconds: of the video, or of the last clip if later.

    The video continues after the last clip where its last frames fill no clip.
    """
    return max(video_s, float(classification.clip_times_s[:, 1].max()))


def clips_per_point(clips: int) -> int:
    """Return how many clips one point of a curve is the mean of."""
    return -(-clips // MAX_POINTS)


def best_curves(classification: VideoClassification, *, top_k: int) -> list[Curve]:
    """Return the curves of the ``top_k`` best classes, best first, at most 24.

    A point lies at the middle of its clips. The curve is extended to the start of the first clip
    and to the end of the last one, so that one clip is a line too.

    Raises:
        UsageError: top_k is below 1, or the clips have no times.
    """
    if np.isnan(classification.clip_times_s).any():
        raise UsageError(
            "the clips have no times to draw: the frames have no rate; give it as frames_fps "
            "(--frames-fps)"
        )
    scores = top_classes(classification.probabilities, classification.labels, top_k=top_k)
    times_s = classification.clip_times_s
    size = clips_per_point(len(times_s))
    starts = np.arange(0, len(times_s), size)
    counts = np.diff(np.append(starts, len(times_s)))
    middles = np.add.reduceat(times_s.mean(axis=1), starts) / counts
    point_times_s = np.concatenate(([times_s[0, 0]], middles, [times_s[:, 1].max()]))
    scores = scores[:MAX_CURVES]
    shown = [score.index for score in scores]
    probabilities = np.concatenate(
        [chunk[:, shown] for chunk in row_chunks(classification.clip_probabilities)]
    )
    curves = []
    for rank, score in enumerate(scores):
        values = probabilities[:, rank].astype(np.float64)
        mean, low, high = (
            np.pad(line, 1, mode="edge")
            for line in (
                np.add.reduceat(values, starts) / counts,
                np.minimum.reduceat(values, starts),
                np.maximum.reduceat(values, starts),
            )
        )
        dash, hue = divmod(rank, len(LIGHT))
        curves.append(Curve(score, hue, DASHES[dash], point_times_s, mean, low, high))
    return curves


def axis_maximum(curves: Sequence[Curve]) -> float:
    """Return the end of the probability axis: a round number not below any drawn probability."""
    highest = max(float(curve.high.max()) for curve in curves)
    return next((maximum for maximum in _AXIS_MAXIMA if highest <= maximum), 1.0)


def time_text(time_s: float, *, end_s: float, digits: int = 0) -> str:
    """Return a time as text: seconds in a video of under two minutes, else m:ss or h:mm:ss."""
    if end_s < 120:
        return f"{time_s:.{digits}f} s"
    minutes, seconds = divmod(round(time_s, digits), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{seconds:0{3 + digits if digits else 2}.{digits}f}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def time_ticks(end_s: float) -> list[tuple[float, str]]:
    """Return round times from 0 to the end with their texts, at most ten after 0."""
    fitting = [step for step in _TICK_STEPS_S if end_s / step <= _MAX_TIME_STEPS]
    step = fitting[0] if fitting else float(np.ceil(end_s / _MAX_TIME_STEPS / 3600) * 3600)
    times = np.arange(int(end_s / step + 1e-9) + 1) * step
    digits = 1 if step < 1 else 0
    return [(float(time), time_text(float(time), end_s=end_s, digits=digits)) for time in times]


def label_text(label: str, index: int) -> str:
    """Return a label for display; ``class INDEX`` where it has no visible character."""
    return one_line(label) or f"class {index}"


def video_title(source: VideoSource) -> str:
    """Return the last part of a path or URL, without a URL's query, which may be a secret.

    ``video`` where the source is no path or URL.
    """
    if not isinstance(source, (str, os.PathLike)):
        return "video"
    uri = Uri.of(source)
    path = uri.local_path
    name = uri.name if path is None else os.path.basename(path.rstrip("/\\")) or path
    return one_line(name) or "video"
