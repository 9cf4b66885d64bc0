"""A video to decoded frames, each with the time when it is shown.

Frames are decoded one at a time, in order, so that memory does not grow with the video. The frame
count that a container records is not used. A video that is damaged or ends early is an error.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Flag
from functools import partial
from io import RawIOBase
from typing import BinaryIO, NamedTuple, cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import Flags, InputContainer
from av.format import Flags as FormatFlags
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from c3d_client.core.arguments import path_text
from c3d_client.core.errors import UsageError, VideoDecodeError, VideoUnreadableError
from c3d_client.core.file_kinds import (
    START_BYTES,
    FileKind,
    Group,
    file_kind,
    read_start,
)
from c3d_client.core.uri import Uri
from c3d_client.video.containers import EndCheck, transport_gaps
from c3d_client.video.damage import (
    DAMAGE_POLICIES,
    Accounts,
    Decoder,
    Sent,
    marked,
    stretches,
)
from c3d_client.video.damage import reason_of as _reason
from c3d_client.video.frame import Picture, forget_pictures
from c3d_client.video.memory import DecoderMemory, Share
from c3d_client.video.orientation import OrientationMessages
from c3d_client.video.sources import open_source
from c3d_client.video.stores import RemoteFile
from c3d_client.video.streams import choose_stream
from c3d_client.video.timing import Clock, Display

# Where no size shows whether a file is whole, its duration is compared with the end of its packets.
# In an intact file they differ by a frame or two and by the end of an audio track, however long the
# file is; in a file that is cut short by more.
_DURATION_SLACK_S = 0.5
_SLACK_FRAMES = 2

# FFmpeg demuxers of files that are not videos: text drawn as ANSI art, and subtitles.
_NOT_VIDEO_FORMATS = {"adf", "bin", "idf", "tty", "xbin"} | {
    "ass",
    "ffmetadata",
    "lrc",
    "srt",
    "webvtt",
}

# What a thread reuses for pictures of up to this size is kept for the next video.
_MOST_KEPT_PIXELS = 4096 * 2304

# The size of one read.
_READ_BYTES = 1 << 17


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Args:
        index: counted from 0 in presentation order.
        time_s: presentation time in seconds from the first frame shown; never decreases.
        duration_s: how long the frame is shown, in seconds: until the next frame.
        picture: the decoded picture; its pixels are converted when they are requested.
        stretch: number of the intact stretch of the video that the frame is in, from 0. There is
            more than one only with ``damage="skip"``: damage separates stretches. -1 for a frame
            between damage and the next keyframe, whose pixels may be wrong.
    """

    index: int
    time_s: float
    duration_s: float
    picture: Picture
    stretch: int = 0

    @classmethod
    def from_pixels(
        cls,
        index: int,
        time_s: float,
        duration_s: float,
        pixels: npt.NDArray[np.uint8],
        *,
        name: str = "picture",
    ) -> Frame:
        """Make a frame from pixels, uint8 ``[height, width, 3]``, RGB.

        Args:
            index: as of any frame.
            time_s: as of any frame; NaN where it is not known, as ``duration_s``.
            duration_s: as of any frame.
            pixels: they are copied.
            name: of the video, for error messages.
        """
        return cls(index, time_s, duration_s, Picture.from_pixels(pixels, name=name))

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The whole frame as shown: uint8 ``[height, width, 3]``, RGB; converted at each call."""
        return self.picture.pixels()


def decoder_versions() -> dict[str, str]:
    """Return the versions of PyAV and FFmpeg's libavcodec, for provenance."""
    return {
        "pyav": av.__version__,
        "libavcodec": ".".join(str(part) for part in av.library_versions["libavcodec"]),
    }


def decode_frames(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    threads: int = 0,
    stream: int | None = None,
    damage: str = "error",
) -> Iterator[Frame]:
    """Decode a video stream of a source, one frame at a time.

    Of several video streams one is chosen as :func:`c3d_client.video.streams.choose_stream` does:
    never a cover, nor a still or a silent stream where another one sends pictures.

    Frames that an edit list cuts out are left out, and a display matrix turns the others.
    Interlaced frames contain both fields, as with OpenCV and Caffe's tool. Where the frame size
    changes within the video, later frames have the new size. A video that begins between keyframes
    begins at the first picture that can be decoded.

    Args:
        source: a path, a URL as :mod:`c3d_client.video.sources` opens it, or a binary file open for
            reading, which stays open.
        threads: decoder threads; 0 for as many as there are cores, 1 where several videos are
            decoded at the same time. With one thread, damage in H.264 is detected alike each time;
            with more, libavcodec loses a few of its marks of damage in a race. Codecs whose damage
            FFmpeg only logs, such as MJPEG and FFV1, are decoded with one thread, and videos whose
            pictures are large for the memory of this process with fewer.
        stream: the index of the stream among all streams of the file, as ffprobe counts them; None
            to choose one.
        damage: what is done with a video in which pictures are damaged or missing: ``error``; or
            ``skip``, which marks the frames from the damage to the next keyframe (see
            :attr:`Frame.stretch`) and decodes with one thread. A video that ends early is an error
            with both.

    Yields:
        Frames with pixels uint8 ``[height, width, 3]`` RGB, at the file's own frame rate.

    Raises:
        VideoUnreadableError: the source does not exist, or cannot be read to its end.
        VideoDecodeError: the source is not a video, has no video stream, is damaged, or ends before
            its recorded duration. Frames before the damage have been yielded by then: treat the
            whole video as failed. The rest is decoded to say how many pictures are damaged.
        VideoTooLarge: decoding needs more memory than this process may use: by the limit of its
            cgroup (container), or else by the size of the machine's memory.
        UsageError: ``damage`` has another value.
    """
    if damage not in DAMAGE_POLICIES:
        raise UsageError(f"damage is {damage!r}; give one of {', '.join(DAMAGE_POLICIES)}")
    return decode_source(source, threads=threads, stream=stream, damage=damage)


def decode_source(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    name: str | None = None,
    threads: int = 0,
    size: int | None = None,
    stream: int | None = None,
    on_stream: Callable[[int], None] | None = None,
    damage: str = "error",
    accounts: Accounts | None = None,
    resize: str = "exact",
    share: Share | None = None,
) -> Iterator[Frame]:
    """Decode a source as :func:`decode_frames` does.

    Args:
        source: as in :func:`decode_frames`.
        name: of the video, for error messages; None for the source's own.
        threads: as in :func:`decode_frames`.
        size: the size in bytes of a video on a web server; see
            :func:`c3d_client.video.sources.open_source`.
        stream: as in :func:`decode_frames`.
        on_stream: called with the index of the stream before the first frame.
        damage: as in :func:`decode_frames`.
        accounts: new accounts, which are complete when the frames end.
        resize: how the pictures will be resized, which decides how much memory they need.
        share: of the memory; see :func:`c3d_client.video.memory.sharing`.
    """
    container: InputContainer | None = None
    chosen: VideoStream | None = None
    has_frames = False
    with ExitStack() as stack:
        if not hasattr(source, "read"):
            path_text(source, "source")
        if isinstance(source, (str, os.PathLike)):
            name = name or str(Uri.of(source))
            opened: object = stack.enter_context(open_source(source, size=size))
            if isinstance(opened, str) and Uri(opened).is_local:
                opened = stack.enter_context(_open_file(opened))
        else:
            name, opened = name or str(getattr(source, "name", "stream")), source
        stack.enter_context(_unchanged(opened, name))
        check = EndCheck(opened)
        try:
            _check_cut(check, name)
            container = stack.enter_context(_open(opened, name))
            chosen, packets = choose_stream(container, name=name, index=stream)
            if on_stream is not None:
                on_stream(chosen.index)
            accounts = Accounts() if accounts is None else accounts
            if chosen.codec_context.width * chosen.codec_context.height > _MOST_KEPT_PIXELS:
                stack.callback(forget_pictures)
            memory = DecoderMemory(name, resize=resize, share=share)
            decoder = Decoder(
                chosen, accounts, threads=threads, memory=memory, skip=damage == "skip"
            )
            reading = _Reading(opened, container, chosen, packets, name, check)
            for frame in _frames(reading, decoder, accounts):
                has_frames = True
                yield frame
        except VideoDecodeError as error:
            if stream is not None and container is not None and chosen is None:
                raise  # the error is about the index
            is_video = has_frames or bool(check.ending.cut)
            explained = _explained(error, opened, container, chosen, is_video=is_video)
            if explained is None:
                raise
            raise explained from error


def _explained(
    error: VideoDecodeError,
    file: object,
    container: InputContainer | None,
    stream: VideoStream | None,
    *,
    is_video: bool,
) -> VideoDecodeError | None:
    """Return the error of a file that is no video, with words for what the file is.

    Args:
        error: why the file cannot be decoded.
        file: the open file, or an address that FFmpeg opened itself.
        container: None where FFmpeg could not open the file.
        stream: None where the file has no video stream.
        is_video: whether frames were decoded, or the sizes of a video were read.

    Returns:
        An error of the same type; None where the file's first bytes do not explain the error.
    """
    if isinstance(error, VideoUnreadableError):
        return None
    kind = file_kind(_start(file, is_video=is_video), name=error.source)
    if kind is None and stream is None and container is not None and container.streams.audio:
        kind = FileKind("an audio file", "give the {wanted} itself")
    if kind is None:
        return None
    reason = error.reason
    if is_video:
        # The first bytes say nothing about damage further back.
        if kind.group is not Group.HIDDEN:
            return None
    elif container is None:
        if kind.name == "text" and reason == "is text, not a video":
            return None
        reason = "cannot be opened as a video"  # without FFmpeg's "Invalid data found"
    elif stream is not None:
        if kind.group is Group.PICTURE:
            return None
        reason = "cannot be decoded"
    return type(error)(error.source, f"{reason}: {kind.text('video')}")


def _start(file: object, *, is_video: bool) -> bytes:
    """Return the first bytes of an open file; none where they would have to be fetched again."""
    if isinstance(file, io.IOBase):
        with suppress(OSError, ValueError):
            return bytes(read_start(cast(BinaryIO, file)))
    elif isinstance(file, RemoteFile) and not is_video:
        file.seek(0)
        return file.read(START_BYTES)
    return b""


def _open_file(path: str) -> RawIOBase:
    if not os.path.exists(path):
        raise VideoUnreadableError(path, "no such file")
    if os.path.isdir(path):
        raise VideoUnreadableError(path, "is a folder, not a video; name the files in it")
    if not os.path.isfile(path):
        raise VideoUnreadableError(path, "is a pipe or a device; save the video to a file first")
    if os.path.getsize(path) == 0:
        raise VideoDecodeError(path, "is empty (0 bytes)")
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise VideoUnreadableError(path, f"cannot be read ({_reason(error)})") from error


@contextmanager
def _unchanged(file: object, name: str) -> Iterator[None]:
    """Raise VideoUnreadableError where a file on disk changes before the block ends.

    Whatever was decoded from it, and every error, is then of a mixture of two versions.
    """
    before = _version(file)
    try:
        yield
    except VideoDecodeError as error:
        _require_version(file, before, name, cause=error)
        raise
    _require_version(file, before, name, cause=None)


def _version(file: object) -> tuple[int, int] | None:
    """Return the size and the modification time of a file on disk; None of other files."""
    try:
        status = os.fstat(file.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _require_version(
    file: object, before: tuple[int, int] | None, name: str, *, cause: Exception | None
) -> None:
    after = _version(file)
    if before is None or after is None or before == after:
        return
    raise VideoUnreadableError(
        name,
        f"was changed while it was read ({before[0]:,} bytes before, {after[0]:,} after); "
        "try again when it is complete",
    ) from cause


def _open(file: object, name: str) -> InputContainer:
    # Python reads the bytes and FFmpeg opens no other file: a playlist that names files or
    # addresses is refused, because a stranger may have written it. FFmpeg itself opens a URL that
    # only FFmpeg knows, such as rtsp://.
    options = {} if isinstance(file, str) else {"protocol_whitelist": "none"}
    try:
        container = av.open(
            file,
            "r",
            container_options=options,
            metadata_errors="replace",  # a title in another encoding must not fail the video
            buffer_size=_READ_BYTES,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        # A URL that FFmpeg opens itself may fail because of the network.
        is_unreadable = isinstance(file, str) or _is_read_error(error)
        kind = VideoUnreadableError if is_unreadable else VideoDecodeError
        raise kind(name, f"cannot be opened as a video ({_reason(error)})") from error
    if _NOT_VIDEO_FORMATS & set(container.format.name.split(",")):
        container.close()
        raise VideoDecodeError(name, "is text, not a video")
    # PyAV has FFmpeg generate missing time stamps. They are wrong for H.264 in AVI, where frames
    # have only their order of decoding. Clock computes them as the ffmpeg command does.
    container.flags &= ~_bit(Flags.gen_pts)
    return container


@dataclass
class _Reading:
    """An opened video, and the state of reading its packets.

    Args:
        file: the open file, or an address that FFmpeg opened itself.
        container: the opened container.
        stream: the stream that is decoded.
        packets: all packets of the container, in its order.
        name: of the video, for error messages.
        check: of the container's sizes and end marks.
        is_cut: whether the last packet is incomplete.
        ends: stream index -> end of the stream so far, in the stream's time base.
    """

    file: object
    container: InputContainer
    stream: VideoStream
    packets: Iterable[Packet[Stream]]
    name: str
    check: EndCheck
    is_cut: bool = False
    ends: dict[int, int] = field(default_factory=dict)


def _decode(
    reading: _Reading, decoder: Decoder, messages: OrientationMessages
) -> Iterator[av.VideoFrame]:
    decode = decoder.decode
    is_transport = reading.container.format.name == "mpegts"
    gaps = partial(transport_gaps, reading.file, reading.stream.id) if is_transport else None
    for packet, is_marked in marked(_video_packets(reading), gaps):
        messages.prepare(packet)
        yield from decode(packet, is_marked=is_marked)
    yield from decode(None)


def _video_packets(reading: _Reading) -> Iterator[Packet[Stream]]:
    video_index, ends = reading.stream.index, reading.ends
    # All streams are read, though one is decoded: an audio track may be longer than the video
    # stream, and only the end of all streams shows whether the file was cut short.
    for packet in reading.packets:
        # An empty packet means the video's end to a decoder; PyAV sends one for each stream.
        if not packet.size:
            continue
        reading.is_cut = packet.is_corrupt
        index, stamp = packet.stream_index, packet.pts
        if stamp is None:
            stamp = packet.dts
        if stamp is not None:
            end = stamp + (packet.duration or 0)
            if end > ends.get(index, end - 1):
                ends[index] = end
        if index == video_index:
            yield packet


class _Decoded(NamedTuple):
    """A decoded picture and its time.

    Args:
        sent: its packet.
        is_key: whether pictures from this one on do not depend on earlier ones.
        position: counted from 0 in order of presentation.
        time_s: when it is shown.
        own_s: how long it is shown, in seconds, as far as its packet says.
        picture: the picture.
    """

    sent: Sent
    is_key: bool
    position: int
    time_s: float
    own_s: float
    picture: Picture


def _pictures(
    frames: Iterator[av.VideoFrame],
    *,
    decoder: Decoder,
    accounts: Accounts,
    clock: Clock,
    display: Display,
) -> Iterator[_Decoded]:
    index = 0
    for frame in frames:
        sent = accounts.receive(frame, decoder.name)
        if sent is None:
            continue
        time_s = clock.time_s(frame)
        accounts.add_picture(frame, sent, index=index, time_s=time_s)
        is_key = decoder.is_key(frame, sent)
        own_s = clock.last_duration_s()
        yield _Decoded(sent, is_key, index, time_s, own_s, display.picture(frame))
        index += 1
    accounts.finish()


def _intact(pictures: Iterator[_Decoded], accounts: Accounts) -> Iterator[tuple[_Decoded, int]]:
    """Yield the pictures before the damage; the others are decoded, so that they are counted."""
    for picture in pictures:
        if not accounts.is_certain:
            yield picture, 0


def _frames(reading: _Reading, decoder: Decoder, accounts: Accounts) -> Iterator[Frame]:
    container, name = reading.container, reading.name
    jumps = bool(container.format.flags & _bit(FormatFlags.ts_discont))
    messages = OrientationMessages(reading.stream.codec_context)
    pictures = _pictures(
        _decode(reading, decoder, messages),
        decoder=decoder,
        accounts=accounts,
        clock=Clock(reading.stream, jumps=jumps),
        display=Display(name, messages),
    )
    last: _Decoded | None = None
    stretch = 0
    try:
        parts = stretches if decoder.skips else _intact
        for picture, next_stretch in parts(pictures, accounts):
            if last is not None:
                duration_s = picture.time_s - last.time_s
                if next_stretch != stretch:  # the time of missing pictures is not this one's
                    duration_s = min(duration_s, last.own_s)
                yield Frame(last.position, last.time_s, duration_s, last.picture, stretch)
            last, stretch = picture, next_stretch
    except (av.error.FFmpegError, OSError, ValueError) as error:
        what = "is cut short" if reading.is_cut else "is damaged"
        kind = VideoDecodeError
        if _is_read_error(error):
            what, kind = "cannot be read to its end", VideoUnreadableError
        frames, time_s = _end(last)
        raise kind(
            name,
            f"{what}: decoding stopped after {frames} frames, at {time_s:.2f} s ({_reason(error)})",
        ) from error
    if reading.is_cut:
        frames, time_s = _end(last)
        raise VideoDecodeError(
            name,
            f"is cut short: its last packet is incomplete, after {frames} frames, at {time_s:.2f} "
            "s",
        )
    _check_end(reading)
    if accounts.summary and (last is None or not decoder.skips):
        frames, time_s = accounts.after or (0, 0.0)
        reasons = "; ".join(text for text in (accounts.reason, accounts.summary) if text)
        raise VideoDecodeError(
            name,
            f"is damaged: decoding stopped after {frames} frames, at {time_s:.2f} s ({reasons})",
        )
    if last is None:
        why = f": {accounts.left_out} pictures, and no keyframe" if accounts.left_out else ""
        raise VideoDecodeError(name, f"holds no frame that can be shown{why}")
    yield Frame(last.position, last.time_s, last.own_s, last.picture, stretch)


def _end(last: _Decoded | None) -> tuple[int, float]:
    """Return the number of frames up to a picture, and its time in seconds."""
    return (0, 0.0) if last is None else (last.position + 1, last.time_s)


def _check_cut(check: EndCheck, name: str) -> None:
    if check.ending.cut:
        raise VideoDecodeError(name, f"is cut short: {check.ending.cut}")


def _check_end(reading: _Reading) -> None:
    """Compare the end of the packets with what the container records.

    Sizes and end marks decide. Only where they show nothing, the duration does.
    """
    container, stream, check = reading.container, reading.stream, reading.check
    _check_cut(check, reading.name)  # a remote file may show it only now
    estimates = _bit(FormatFlags.no_timestamps) | _bit(FormatFlags.ts_discont)
    is_estimate = container.format.flags & estimates
    says_nothing = check.ending.is_whole or check.ending.is_live or is_estimate
    if says_nothing or container.duration is None:
        return
    recorded_s = container.duration / av.time_base
    bases = [stream.time_base or 0 for stream in container.streams]
    end_s = max((float(end * bases[index]) for index, end in reading.ends.items()), default=0.0)
    # Matroska counts its duration from 0, other formats from the start of the first stream.
    end_s -= min(0, container.start_time or 0) / av.time_base
    frames_s = float(_SLACK_FRAMES / stream.average_rate) if stream.average_rate else 0.0
    if end_s < recorded_s - max(_DURATION_SLACK_S, frames_s):
        raise VideoDecodeError(
            reading.name, f"is cut short: it says {recorded_s:.2f} s and ends at {end_s:.2f} s"
        )


def _bit(flag: Flag) -> int:
    return int(flag.value)


def _is_read_error(error: BaseException) -> bool:
    """Whether an error comes from Python reading the file, and not from FFmpeg."""
    return isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError)
