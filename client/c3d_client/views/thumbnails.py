"""Small frames evenly spread over a video, for the timeline and the page.

They are collected while frames stream by: :func:`read_thumbnails` decodes a video for them, and
:meth:`Thumbnails.watch` collects them from frames that are decoded for another purpose. The length
of the video need not be known: at first every frame is stored, and whenever there are too many,
every other one is dropped and the gap between them doubles. So an hour of video costs the pixels of
a few hundred frames, and the memory of 60 thumbnails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.core.errors import UsageError
from c3d_client.video.clips import ClipWindow
from c3d_client.video.decode import Frame
from c3d_client.video.frames import VideoSource, open_input

MAX_THUMBNAILS = 60
# A thumbnail fits into this size: the pixels of a small player, about 8 KB as JPEG.
MAX_WIDTH, MAX_HEIGHT = 320, 180
# Cells in a row of thumbnails.
_MIN_CELLS, _MAX_CELLS = 8, 24


@dataclass(frozen=True)
class Thumbnail:
    """One small frame of a video.

    Args:
        index: the frame's index, from 0.
        time_s: when the frame is shown, in seconds from the start.
        pixels: uint8 ``[height, width, 3]`` RGB, at most 180 by 320.
    """

    index: int
    time_s: float
    pixels: npt.NDArray[np.uint8]


class Thumbnails:
    """The thumbnails of one video, evenly spread over its time.

    Args:
        count: the largest number to store, 2 or more; a longer video has at least about half as
            many.

    Attributes:
        end_s: when the last frame seen ends, in seconds.

    Raises:
        UsageError: count is below 2.
    """

    def __init__(self, *, count: int = MAX_THUMBNAILS) -> None:
        if count < 2:
            raise UsageError(f"a strip of {count} thumbnails; give 2 or more")
        self._count = count
        self._gap_s = 0.0
        self._thumbnails: list[Thumbnail] = []
        self.end_s = 0.0

    @property
    def all(self) -> tuple[Thumbnail, ...]:
        """The thumbnails collected so far, in order of time."""
        return tuple(self._thumbnails)

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield frames unchanged, and collect thumbnails of a few of them."""
        for frame in frames:
            self._add(frame)
            yield frame

    def row(self, *, width: float, height: float, end_s: float) -> list[Thumbnail]:
        """Return the thumbnails for a row of equally wide cells along a time axis.

        Args:
            width: the width of the axis, in any unit.
            height: the approximate height of a cell, in the same unit. There are 8 to 24 cells of
                about the video's aspect ratio, fewer where there are fewer thumbnails.
            end_s: the end of the axis, which begins at 0.

        Returns:
            For each cell the thumbnail nearest to the cell's middle.
        """
        if not self._thumbnails:
            return []
        rows, columns = self._thumbnails[0].pixels.shape[:2]
        cells = max(_MIN_CELLS, min(_MAX_CELLS, round(width / height * rows / columns)))
        cells = min(len(self._thumbnails), cells)
        middles = (np.arange(cells) + 0.5) * end_s / cells
        return [
            min(self._thumbnails, key=lambda thumbnail: abs(thumbnail.time_s - middle))
            for middle in middles
        ]

    def _add(self, frame: Frame) -> None:
        self.end_s = frame.time_s + frame.duration_s
        if not _is_spaced(self._thumbnails, frame.time_s, self._gap_s):
            return
        self._thumbnails.append(Thumbnail(frame.index, frame.time_s, _shrink(frame.pixels)))
        if len(self._thumbnails) > self._count:
            span_s = self._thumbnails[-1].time_s - self._thumbnails[0].time_s
            self._gap_s = span_s / (self._count // 2)
            spaced: list[Thumbnail] = []
            for thumbnail in self._thumbnails:
                if _is_spaced(spaced, thumbnail.time_s, self._gap_s):
                    spaced.append(thumbnail)
            self._thumbnails = spaced


def read_thumbnails(
    source: VideoSource,
    *,
    count: int = MAX_THUMBNAILS,
    video: Mapping[str, Any] | None = None,
) -> Thumbnails:
    """Read a video for its thumbnails; of a decoded video, only those are converted to pixels.

    Args:
        source: as for :meth:`c3d_client.C3DClient.classify`.
        count: as for :class:`Thumbnails`.
        video: what the provenance of a result records under ``video``: the stream, the rate and the
            order of the channels are read in the same way.

    Raises:
        VideoDecodeError: the video cannot be read to its end.
        UsageError: the source is an iterator, whose frames were read already.
    """
    video = video or {}
    given = open_input(
        source,
        window=ClipWindow(stream=video.get("stream")),
        channel_order=video.get("channel_order") or "rgb",
        frames_fps=video.get("frames_fps"),
    )
    if given.is_once:
        raise UsageError(
            "the frames of an iterator cannot be read a second time for thumbnails; give strip, "
            "Thumbnails that watched them"
        )
    thumbnails = Thumbnails(count=count)
    given.prepare()
    for _ in thumbnails.watch(given.frames()):
        pass
    return thumbnails


def _is_spaced(thumbnails: Sequence[Thumbnail], time_s: float, gap_s: float) -> bool:
    # Times are sums of fractions: the tolerance accepts a distance of exactly one gap.
    return not thumbnails or time_s - thumbnails[-1].time_s >= gap_s * 0.999


def _shrink(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = min(1.0, MAX_WIDTH / width, MAX_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    contiguous = np.ascontiguousarray(pixels)  # a rotated frame is a view
    return cast("npt.NDArray[np.uint8]", cv2.resize(contiguous, size, interpolation=cv2.INTER_AREA))
