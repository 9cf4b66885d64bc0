"""When a decoded frame is shown, and which way up.

What video.py needs of a container's stamps and display matrix.
"""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream

from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.frame import Picture

# Stamps that step back by less are a slip of the muxer, by more a new count. Where the format
# allows for new counts, every step back is one, and so is a step forward of the length that the
# ffmpeg command takes for one (-dts_delta_threshold).
_BACKWARD_JUMP_S = 1.0
_FORWARD_JUMP_S = 10.0

# How far a display matrix may be from a quarter turn, in degrees; the ffmpeg command's.
_ANGLE_SLACK = 1


class Clock:
    """Stamps to seconds from the first frame; they never go backwards.

    Which of a frame's two stamps is right is FFmpeg's guess (``guess_correct_pts`` in libavcodec's
    decode.c): the presentation stamp, unless those have been out of order more often than the
    others. A frame without a stamp follows the one before.
    """

    def __init__(self, stream: VideoStream, *, jumps: bool) -> None:
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        base = stream.time_base
        self._numerator, self._denominator = base.as_integer_ratio() if base else (1, 1000)
        per_s = self._denominator / self._numerator
        self._default = per_s / rate
        self._backward = 0.0 if jumps else _BACKWARD_JUMP_S * per_s
        self._forward = _FORWARD_JUMP_S * per_s if jumps else float("inf")
        self._start: float | None = None
        self._pts = self._dts = float("-inf")
        self._faults = 0  # presentation stamps out of order, less decoding stamps out of order
        self._interval = self._default
        self._now = -self._default

    def time_s(self, frame: av.VideoFrame) -> float:
        """When the next frame is shown."""
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._faults -= dts <= self._dts
            self._dts = dts
        if pts is not None:
            self._faults += pts <= self._pts
            self._pts = pts
        stamp = pts if pts is not None and (dts is None or self._faults <= 0) else dts
        now = following = self._now + self._interval
        if stamp is not None:
            if self._start is None:
                self._start = stamp - now
            now = stamp - self._start
            step = now - self._now
            if step < -self._backward or step > self._forward:
                now = following
                self._start = stamp - now
            elif step < 0:
                now = self._now
        self._now = now
        self._interval = frame.duration or self._default
        return now * self._numerator / self._denominator

    def last_duration_s(self) -> float:
        """How long the frame is shown that no other follows."""
        return self._interval * self._numerator / self._denominator


class Display:
    """Decoded frames to pictures as they are shown: turned as the display matrix says."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._angle: int | None = None
        self._rotation = 0
        self._mirror: tuple[bool, int, int] | None = None

    def picture(self, frame: av.VideoFrame) -> Picture:
        """A decoded frame as it is to be shown.

        Raises:
            VideoDecodeError: it is to be turned by something else than quarter turns.
        """
        if frame.rotation != self._angle:
            self._read(frame)
        if self._mirror is None:
            return Picture(frame, rotation=self._rotation, name=self._name)
        across, down, right = self._mirror
        pixels = Picture(frame, name=self._name).pixels()
        pixels = (pixels.swapaxes(0, 1) if across else pixels)[::down, ::right]
        return Picture.from_pixels(np.ascontiguousarray(pixels))

    def _read(self, frame: av.VideoFrame) -> None:
        self._angle = frame.rotation
        self._rotation = round(self._angle / 90) * 90 % 360
        if abs((self._angle - self._rotation + 180) % 360 - 180) > _ANGLE_SLACK:
            raise VideoDecodeError(
                self._name,
                f"is to be shown turned by about {self._angle} degrees; "
                "only quarter turns are handled",
            )
        self._mirror = None
        for data in cast(Any, frame.side_data):
            if data.type.name == "DISPLAYMATRIX":
                # Nine numbers in rows; (x, y) goes to (a x + c y, b x + d y).
                a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].tolist()
                if a * d - b * c < 0:
                    across = abs(b) > abs(a)
                    x, y = (c, b) if across else (a, d)
                    self._mirror = across, -1 if y < 0 else 1, -1 if x < 0 else 1
