"""Time stamps and display matrix: when a decoded frame is shown, and how it is rotated."""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.stream import VideoStream

from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.frame import Picture
from c3d_client.video.orientation import OrientationMessages

# Time stamps that decrease by less are an error of the muxer; by more, they start a new count. In
# formats that allow new counts every decrease starts one, and so does an increase as long as the
# ffmpeg command requires for one (-dts_delta_threshold).
_BACKWARD_JUMP_S = 1.0
_FORWARD_JUMP_S = 10.0

# How a picture is mirrored left to right and then turned counter-clockwise by so many quarters:
# whether rows and columns change places, and then the steps in which they are read.
_MIRRORED = ((False, 1, -1), (True, 1, 1), (False, -1, 1), (True, -1, -1))

# How far a display matrix may be from a quarter turn, in degrees; as in the ffmpeg command.
_ANGLE_SLACK = 1


class Clock:
    """Converts time stamps to seconds from the first frame; the seconds never decrease.

    A frame has two stamps. As in FFmpeg (``guess_correct_pts`` in libavcodec's decode.c) the
    presentation stamp is used, unless presentation stamps were out of order more often than
    decoding stamps. A frame without a stamp begins where the previous frame ends.
    """

    def __init__(self, stream: VideoStream, *, jumps: bool) -> None:
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        base = stream.time_base
        self._numerator, self._denominator = base.as_integer_ratio() if base else (1, 1000)
        per_s = self._denominator / self._numerator
        self._default_interval = per_s / rate
        self._backward_jump = 0.0 if jumps else _BACKWARD_JUMP_S * per_s
        self._forward_jump = _FORWARD_JUMP_S * per_s if jumps else float("inf")
        self._start: float | None = None
        self._pts = self._dts = float("-inf")
        # Number of presentation stamps out of order minus decoding stamps out of order.
        self._disorder = 0
        self._interval = self._default_interval
        self._now = -self._default_interval

    def time_s(self, frame: av.VideoFrame) -> float:
        """Return when the next frame is shown, in seconds."""
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._disorder -= dts <= self._dts
            self._dts = dts
        if pts is not None:
            self._disorder += pts <= self._pts
            self._pts = pts
        stamp = pts if pts is not None and (dts is None or self._disorder <= 0) else dts
        now = following = self._now + self._interval
        if stamp is not None:
            if self._start is None:
                self._start = stamp - now
            now = stamp - self._start
            step = now - self._now
            if step < -self._backward_jump or step > self._forward_jump:
                now = following
                self._start = stamp - now
            elif step < 0:
                now = self._now
        self._now = now
        self._interval = frame.duration or self._default_interval
        return now * self._numerator / self._denominator

    def last_duration_s(self) -> float:
        """Return how long the last frame is shown, in seconds."""
        return self._interval * self._numerator / self._denominator


class Display:
    """Converts decoded frames to pictures that are rotated as the display matrix requires.

    An orientation holds until the next one: the matrix of a container comes with every frame, that
    of a message in H.264 or HEVC with one. Where a file has both, libavcodec decides which a frame
    gets; after a message, frames without one are turned as that message requires.

    Args:
        name: of the video, for error messages.
        messages: of the video's packets.
    """

    def __init__(self, name: str, messages: OrientationMessages) -> None:
        self._name = name
        self._messages = messages
        self._has_message = False
        self._angle: int | None = None
        self._rotation = 0
        self._mirror: tuple[bool, int, int] | None = None

    def picture(self, frame: av.VideoFrame) -> Picture:
        """Return a decoded frame as it is shown.

        Raises:
            VideoDecodeError: the rotation is not a multiple of a quarter turn.
        """
        if frame.rotation != self._angle:
            self._angle = frame.rotation
            self._read_orientation(frame)
        if self._mirror is None:
            return Picture(frame, rotation=self._rotation, name=self._name)
        transposed, row_step, column_step = self._mirror
        pixels = Picture(frame, name=self._name).pixels()
        pixels = (pixels.swapaxes(0, 1) if transposed else pixels)[::row_step, ::column_step]
        return Picture.from_pixels(np.ascontiguousarray(pixels))

    def _read_orientation(self, frame: av.VideoFrame) -> None:
        angle = frame.rotation
        message = self._messages.orientation(angle)
        if message is not None:
            self._has_message = True
            quarters, is_mirrored = message
            self._rotation = 90 * quarters
            self._mirror = _MIRRORED[quarters] if is_mirrored else None
            return
        rotation = round(angle / 90) * 90 % 360
        if abs((angle - rotation + 180) % 360 - 180) > _ANGLE_SLACK:
            raise VideoDecodeError(
                self._name,
                f"is to be shown rotated by about {angle} degrees; "
                "only quarter turns are supported",
            )
        matrix = b"" if self._has_message else _display_matrix(frame)
        if not matrix:
            return
        self._rotation, self._mirror = rotation, None
        # Nine numbers in rows, which map (x, y) to (a x + c y, b x + d y).
        a, b, _, c, d = np.frombuffer(matrix, "<i4")[:5].tolist()
        if a * d - b * c < 0:
            transposed = abs(b) > abs(a)
            x, y = (c, b) if transposed else (a, d)
            self._mirror = transposed, -1 if y < 0 else 1, -1 if x < 0 else 1


def _display_matrix(frame: av.VideoFrame) -> bytes:
    """Return the display matrix of a frame; empty without one."""
    # Not frame.side_data, which makes a cycle of references: the pixels would stay in memory until
    # the next garbage collection, which may be many videos later.
    container = cast(Any, SideDataContainer)
    try:
        side_data = container(frame)
    except ValueError:
        # FFmpeg has kinds of side data that PyAV has no name for, such as EXIF in JPEG, and PyAV
        # then lists none of a frame's.
        cast(Any, Type)._missing_ = classmethod(_unnamed)
        side_data = container(frame)
    for data in side_data:
        if data.type is Type.DISPLAYMATRIX:
            return bytes(data)
    return b""


def _unnamed(cls: type[Type], value: int) -> Type:
    """Return a member for a kind of side data that PyAV does not know."""
    member = cast(Any, object.__new__(cls))
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return cast(Type, member)
