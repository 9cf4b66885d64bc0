"""One decoded picture to pixels: whole, or only the 112x112 crop that C3D sees.

Between decoding and clips. The crop's pixels are exactly OpenCV's, because the published weights
were trained on them: ``cv2.resize`` of the whole RGB picture to 171x128 with bilinear
interpolation, aspect ratio ignored, then rows 8:120 and columns 29:141. Most videos' pictures come
to the same bytes by a shorter way, or to nearly the same by one that is shorter still: planes.py.
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


class Picture:
    """A picture as it was decoded; its pixels are made when they are asked for.

    Threads may make pixels of different pictures at the same time.

    Args:
        frame: from the decoder.
        rotation: degrees counter-clockwise by which it is to be turned to be shown, a multiple
            of 90; the sign is that of PyAV's ``VideoFrame.rotation``.
        name: of the video, for errors.
    """

    __slots__ = ("_frame", "_name", "_quarters")

    def __init__(self, frame: av.VideoFrame, *, rotation: int = 0, name: str = "picture") -> None:
        self._frame = frame
        self._quarters = rotation // 90 % 4
        self._name = name

    @classmethod
    def from_pixels(cls, pixels: npt.NDArray[np.uint8]) -> Picture:
        """A picture of one's own making: uint8 ``[height, width, 3]`` RGB, copied.

        Raises:
            UsageError: the array is not such a one.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UsageError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}; give uint8 [height, width, 3]"
            )
        return cls(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"))

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
        """Whether it is two fields woven, taken one after the other."""
        return bool(self._frame.interlaced_frame)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """All of it as shown: uint8 ``[height, width, 3]``, RGB, the caller's own.

        Raises:
            VideoDecodeError: its colours are of a kind that FFmpeg does not convert.
        """
        try:
            return np.rot90(_whole(self._frame), self._quarters)
        except (FFmpegError, OSError) as error:
            raise self._not_converted() from error

    def prepared(self, resize: str = "exact") -> npt.NDArray[np.uint8]:
        """The crop that C3D sees.

        Args:
            resize: ``"exact"``: the bytes that ``prepare_frame(picture.pixels())`` gives.
                ``"fast"``: the planes of 4:2:0 video are resized before their colours are
                converted; pixels differ by about one level. Other video is as with ``"exact"``.

        Returns:
            uint8 ``[112, 112, 3]``, RGB, contiguous, the caller's own.

        Raises:
            UsageError: another word for ``resize``.
            VideoDecodeError: its colours are of a kind that FFmpeg does not convert.
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
        frame = self._frame
        return VideoDecodeError(
            self._name,
            f"FFmpeg does not convert its pictures to RGB: pixel format {frame.format.name}, "
            f"colour space {int(frame.colorspace)} (AVColorSpace); give a video in BT.709",
        )


def prepare_frame(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize to 171x128 as OpenCV does and cut C3D's centre crop.

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
    """A frame as stored: uint8 ``[height, width, 3]``, RGB."""
    # Bicubic, as OpenCV's VideoCapture asks for it: libswscale's way of enlarging chroma, where its
    # fast converter does not take the picture. One thread: its own take longer to start than a
    # picture takes.
    rgb = _thread.reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1)
    pixels = cast("npt.NDArray[np.uint8]", rgb.to_ndarray())
    return pixels.copy() if rgb is frame else pixels  # it may be a view of the frame


def _quick_crop(shape: Shape, resize: str) -> ExactCrop | FastCrop | None:
    """The quick way for pictures of this shape; None where there is none, or it is not exact."""
    if not shape.is_quick:
        return None
    if resize == "fast":
        return FastCrop(shape)
    return ExactCrop(shape) if _is_exact(shape) else None


@lru_cache(maxsize=256)
def _is_exact(shape: Shape) -> bool:
    """Whether the quick way gives the plain way's bytes for noise, on this machine.

    It rests on how libswscale and OpenCV work inside, which differs between processors and may
    change with their versions.
    """
    noise = shape.blank(shape.width, shape.height, shape.format)
    random = np.random.default_rng(0)
    for plane in noise.planes:
        plane.update(random.bytes(plane.buffer_size))
    plain = prepare_frame(np.rot90(_whole(noise), shape.quarters))
    return np.array_equal(ExactCrop(shape)(noise), plain)


class _Thread(threading.local):
    """What one thread keeps from one picture to the next."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        # Two, because a film may change its size; the pixels of large ones are held.
        self.quick_crop = lru_cache(maxsize=2)(_quick_crop)


_thread = _Thread()
