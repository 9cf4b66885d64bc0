"""A few pictures from along a film, for the timeline and the page.

They are picked while frames stream by: `film_strip` decodes the film for them, and
`FilmStrip.watch` can stand in a walk that decodes it anyway. How long the film is need not be known
before: every frame is kept at first, and whenever there are too many, every other one goes and the
gap between them doubles. So an hour of film costs the pixels of a few hundred frames, and memory
for 60 small pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.core.errors import UsageError
from c3d_client.video.decode import Frame, decode_frames

STILLS = 60
# A still is shrunk to fit in here: the pixels of a small player, about 8 KB as JPEG.
STILL_WIDTH, STILL_HEIGHT = 320, 180


@dataclass(frozen=True)
class Still:
    """One picture of the film.

    Args:
        index: of the frame, counted from 0.
        time_s: when it is shown, in seconds from the start.
        pixels: uint8 ``[height, width, 3]`` RGB, at most 180 by 320.
    """

    index: int
    time_s: float
    pixels: npt.NDArray[np.uint8]


class FilmStrip:
    """The pictures of one film, evenly spread over its time.

    Args:
        count: how many are kept at most, 2 or more; a film of more frames leaves at least about
            half as many.

    Raises:
        UsageError: count is below 2.
    """

    def __init__(self, *, count: int = STILLS) -> None:
        if count < 2:
            raise UsageError(f"a film strip of {count} pictures; give 2 or more")
        self._count = count
        self._gap_s = 0.0
        self._stills: list[Still] = []
        self.end_s = 0.0  # when the last frame seen ends, in seconds

    @property
    def stills(self) -> tuple[Still, ...]:
        """The pictures kept so far, in the film's order."""
        return tuple(self._stills)

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Hand frames on, one by one and unchanged, and keep pictures of a few."""
        for frame in frames:
            self._note(frame)
            yield frame

    def row(self, *, across: float, tall: float, end_s: float) -> list[Still]:
        """Pictures to stand side by side under a time axis, in cells of equal width.

        Args:
            across, tall: how wide the axis is and about how high a cell, in any unit; 8 to 24
                cells that suit the film's shape, fewer where there are fewer pictures.
            end_s: where the axis ends; it begins at 0.

        Returns:
            For each cell the picture nearest the cell's middle.
        """
        if not self._stills:
            return []
        height, width = self._stills[0].pixels.shape[:2]
        count = min(len(self._stills), max(8, min(24, round(across / tall * height / width))))
        middles = (np.arange(count) + 0.5) * end_s / count
        return [min(self._stills, key=lambda still: abs(still.time_s - at)) for at in middles]

    def _note(self, frame: Frame) -> None:
        self.end_s = frame.time_s + frame.duration_s
        if not _spaced(self._stills, frame.time_s, self._gap_s):
            return
        self._stills.append(Still(frame.index, frame.time_s, _shrunk(frame.pixels)))
        if len(self._stills) > self._count:
            span_s = self._stills[-1].time_s - self._stills[0].time_s
            self._gap_s = span_s / (self._count // 2)
            kept: list[Still] = []
            for still in self._stills:
                if _spaced(kept, still.time_s, self._gap_s):
                    kept.append(still)
            self._stills = kept


def film_strip(source: str | os.PathLike[str] | BinaryIO, *, count: int = STILLS) -> FilmStrip:
    """Decode a film for a few of its pictures; only those are converted to pixels.

    Args:
        source: as :func:`c3d_client.video.decode.decode_frames` takes it.
        count: as in :class:`FilmStrip`.

    Raises:
        VideoDecodeError: the video cannot be decoded to its end.
    """
    strip = FilmStrip(count=count)
    for _ in strip.watch(decode_frames(source)):
        pass
    return strip


def _spaced(stills: Sequence[Still], time_s: float, gap_s: float) -> bool:
    # A hair less than the gap: times are sums of fractions, and just as far is far enough.
    return not stills or time_s - stills[-1].time_s >= gap_s * 0.999


def _shrunk(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = min(1.0, STILL_WIDTH / width, STILL_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    whole = np.ascontiguousarray(pixels)  # a turned picture is a view
    return cast("npt.NDArray[np.uint8]", cv2.resize(whole, size, interpolation=cv2.INTER_AREA))
