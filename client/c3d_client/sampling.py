"""Frames at a fixed rate by presentation time: what `--fps` asks for, between video and clips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

from c3d_client.errors import UsageError
from c3d_client.video import Frame

# The rates that are taken, in frames a second.
MIN_FPS = 0.01
MAX_FPS = 1000.0

# Matroska and Flash keep whole milliseconds: a stamp may lie that far from the true time. Without
# this, a film sampled at its own rate would repeat some frames and lose their neighbours.
_STAMP_ERROR_S = 0.001


def resample(frames: Iterable[Frame], *, fps: float | Fraction) -> Iterator[Frame]:
    """What a viewer sees at the times 0, 1/fps, 2/fps ... until the last frame ends.

    Frame k of the result is the one on screen at k/fps: the last with ``time_s`` up to then, or up
    to a millisecond later. Frames are repeated and left out as that needs. ffmpeg's ``-vf fps``
    rounds each frame's time to the nearest k instead, and so shows a frame up to half an interval
    early.

    Args:
        frames: in order of presentation, from :func:`c3d_client.video.decode_frames`.
        fps: frames a second, from 0.01 to 1000; ``Fraction(30000, 1001)`` is NTSC's rate to the
            last bit.

    Returns:
        Frames counted from 0, with time k/fps and duration 1/fps, as they become known; each is
        one division away from k, so that hours bring no drift. Repeated frames share one picture,
        and the pixels of those left out are never made.

    Raises:
        UsageError: fps is not a number in that range; raised by this call, before any frame.
    """
    if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)):
        raise UsageError(f"fps is {fps!r}; give a number of frames a second")
    if not (math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS):
        raise UsageError(f"fps is {fps}; give a number from {MIN_FPS:g} to {MAX_FPS:g}")
    return _resampled(frames, Fraction(fps))


def _resampled(frames: Iterable[Frame], rate: Fraction) -> Iterator[Frame]:
    numerator, denominator = rate.numerator, rate.denominator
    interval_s = denominator / numerator
    index, time_s = 0, 0.0
    shown: Frame | None = None
    for frame in frames:
        if shown is not None:
            while time_s + _STAMP_ERROR_S < frame.time_s:
                yield Frame(index, time_s, interval_s, shown.picture)
                index += 1
                time_s = index * denominator / numerator
        shown = frame
    if shown is not None:
        end_s = shown.time_s + shown.duration_s - _STAMP_ERROR_S
        # The first is given even where the film is shorter than a millisecond.
        while not index or time_s < end_s:
            yield Frame(index, time_s, interval_s, shown.picture)
            index += 1
            time_s = index * denominator / numerator
