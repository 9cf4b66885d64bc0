"""Lost and damaged pictures: packets are compared with pictures, and FFmpeg's log is read.

Some damage raises an exception or marks the picture. Other damage shows only in a packet from which
no picture comes, or in FFmpeg's log. :class:`Accounts` compares packets with pictures;
:class:`Decoder` decodes, and reads the log of decoders that report damage nowhere else;
:func:`stretches` separates intact pictures from damaged ones.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import not_
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import av
import av.error
import av.logging
from av.video.stream import VideoStream

from c3d_client.video import h264
from c3d_client.video.memory import DecoderMemory

_Packet: TypeAlias = "av.Packet[Any]"

DAMAGE_POLICIES = ("error", "skip")

# Frame.stretch of a picture between damage and the next keyframe.
DAMAGED = -1

# What FFmpeg logs where it returns a damaged picture without a mark, by decoder: the beginnings of
# messages of level ERROR. Other messages, such as those about metadata, do not concern pixels.
_OF_JPEG = ("overread ", "error y=", "error count: ", "mjpeg_decode_dc: bad vlc")
_OF_BLOCKS = ("Error at MB: ", "dc overflow")
_OF_ZLIB = ("Zlib resync occurred", "buffer not fully consumed")
_MESSAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("amv", "mjpeg", "mjpegb", "thp"), _OF_JPEG),
    **dict.fromkeys(("h261", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1"), _OF_BLOCKS),
    **dict.fromkeys(("flashsv", "flashsv2"), _OF_ZLIB),
    "cinepak": ("cinepak_decode failed",),
    "dvvideo": ("AC EOB marker is absent", "Concealing bitstream errors"),
    "ffv1": ("slice CRC mismatch", "CRC mismatch", "bytestream end mismatching"),
    "gif": ("LZW decode failed", "LZW init failed"),
    "msvideo1": ("MS Video-1 warning: stream_ptr out of bounds",),
    "qtrle": ("Problem: pixel_ptr",),
}
# FFmpeg 7 replaces a missing reference by a grey picture and reports that in its log. FFmpeg 8
# returns no picture then, which the accounts show without the log and with any number of threads.
if int(av.library_versions["libavcodec"][0]) < 62:
    _MESSAGES["hevc"] = ("Could not find ref with POC",)

# Decoders that return pictures before the first keyframe, on a grey or black canvas, and mark
# keyframes in the pictures.
_MARKING_DECODERS = frozenset(
    ("flv", "h261", "h263", "h263p", "mpeg4", "msmpeg4", "msmpeg4v1", "msmpeg4v2")
    + ("rv10", "rv20", "wmv1", "wmv2")
)
# Other decoders return nothing before the first keyframe. These report errors.
_FAILING_DECODERS = frozenset(
    ("ffv1", "libdav1d", "snow", "svq1", "svq3", "vp3", "vp5", "vp6", "vp6f", "vp7", "vp8", "vp9")
    + ("av1", "theora", "zmbv")
)
# These return pictures on a canvas too; only the container marks their keyframes.
_CANVAS_DECODERS = frozenset(["cinepak", "flashsv", "msrle", "msvideo1", "qtrle", "rpza", "smc"])

# Most packets that a decoder reads after a packet before it returns that packet's picture: H.264
# reorders 16 frames, of two fields each.
_MOST_DELAYED = 32
# Most places between a picture's position in decoding order and in presentation order.
_MOST_REORDERED = 16
# The interval between pictures is known after this many.
_FEWEST_SHOWN = 8
# A packet's time belongs to a picture that is as close as this, in intervals between pictures.
_CLOSE = 0.25
# No picture is missing between pictures as far apart as this; telecine has 1.5 intervals.
_REGULAR = 1.75

# If more than one of so many counters of a transport stream is wrong, they do not count packets.
_WRONG_COUNTERS = 4

# An MPEG-4 packet of up to this size repeats the picture before, or has its picture in the packet
# before; FFmpeg's mpeg4_unpack_bframes has the same limit.
_MOST_NOT_CODED_BYTES = 19
# A packet of MPEG-1 and MPEG-2 that contains only the end of a sequence.
_SEQUENCE_END = b"\0\0\1\xb7"
# Types of units without a picture: parameters, delimiters, ends, filler data.
_NOT_PICTURES = {"h264": range(6, 16), "hevc": range(32, 41)}
_H264_PICTURES = range(1, 6)
_HEVC_PICTURES = range(32)
_HEVC_SKIPPED_LEADING = (8, 9)
_HEVC_BROKEN_LINK = (16, 17, 18)
_HEVC_IRAP = range(16, 24)
_HEVC_ENDS = (b"\0\0\1\x48\x01", b"\0\0\1\x4a\x01")

_NO_TYPE, _INTRA = 0, 1  # AVPictureType


@dataclass(eq=False)
class Sent:
    """One packet of the video that was sent to the decoder.

    Args:
        number: counted from 0 in order of decoding.
        pts: its presentation stamp, in the stream's time base.
        dts: its decoding stamp, in the same unit.
        is_keyframe: whether the container marks it as a keyframe.
        is_entry: whether a decoder that begins with it must return its picture.
        has_picture: whether its picture was returned.
    """

    number: int
    pts: int | None
    dts: int | None
    is_keyframe: bool = False
    is_entry: bool = False
    has_picture: bool = False

    def may_precede(self, other: Sent) -> bool:
        """Whether its picture is decoded or shown before the picture of another packet."""
        if self.number <= other.number:
            return True
        if self.pts is None or other.pts is None:
            return self.number <= other.number + _MOST_REORDERED
        return self.pts < other.pts

    def surely_precedes(self, other: Sent) -> bool:
        """Whether its picture is shown before the picture of another packet, a keyframe."""
        if self.number < other.number:
            return True
        return self.pts is not None and other.pts is not None and self.pts < other.pts


class _Shown(NamedTuple):
    """A picture that is shown."""

    sent: Sent
    interlaced: bool
    position: int
    time_s: float


@dataclass(eq=False)
class Accounts:
    """The packets of one video, and the pictures that came from them.

    Attributes:
        left_out: number of packets before the first picture that can be decoded.
        damaged: the packets whose picture is missing or damaged, by number.
        new: those of them that :func:`stretches` has not processed yet.
        reason: the first error or message of the decoder; empty without one.
        after: number of frames before the first damage, and the time of the last of them in
            seconds; None without damage.
        is_certain: whether the video is damaged whatever pictures follow. Until then a missing
            picture may still come, because the decoder's order is not always that of the times.
        sent: number of packets.
        absent: number of pictures, at least, that the file does not have although others refer to
            them.
        may_fail_at_start: whether the decoder reports a missing keyframe as an error.
    """

    left_out: int = 0
    damaged: dict[int, Sent] = field(default_factory=dict)
    new: list[Sent] = field(default_factory=list)
    reason: str = ""
    after: tuple[int, float] | None = None
    is_certain: bool = False
    sent: int = 0
    absent: int = 0
    may_fail_at_start: bool = False
    _pictures: int = 0
    _waiting: dict[int, Sent] = field(default_factory=dict)
    _lost: dict[int, Sent] = field(default_factory=dict)
    _shown: deque[_Shown] = field(default_factory=lambda: deque(maxlen=2 * _MOST_DELAYED))
    _first: Sent | None = None
    _start_error: str = ""
    _has_errors: bool = False
    _has_entry: bool = False

    def add_packet(self, packet: _Packet, *, is_hidden: bool, is_entry: bool) -> Sent:
        """Note a packet that is sent to the decoder, and mark it so that its picture names it.

        Args:
            packet: the packet.
            is_hidden: whether no picture comes from it.
            is_entry: as in :class:`Sent`.
        """
        sent = Sent(self.sent, packet.pts, packet.dts, packet.is_keyframe, is_entry)
        self.sent += 1
        self._has_entry |= is_entry
        # PyAV finds the object by its address, so that an int, which packets may share, is lost.
        packet.opaque = sent
        if not is_hidden:
            self._waiting[sent.number] = sent
        return sent

    def add_error(self, sent: Sent | None, reason: str) -> None:
        """Note an error of the decoder.

        Args:
            sent: the packet that caused it; None where that is not known.
            reason: the error.
        """
        if self._first is None and self.may_fail_at_start:
            # Of a packet between keyframes; if it is not, its missing picture shows that.
            self._start_error = self._start_error or reason
            return
        self._has_errors = self.is_certain = True
        self._damage(sent, reason)

    def add_mark(self, sent: Sent) -> None:
        """Note a packet of which the container says that it is damaged."""
        if self._first is None and not self._has_entry:
            return  # no picture before the first keyframe is shown
        self.is_certain = True
        self._damage(sent, "parts of packets are missing in the file")

    def add_absent(self, sent: Sent, number: int) -> None:
        """Note pictures that the file does not have.

        Args:
            sent: the packet after them, whose picture depends on them.
            number: how many there are at least.
        """
        self.absent += number
        self.is_certain = True
        self.new.append(sent)
        self._note("", None)

    def receive(self, frame: av.VideoFrame, decoder: str) -> Sent | None:
        """Return the packet of a picture; None where the picture precedes the first keyframe."""
        sent = frame.opaque
        if not isinstance(sent, Sent):  # the decoder does not pass the mark on
            sent = next(iter(self._waiting.values()), Sent(self.sent, None, None))
        was_waiting = self._waiting.pop(sent.number, None) is not None
        if self._first is None and not _can_be_first(frame, sent, decoder):
            self.left_out += was_waiting
            return None
        if self._lost.pop(sent.number, None):
            del self.damaged[sent.number]
        sent.has_picture = True
        return sent

    def add_picture(self, frame: av.VideoFrame, sent: Sent, *, index: int, time_s: float) -> None:
        """Note a picture that is shown, and judge the packets that should have come before it.

        Args:
            frame: the picture.
            sent: its packet.
            index: counted from 0 in order of presentation.
            time_s: when it is shown.
        """
        if self._first is None:
            self._first = sent
        if frame.is_corrupt:
            # Set where libavcodec concealed damage with other pixels; ffmpeg -xerror fails too.
            self._damage(sent, f"frame {index} cannot be decoded whole")
            self.is_certain = True
        self._pictures += 1
        self._shown.append(_Shown(sent, bool(frame.interlaced_frame), index, time_s))
        if len(self._shown) < _FEWEST_SHOWN:
            return
        for other in list(self._waiting.values()):
            if other.number > sent.number:
                break
            is_earlier = other.pts is not None and sent.pts is not None and other.pts <= sent.pts
            if is_earlier or other.number + _MOST_DELAYED < sent.number:
                self._judge(other)
        if self._lost and next(iter(self._lost)) + _MOST_DELAYED < sent.number:
            self.is_certain = True

    def finish(self) -> None:
        """Judge the packets that still have no picture at the end of the video."""
        for sent in list(self._waiting.values()):
            self._judge(sent)
        self.reason = self.reason or (self._start_error if self._first is None else "")

    def is_settled(self, sent: Sent) -> bool:
        """Whether it is known of all pictures that may precede a packet's whether they exist."""
        if sent.pts is None and self.sent <= sent.number + _MOST_REORDERED:
            return False
        return not any(other.may_precede(sent) for other in self._waiting.values())

    @property
    def summary(self) -> str:
        """How much is damaged, such as "29 of 99 pictures could not be decoded"; or empty.

        Pictures that the file does not have are counted apart: "at least 1 of 99 pictures is
        missing in the file".
        """
        damaged = max(len(self.damaged), int(self._has_errors))
        missing = sum(not sent.has_picture for sent in self.damaged.values())
        pictures = max(self._pictures + missing, damaged) + self.absent
        parts = []
        if damaged:
            parts.append(f"{damaged} of {pictures} pictures could not be decoded")
        if self.absent:
            verb = "is" if self.absent == 1 else "are"
            all_ = "" if damaged else f" of {pictures} pictures"
            parts.append(f"at least {self.absent}{all_} {verb} missing in the file")
        return ", and ".join(parts)

    def _judge(self, sent: Sent) -> None:
        """Decide what a packet without a picture means."""
        del self._waiting[sent.number]
        first = self._first
        if sent.number in self.damaged:
            return
        if first is None and self._has_errors:
            self._damage(sent, "")
            return
        if first is None or sent.number < first.number:
            if sent.is_entry:
                self._damage(sent, self._start_error)
            else:
                self.left_out += 1
            return
        before, is_covered = self._surroundings(sent)
        if is_covered:
            return
        if self._is_leading(sent, first):
            self.left_out += 1
        else:
            self._lost[sent.number] = sent
            self._damage(sent, "", before)

    def _is_leading(self, sent: Sent, first: Sent) -> bool:
        """Whether a packet is shown before the first picture, and so refers to pictures before."""
        if sent.pts is not None and first.pts is not None:
            return sent.pts < first.pts
        return not any(first.number < shown.sent.number < sent.number for shown in self._shown)

    def _surroundings(self, sent: Sent) -> tuple[_Shown | None, bool]:
        """Return the picture before a packet's time, and whether there is no gap after it."""
        times = {}
        for shown in self._shown:
            time = shown.sent.pts if sent.pts is not None else _decoding_time(shown.sent)
            if time is not None:
                times[time] = shown
        time = sent.pts if sent.pts is not None else _decoding_time(sent)
        order = sorted(times)
        earlier = [other for other in order if other <= time]
        later = [other for other in order if other > time]
        before = times[earlier[-1]] if earlier else None
        intervals = [
            end - start
            for start, end in zip(order, order[1:], strict=False)
            if not start <= time < end
        ]
        if before is None:
            return None, False
        if not intervals:  # of a video of one or two pictures
            return before, before.interlaced and sent.number == before.sent.number + 1
        interval = min(intervals)
        since = time - earlier[-1]
        until = later[0] - time if later else None
        if since <= _CLOSE * interval or (until is not None and until <= _CLOSE * interval):
            return before, True
        # The second field of a picture is a packet of its own.
        gap = 2 * since if until is None else since + until
        return before, before.interlaced and gap <= _REGULAR * interval

    def _damage(self, sent: Sent | None, reason: str, before: _Shown | None = None) -> None:
        if sent is not None and sent.number not in self.damaged:
            self.damaged[sent.number] = sent
            self.new.append(sent)
        self._note(reason, before)

    def _note(self, reason: str, before: _Shown | None) -> None:
        """Keep the first reason, and the place of the first damage."""
        self.reason = self.reason or reason
        if self.after is None:
            if before is None and self._shown:
                before = self._shown[-1]
            self.after = (before.position + 1, before.time_s) if before else (0, 0.0)


class _Picture(Protocol):
    """A decoded picture for :func:`stretches`."""

    @property
    def sent(self) -> Sent: ...

    @property
    def is_key(self) -> bool: ...


_AnyPicture = TypeVar("_AnyPicture", bound=_Picture)


def stretches(
    pictures: Iterable[_AnyPicture], accounts: Accounts
) -> Iterator[tuple[_AnyPicture, int]]:
    """Yield each picture with the number of its intact stretch, or :data:`DAMAGED`.

    A damaged stretch begins with the first damaged or missing picture, and with pictures that are
    shown earlier but decoded later; it ends before the next intact keyframe. A picture is held
    back until it is known whether all pictures before it exist, which takes as many pictures as
    the codec reorders.

    Args:
        pictures: in order of presentation, with their packets; each is in the accounts already.
        accounts: of the same video; complete when ``pictures`` ends.
    """
    held: deque[_AnyPicture] = deque()
    stretch = 0
    current: list[Sent] = []  # the damage since the last intact keyframe

    def released(picture: _AnyPicture) -> tuple[_AnyPicture, int]:
        nonlocal stretch
        sent = picture.sent
        begun = [damaged.may_precede(sent) for damaged in accounts.new]
        current.extend(compress(accounts.new, begun))
        accounts.new = list(compress(accounts.new, map(not_, begun)))
        is_end = picture.is_key and all(damaged.surely_precedes(sent) for damaged in current)
        if current and is_end:
            current.clear()
            stretch += 1
        return picture, DAMAGED if current else stretch

    for picture in pictures:
        held.append(picture)
        while held and accounts.is_settled(held[0].sent):
            yield released(held.popleft())
    while held:
        yield released(held.popleft())


def marked(
    packets: Iterable[_Packet], gaps: Callable[[int, int], tuple[int, int] | None] | None = None
) -> Iterator[tuple[_Packet, bool]]:
    """Yield the packets of a video, and whether the container says that parts of them are missing.

    The last packet before a keyframe is not counted: where transport streams are joined their
    counters begin again, as if parts of that packet were missing. Nor does it count if every packet
    is marked: then the counters are wrong. Of a video's last packet the caller decides.

    Args:
        packets: of the video, in order of decoding.
        gaps: given for a transport stream. FFmpeg takes one of its packets, with the mark, and
            returns the one before, whose end it now knows: a mark is one packet too early, and the
            first has none. The function returns how many counters between two offsets are wrong, of
            how many; None where it is not known.
    """
    held: list[_Packet] = []  # the pictures of one packet of the transport stream
    is_delayed = gaps is not None
    is_next = is_first = is_delayed
    has_whole = False
    for packet in packets:
        is_hit = is_next if is_delayed else packet.is_corrupt
        is_next = packet.is_corrupt
        # Only the first picture of a transport stream's packet has a position.
        if held and (packet.pos is not None or not is_delayed):
            is_damaged = has_whole and (is_hit or not packet.is_keyframe)
            if is_first and gaps is not None:
                start, end = held[0].pos, packet.pos
                known = None if start is None or end is None else gaps(start, end)
                wrong, compared = known or (0, 0)
                is_damaged = wrong > 0 and (not is_hit or _WRONG_COUNTERS * wrong <= compared)
                has_whole = has_whole or is_damaged or (compared > 0 and not wrong)
                is_first = False
            yield from ((other, is_damaged) for other in held)
            held.clear()
        has_whole = has_whole or not is_hit
        if is_hit or held:
            held.append(packet)
        else:
            yield packet, False
    yield from ((packet, has_whole and is_delayed and not is_first) for packet in held)


class Decoder:
    """Decoder of one video stream, whose errors and log become entries of the accounts.

    Args:
        stream: the stream; its decoder must not be open yet.
        accounts: of the video.
        threads: 0 for as many as there are cores. One thread is used where damage must be assigned
            to packets: where FFmpeg only logs it, and where ``skip`` is set; and fewer where only
            that fits into memory.
        memory: for the decoder.
        skip: whether damaged pictures are to be left out.

    Raises:
        VideoTooLarge: the video needs more memory than this process may use. Also raised while
            decoding, at a picture that is larger than those before.
        Cancelled: the video was cancelled while it waited for memory.
    """

    def __init__(
        self,
        stream: VideoStream,
        accounts: Accounts,
        *,
        threads: int,
        memory: DecoderMemory,
        skip: bool = False,
    ) -> None:
        self._context = stream.codec_context
        self._accounts = accounts
        self._messages = _MESSAGES.get(self.name, ())
        self.skips = skip
        self._memory = memory
        self._units = _Units(self.name, self._context.extradata or b"")
        threads = memory.allot(
            self._context,
            threads=1 if skip or self._messages else threads,
            references=self._units.references,
        )
        self._is_single = threads == 1
        # Frame threads: the decoder may use every core. Order and pixels stay the same.
        stream.thread_type = "AUTO"
        self._context.thread_count = threads
        self._context.copy_opaque = True
        accounts.may_fail_at_start = self.name in _FAILING_DECODERS

    @property
    def name(self) -> str:
        """FFmpeg's name of the decoder."""
        return str(self._context.name)

    def decode(self, packet: _Packet | None, *, is_marked: bool = False) -> list[av.VideoFrame]:
        """Send a packet, or the end of the video, and return the pictures that are ready.

        Args:
            packet: the packet; None for the end.
            is_marked: whether the container says that the packet is damaged.
        """
        sent = None
        if packet is not None:
            # The decoder returns no picture of a packet that an edit list discards.
            is_hidden = self._units.is_hidden(packet) or packet.is_discard
            is_entry = self._units.is_entry
            sent = self._accounts.add_packet(packet, is_hidden=is_hidden, is_entry=is_entry)
            if is_marked:
                self._accounts.add_mark(sent)
            elif self._units.absent:
                self._accounts.add_absent(sent, self._units.absent)
        try:
            if not self._messages:
                return self._context.decode(packet)
            with _log.captured() as entries:
                try:
                    return self._context.decode(packet)
                finally:
                    for _, _, message in entries:
                        if message.startswith(self._messages):
                            self._accounts.add_error(sent, message.strip())
        except BlockingIOError as error:
            # An error left a picture in the decoder, which then accepts no packet.
            self._accounts.add_error(sent, reason_of(error))
            self._context.flush_buffers()
        except av.error.FFmpegError as error:
            self._memory.check(self._context, error)
            self._accounts.add_error(sent if self._is_single else None, reason_of(error))
        return []

    def is_key(self, frame: av.VideoFrame, sent: Sent) -> bool:
        """Whether pictures from this one on do not depend on earlier ones."""
        type_ = int(frame.pict_type)
        if self.name in _MARKING_DECODERS:
            return type_ == _INTRA
        return sent.is_keyframe and type_ in (_NO_TYPE, _INTRA)


def _can_be_first(frame: av.VideoFrame, sent: Sent, decoder: str) -> bool:
    if decoder in _MARKING_DECODERS:
        return int(frame.pict_type) == _INTRA
    return sent.is_keyframe or decoder not in _CANVAS_DECODERS


def _decoding_time(sent: Sent) -> int:
    return sent.number if sent.dts is None else sent.dts


def reason_of(error: BaseException) -> str:
    """Return FFmpeg's message without its error number and function name."""
    return str(getattr(error, "strerror", None) or error)


class _Units:
    """Recognises packets from which no picture comes, although they have content.

    Args:
        decoder: FFmpeg's name of the decoder.
        extradata: the stream's parameters; in H.264 and HEVC they say how units are separated.
    """

    def __init__(self, decoder: str, extradata: bytes) -> None:
        self._decoder = decoder
        self._numbers = h264.PictureNumbers()
        self._length_bytes = 0
        # Whether HEVC's decoder skips leading pictures, because the pictures before are missing.
        self._skips_leading = False
        self._was_end = False
        # Whether a decoder that begins with the last packet must return its picture.
        self.is_entry = False
        # How many pictures at least are absent before the last packet, which depends on them.
        self.absent = 0
        self._set_parameters(extradata)

    @property
    def references(self) -> int:
        """How many pictures later ones may refer to; 0 where it is not known."""
        return max(1, self._numbers.references) if self._decoder == "h264" else 0

    def _set_parameters(self, extradata: bytes) -> None:
        if self._decoder == "h264":
            self._numbers.add_parameters(extradata)
        self._length_bytes = 0
        if self._decoder == "h264" and len(extradata) > 6 and extradata[0] == 1:
            self._length_bytes = (extradata[4] & 3) + 1
        elif self._decoder == "hevc" and len(extradata) > 22 and extradata[0] == 1:
            self._length_bytes = (extradata[21] & 3) + 1

    def is_hidden(self, packet: _Packet) -> bool:
        """Whether no picture comes from a packet. Packets come in order of decoding."""
        self.is_entry = packet.is_keyframe
        if self._decoder in ("h264", "hevc"):
            if packet.has_sidedata("new_extradata"):
                self._set_parameters(bytes(packet.get_sidedata("new_extradata")))
            content = bytes(packet)
            if self._decoder == "h264":
                return self._has_no_h264(content, is_keyframe=packet.is_keyframe)
            return self._has_no_hevc(content)
        data = memoryview(packet)
        if self._decoder == "vp8":
            return not data[0] >> 4 & 1  # an alternate reference
        if self._decoder == "vp9":
            return _is_hidden_vp9(data)
        if self._decoder == "mpeg4":
            return packet.size <= _MOST_NOT_CODED_BYTES
        if self._decoder in ("mpeg1video", "mpeg2video"):
            return bytes(data[:4]) == _SEQUENCE_END
        return False

    def _has_no_h264(self, data: bytes, *, is_keyframe: bool) -> bool:
        self.is_entry = True  # also of a packet that is damaged
        self.absent = 0
        unit = None  # the start of the unit before
        is_empty = False
        for at in self._starts(data):
            if unit is not None:
                self._numbers.add_unit(data[unit : at - (self._length_bytes or 3)])
            unit = None
            kind = data[at] & 31 if at >= 0 else -1
            if kind in _H264_PICTURES:
                # Other pictures may be the first only of a gradual refresh.
                self.is_entry = kind == h264.IDR_SLICE
                first = data[at : at + h264.HEADER_BYTES]
                self.absent = self._numbers.absent(first, is_keyframe=is_keyframe)
                return False
            is_empty = kind in _NOT_PICTURES["h264"]
            if not is_empty:
                break
            unit = at
        if unit is not None:
            self._numbers.add_unit(data[unit:])
        self._numbers.skip(is_empty=is_empty)
        return is_empty

    def _has_no_hevc(self, data: bytes) -> bool:
        was_end, self._was_end = self._was_end, data[-16:].count(_HEVC_ENDS[0]) > 0
        only_others = False
        self.is_entry = True  # also of a packet that is damaged
        for at in self._starts(data):
            kind = data[at] >> 1 & 63 if at >= 0 else -1
            if kind in _HEVC_PICTURES:
                self.is_entry = kind in _HEVC_IRAP
                if self.is_entry:
                    self._skips_leading = was_end or kind in _HEVC_BROKEN_LINK
                return self._skips_leading and kind in _HEVC_SKIPPED_LEADING
            if kind not in _NOT_PICTURES["hevc"]:
                return False
            only_others = True
        return only_others

    def _starts(self, data: bytes) -> Iterator[int]:
        """Yield where each unit starts; -1 for one that is damaged."""
        if not self._length_bytes:
            at = data.find(b"\0\0\1")
            while 0 <= at < len(data) - 3:
                yield at + 3
                at = data.find(b"\0\0\1", at + 3)
            return
        at = 0
        while at + self._length_bytes < len(data):
            size = int.from_bytes(data[at : at + self._length_bytes], "big")
            at += self._length_bytes
            # A unit longer than its packet is damage, whatever its type.
            yield at if at + size <= len(data) else -1
            at += size


def _is_hidden_vp9(data: Sequence[int]) -> bool:
    """Whether a packet is one frame of VP9 that is not shown; a superframe has one that is."""
    first = data[0]
    if first >> 6 != 2 or data[-1] >> 5 == 6:
        return False
    shift = 2 if first >> 4 & 3 == 3 else 3  # profile 3 has a reserved bit
    shows_existing, shown = first >> shift & 1, first >> (shift - 2) & 1
    return not shows_existing and not shown


class _Log:
    """FFmpeg's log, read by several threads at the same time.

    PyAV has one level for the process, and discards the log by default. The level is raised while
    any thread reads the log, and restored afterwards. Messages that the user's own level allows go
    on to the user's captures and to Python's logging. The one setting that PyAV does not let a
    program read is :func:`av.logging.restore_default_callback`; afterwards, PyAV's level applies.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._level: int | None = None
        self._raised: int | None = None
        self._skips_repeated = True
        self._others: av.logging.Capture | None = None

    @contextlib.contextmanager
    def captured(self) -> Iterator[list[tuple[int, str, str]]]:
        """Yield a list that receives level, name and text of what this thread makes FFmpeg log."""
        entries: list[tuple[int, str, str]] = []
        with self._lock:
            self._begin()
            level = self._level
        try:
            with av.logging.Capture(local=True) as entries:
                if level is not None:
                    # PyAV delivers its count of repeated messages with the next message.
                    av.logging.log(av.logging.ERROR, "c3d_client", "")
                    entries.clear()
                yield entries
        finally:
            with self._lock:
                self._end()
            if level is not None:
                for entry in entries:
                    if entry[0] <= level:
                        av.logging.log(*entry)

    def _begin(self) -> None:
        self._readers += 1
        if self._readers > 1:
            return
        self._level = self._raised = av.logging.get_level()
        self._skips_repeated = av.logging.get_skip_repeated()
        # The same message about two pictures or two videos is two messages.
        av.logging.set_skip_repeated(False)
        if self._level is None or self._level < av.logging.ERROR:
            # Other threads' messages must not become visible.
            self._others = av.logging.Capture(local=False)
            self._others.__enter__()
            self._raised = av.logging.ERROR
            av.logging.set_level(self._raised)

    def _end(self) -> None:
        self._readers -= 1
        if self._others is not None:
            self._others.logs.clear()
        if self._readers:
            return
        if self._others is not None:
            self._others.__exit__(None, None, None)
            self._others = None
        if self._raised != self._level and av.logging.get_level() == self._raised:
            av.logging.set_level(self._level)
        av.logging.set_skip_repeated(self._skips_repeated)


_log = _Log()
