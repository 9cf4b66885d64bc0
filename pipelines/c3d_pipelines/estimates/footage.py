"""What the videos of a run are like: their size, rate and lengths, and the clips they give.

The first step of the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from c3d_client import ClipWindow
from c3d_client.core.errors import UsageError

Numbers = npt.NDArray[np.float64]

# More videos than these are stood for by so many: their sums differ by less than anyone can tell.
MOST_DRAWN = 1_000_000


def require(name: str, value: float, *, above: float = -math.inf, least: float = -math.inf) -> None:
    """Refuse a number that is out of its range, or none.

    Raises:
        UsageError: it is.
    """
    try:
        sound = math.isfinite(value) and value > above and value >= least
    except OverflowError:
        raise UsageError(f"{name} is larger than can be reckoned with") from None
    if not sound:
        wanted = f"more than {above:g}" if above > -math.inf else f"{least:g} or more"
        raise UsageError(f"{name} is {value:g}; give {wanted}")


@dataclass(frozen=True)
class Resolution:
    """A size of picture that people name.

    Args:
        width, height: in pixels.
        bits_per_s: of a film of that size; an assumption, as streaming services encode H.264. A
            plan or ``--bytes-per-s`` gives the real one.
    """

    width: int
    height: int
    bits_per_s: float

    @property
    def pixels(self) -> int:
        """Of one picture."""
        return self.width * self.height


RESOLUTIONS = {
    "240p": Resolution(426, 240, 0.3e6),
    "360p": Resolution(640, 360, 0.7e6),
    "480p": Resolution(854, 480, 1.2e6),
    "720p": Resolution(1280, 720, 2.7e6),
    "1080p": Resolution(1920, 1080, 5.0e6),
    "4k": Resolution(3840, 2160, 16e6),
}


@dataclass(frozen=True)
class Footage:
    """What is the same for all videos.

    Args:
        fps: frames a second.
        bytes_per_s: of the files.
        window: how clips are made of them; its own ``fps`` counts for clips, not for decoding.
        batch_size: clips in a request.

    Raises:
        UsageError: a number is out of its range.
    """

    fps: float = 25.0
    bytes_per_s: float = RESOLUTIONS["720p"].bits_per_s / 8
    window: ClipWindow = ClipWindow()
    batch_size: int = 8

    def __post_init__(self) -> None:
        require("fps", self.fps, above=0)
        require("bytes_per_s", self.bytes_per_s, above=0)
        require("batch_size", self.batch_size, least=1)

    def frames(self, lengths: Numbers) -> Numbers:
        """Frames of videos of so many seconds; each has one at least."""
        return np.maximum(np.round(lengths * self.fps), 1)

    def clips(self, lengths: Numbers) -> Numbers:
        """Clips of videos of so many seconds; 0 of one that is too short."""
        fps = self.window.fps or self.fps
        return clip_counts(np.maximum(np.round(lengths * fps), 1), self.window)


def clip_counts(frames: Numbers, window: ClipWindow) -> Numbers:
    """:meth:`c3d_client.ClipWindow.count` for many films: whole numbers of frames to clips."""
    span, stride = window.span, window.stride
    last = np.floor((frames - span) / stride) * stride
    counts = last / stride + 1
    if window.tail != "drop":
        counts += (last + span < frames) & (last + stride < frames)
    return np.where(frames >= span, counts, (frames > 0) & (window.short != "error"))


def spread_lengths(videos: int, *, mean_s: float, spread: float) -> tuple[Numbers, float]:
    """Lengths of so many videos around their mean: log-normal, in no order, always the same.

    They are the distribution's quantiles and not drawn, so the longest of them is as long as is
    usual. The sum is exact: the mean of what a heavy tail gives is below the tail's own.

    Args:
        videos: how many.
        mean_s: in seconds.
        spread: standard deviation of the logarithm; 0 for all alike.

    Returns:
        Seconds, float64, and how many videos each stands for, 1 unless there are very many.
    """
    count = min(videos, MOST_DRAWN)
    scores = np.linspace(-8, 8, 8001)
    below = np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in scores])
    places = np.interp((np.arange(count) + 0.5) / count, below, scores)
    lengths = np.exp(spread * places)
    lengths *= mean_s / lengths.mean()
    return np.random.default_rng(0).permutation(lengths), videos / count
