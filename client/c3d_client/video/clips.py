"""Frames to clips: a window of 16 frames every 8, and what is done at a film's end.

The second step of the walk. Each frame is prepared once, however many clips hold it, and clips are
laid straight into the batch that will be sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import CLIP_FRAMES, CLIP_SHAPE, CLIP_STRIDE, PREPROCESSING
from c3d_client.core.errors import UsageError
from c3d_client.video.decode import Frame
from c3d_client.video.frame import RESIZES

TAIL_POLICIES = ("drop", "pad", "loop")
SHORT_POLICIES = ("error", "pad", "loop")
# Faster than any camera; what is above is a slip.
_HIGHEST_FPS = 1000.0


# The value of preprocessing.resize in a provenance; PREPROCESSING has the other one.
_FAST_RESIZE = "171x128 opencv-linear on Y, U and V, then colours"


@dataclass(frozen=True)
class ClipWindow:
    """How clips are made of a film. The network takes 16 frames a clip; the rest can be chosen.

    Args:
        stride: frames from the start of a clip to the start of the next; 8 in the paper.
        frame_step: frames from one frame of a clip to the next; 1 in the paper, consecutive ones.
        tail: frames that fill no clip at the film's end: ``drop`` them, as the paper does; or give
            them one more clip, which repeats its last frame (``pad``) or its frames from the first
            on (``loop``).
        short: a film with fewer frames than a clip: ``error``, ``pad`` or ``loop``.
        resize: ``exact``, OpenCV's pixels; or ``fast``, which scales before it converts colours and
            differs by about one level of 255.
        fps: take frames at this rate by their presentation time; None for each frame of the file.

    Raises:
        UsageError: a value is not one of these.
    """

    stride: int = CLIP_STRIDE
    frame_step: int = 1
    tail: str = "drop"
    short: str = "error"
    resize: str = "exact"
    fps: float | None = None

    def __post_init__(self) -> None:
        for name, number in (("stride", self.stride), ("frame_step", self.frame_step)):
            if not isinstance(number, int) or number < 1:
                raise UsageError(f"{name} is {number!r}; give a whole number of frames, 1 or more")
        for name, value, known in (
            ("tail", self.tail, TAIL_POLICIES),
            ("short", self.short, SHORT_POLICIES),
            ("resize", self.resize, RESIZES),
        ):
            if value not in known:
                raise UsageError(f"{name} is {value!r}; give one of {', '.join(known)}")
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= _HIGHEST_FPS):
            raise UsageError(
                f"fps is {self.fps}; give more than 0 and at most {_HIGHEST_FPS:g} frames a second"
            )

    @property
    def span(self) -> int:
        """Frames of the film from a clip's first to its last, both counted: 16 at step 1."""
        return (CLIP_FRAMES - 1) * self.frame_step + 1

    def count(self, frames: int) -> int:
        """How many clips a film of so many frames gives.

        With ``drop`` and ``error`` that is floor((N - span) / stride) + 1, or 0 below one span.
        """
        if frames < self.span:
            return int(frames > 0 and self.short != "error")
        full = (frames - self.span) // self.stride + 1
        return full + int(self.tail != "drop" and self._tail_start(frames) is not None)

    def provenance(self) -> dict[str, Any]:
        """Return the parts of a result's provenance that this window decides."""
        preprocessing = dict(PREPROCESSING)
        if self.resize == "fast":
            preprocessing["resize"] = _FAST_RESIZE
        return {
            "preprocessing": preprocessing,
            "clips": {
                "frames": CLIP_FRAMES,
                "stride": self.stride,
                "frame_step": self.frame_step,
                "tail": self.tail,
                "short": self.short,
                "fps": self.fps,
            },
        }

    def _tail_start(self, frames: int) -> int | None:
        """Where a clip of the frames that are in no other would start; None where none are."""
        last = (frames - self.span) // self.stride * self.stride
        follows = last + self.stride
        return follows if last + self.span < frames and follows < frames else None


@dataclass(frozen=True)
class Clip:
    """Sixteen frames, ready for the wire.

    Args:
        start_frame: the index of its first frame in the film.
        start_s: when its first frame is shown, in seconds.
        end_s: when its last frame ends, in seconds.
        pixels: uint8 ``[16, 112, 112, 3]``, RGB.
    """

    start_frame: int
    start_s: float
    end_s: float
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipBatch:
    """Clips that are sent together.

    Args:
        start_frames: the index of each clip's first frame.
        times_s: start and end of each clip, in seconds.
        pixels: uint8 ``[n, 16, 112, 112, 3]``, RGB.
    """

    start_frames: tuple[int, ...]
    times_s: tuple[tuple[float, float], ...]
    pixels: npt.NDArray[np.uint8]


class _Held(NamedTuple):
    """A frame that clips may still need; its pixels None where no clip takes it."""

    number: int
    start_s: float
    end_s: float
    prepared: npt.NDArray[np.uint8] | None


def iter_clips(frames: Iterable[Frame], window: ClipWindow | None = None) -> Iterator[Clip]:
    """Cut a stream of frames into clips.

    Args:
        frames: consecutive frames, from :func:`c3d_client.video.decode.decode_frames`.
        window: how to cut; the paper's way by default. Its ``fps`` is the caller's to apply.

    Yields:
        Each clip as soon as its last frame is there. A film shorter than a clip yields nothing
        unless the window says otherwise.
    """
    for batch in iter_batches(frames, window or ClipWindow(), size=1):
        (start_s, end_s) = batch.times_s[0]
        yield Clip(batch.start_frames[0], start_s, end_s, batch.pixels[0])


def iter_batches(frames: Iterable[Frame], window: ClipWindow, *, size: int) -> Iterator[ClipBatch]:
    """Cut a stream of frames into batches of so many clips; the last may have fewer."""
    pixels = np.empty((size, *CLIP_SHAPE), np.uint8)
    clips: list[list[_Held]] = []
    for clip in _clips(frames, window):
        for place, held in enumerate(clip):
            assert held.prepared is not None  # a clip takes only what is wanted
            pixels[len(clips), place] = held.prepared
        clips.append(clip)
        if len(clips) == size:
            yield _batch(clips, pixels)
            # Its reader may keep the last one.
            pixels = np.empty((size, *CLIP_SHAPE), np.uint8)
            clips = []
    if clips:
        yield _batch(clips, pixels[: len(clips)])


def _batch(clips: list[list[_Held]], pixels: npt.NDArray[np.uint8]) -> ClipBatch:
    return ClipBatch(
        tuple(clip[0].number for clip in clips),
        tuple((clip[0].start_s, max(held.end_s for held in clip)) for clip in clips),
        pixels,
    )


def _clips(frames: Iterable[Frame], window: ClipWindow) -> Iterator[list[_Held]]:
    """The 16 frames of each clip; no more than one span of frames is held."""
    stride, step, span = window.stride, window.frame_step, window.span
    # By a frame's place after the last clip's start: whether any clip takes it.
    wanted = [any(p % step == 0 for p in range(place, span, stride)) for place in range(stride)]
    held: deque[_Held] = deque(maxlen=span)
    picture = prepared = None
    count = 0
    for frame in frames:
        if not wanted[frame.index % stride]:
            prepared = None
        elif prepared is None or frame.picture is not picture:  # resampling repeats pictures
            prepared = frame.picture.prepared(window.resize)
        picture = frame.picture
        end_s = frame.time_s + frame.duration_s
        held.append(_Held(frame.index, frame.time_s, end_s, prepared))
        count = frame.index + 1
        first = count - span
        if first >= 0 and first % stride == 0:
            yield list(held)[::step]
    if count >= span:
        start, policy = window._tail_start(count), window.tail
    else:
        start, policy = (0 if count else None), window.short
    if start is not None and policy in ("pad", "loop"):
        yield _filled(list(held)[start - count :: step], policy)


def _filled(clip: list[_Held], policy: str) -> list[_Held]:
    """Sixteen frames from fewer."""
    if policy == "pad":
        return clip + clip[-1:] * (CLIP_FRAMES - len(clip))
    return [clip[place % len(clip)] for place in range(CLIP_FRAMES)]


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
        frames: in order of presentation, from :func:`c3d_client.video.decode.decode_frames`.
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
