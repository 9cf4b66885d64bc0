"""A video file or URL to decoded frames: the first step of the walk.

The only file that knows PyAV.

Frames come one at a time, in presentation order, so that memory does not grow with the film.
What the container says of its own frame count is never believed; what ends early is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from c3d_client.errors import VideoDecodeError

# A container's duration is compared with where its packets end. Honest files differ by a frame or
# two and by the tail of an audio track; a file cut short differs by much more.
_DURATION_SLACK_S = 0.5
_DURATION_SLACK_RATIO = 0.02

# FFmpeg demuxers that accept what is not a video: text drawn as ANSI art, and pictures' siblings.
_NOT_VIDEO_FORMATS = {"tty", "srt", "ass", "webvtt", "lrc", "ffmetadata"}


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Args:
        index: counted from 0 in presentation order.
        time_s: presentation time in seconds from the start of the video stream.
        duration_s: how long it is shown, in seconds; 0 where the file does not say.
        pixels: uint8 ``[height, width, 3]``, RGB.
    """

    index: int
    time_s: float
    duration_s: float
    pixels: npt.NDArray[np.uint8]


def decoder_versions() -> dict[str, str]:
    """The versions of what decodes: PyAV and FFmpeg's libavcodec, for provenance."""
    return {
        "pyav": av.__version__,
        "libavcodec": ".".join(str(part) for part in av.library_versions["libavcodec"]),
    }


def decode_frames(source: str | os.PathLike[str]) -> Iterator[Frame]:
    """Decode the first real video stream of a source, one frame at a time.

    Args:
        source: a path, or a URL that FFmpeg can open.

    Yields:
        Frames with pixels uint8 ``[height, width, 3]`` RGB, at the file's native frame rate.

    Raises:
        VideoDecodeError: the source does not exist, is not a video, has no video stream, is
            damaged, or ends before its own duration. Frames before the damage have been yielded
            by then: treat the whole video as failed.
    """
    name = os.fspath(source)
    with _open(name) as container:
        stream = _video_stream(container, name)
        # Frame threads: the decoder may use every core. Order and pixels stay the same.
        stream.thread_type = "AUTO"
        yield from _frames(container, stream, name)


def _open(name: str) -> InputContainer:
    if "://" not in name:
        if not os.path.exists(name):
            raise VideoDecodeError(name, "no such file")
        if os.path.isdir(name):
            raise VideoDecodeError(name, "is a folder, not a video; name the files in it")
        if os.path.getsize(name) == 0:
            raise VideoDecodeError(name, "is empty (0 bytes)")
    try:
        container = av.open(name)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoDecodeError(name, f"cannot be opened as a video ({_reason(error)})") from error
    if _NOT_VIDEO_FORMATS & set(container.format.name.split(",")):
        container.close()
        raise VideoDecodeError(name, "is text, not a video")
    return container


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        # The cover of a music file is a "video" of one picture.
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = ", ".join(
        f"{s.type} {s.codec_context.name}" for s in container.streams if s.codec_context
    )
    raise VideoDecodeError(name, f"has no video stream (it holds: {kinds or 'nothing'})")


def _frames(container: InputContainer, stream: VideoStream, name: str) -> Iterator[Frame]:
    start_s = float((stream.start_time or 0) * (stream.time_base or Fraction(0)))
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    end_s = 0.0  # where the packets of any stream end
    cut = False  # the last packet read was an incomplete one
    index = 0
    time_s = 0.0
    try:
        # All streams are read, though one is decoded: an audio track may outlast the pictures, and
        # only the end of everything tells whether the file was cut.
        for packet in container.demux():
            if packet.size:
                cut = packet.is_corrupt
                end_s = max(end_s, _packet_end_s(packet))
            if packet.stream.index != stream.index:
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                if frame.time is not None:
                    time_s = frame.time - start_s
                elif index:
                    time_s += float(1 / rate)
                duration_s = float((frame.duration or 0) * (frame.time_base or 0))
                yield Frame(
                    index=index,
                    time_s=time_s,
                    duration_s=duration_s or float(1 / rate),
                    pixels=cast("npt.NDArray[np.uint8]", frame.to_ndarray(format="rgb24")),
                )
                index += 1
    except (av.error.FFmpegError, OSError, ValueError) as error:
        what = "is cut short" if cut else "is damaged"
        raise VideoDecodeError(
            name,
            f"{what}: decoding stopped after {index} frames, at {time_s:.2f} s ({_reason(error)})",
        ) from error
    if cut:
        raise VideoDecodeError(
            name,
            f"is cut short: its last packet is incomplete, after {index} frames, at {time_s:.2f} s",
        )
    if container.duration is not None:
        says_s = container.duration / av.time_base
        if end_s - start_s < says_s - max(_DURATION_SLACK_S, _DURATION_SLACK_RATIO * says_s):
            raise VideoDecodeError(
                name,
                f"is cut short: it says {says_s:.2f} s and ends at {end_s - start_s:.2f} s",
            )


def _packet_end_s(packet: av.Packet[Any]) -> float:
    stamp = packet.pts if packet.pts is not None else packet.dts
    if stamp is None or packet.time_base is None:
        return 0.0
    return float((stamp + (packet.duration or 0)) * packet.time_base)


def _reason(error: BaseException) -> str:
    """FFmpeg's words alone, without its number and function."""
    return str(getattr(error, "strerror", None) or error)
