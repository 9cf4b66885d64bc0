"""Planar 4:2:0 pictures to C3D's crop, quickly: the pictures that most videos are made of.

picture.py says when this is used. An object keeps what it needs for pictures of one shape and
serves one thread. libswscale converts in that thread too: at these sizes starting its own costs
more than the work. Pixels are RGBA on the way, because libswscale and OpenCV are faster at it.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple, cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from c3d_client.core.contract import CROP_LEFT, CROP_SIZE, CROP_TOP, RESIZE_HEIGHT, RESIZE_WIDTH

# Formats with a chroma sample for 2x2 pixels, and the same colours with one for 2x1.
_TWICE_THE_CHROMA_ROWS = {"yuv420p": "yuv422p", "yuvj420p": "yuvj422p"}
_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}

# Measured: at 854x480 pixels it takes as long to gather what is read as to convert all.
_GATHERED_FROM = 1 << 19

Pixels = npt.NDArray[np.uint8]
_CROP = np.s_[CROP_TOP : CROP_TOP + CROP_SIZE, CROP_LEFT : CROP_LEFT + CROP_SIZE]


class Shape(NamedTuple):
    """All of a picture that decides how it is converted, save its pixels.

    Args:
        format: FFmpeg's name of the pixel format.
        width: columns, as stored.
        height: rows, as stored.
        colorspace: FFmpeg's AVColorSpace.
        color_range: FFmpeg's AVColorRange.
        interlaced: two fields woven; libswscale converts each for itself.
        quarters: turns by 90 degrees counter-clockwise until it is upright, 0 to 3.
    """

    format: str
    width: int
    height: int
    colorspace: int
    color_range: int
    interlaced: bool
    quarters: int

    @property
    def upright(self) -> tuple[int, int]:
        """Rows and columns, as shown."""
        return (self.width, self.height) if self.quarters % 2 else (self.height, self.width)

    @property
    def is_quick(self) -> bool:
        """Whether this module takes it: 8 bits, whole chroma samples, not to be enlarged.

        libswscale has a fast converter for these, which gives a pixel the chroma sample that
        covers it. Others, odd heights among them, go through its scaler, which mixes neighbours.
        """
        rows, columns = self.upright
        return (
            self.format in _TWICE_THE_CHROMA_ROWS
            and not self.interlaced
            and self.width % 2 == self.height % 2 == 0
            and rows >= RESIZE_HEIGHT
            and columns >= RESIZE_WIDTH
        )

    def blank(self, width: int, height: int, format: str) -> av.VideoFrame:
        """A frame of another size and format whose colours mean the same."""
        frame = av.VideoFrame(width, height, format)
        frame.colorspace, frame.color_range = self.colorspace, self.color_range
        return frame


class ExactCrop:
    """The crop as prepare_frame() makes it, byte for byte.

    Bilinear interpolation reads two rows of pixels for each of the crop's 112, however large the
    picture is. Of large pictures these rows alone are gathered, each with its own row of chroma,
    and converted. They are put in their places in a picture of which nothing else is ever written,
    and OpenCV resizes that.
    """

    def __init__(self, shape: Shape) -> None:
        height, width = shape.upright
        self._fx, self._fy = RESIZE_WIDTH / width, RESIZE_HEIGHT / height
        # OpenCV resizes as far as the crop's last row and column.
        self._part = np.s_[
            : ceil((CROP_TOP + CROP_SIZE) * height / RESIZE_HEIGHT) + 1,
            : ceil((CROP_LEFT + CROP_SIZE) * width / RESIZE_WIDTH) + 1,
        ]
        self._quarters = shape.quarters
        self._reformatter = VideoReformatter()
        self._gathers = shape.width * shape.height >= _GATHERED_FROM
        if self._gathers:
            self._prepare_to_gather(shape)

    def _prepare_to_gather(self, shape: Shape) -> None:
        height, width = shape.upright
        read = np.zeros((height, width), bool)
        at = _read(height, RESIZE_HEIGHT, CROP_TOP), _read(width, RESIZE_WIDTH, CROP_LEFT)
        read[np.ix_(*at)] = True
        rows, columns = _marked(np.rot90(read, -shape.quarters))
        if len(rows) % 2:  # the fast converter takes rows by twos
            rows = np.append(rows, rows[-1])
        # Converters work on blocks of 16 pixels.
        left, right = columns[0] // 16 * 16, min(columns[-1] // 16 * 16 + 16, shape.width)
        luma, chroma = np.s_[:, left:right], np.s_[:, left // 2 : right // 2]
        self._rows = shape.blank(right - left, len(rows), _TWICE_THE_CHROMA_ROWS[shape.format])
        y, u, v = (_samples(plane) for plane in self._rows.planes)
        self._gathering = [(luma, rows, y), (chroma, rows // 2, u), (chroma, rows // 2, v)]
        self._picture = np.zeros((height, width, 4), np.uint8)
        self._stored = np.rot90(self._picture.view("<u4")[:, :, 0], -shape.quarters)
        # Rows are copied whole; to be turned, each pixel that is read is moved for itself.
        self._taken = np.s_[:, columns - left] if shape.quarters else np.s_[:]
        self._place = np.ix_(rows, columns) if shape.quarters else np.s_[rows, left:right]

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """The crop of a picture of this shape: uint8 ``[112, 112, 3]``, RGB."""
        picture = self._gathered(frame) if self._gathers else self._whole(frame)
        part = picture[self._part]
        resized = cv2.resize(part, None, fx=self._fx, fy=self._fy, interpolation=cv2.INTER_LINEAR)
        return cast("Pixels", cv2.cvtColor(resized[_CROP], cv2.COLOR_RGBA2RGB))

    def _whole(self, frame: av.VideoFrame) -> Pixels:
        picture = _channels(_rgba(self._reformatter, frame))
        return _turned(picture, self._quarters)

    def _gathered(self, frame: av.VideoFrame) -> Pixels:
        for plane, (columns, rows, to) in zip(frame.planes, self._gathering, strict=True):
            to[:] = _samples(plane)[columns][rows]
        self._stored[self._place] = _rgba(self._reformatter, self._rows)[self._taken]
        return self._picture


class FastCrop:
    """Nearly the same crop for less: the planes are resized, and little is converted.

    Chroma of pictures that are large enough is resized to the luma's size. libswscale's fast
    converter has a chroma sample for two pixels, so every other pixel is made in vain. Chroma
    that would have to be enlarged for that is resized to half the luma's size.
    """

    def __init__(self, shape: Shape) -> None:
        resized = np.zeros((RESIZE_HEIGHT, RESIZE_WIDTH), bool)
        resized[_CROP] = True
        stored = np.rot90(resized, -shape.quarters)
        rows, columns = _marked(stored)
        self._crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self._quarters = shape.quarters
        self._reformatter = VideoReformatter()
        # OpenCV resizes as far as the crop's last row and column, made even.
        bottom, right = (at[-1] // 2 * 2 + 2 for at in (rows, columns))
        height, width = shape.upright
        self._doubles = height >= 2 * RESIZE_HEIGHT and width >= 2 * RESIZE_WIDTH
        if self._doubles:
            self._small = shape.blank(2 * right, bottom, _TWICE_THE_CHROMA_ROWS[shape.format])
        else:
            self._small = shape.blank(right, bottom, shape.format)
        y, u, v = (_samples(plane) for plane in self._small.planes)
        if self._doubles:
            self._twice, y = y.view("<u2"), np.empty((bottom, right), np.uint8)
        self._luma = y
        self._resizing = []
        for to, every in ((y, 1), (u, 2), (v, 2)):
            fy = to.shape[0] / bottom * stored.shape[0] / (shape.height / every)
            fx = to.shape[1] / right * stored.shape[1] / (shape.width / every)
            part = np.s_[: round(to.shape[0] / fy), : round(to.shape[1] / fx)]
            self._resizing.append((part, to, fx, fy))

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """The crop of a picture of this shape: uint8 ``[112, 112, 3]``, RGB."""
        for plane, (part, to, fx, fy) in zip(frame.planes, self._resizing, strict=True):
            samples = _samples(plane)[part]
            cv2.resize(samples, None, dst=to, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)
        if self._doubles:
            self._twice[:] = self._luma
        pixels = _rgba(self._reformatter, self._small)
        if self._doubles:
            pixels = pixels.view("<u8").astype("<u4")
        crop = cv2.cvtColor(_channels(pixels[self._crop]), cv2.COLOR_RGBA2RGB)
        return _turned(cast("Pixels", crop), self._quarters)


def _read(length: int, resized: int, first: int) -> npt.NDArray[np.intp]:
    """Which of so many rows (or columns) OpenCV's bilinear resize reads for the crop's 112."""
    centres = (np.arange(first, first + CROP_SIZE) + 0.5) * (length / resized) - 0.5
    before = np.floor(centres.astype(np.float32)).astype(np.intp)
    return np.clip(np.concatenate([before, before + 1]), 0, length - 1)


def _marked(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The rows and the columns in which anything is marked."""
    return np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))


def _samples(plane: VideoPlane) -> Pixels:
    """A plane of 8-bit samples, uint8 ``[height, width]``, not copied."""
    memory: Pixels = np.frombuffer(cast(Any, plane), np.uint8)
    samples = memory.reshape(plane.height, abs(plane.line_size))
    # A picture that is stored from the bottom up comes in the order of memory.
    return samples[:: 1 if plane.line_size > 0 else -1, : plane.width]


def _rgba(reformatter: VideoReformatter, frame: av.VideoFrame) -> npt.NDArray[np.uint32]:
    """A frame with one number for each pixel: ``[height, width]``."""
    rgba = reformatter.reformat(frame, format="rgba", threads=1)
    memory: npt.NDArray[np.uint32] = np.frombuffer(cast(Any, rgba.planes[0]), "<u4")
    return memory.reshape(rgba.height, -1)[:, : rgba.width]


def _channels(rgba: npt.NDArray[np.uint32]) -> Pixels:
    """The same as uint8 ``[height, width, 4]``."""
    return rgba.view(np.uint8).reshape(*rgba.shape, 4)


def _turned(pixels: Pixels, quarters: int) -> Pixels:
    """Turned counter-clockwise by so many times 90 degrees."""
    return cast("Pixels", cv2.rotate(pixels, _TURNS[quarters])) if quarters else pixels
