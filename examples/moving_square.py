"""Render a short H.264 video: a bright square moves right, then down, then left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]

WIDTH, HEIGHT, FPS, SECONDS = 320, 240, 25, 6
_SQUARE = 64
# The square stays within C3D's crop: rows 15 to 225 and columns 54 to 264 of a frame of this size.
_TOP, _SIDE = 20, 60
_COLOUR = (250, 200, 40)


def render(path: Path, change: Callable[[Pixels], Pixels] | None = None) -> None:
    """Write the video.

    Args:
        path: the file, e.g. ``square.mp4``.
        change: called for each frame, uint8 ``[240, 320, 3]`` RGB; returns the one to write.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FPS * SECONDS):
            pixels = frame(number)
            if change is not None:
                pixels = np.ascontiguousarray(change(pixels))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def frame(number: int) -> Pixels:
    """Return frame ``number`` of the video, uint8 ``[240, 320, 3]`` RGB."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    checks = ((rows // 20 + columns // 20) % 2 * 40 + 60).astype(np.uint8)
    pixels = np.repeat(checks[..., None], 3, axis=2)
    top, left = _corner(number / (FPS * SECONDS))
    pixels[top : top + _SQUARE, left : left + _SQUARE] = _COLOUR
    return pixels


def _corner(progress: float) -> tuple[int, int]:
    """Return row and column of the square's top left corner; ``progress`` is from 0 to 1."""
    third, within = divmod(min(progress, 0.9999) * 3, 1)
    left, right = _SIDE, WIDTH - _SIDE - _SQUARE
    top, bottom = _TOP, HEIGHT - _TOP - _SQUARE
    if third == 0:
        return top, int(left + within * (right - left))
    if third == 1:
        return int(top + within * (bottom - top)), right
    return bottom, int(right - within * (right - left))


if __name__ == "__main__":
    render(Path(sys.argv[1]))
