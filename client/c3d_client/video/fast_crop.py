"""Faster crops of planar 4:2:0 pictures, which most videos consist of.

:mod:`c3d_client.video.frame` decides when they are used. An object is made for pictures of one
shape and for one thread. libswscale converts in that thread too, because starting its threads takes
longer than converting. Intermediate pixels are RGBA, because libswscale and OpenCV are faster with
it.
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
_ROTATIONS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}

# Measured: at 854x480 pixels, gathering the needed rows takes as long as converting all rows.
_GATHER_FROM_PIXELS = 1 << 19

Pixels = npt.NDArray[np.uint8]
_CROP = np.s_[CROP_TOP : CROP_TOP + CROP_SIZE, CROP_LEFT : CROP_LEFT + CROP_SIZE]


class Shape(NamedTuple):
    """The properties of a picture that decide how it is converted.

    Args:
        format: FFmpeg's name of the pixel format.
        width: columns, as stored.
        height: rows, as stored.
        colorspace: FFmpeg's AVColorSpace.
        color_range: FFmpeg's AVColorRange.
        interlaced: two interlaced fields, which libswscale converts separately.
        quarters: rotations by 90 degrees counter-clockwise that make it upright, 0 to 3.
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
    def is_supported(self) -> bool:
        """Whether this module supports the picture: 8 bits, whole chroma samples, not enlarged.

        libswscale has a fast converter for these, which uses for a pixel the chroma sample that
        covers it. Other pictures, such as those of odd height, pass its scaler, which mixes
        neighbouring samples.
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
        """Return an empty frame of another size and format with the same colour properties."""
        frame = av.VideoFrame(width, height, format)
        frame.colorspace, frame.color_range = self.colorspace, self.color_range
        return frame


class ExactCrop:
    """The same crop as prepare_frame() returns, byte for byte.

    Bilinear interpolation reads two rows of pixels for each of the crop's 112, however large the
    picture is. Of large pictures only these rows are gathered, each with its own row of chroma, and
    converted. They are written to their positions in a picture whose other pixels stay empty, and
    OpenCV resizes that picture.
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
        self._gathers = shape.width * shape.height >= _GATHER_FROM_PIXELS
        if self._gathers:
            self._prepare_to_gather(shape)

    def _prepare_to_gather(self, shape: Shape) -> None:
        height, width = shape.upright
        is_read = np.zeros((height, width), bool)
        is_read[
            np.ix_(
                _read_indices(height, RESIZE_HEIGHT, CROP_TOP),
                _read_indices(width, RESIZE_WIDTH, CROP_LEFT),
            )
        ] = True
        rows, columns = _true_rows_and_columns(np.rot90(is_read, -shape.quarters))
        if len(rows) % 2:  # the fast converter converts two rows at a time
            rows = np.append(rows, rows[-1])
        # Converters work on blocks of 16 pixels.
        left, right = columns[0] // 16 * 16, min(columns[-1] // 16 * 16 + 16, shape.width)
        luma, chroma = np.s_[:, left:right], np.s_[:, left // 2 : right // 2]
        self._rows = shape.blank(right - left, len(rows), _TWICE_THE_CHROMA_ROWS[shape.format])
        y, u, v = (_samples(plane) for plane in self._rows.planes)
        self._gathering = [(luma, rows, y), (chroma, rows // 2, u), (chroma, rows // 2, v)]
        self._picture = np.zeros((height, width, 4), np.uint8)
        self._stored = np.rot90(self._picture.view("<u4")[:, :, 0], -shape.quarters)
        # Rows are copied whole; of rotated pictures each needed pixel is copied separately.
        self._copied = np.s_[:, columns - left] if shape.quarters else np.s_[:]
        self._target = np.ix_(rows, columns) if shape.quarters else np.s_[rows, left:right]

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """Return the crop of a picture of this shape: uint8 ``[112, 112, 3]``, RGB."""
        picture = self._gathered(frame) if self._gathers else self._whole(frame)
        part = picture[self._part]
        resized = cv2.resize(part, None, fx=self._fx, fy=self._fy, interpolation=cv2.INTER_LINEAR)
        return cast("Pixels", cv2.cvtColor(resized[_CROP], cv2.COLOR_RGBA2RGB))

    def _whole(self, frame: av.VideoFrame) -> Pixels:
        picture = _channels(_rgba(self._reformatter, frame))
        return _rotated(picture, self._quarters)

    def _gathered(self, frame: av.VideoFrame) -> Pixels:
        for plane, (columns, rows, target) in zip(frame.planes, self._gathering, strict=True):
            target[:] = _samples(plane)[columns][rows]
        self._stored[self._target] = _rgba(self._reformatter, self._rows)[self._copied]
        return self._picture


class FastCrop:
    """Nearly the same crop, faster: the planes are resized, and then few pixels are converted.

    Chroma of large pictures is resized to the size of luma. libswscale's fast converter uses one
    chroma sample for two pixels, so the picture is converted at twice its width and every other
    pixel is dropped. Chroma that would have to be enlarged is resized to half the size of luma.
    """

    def __init__(self, shape: Shape) -> None:
        resized = np.zeros((RESIZE_HEIGHT, RESIZE_WIDTH), bool)
        resized[_CROP] = True
        stored = np.rot90(resized, -shape.quarters)
        rows, columns = _true_rows_and_columns(stored)
        self._crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self._quarters = shape.quarters
        self._reformatter = VideoReformatter()
        # OpenCV resizes as far as the crop's last row and column, made even.
        bottom, right = (indices[-1] // 2 * 2 + 2 for indices in (rows, columns))
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
        for target, subsampling in ((y, 1), (u, 2), (v, 2)):
            rows_out, columns_out = target.shape
            fy = rows_out / bottom * stored.shape[0] / (shape.height / subsampling)
            fx = columns_out / right * stored.shape[1] / (shape.width / subsampling)
            part = np.s_[: round(rows_out / fy), : round(columns_out / fx)]
            self._resizing.append((part, target, fx, fy))

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """Return the crop of a picture of this shape: uint8 ``[112, 112, 3]``, RGB."""
        for plane, (part, target, fx, fy) in zip(frame.planes, self._resizing, strict=True):
            samples = _samples(plane)[part]
            cv2.resize(samples, None, dst=target, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)
        if self._doubles:
            self._twice[:] = self._luma
        pixels = _rgba(self._reformatter, self._small)
        if self._doubles:
            pixels = pixels.view("<u8").astype("<u4")
        crop = cv2.cvtColor(_channels(pixels[self._crop]), cv2.COLOR_RGBA2RGB)
        return _rotated(cast("Pixels", crop), self._quarters)


def _read_indices(length: int, resized: int, first: int) -> npt.NDArray[np.intp]:
    """Return the rows (or columns) that OpenCV's bilinear resize reads for the crop's 112.

    Args:
        length: rows of the picture.
        resized: rows of the resized picture.
        first: the crop's first row.
    """
    centres = (np.arange(first, first + CROP_SIZE) + 0.5) * (length / resized) - 0.5
    before = np.floor(centres.astype(np.float32)).astype(np.intp)
    return np.clip(np.concatenate([before, before + 1]), 0, length - 1)


def _true_rows_and_columns(
    mask: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the rows and the columns of a mask that contain a true value."""
    return np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))


def _samples(plane: VideoPlane) -> Pixels:
    """Return a plane of 8-bit samples, uint8 ``[height, width]``, without copying."""
    memory: Pixels = np.frombuffer(cast(Any, plane), np.uint8)
    samples = memory.reshape(plane.height, abs(plane.line_size))
    # A picture that is stored from the bottom up has a negative line size.
    return samples[:: 1 if plane.line_size > 0 else -1, : plane.width]


def _rgba(reformatter: VideoReformatter, frame: av.VideoFrame) -> npt.NDArray[np.uint32]:
    """Convert a frame to one number for each pixel: ``[height, width]``."""
    rgba = reformatter.reformat(frame, format="rgba", threads=1)
    memory: npt.NDArray[np.uint32] = np.frombuffer(cast(Any, rgba.planes[0]), "<u4")
    return memory.reshape(rgba.height, -1)[:, : rgba.width]


def _channels(rgba: npt.NDArray[np.uint32]) -> Pixels:
    """Return RGBA pixels as uint8 ``[height, width, 4]``."""
    return rgba.view(np.uint8).reshape(*rgba.shape, 4)


def _rotated(pixels: Pixels, quarters: int) -> Pixels:
    """Rotate pixels counter-clockwise by a number of times 90 degrees."""
    return cast("Pixels", cv2.rotate(pixels, _ROTATIONS[quarters])) if quarters else pixels
