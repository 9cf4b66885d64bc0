"""Decoded frames to clips: resize, crop, and a window of 16 frames every 8.

The second step of the walk. The pixels are exactly OpenCV's, because the published weights were
trained on them: ``cv2.resize`` to 171x128 with bilinear interpolation, aspect ratio ignored,
then rows 8:120 and columns 29:141. Each frame is prepared once, however many clips hold it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.contract import (
    CLIP_FRAMES,
    CLIP_STRIDE,
    CROP_LEFT,
    CROP_SIZE,
    CROP_TOP,
    RESIZE_HEIGHT,
    RESIZE_WIDTH,
)
from c3d_client.errors import UsageError
from c3d_client.video import Frame


@dataclass(frozen=True)
class ClipWindow:
    """How clips are cut from a film.

    Args:
        stride: frames from the start of a clip to the start of the next; 8 in the paper.

    Raises:
        UsageError: the stride is not a positive whole number.
    """

    stride: int = CLIP_STRIDE

    def __post_init__(self) -> None:
        if not isinstance(self.stride, int) or self.stride < 1:
            raise UsageError(f"stride is {self.stride!r}; give a whole number of frames, 1 or more")

    def count(self, frames: int) -> int:
        """How many clips a film of so many frames gives: floor((N - 16) / stride) + 1, or 0."""
        return max(0, (frames - CLIP_FRAMES) // self.stride + 1)


@dataclass(frozen=True)
class Clip:
    """Sixteen consecutive frames, ready for the wire.

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


def prepare_frame(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize a frame to 171x128 as OpenCV does and cut C3D's centre crop.

    Args:
        pixels: uint8 ``[height, width, 3]``, any size, any channel order.

    Returns:
        uint8 ``[112, 112, 3]``, the same channel order.
    """
    resized = cv2.resize(pixels, (RESIZE_WIDTH, RESIZE_HEIGHT), interpolation=cv2.INTER_LINEAR)
    crop = resized[CROP_TOP : CROP_TOP + CROP_SIZE, CROP_LEFT : CROP_LEFT + CROP_SIZE]
    return cast("npt.NDArray[np.uint8]", crop)


def iter_clips(frames: Iterable[Frame], window: ClipWindow | None = None) -> Iterator[Clip]:
    """Cut a stream of frames into overlapping clips, holding no more than 16 prepared frames.

    Args:
        frames: consecutive frames, from :func:`c3d_client.video.decode_frames`.
        window: how to cut; the paper's by default.

    Yields:
        Each full clip as soon as its last frame is there. Frames after the last full clip are
        dropped; fewer than 16 frames yield nothing.
    """
    stride = (window or ClipWindow()).stride
    held: deque[tuple[Frame, npt.NDArray[np.uint8]]] = deque(maxlen=CLIP_FRAMES)
    for frame in frames:
        position = frame.index % stride
        # With a stride above 16 some frames are in no clip.
        if stride > CLIP_FRAMES and position >= CLIP_FRAMES:
            continue
        timed = Frame(frame.index, frame.time_s, frame.duration_s, _NO_PIXELS)
        held.append((timed, prepare_frame(frame.pixels)))
        first = frame.index - CLIP_FRAMES + 1
        if first >= 0 and first % stride == 0:
            yield Clip(
                start_frame=first,
                start_s=held[0][0].time_s,
                end_s=timed.time_s + timed.duration_s,
                pixels=np.stack([prepared for _, prepared in held]),
            )


# What a held frame keeps in place of its full-size pixels.
_NO_PIXELS: npt.NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
