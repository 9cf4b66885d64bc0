"""A decoded frame to pixels: the whole picture, or the 112x112 crop that C3D needs.

The crop's pixels are exactly OpenCV's, because the published weights were trained on them:
``cv2.resize`` of the whole RGB picture to 171x128 with bilinear interpolation, without keeping the
aspect ratio, then rows 8:120 and columns 29:141. For the pictures of most videos
:mod:`c3d_client.video.fast_crop` computes the same bytes faster, or nearly the same bytes faster
still.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from c3d_client.core.contract import CROP_LEFT, CROP_SIZE, CROP_TOP, RESIZE_HEIGHT, RESIZE_WIDTH
from c3d_client.core.errors import UsageError, VideoDecodeError
from c3d_client.video.fast_crop import ExactCrop, FastCrop, Shape

RESIZES = ("exact", "fast")

# FFmpeg's numbers of labels without a meaning.
_RESERVED, _UNSPECIFIED = 3, 2

# The matrices that FFmpeg does not convert, by their numbers (AVColorSpace).
_UNSUPPORTED_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    12: "derived from the primaries",
    13: "derived from the primaries, with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


class Picture:
    """A decoded picture, which is converted to pixels when they are requested.

    Threads may convert different pictures at the same time.

    Args:
        frame: from the decoder.
        rotation: degrees counter-clockwise by which the picture is rotated when it is shown, a
            multiple of 90; the sign is that of PyAV's ``VideoFrame.rotation``.
        name: of the video, for error messages.
    """

    __slots__ = ("_frame", "_name", "_quarters")

    def __init__(self, frame: av.VideoFrame, *, rotation: int = 0, name: str = "picture") -> None:
        # FFmpeg refuses some transfer characteristics and primaries, and needs neither of them to
        # convert to RGB; with the same labels on both sides they change no pixel.
        frame.color_trc = frame.color_primaries = _UNSPECIFIED
        if frame.colorspace == _RESERVED:
            frame.colorspace = _UNSPECIFIED
        self._frame = frame
        self._quarters = rotation // 90 % 4
        self._name = name

    @classmethod
    def from_pixels(cls, pixels: npt.NDArray[np.uint8], *, name: str = "picture") -> Picture:
        """Make a picture from pixels, uint8 ``[height, width, 3]`` RGB, which are copied.

        Args:
            pixels: of the whole picture.
            name: of the video, for error messages.

        Raises:
            UsageError: the array has another dtype or shape, or is empty.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UsageError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}; give uint8 [height, width, 3]"
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return cls(frame, name=name)

    @property
    def name(self) -> str:
        """The video's name, for error messages."""
        return self._name

    @property
    def height(self) -> int:
        """Rows, as shown."""
        return self._frame.width if self._quarters % 2 else self._frame.height

    @property
    def width(self) -> int:
        """Columns, as shown."""
        return self._frame.height if self._quarters % 2 else self._frame.width

    @property
    def interlaced(self) -> bool:
        """Whether the picture consists of two interlaced fields, filmed one after the other."""
        return bool(self._frame.interlaced_frame)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return the whole picture as shown, in a new array: uint8 ``[height, width, 3]``, RGB.

        Raises:
            VideoDecodeError: FFmpeg cannot convert the picture's colours.
        """
        try:
            return np.rot90(_whole(self._frame), self._quarters)
        except (FFmpegError, OSError) as error:
            raise self._not_converted() from error

    def prepared(self, resize: str = "exact") -> npt.NDArray[np.uint8]:
        """Return the crop that C3D needs, in a new array.

        Args:
            resize: ``"exact"`` for the bytes that ``prepare_frame(picture.pixels())`` returns.
                ``"fast"`` resizes the planes of 4:2:0 video before it converts their colours;
                pixels differ by about one level. Other video is converted as with ``"exact"``.

        Returns:
            uint8 ``[112, 112, 3]``, RGB, contiguous.

        Raises:
            UsageError: ``resize`` has another value.
            VideoDecodeError: FFmpeg cannot convert the picture's colours.
        """
        if resize not in RESIZES:
            raise UsageError(f"resize is {resize!r}; give one of: {', '.join(RESIZES)}")
        frame = self._frame
        shape = Shape(
            frame.format.name,
            frame.width,
            frame.height,
            frame.colorspace,
            frame.color_range,
            frame.interlaced_frame,
            self._quarters,
        )
        try:
            crop = _thread.quick_crop(shape, resize)
            if crop is not None:
                return crop(frame)
        except (FFmpegError, OSError) as error:
            raise self._not_converted() from error
        return prepare_frame(self.pixels())

    def _not_converted(self) -> VideoDecodeError:
        matrix = _UNSUPPORTED_MATRICES.get(int(self._frame.colorspace))
        if matrix is None:
            problem = f"their pixel format is {self._frame.format.name}; give a video in yuv420p"
        else:
            problem = (
                f"their colour matrix is {matrix} (matrix_coefficients "
                f"{int(self._frame.colorspace)}); give a video with the matrix of BT.709"
            )
        return VideoDecodeError(
            self._name, f"FFmpeg does not convert its pictures to RGB: {problem}"
        )


def forget_pictures() -> None:
    """Free the memory that this thread reuses from picture to picture."""
    _thread.reformatter = VideoReformatter()
    _thread.quick_crop.cache_clear()


def prepare_frame(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize a picture to 171x128 with OpenCV and return its centre crop.

    Args:
        pixels: uint8 ``[height, width, 3]``, any size, any channel order.

    Returns:
        uint8 ``[112, 112, 3]``, the same channel order, contiguous.
    """
    resized = cv2.resize(
        np.ascontiguousarray(pixels),
        (RESIZE_WIDTH, RESIZE_HEIGHT),
        interpolation=cv2.INTER_LINEAR,
    )
    crop = resized[CROP_TOP : CROP_TOP + CROP_SIZE, CROP_LEFT : CROP_LEFT + CROP_SIZE]
    return cast("npt.NDArray[np.uint8]", crop.copy())


def _whole(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """Return a frame as stored: uint8 ``[height, width, 3]``, RGB."""
    # Bicubic, as in OpenCV's VideoCapture: it decides how libswscale enlarges chroma where its fast
    # converter does not support the picture. One thread, because starting libswscale's threads
    # takes longer than converting a picture.
    rgb = _thread.reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1)
    pixels = cast("npt.NDArray[np.uint8]", rgb.to_ndarray())
    return pixels.copy() if rgb is frame else pixels  # an unconverted frame is returned itself


def _quick_crop(shape: Shape, resize: str) -> ExactCrop | FastCrop | None:
    """Return the faster conversion for pictures of a shape; None without one that is exact."""
    if not shape.is_supported:
        return None
    if resize == "fast":
        return FastCrop(shape)
    return ExactCrop(shape) if _is_exact(shape) else None


@lru_cache(maxsize=256)
def _is_exact(shape: Shape) -> bool:
    """Whether the faster conversion returns the same bytes for noise, on this machine.

    It depends on the implementation of libswscale and OpenCV, which differs between processors and
    versions.
    """
    noise = shape.blank(shape.width, shape.height, shape.format)
    random = np.random.default_rng(0)
    for plane in noise.planes:
        plane.update(random.bytes(plane.buffer_size))
    expected = prepare_frame(np.rot90(_whole(noise), shape.quarters))
    return np.array_equal(ExactCrop(shape)(noise), expected)


class _Thread(threading.local):
    """Objects that a thread reuses from picture to picture."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        # Two shapes, because a video may change its size; each may use much memory.
        self.quick_crop = lru_cache(maxsize=2)(_quick_crop)


_thread = _Thread()
