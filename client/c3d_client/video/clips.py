"""Frames to clips: 16 frames for each clip, a new clip every 8 frames.

:class:`ClipWindow` holds the settings, :func:`iter_clips` applies them. Each frame is resized once,
however many clips contain it, and is written straight into the batch that will be sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from c3d_client.core.arguments import require_several
from c3d_client.core.contract import (
    CLIP_FRAMES,
    CLIP_SHAPE,
    CLIP_STRIDE,
    HALF_SHAPE,
    PREPROCESSING,
)
from c3d_client.core.errors import UsageError, VideoDecodeError
from c3d_client.video.damage import DAMAGE_POLICIES, DAMAGED
from c3d_client.video.decode import Frame
from c3d_client.video.frame import RESIZES

TAIL_POLICIES = ("drop", "pad", "loop")
SHORT_POLICIES = ("error", "pad", "loop")

# The range of `fps`, in frames a second.
MIN_FPS = 0.01
MAX_FPS = 1000.0

# The value of preprocessing.resize in a provenance for the fast resize; PREPROCESSING has the
# value for the exact one.
_FAST_RESIZE = "171x128 opencv-linear on Y, U and V, then colours"

# With `fps`, a picture that is shown for longer is an error: hours of one repeated picture are not
# the video, but a camera's clock that was set.
_MAX_REPEATED_S = 600.0

# Matroska and Flash store whole milliseconds, so a time stamp may be that far from the true time.
# Without this tolerance, resampling a video at its own rate would repeat some frames and drop the
# frames next to them.
_STAMP_ERROR_S = 0.001


@dataclass(frozen=True)
class ClipWindow:
    """How clips are cut from a video. The network needs 16 frames a clip; the rest can be chosen.

    Args:
        stride: frames from the start of a clip to the start of the next; 8 in the paper.
        frame_step: frames from one frame of a clip to the next; 1 in the paper, consecutive ones.
        tail: what is done with frames at the video's end that fill no clip: ``drop``, as in the
            paper; or one more clip, which repeats its last frame (``pad``) or its frames from the
            first one on (``loop``).
        short: what is done with a video of fewer frames than a clip: ``error``, ``pad`` or
            ``loop``.
        resize: ``exact``, OpenCV's pixels; or ``fast``, which resizes before it converts colours
            and differs by about one level of 255.
        fps: resample the video to this rate by its time stamps, 0.01 to 1000 frames a second; None
            for each frame of the file.
        damage: what is done with a video in which pictures are damaged or missing: ``error``; or
            ``skip``, which leaves out the clips that touch a damaged stretch, from the first
            damaged or missing picture to the next keyframe.
        stream: the index of the video stream among all streams of a file, as ffprobe counts them;
            None to choose one as :func:`c3d_client.decode_frames` does. Not part of the clips'
            provenance: the stream of each video is in its provenance under ``video``.

    Raises:
        UsageError: a value is not one of these.
    """

    stride: int = CLIP_STRIDE
    frame_step: int = 1
    tail: str = "drop"
    short: str = "error"
    resize: str = "exact"
    fps: float | None = None
    damage: str = "error"
    stream: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("stride", self.stride), ("frame_step", self.frame_step)):
            if not isinstance(number, int) or number < 1:
                raise UsageError(f"{name} is {number!r}; give a whole number of frames, 1 or more")
        for name, value, known in (
            ("tail", self.tail, TAIL_POLICIES),
            ("short", self.short, SHORT_POLICIES),
            ("resize", self.resize, RESIZES),
            ("damage", self.damage, DAMAGE_POLICIES),
        ):
            if value not in known:
                raise UsageError(f"{name} is {value!r}; give one of {', '.join(known)}")
        if self.fps is not None:
            check_fps(self.fps)
        if self.stream is not None and (not isinstance(self.stream, int) or self.stream < 0):
            raise UsageError(
                f"stream is {self.stream!r}; give the index of a stream, 0 or more, or None"
            )

    @property
    def has_halves(self) -> bool:
        """Whether each clip begins with the second half of the clip before it."""
        return (self.stride, self.frame_step) == (CLIP_STRIDE, 1)

    @property
    def span(self) -> int:
        """Frames of the video from a clip's first to its last, inclusive: 16 with frame step 1."""
        return (CLIP_FRAMES - 1) * self.frame_step + 1

    def count(self, frames: int) -> int:
        """Return the number of clips of a video of so many frames.

        With ``drop`` and ``error`` that is floor((N - span) / stride) + 1, or 0 below one span.
        """
        if frames < self.span:
            return int(frames > 0 and self.short != "error")
        full = (frames - self.span) // self.stride + 1
        return full + int(self.tail != "drop" and self._tail_start(frames) is not None)

    def provenance(self) -> dict[str, Any]:
        """Return the parts of a result's provenance that these settings decide."""
        preprocessing = dict(PREPROCESSING)
        if self.resize == "fast":
            preprocessing["resize"] = _FAST_RESIZE
        # An absent field means "error", as in files of releases without it.
        damage = {} if self.damage == "error" else {"damage": self.damage}
        return {
            **damage,
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
        """Return the start of a clip of the frames that are in no other clip; None without any."""
        last = (frames - self.span) // self.stride * self.stride
        following = last + self.stride
        return following if last + self.span < frames and following < frames else None


@dataclass(frozen=True)
class Clip:
    """Sixteen frames, ready to be sent.

    Args:
        start_frame: the index of its first frame in the video.
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
    """Clips that are sent in one request.

    Args:
        start_frames: the index of each clip's first frame.
        times_s: start and end of each clip, in seconds.
        pixels: uint8 RGB, ``[n, 16, 112, 112, 3]``; or the halves of consecutive clips,
            ``[n + 1, 8, 112, 112, 3]``.
    """

    start_frames: tuple[int, ...]
    times_s: tuple[tuple[float, float], ...]
    pixels: npt.NDArray[np.uint8]

    @property
    def has_halves(self) -> bool:
        """Whether the pixels are halves."""
        return self.pixels.shape[1:] == HALF_SHAPE


def iter_clips(frames: Iterable[Frame], window: ClipWindow | None = None) -> Iterator[Clip]:
    """Cut a stream of frames into clips.

    Args:
        frames: consecutive frames, from :func:`c3d_client.video.decode.decode_frames`.
        window: how to cut, as in the paper by default. Where it has an ``fps``, the frames are
            resampled to that rate first, and ``start_frame`` counts the resampled frames.

    Yields:
        Each clip as soon as its last frame is decoded, without those whose frames are not all of
        one intact stretch (see :attr:`c3d_client.video.decode.Frame.stretch`). A video shorter than
        a clip yields nothing unless ``window.short`` says otherwise.
    """
    window = window or ClipWindow()
    require_several(frames, "frames", each="frames, such as decode_frames(path) yields")
    if window.fps is not None:
        frames = resample(frames, fps=window.fps)
    for batch in iter_batches(frames, window, size=1):
        (start_s, end_s) = batch.times_s[0]
        yield Clip(batch.start_frames[0], start_s, end_s, batch.pixels[0])


def iter_batches(
    frames: Iterable[Frame],
    window: ClipWindow,
    *,
    size: int,
    on_left_out: Callable[[], None] | None = None,
) -> Iterator[ClipBatch]:
    """Cut a stream of frames into batches of so many clips; the last batch may have fewer.

    Args:
        frames: consecutive frames, already at the rate ``window.fps``: see :func:`resample`.
        window: how to cut.
        size: clips in a batch.
        on_left_out: called for each clip that is left out because its frames are not all of one
            intact stretch.
    """
    pixels = np.empty((size, *CLIP_SHAPE), np.uint8)
    clips: list[list[_PreparedFrame]] = []
    for clip in _intact_clips(frames, window, on_left_out):
        _write(clip, pixels[len(clips)])
        clips.append(clip)
        if len(clips) == size:
            yield _batch(clips, pixels)
            # The caller may still use the array of the batch that was yielded.
            pixels = np.empty((size, *CLIP_SHAPE), np.uint8)
            clips = []
    if clips:
        yield _batch(clips, pixels[: len(clips)])


def iter_halves(
    frames: Iterable[Frame],
    window: ClipWindow,
    *,
    size: int,
    exact_sizes: Collection[int] = (),
    on_left_out: Callable[[], None] | None = None,
) -> Iterator[ClipBatch]:
    """Cut a stream of frames into batches of so many halves of clips, one more than their clips.

    A batch ends where a clip does not begin with the second half of the clip before it, because
    clips were left out between them. The next batch begins with a half of its own; where clips
    follow on each other, with the last half of the batch before.

    Args:
        frames: as for :func:`iter_batches`.
        window: how to cut; its clips must share halves, see :attr:`ClipWindow.has_halves`.
        size: halves in a batch, 2 or more; the last batch before a gap or the end may have fewer.
        exact_sizes: the numbers of rows that the server computes without padding. Where the clips
            of a shorter batch have one of these numbers, their halves would be padded, so the
            batch has the clips themselves.
        on_left_out: as for :func:`iter_batches`.
    """
    halves = np.empty((size, *HALF_SHAPE), np.uint8)
    clips: list[list[_PreparedFrame]] = []
    for clip in _intact_clips(frames, window, on_left_out):
        if clips and not _follows(clip, clips[-1]):
            yield _halves_batch(clips, halves, exact_sizes)
            halves = np.empty((size, *HALF_SHAPE), np.uint8)
            clips = []
        if not clips:
            _write(clip[:CLIP_STRIDE], halves[0])
        _write(clip[CLIP_STRIDE:], halves[len(clips) + 1])
        clips.append(clip)
        if len(clips) == size - 1:
            yield _batch(clips, halves)
            halves = np.empty((size, *HALF_SHAPE), np.uint8)
            clips = []
    if clips:
        yield _halves_batch(clips, halves, exact_sizes)


def _follows(clip: list[_PreparedFrame], before: list[_PreparedFrame]) -> bool:
    """Return whether a clip begins with the second half of another one."""
    return all(a.number == b.number for a, b in zip(before[CLIP_STRIDE:], clip, strict=False))


def _halves_batch(
    clips: list[list[_PreparedFrame]], halves: npt.NDArray[np.uint8], exact_sizes: Collection[int]
) -> ClipBatch:
    halves = halves[: len(clips) + 1]
    if len(clips) in exact_sizes:
        return _batch(clips, np.concatenate([halves[:-1], halves[1:]], axis=1))
    return _batch(clips, halves)


class _PreparedFrame(NamedTuple):
    """A frame that clips may still need; its pixels are None where no clip contains the frame."""

    number: int
    start_s: float
    end_s: float
    stretch: int
    pixels: npt.NDArray[np.uint8] | None


def _batch(clips: list[list[_PreparedFrame]], pixels: npt.NDArray[np.uint8]) -> ClipBatch:
    return ClipBatch(
        tuple(clip[0].number for clip in clips),
        tuple((clip[0].start_s, max(frame.end_s for frame in clip)) for clip in clips),
        pixels,
    )


def _intact_clips(
    frames: Iterable[Frame], window: ClipWindow, on_left_out: Callable[[], None] | None
) -> Iterator[list[_PreparedFrame]]:
    """Yield the clips whose frames are all of one intact stretch."""
    for clip in _clips(frames, window):
        if clip[0].stretch != DAMAGED and all(frame.stretch == clip[0].stretch for frame in clip):
            yield clip
        elif on_left_out is not None:
            on_left_out()


def _write(frames: list[_PreparedFrame], pixels: npt.NDArray[np.uint8]) -> None:
    """Write the pixels of intact frames into an array of uint8 ``[n, 112, 112, 3]``."""
    for index, frame in enumerate(frames):
        assert frame.pixels is not None  # the intact frames of clips are always prepared
        pixels[index] = frame.pixels


def _clips(frames: Iterable[Frame], window: ClipWindow) -> Iterator[list[_PreparedFrame]]:
    """Yield the 16 frames of each clip. At most one span of frames is in memory."""
    stride, step, span = window.stride, window.frame_step, window.span
    # By a frame's offset from the last clip's start: whether any clip contains the frame.
    is_used = [any(n % step == 0 for n in range(offset, span, stride)) for offset in range(stride)]
    latest: deque[_PreparedFrame] = deque(maxlen=span)
    picture = pixels = None
    count = 0
    for frame in frames:
        if not is_used[frame.index % stride] or frame.stretch == DAMAGED:
            pixels = None
        elif pixels is None or frame.picture is not picture:  # resampling repeats pictures
            pixels = frame.picture.prepared(window.resize)
        picture = frame.picture
        end_s = frame.time_s + frame.duration_s
        latest.append(_PreparedFrame(frame.index, frame.time_s, end_s, frame.stretch, pixels))
        count = frame.index + 1
        first = count - span
        if first >= 0 and first % stride == 0:
            yield list(latest)[::step]
    if count >= span:
        start, policy = window._tail_start(count), window.tail
    else:
        start, policy = (0 if count else None), window.short
    if start is not None and policy in ("pad", "loop"):
        yield _filled(list(latest)[start - count :: step], policy)


def _filled(clip: list[_PreparedFrame], policy: str) -> list[_PreparedFrame]:
    """Return sixteen frames: those of the clip, then repeated ones as the policy requires."""
    if policy == "pad":
        return clip + clip[-1:] * (CLIP_FRAMES - len(clip))
    return [clip[index % len(clip)] for index in range(CLIP_FRAMES)]


def resample(frames: Iterable[Frame], *, fps: float | Fraction) -> Iterator[Frame]:
    """Return the frames on screen at the times 0, 1/fps, 2/fps ... until the last frame ends.

    Frame k of the result is the one on screen at k/fps: the last with ``time_s`` up to then, or up
    to a millisecond later. Frames are repeated and dropped as needed. ffmpeg's ``-vf fps`` rounds
    each frame's time to the nearest k instead, and so shows a frame up to half an interval early.

    Args:
        frames: in order of presentation, from :func:`c3d_client.video.decode.decode_frames`.
        fps: frames a second, from 0.01 to 1000; ``Fraction(30000, 1001)`` is exactly NTSC's rate.

    Returns:
        Frames counted from 0, with time k/fps and duration 1/fps, each as soon as it is known. A
        frame after the end of an intact stretch is marked as damaged. Each
        time is computed from k by one division, so that no error adds up over hours. Repeated
        frames share one picture, and dropped frames are never converted to pixels.

    Raises:
        UsageError: fps is not a number in that range; raised by this call, before any frame.
        VideoDecodeError: one picture is shown for more than 600 s; raised where it would be
            repeated.
    """
    check_fps(fps)
    return _resampled(frames, Fraction(fps))


def check_fps(fps: float | Fraction, name: str = "fps") -> None:
    """Check that an argument of this name is a number of frames a second.

    Raises:
        UsageError: it is not, or not from 0.01 to 1000.
    """
    if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)):
        raise UsageError(f"{name} is {fps!r}; give a number of frames a second")
    if not (math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS):
        raise UsageError(f"{name} is {fps}; give a number from {MIN_FPS:g} to {MAX_FPS:g}")


def _resampled(frames: Iterable[Frame], rate: Fraction) -> Iterator[Frame]:
    numerator, denominator = rate.numerator, rate.denominator
    interval_s = denominator / numerator
    index, time_s, end_s = 0, 0.0, 0.0
    shown: Frame | None = None
    for frame in frames:
        if shown is not None:
            _check_gap(shown, frame.time_s)
            while time_s + _STAMP_ERROR_S < frame.time_s:
                stretch = shown.stretch
                if stretch != frame.stretch and time_s + _STAMP_ERROR_S > end_s:
                    stretch = DAMAGED  # the picture for this time is missing
                yield Frame(index, time_s, interval_s, shown.picture, stretch)
                index += 1
                time_s = index * denominator / numerator
        shown, end_s = frame, frame.time_s + frame.duration_s
    if shown is not None:
        _check_gap(shown, shown.time_s + shown.duration_s)
        end_s = shown.time_s + shown.duration_s - _STAMP_ERROR_S
        # The first frame is in the result even where the video is shorter than a millisecond.
        while not index or time_s < end_s:
            yield Frame(index, time_s, interval_s, shown.picture, shown.stretch)
            index += 1
            time_s = index * denominator / numerator


def _check_gap(shown: Frame, end_s: float) -> None:
    """Check how long a picture is shown.

    Raises:
        VideoDecodeError: for more than 600 s.
    """
    length_s = end_s - shown.time_s
    if length_s > _MAX_REPEATED_S:
        raise VideoDecodeError(
            shown.picture.name,
            f"shows one picture from {shown.time_s:.2f} s to {end_s:.2f} s, for {length_s:.2f} s; "
            f"with a frame rate (fps) it would be repeated, and {_MAX_REPEATED_S:.0f} s is the "
            "most; leave the frame rate out, or cut the video at the gap",
        )
