"""The choice of a video stream in a file with several, and the packets that the choice has read."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from c3d_client.core.errors import VideoDecodeError

# How much of a file is read at most to find out which of its streams send pictures.
_AHEAD_BYTES = 10_000_000

# The cover of a music file is a video stream of one picture; it is decoded only on request.
_COVER = Disposition.attached_pic
# What accompanies another stream, or is a still.
_SECONDARY = Disposition.still_image | Disposition.timed_thumbnails | Disposition.dependent


class PacketReader:
    """The packets of a container, each once and in order, of which some may be read ahead.

    Packets that were read ahead are kept, because seeking back is not exact in every format and
    reads remote videos twice.
    """

    def __init__(self, container: InputContainer) -> None:
        self._demuxed = container.demux()
        self._ahead: deque[Packet[Stream]] = deque()
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Packet[Stream]]:
        """Yield the packets that were read ahead, then the others.

        Raises:
            FFmpegError, OSError, ValueError: FFmpeg or Python cannot read on; also where that
                happened while reading ahead.
        """
        while self._ahead:
            yield self._ahead.popleft()
        if self._error is not None:
            raise self._error
        # Not `yield from`, which fails where PyAV's generator has ended.
        while (packet := next(self._demuxed, None)) is not None:
            yield packet

    def read_ahead(self) -> Iterator[Packet[Stream]]:
        """Yield packets that are kept, at most 10 MB; ends early where reading fails."""
        amount = 0
        while amount < _AHEAD_BYTES:
            try:
                packet = next(self._demuxed, None)
            except (FFmpegError, OSError, ValueError) as error:
                self._error = error
                return
            if packet is None:
                return
            self._ahead.append(packet)
            amount += packet.size
            yield packet


def choose_stream(
    container: InputContainer, *, name: str, index: int | None = None
) -> tuple[VideoStream, PacketReader]:
    """Return the video stream to decode, and the container's packets.

    Of several streams, the first in this order is chosen: one that sends more than one packet in
    the first 10 MB of the file (a still or a silent programme does not); one that accompanies no
    other stream; one with the default flag; the one with the largest pictures; the first. Covers
    and streams in a codec that FFmpeg does not know are not chosen.

    Args:
        container: just opened; no packet has been read.
        name: of the video, for error messages.
        index: the index of the stream among all streams of the file, as ffprobe counts them; None
            to choose.

    Raises:
        VideoDecodeError: there is no video stream, or none with this index, or FFmpeg does not know
            its codec.
    """
    packets = PacketReader(container)
    if index is not None:
        return _stream_at(container, index, name=name), packets
    streams = [s for s in container.streams.video if not s.disposition & _COVER]
    known = [stream for stream in streams if _is_known(stream)]
    if not known:
        if streams:
            raise VideoDecodeError(name, "its pictures are in a codec that FFmpeg does not know")
        kinds = ", ".join(
            f"{stream.type} {stream.codec_context.name}" if _is_known(stream) else stream.type
            for stream in container.streams
        )
        raise VideoDecodeError(name, f"has no video stream (it holds: {kinds or 'nothing'})")
    if len(known) == 1:
        return known[0], packets
    sending = _sending(known, packets)

    def rank(stream: VideoStream) -> tuple[bool, bool, bool, int]:
        return (
            stream.index in sending,
            not stream.disposition & _SECONDARY,
            bool(stream.disposition & Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
        )

    return max(known, key=rank), packets  # max() returns the first of equal ones


def _is_known(stream: Stream) -> bool:
    # PyAV has no codec context for a codec without a decoder.
    return stream.codec_context is not None


def _sending(streams: Sequence[VideoStream], packets: PacketReader) -> set[int]:
    """Return the indexes of the streams with more than one packet.

    The index of an MP4 counts the packets, also those that come after the first 10 MB.
    """
    sending = {stream.index for stream in streams if stream.frames > 1}
    silent = {stream.index for stream in streams} - sending
    if not silent:
        return sending
    counts: Counter[int] = Counter()
    for packet in packets.read_ahead():
        if packet.size and packet.stream_index in silent:
            counts[packet.stream_index] += 1
            if counts[packet.stream_index] > 1:
                sending.add(packet.stream_index)
                silent.remove(packet.stream_index)
                if not silent:
                    break
    return sending


def _stream_at(container: InputContainer, index: int, *, name: str) -> VideoStream:
    streams = container.streams
    stream = streams[index] if 0 <= index < len(streams) else None
    if isinstance(stream, VideoStream) and _is_known(stream):
        return stream
    if stream is None:
        problem = f"has no stream {index}"
    elif isinstance(stream, VideoStream):
        problem = f"its stream {index} is in a codec that FFmpeg does not know"
    else:
        problem = f"its stream {index} is of type {stream.type}"
    videos = ", ".join(_described(stream) for stream in streams.video) or "none"
    raise VideoDecodeError(name, f"{problem}; its video streams are: {videos}")


def _described(stream: VideoStream) -> str:
    if not _is_known(stream):
        return f"{stream.index} (unknown codec)"
    context = stream.codec_context
    cover = ", cover" if stream.disposition & _COVER else ""
    return f"{stream.index} ({context.name} {context.width}x{context.height}{cover})"
