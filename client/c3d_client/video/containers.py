"""Whether a video file ends early, from the sizes and end marks that its container records.

FFmpeg reads what is there and reports no error for most files that are cut short. Each container
has one function here. It is a generator: it yields the offset and length of the bytes that it
needs, gets them (fewer at the end of the file, none beyond it), and returns an :class:`Ending`.
None of them reads pictures, and where a file leaves a doubt they return no finding.

Formats: RIFF (Microsoft's AVI and OpenDML), ASF, GIF89a, Ogg (RFC 3533), YUV4MPEG2, ISO base media
and QuickTime, Matroska (RFC 9559), FLV 10.1, RealMedia, IVF, MXF (SMPTE 377), NUT, DV (SMPTE
314M) and MPEG-2 systems (ISO 13818-1).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, cast

from c3d_client.video.stores import RemoteFile


@dataclass(frozen=True)
class Ending:
    """What the sizes and end marks of a file show about its end; by default nothing.

    Attributes:
        cut: what was expected and what is there, for the message; empty where nothing is missing.
        is_whole: whether the file records a size or an end mark and reaches it.
        is_live: whether it is a recording whose sizes and duration were never written.
    """

    cut: str = ""
    is_whole: bool = False
    is_live: bool = False


_Scan = Generator[tuple[int, int], bytes, Ending]

_UNKNOWN = Ending()
_WHOLE = Ending(is_whole=True)
_LIVE = Ending(is_live=True)

_HEAD_BYTES = 1024
# Most pieces that a container function looks at: 24 hours of fragments of 0.2 s are 860,000. It
# limits the time that a hostile file takes to a few seconds.
_MOST_REQUESTS = 1_000_000
_MOST_BYTES = 1 << 16  # of one request
_MOST_COUNTED_BYTES = 1 << 22  # of a transport stream
# A small read gets so many bytes, because the next one is often near.
_READ_BYTES = 1 << 14
# Blocks of a remote file that are requested for the check, besides its first.
_EXTRA_BLOCKS = 2


class EndCheck:
    """The check of an open file's end.

    A local file is checked at once. Of a remote one, the first block and at most two others are
    requested; if they do not decide, the check continues with the blocks that the decoder reads.
    A file that cannot seek, whose size is unknown, or of another format has no finding.

    Args:
        file: a binary file at its beginning, or anything else that PyAV opens.

    Attributes:
        ending: the finding so far.
    """

    def __init__(self, file: object) -> None:
        self.ending = _UNKNOWN
        self._file = cast(Any, file)
        self._window, self._start = b"", 0
        self._blocks: set[int] = {0}
        self._requests = 0
        self._wanted: tuple[int, int] | None = None
        self._size = _size(file)
        if not self._size:
            return
        try:
            head = self._pull(0, _HEAD_BYTES) or b""
            scan = _scan_of(head, self._size)
            if scan is not None:
                self._scan = scan
                self._wanted = next(scan)
                self._advance(self._pull)
        except OSError:
            self._wanted = None  # the decoder meets the same error and reports it
        finally:
            self._file.seek(0)
        if self._wanted is not None and isinstance(file, RemoteFile):
            self._window = b""
            file.on_read = self._push

    def _advance(self, serve: Callable[[int, int], bytes | None]) -> None:
        """Continue as long as `serve` returns the bytes that are asked for."""
        while self._wanted is not None:
            offset, length = self._wanted
            self._requests += 1
            if self._requests > _MOST_REQUESTS or offset < 0:
                self._wanted = None
                return
            length = max(0, min(length, _MOST_BYTES, self._size - offset))
            data = serve(offset, length) if length else b""
            if data is None:
                return
            try:
                self._wanted = self._scan.send(data)
            except StopIteration as stop:
                self._wanted, self.ending = None, stop.value

    def _cached(self, offset: int, length: int) -> bytes | None:
        start = offset - self._start
        if start < 0 or start + length > len(self._window):
            return None
        return self._window[start : start + length]

    def _pull(self, offset: int, length: int) -> bytes | None:
        """Read from the file; None where that takes too many requests or the bytes do not come."""
        data = self._cached(offset, length)
        if data is not None:
            return data
        wanted = max(length, _READ_BYTES)
        if isinstance(self._file, RemoteFile):
            size = self._file.block_bytes
            blocks = {offset // size, (offset + length - 1) // size}
            if len(self._blocks | blocks) > 1 + _EXTRA_BLOCKS:
                return None
            self._blocks |= blocks
            # Not beyond the last of these blocks, which would be another request.
            wanted = min(wanted, (max(blocks) + 1) * size - offset)
        self._file.seek(offset)
        parts = []
        while wanted > 0:
            part = self._file.read(wanted)
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        self._window, self._start = b"".join(parts), offset
        data = self._window[:length]
        return data if len(data) == min(length, self._size - offset) else None

    def _push(self, offset: int, data: bytes) -> None:
        """Continue with bytes that the decoder has read."""
        if self._wanted is None:
            return
        if offset == self._start + len(self._window):
            # The piece that is asked for may begin at the end of the bytes before.
            kept = self._window[-_MOST_BYTES:]
            self._window, self._start = kept + data, offset - len(kept)
        else:
            self._window, self._start = data, offset
        self._advance(self._cached)


def _size(file: object) -> int:
    """Return the size of a file in bytes; 0 where it is unknown or the check cannot seek."""
    if isinstance(file, RemoteFile):
        return file.size
    stream: Any = file
    try:
        if not getattr(stream, "seekable", lambda: True)() or stream.tell() != 0:
            return 0
        size = int(stream.seek(0, os.SEEK_END))
        stream.seek(0)
    except (AttributeError, OSError, TypeError, ValueError):
        return 0
    return size


def _scan_of(head: bytes, size: int) -> _Scan | None:
    """Return the scan of the format that the first bytes show, started."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _avi(size)
    if head[:16] == _ASF_HEADER:
        return _asf(size)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(size)
    if head[:4] == b"OggS":
        return _ogg(size)
    if head[:10] == b"YUV4MPEG2 ":
        return _y4m(size)
    if head[4:8] in _FIRST_BOXES:
        return _mp4(size)
    if head[:4] == _EBML:
        return _matroska(size)
    if head[:4] == b"FLV\1":
        return _flv(size)
    if head[:4] == b".RMF":
        return _realmedia(size)
    if head[:4] == b"DKIF":
        return _ivf(size)
    if head[:13] == _MXF_PARTITION:
        return _mxf(size)
    if head.startswith(b"nut/multimedia container\0"):
        return _nut(size)
    if head[:3] == _DV_HEADER and head[3:4] in (b"\x3f", b"\xbf"):
        return _dv(size)
    if head[:4] == b"\0\0\1\xba":
        return _mpeg_ps(size)
    if _ts_packet_bytes(head) is not None:
        return _mpeg_ts(size)
    return None


def _cut(expected: int, size: int, what: str = "") -> Ending:
    """A file that is shorter than it records."""
    return Ending(f"it says {what}{expected:,} bytes and ends after {size:,}")


def _unfinished(what: str, size: int) -> Ending:
    """A file that ends within a part, or without its end mark."""
    return Ending(f"it ends {what}, after {size:,} bytes")


def _u32(data: bytes, offset: int = 0) -> int:
    """Return a big-endian number of 4 bytes."""
    return int.from_bytes(data[offset : offset + 4], "big")


def _u32le(data: bytes, offset: int = 0) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64le(data: bytes, offset: int = 0) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


# RIFF: every chunk has a name, its size and, if that is odd, a byte of padding. OpenDML adds
# further RIFF chunks of the type AVIX after about 1 GiB. Writers put 0 or -1 in place of the sizes
# until the file is finished.

_NO_SIZES = (0, 0xFFFFFFFF)
# Some writers count a chunk's own header, or not its padding. FFmpeg marks a last packet that lacks
# so few bytes.
_RIFF_SLACK = 9


def _avi(size: int) -> _Scan:
    """AVI: the size of each RIFF chunk, and of the list of pictures in one that is cut."""
    head = yield 0, 64
    frames = _u32le(head, 48) if head[24:28] == b"avih" else 0
    what = f"{frames} frames in " if frames else ""
    at = 0
    while at + 12 <= size:
        head = yield at, 12
        if head[:4] != b"RIFF" or head[8:12] not in (b"AVI ", b"AVIX"):
            # Bytes after the end; or more than 4 GiB, which the sizes of plain AVI cannot record.
            return _WHOLE if size < 1 << 32 else _UNKNOWN
        length = _u32le(head, 4)
        if length in _NO_SIZES:
            # Without a frame count, the durations are placeholders too: FFmpeg writes the longest.
            return _UNKNOWN if frames else _LIVE
        end = at + 8 + length
        if end > size:
            break
        at = end + end % 2
    else:
        return _WHOLE
    inner = at + 12
    while inner + 12 <= size:
        head = yield inner, 12
        length = _u32le(head, 4)
        inner_end = inner + 8 + length
        if head[:4] == b"LIST" and head[8:12] == b"movi":
            if length in _NO_SIZES:
                return _UNKNOWN
            if inner_end <= size:
                return _WHOLE  # what is missing is the index
            if inner_end <= size + _RIFF_SLACK:
                return _UNKNOWN
            break
        inner = inner_end + inner_end % 2
    return _cut(end, size, what)


# ASF: objects of a GUID and a size of 8 bytes. The header is followed by the data, whose packets
# have a fixed size, and by indexes.

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_BROADCAST = 1


def _asf(size: int) -> _Scan:
    """ASF: the size of the data, unless it is a live recording."""
    head = yield 0, 30
    data_at = _u64le(head, 16)
    at, properties = 30, b""
    while not properties and at + 104 <= data_at:
        item = yield at, 104
        length = _u64le(item, 16)
        if length < 24:
            return _UNKNOWN
        if item[:16] == _ASF_FILE:
            properties = item
        at += length
    if len(properties) < 104 or _u32le(properties, 88) & _ASF_BROADCAST:
        return _UNKNOWN
    data = yield data_at, 50
    packets, packet_bytes = _u64le(properties, 56), _u32le(properties, 92)
    length = _u64le(data, 16)
    if data[:16] != _ASF_DATA or not packets or length <= 50:
        return _UNKNOWN
    if packet_bytes == _u32le(properties, 96):
        length = min(length, 50 + packets * packet_bytes)
    if data_at + length > size:
        return _cut(data_at + length, size, f"{packets} packets in ")
    return _WHOLE


# GIF: blocks, whose data are sub-blocks of at most 255 bytes, and a trailer.


def _gif(size: int) -> _Scan:
    """GIF: the trailer, after which other bytes may follow."""
    tail = yield size - 2, 2
    if tail == b"\0;":
        return _WHOLE
    head = yield 0, 13
    at = 13 + _gif_table_bytes(head, 10)
    while at < size:
        block = yield at, 10
        if block[:1] == b";":
            return _WHOLE
        if block[:1] == b"!":
            at += 2
        elif block[:1] == b",":
            at += 11 + _gif_table_bytes(block, 9)
        elif block[:1] == b"\0":  # a stray end of sub-blocks, which decoders skip
            at += 1
            continue
        else:
            return _UNKNOWN
        while at < size:
            length = (yield at, 1)[0]
            at += 1 + length
            if not length:
                break
    return _unfinished("without its end mark", size)


def _gif_table_bytes(data: bytes, offset: int) -> int:
    """Return the size of the colour table that the flags at an offset announce."""
    flags = data[offset] if offset < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# Ogg: pages of at most 64 KiB. The first of each stream is marked, and the last.

_OGG_FIRST, _OGG_LAST = 2, 4
_OGG_VIDEO = (b"\x80theora", b"OVP80", b"BBCD", b"\1video")


def _ogg(size: int) -> _Scan:
    """Ogg: the mark of the last page of each video stream."""
    start = max(0, size - _MOST_BYTES)
    tail = yield start, size - start
    page = tail[tail.rfind(b"OggS") :]
    if page[:4] == b"OggS" and _ogg_page_bytes(page) == len(page) and page[5] & _OGG_LAST:
        return _WHOLE
    at, is_begun, unended = 0, False, set[bytes]()
    has_video = False
    while at < size:
        page = yield at, 27 + 255 + 8
        if not page.startswith(b"OggS"[: len(page)]):
            return _UNKNOWN
        length = _ogg_page_bytes(page)
        if at + length > size:
            break
        flags, serial = page[5], page[14:18]
        if flags & _OGG_FIRST:
            if is_begun:  # another chain of streams follows the one before
                is_begun, unended = False, set()
            if page[27 + page[26] :].startswith(_OGG_VIDEO):
                has_video = True
                unended.add(serial)
        else:
            is_begun = True
        if flags & _OGG_LAST:
            unended.discard(serial)
        at += length
    if unended:
        return _unfinished("without the mark of its last page", size)
    return _WHOLE if has_video else _UNKNOWN


def _ogg_page_bytes(page: bytes) -> int:
    """Return the size of a page; more than any page has where its header is incomplete."""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return _MOST_BYTES
    return 27 + page[26] + sum(page[27 : 27 + page[26]])


# YUV4MPEG2: a line of text, then for each frame a line and its planes.

# Colour space -> bytes of a frame, from its width and height and both halved upwards.
_Y4M_BYTES: dict[str, Callable[[int, int, int, int], int]] = {
    "420": lambda w, h, w2, h2: w * h + 2 * w2 * h2,
    "422": lambda w, h, w2, h2: w * h + 2 * w2 * h,
    "444": lambda w, h, w2, h2: 3 * w * h,
    "411": lambda w, h, w2, h2: w * h + 2 * ((w + 3) // 4) * h,
    "444alpha": lambda w, h, w2, h2: 4 * w * h,
    "mono": lambda w, h, w2, h2: w * h,
}


def _y4m(size: int) -> _Scan:
    """YUV4MPEG2: the last frame is complete."""
    head = yield 0, _HEAD_BYTES
    line, end, _ = head.partition(b"\n")
    fields = {field[:1]: field[1:] for field in line.decode("latin-1").split(" ")[1:]}
    colour = re.fullmatch(
        r"(420|422|444alpha|444|411|mono)(?:jpeg|mpeg2|paldv)?(p?\d+)?", fields.get("C", "420")
    )
    if (
        not end
        or not colour
        or not fields.get("W", "").isdecimal()
        or not fields.get("H", "").isdecimal()
    ):
        return _UNKNOWN
    width, height = int(fields["W"]), int(fields["H"])
    frame_bytes = _Y4M_BYTES[colour[1]](width, height, (width + 1) // 2, (height + 1) // 2)
    frame_bytes *= 2 if colour[2] else 1
    at, frames = len(line) + 1, 0
    while at < size:
        head = yield at, 80
        line = head.partition(b"\n")[0]
        if not line.startswith(b"FRAME"[: len(line)]):
            return _WHOLE if frames else _UNKNOWN
        if len(line) == len(head) and at + len(line) < size:
            return _UNKNOWN
        at += len(line) + 1 + frame_bytes
        if at > size:
            return _unfinished(f"within frame {frames}", size)
        frames += 1
    return _WHOLE


# ISO base media and QuickTime: boxes of a size and a name. A size of 1 is followed by one of 8
# bytes; 0 means up to the end of the file.

_FIRST_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip"} | {
    b"pnot",
    b"sidx",
    b"uuid",
}
# Boxes whose loss loses pictures. Others may be incomplete: free space, titles and indexes.
_PICTURE_BOXES = {b"moov", b"moof", b"mdat"}


def _mp4(size: int) -> _Scan:
    """MP4 and MOV: the sizes of the boxes, and an `mdat` after each `moof`.

    Of a file in fragments nothing records how many there are, but an `sidx` or `mfra` box.
    """
    seen: set[bytes] = set()
    indexed, is_indexed = 0, False
    lacks_data = False
    at = 0
    while at + 8 <= size:
        head = yield at, 16
        length, kind, header = _u32(head), head[4:8], 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        if length == 0 and kind in _PICTURE_BOXES:
            return _UNKNOWN
        if length < header or not re.fullmatch(rb"[ -~\xa9]{4}", kind):
            break  # bytes after the last box
        if at + length > size:
            if kind in _PICTURE_BOXES:
                return _cut(at + length, size)
            break
        seen.add(kind)
        if kind in (b"moof", b"mdat"):
            lacks_data = kind == b"moof"
        elif kind == b"sidx" and b"moof" not in seen and not indexed:
            index = yield at, min(length, _MOST_BYTES)
            indexed, is_indexed = _sidx_end(index, at + length)
        at += length
    fragments = b"moof" in seen
    if lacks_data:
        return _unfinished("before the pictures of its last fragment", size)
    if indexed > size:
        return _cut(indexed, size)
    if not fragments:
        return _WHOLE if {b"moov", b"mdat"} <= seen else _UNKNOWN
    if is_indexed or b"mfra" in seen:
        return _WHOLE
    rest = b"" if at >= size or at + 8 <= size else (yield at, size - at)
    if any(rest):
        return _unfinished("within the size of its next fragment", size)
    return _UNKNOWN


def _sidx_end(box: bytes, end: int) -> tuple[int, bool]:
    """Return where the fragments end that an index lists, and whether it lists several."""
    header = 12 + 8 + (16 if box[8:9] == b"\1" else 8)
    width = 8 if box[8:9] == b"\1" else 4
    first = int.from_bytes(box[header - width : header], "big")
    count = int.from_bytes(box[header + 2 : header + 4], "big")
    entries = box[header + 4 : header + 4 + 12 * count]
    if len(entries) < 12 * count or not count:
        return 0, False
    sizes = (_u32(entries, 12 * number) & 0x7FFFFFFF for number in range(count))
    return end + first + sum(sizes), count > 1


# Matroska and WebM: elements of a name and a size, both of variable length. A size whose bits are
# all set is unknown.

_EBML = bytes.fromhex("1a45dfa3")
_SEGMENT, _SEEK_HEAD, _INFO, _CLUSTER = 0x18538067, 0x114D9B74, 0x1549A966, 0x1F43B675
_SIMPLE_BLOCK, _BLOCK_GROUP, _CUES = 0xA3, 0xA0, 0x1C53BB6B
_TRACKS, _CHAPTERS, _TAGS, _ATTACHMENTS, _VOID, _CRC = (
    *(0x1654AE6B, 0x1043A770, 0x1254C367, 0x1941A469),
    *(0xEC, 0xBF),
)
_IN_CLUSTER = {_SIMPLE_BLOCK, _BLOCK_GROUP, 0xE7, 0xA7, 0xAB, 0x5854, 0xAF, _VOID, _CRC}
_IN_SEGMENT = {_SEEK_HEAD, _INFO, _CLUSTER, _CUES, _TRACKS, _CHAPTERS, _TAGS, _ATTACHMENTS}
_SEEK, _SEEK_ID, _SEEK_POSITION, _TIME_SCALE, _DURATION = 0x4DBB, 0x53AB, 0x53AC, 0x2AD7B1, 0x4489


def _matroska(size: int) -> _Scan:
    """Matroska: the size of the segment; if it is longer than the file, what is missing."""
    at, kind, header = 0, 0, 0
    length: int | None = 0
    for _ in range(8):  # EBML header, perhaps free space, segment
        head = yield at, 12
        kind, length, header = _element(head)
        if kind == _SEGMENT or not header or length is None:
            break
        at += header + length
    if kind != _SEGMENT or not header:
        return _UNKNOWN
    start = at + header
    end = None if length is None else start + length
    if end is not None and end <= size:
        return _WHOLE
    cues, what, has_pictures, incomplete = 0, "", False, 0
    at = start
    while at < size:
        head = yield at, 12
        kind, length, header = _element(head)
        if not header:
            break
        if kind not in _IN_SEGMENT | _IN_CLUSTER:
            return _UNKNOWN
        if kind in (_SEEK_HEAD, _INFO):
            content = yield at + header, length or 0
            children = _children(content)
            if kind == _INFO:
                duration_s = _duration_s(children)
                what = f"{duration_s:.2f} s in " if duration_s else ""
            else:
                cues = _cues_position(children, start) or cues
        has_pictures = has_pictures or kind == _CLUSTER
        if kind == _CLUSTER and length is None:
            at += header  # its elements follow
            continue
        if length is None:
            return _UNKNOWN
        if at + header + length > size:
            if kind in (_CLUSTER, _SIMPLE_BLOCK, _BLOCK_GROUP):
                return _cut(end or at + header + length, size, what)
            incomplete = kind
            break
        at += header + length
    # The file ends between two elements, or in one without pictures.
    if end is None or not has_pictures:
        return _UNKNOWN
    if cues == at or incomplete == _CUES:
        return _WHOLE  # what is missing is the index
    return _cut(end, size, what) if cues > at and not incomplete else _UNKNOWN


def _element(data: bytes) -> tuple[int, int | None, int]:
    """Return an element's name, its size, None if unknown, and the bytes of both; 0 if invalid."""
    id_bytes = 9 - data[0].bit_length() if data else 0
    if not 1 <= id_bytes <= 4 or len(data) <= id_bytes:
        return 0, None, 0
    size_bytes = 9 - data[id_bytes].bit_length()
    header = id_bytes + size_bytes
    if size_bytes > 8 or len(data) < header:
        return 0, None, 0
    most = (1 << 7 * size_bytes) - 1
    length = int.from_bytes(data[id_bytes:header], "big") & most
    return int.from_bytes(data[:id_bytes], "big"), None if length == most else length, header


def _children(content: bytes) -> list[tuple[int, bytes]]:
    """Return the elements in an element, as far as they are complete."""
    found: list[tuple[int, bytes]] = []
    while True:
        kind, length, header = _element(content[:12])
        if not header or length is None or header + length > len(content):
            return found
        found.append((kind, content[header : header + length]))
        content = content[header + length :]


def _cues_position(seeks: list[tuple[int, bytes]], start: int) -> int:
    """Return the offset of the index in the file that a seek head names; 0 if it names none."""
    for kind, content in seeks:
        entry = dict(_children(content)) if kind == _SEEK else {}
        if int.from_bytes(entry.get(_SEEK_ID, b""), "big") == _CUES and _SEEK_POSITION in entry:
            return start + int.from_bytes(entry[_SEEK_POSITION], "big")
    return 0


def _duration_s(children: list[tuple[int, bytes]]) -> float:
    info = dict(children)
    scale = int.from_bytes(info.get(_TIME_SCALE, b""), "big") or 1_000_000
    number = info.get(_DURATION, b"")
    form = {4: ">f", 8: ">d"}.get(len(number))
    return float(struct.unpack(form, number)[0]) * scale / 1e9 if form else 0.0


# FLV: tags of a header of 11 bytes and their data, each followed by its size.

_FLV_TAGS = (8, 9, 18)
_FLV_AVC = (b"\x17", b"\x27")  # H.264, a keyframe or another
_FLV_TIME_SLACK_S = 0.1


def _flv(size: int) -> _Scan:
    """FLV: the last tag is complete, and the file as long as `filesize` in its first tag.

    The first tag may come from another file: a recorder copies it from a server. A longer
    `filesize` counts only where the last tag is incomplete or before the recorded duration.
    """
    head = yield 0, 13
    first = _u32(head, 5) + 4
    tag = yield first, 11
    length = int.from_bytes(tag[1:4], "big")
    content = (yield first + 11, length) if tag[:1] == b"\x12" else b""
    recorded, duration_s = _flv_number(content, b"filesize"), _flv_number(content, b"duration")
    what = f"{duration_s:.2f} s in " if duration_s else ""

    tail = yield size - 4, 4
    last_bytes = _u32(tail)
    last = b"" if last_bytes + 4 > size else (yield size - 4 - last_bytes, 11)
    ends_with_tag = _is_flv_tag(last, last_bytes - 11)
    if recorded > size and not ends_with_tag:
        return _cut(int(recorded), size, what)
    if recorded <= size and ends_with_tag:
        return _WHOLE if recorded == size else _UNKNOWN
    at, latest_ms = first, 0
    while at < size:
        tag = yield at, 16
        if tag[0] & 0x1F not in _FLV_TAGS or any(tag[8:11]):
            return _UNKNOWN  # other bytes after the last tag, or damage
        end = at + 11 + int.from_bytes(tag[1:4], "big")
        if len(tag) < 11 or end > size:
            return _unfinished("within a tag", size)
        time_ms = int.from_bytes(tag[7:8] + tag[4:7], "big")
        if tag[0] == 9 and tag[11:12] in _FLV_AVC and tag[12:13] == b"\1":
            time_ms += int.from_bytes(tag[13:16], "big", signed=True)  # presentation is later
        latest_ms = max(latest_ms, time_ms)
        at = end + 4
    is_early = not duration_s or latest_ms / 1000 < duration_s - _FLV_TIME_SLACK_S
    if recorded > size and is_early:
        return _cut(int(recorded), size, what)
    return _WHOLE if recorded == size else _UNKNOWN


def _is_flv_tag(tag: bytes, length: int) -> bool:
    return (
        len(tag) == 11
        and tag[0] & 0x1F in _FLV_TAGS
        and int.from_bytes(tag[1:4], "big") == length
        and tag[8:11] == b"\0\0\0"
    )


def _flv_number(content: bytes, name: bytes) -> float:
    """Return a number of the first tag; 0 where it is absent or not finite."""
    before, _, after = content.partition(len(name).to_bytes(2, "big") + name + b"\0")
    if len(after) < 8:
        return 0.0
    number = float(struct.unpack(">d", after[:8])[0])
    return number if 0 < number < 1 << 62 else 0.0


# RealMedia: chunks of a name and a size; the data chunk has the number of its packets.

# FFmpeg writes a data size that is 10 bytes too large; others may count the chunk's header twice.
_REAL_SLACK = 18


def _realmedia(size: int) -> _Scan:
    """RealMedia: the size of each data chunk."""
    at, has_data = 0, False
    while at + 8 <= size:
        head = yield at, 18
        kind, length = head[:4], _u32(head, 4)
        if kind not in (b".RMF", b"PROP", b"MDPR", b"CONT", b"DATA", b"INDX", b"RMMD"):
            break
        if kind == b"DATA" and not _u32(head, 10):
            return _LIVE
        if kind == b"DATA" and length < 18:
            return _UNKNOWN
        if length < 8:
            return _UNKNOWN
        if at + length > size:
            if kind == b"DATA":
                excess = at + length - size
                return _cut(at + length, size) if excess > _REAL_SLACK else _UNKNOWN
            break
        has_data = has_data or kind == b"DATA"
        at += length
    return _WHOLE if has_data else _UNKNOWN


# IVF: a header with the length of the video, which live recordings leave out, and a size a frame.


def _ivf(size: int) -> _Scan:
    """IVF: the size of the last frame."""
    head = yield 0, 32
    at = int.from_bytes(head[6:8], "little")
    if at < 32:
        return _UNKNOWN
    is_live = _u32le(head, 24) in _NO_SIZES
    frames = 0
    while at < size:
        head = yield at, 12
        at += 12 + _u32le(head)
        if len(head) < 12 or at > size:
            return _unfinished(f"within frame {frames}", size)
        frames += 1
    return _LIVE if is_live else _UNKNOWN


# MXF: partitions; each names the offset of the last one, the footer, once that is known.

_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")


def _mxf(size: int) -> _Scan:
    """MXF: the footer, which follows the pictures, is in the file."""
    head = yield 0, 128
    value = 17 + (head[16] & 0x7F if head[16] & 0x80 else 0)
    footer = int.from_bytes(head[value + 24 : value + 32], "big")
    if not footer:
        return _UNKNOWN
    mark = yield footer, 14
    if footer >= size:
        return _cut(footer, size, "at least ")
    return _WHOLE if mark == _MXF_PARTITION + b"\4" else _UNKNOWN


# NUT: its writers put an index at the end, of files and of pipes.

_NUT_INDEX = bytes.fromhex("4e58dd672f23e64e")


def _nut(size: int) -> _Scan:
    """NUT: the index at the end, complete or not."""
    start = max(0, size - _MOST_BYTES)
    tail = yield start, size - start
    index_bytes = int.from_bytes(tail[-12:-4], "big")
    if 12 <= index_bytes <= size:
        mark = yield size - index_bytes, 8
        if mark == _NUT_INDEX:
            return _WHOLE
    return _UNKNOWN if _NUT_INDEX in tail else _unfinished("without its index", size)


# DV: frames of a fixed size, in blocks of 80 bytes; the first block of each has the same header.

_DV_HEADER = bytes.fromhex("1f0700")
_DV_PACK = 80 * 5 + 48 + 3  # the byte with the signal type in the source pack


def _dv(size: int) -> _Scan:
    """DV, DVCPRO50 and DVCPRO HD: the last frame is complete."""
    head = yield 0, _HEAD_BYTES
    frame_bytes = 144_000 if head[3] & 0x80 else 120_000
    frame_bytes *= {0: 1, 4: 2, 20: 4}.get(head[_DV_PACK] & 31, 0) if len(head) > _DV_PACK else 0
    if not frame_bytes:
        return _UNKNOWN
    frames, rest = divmod(size, frame_bytes)
    last = yield frames * frame_bytes, 3
    if rest >= 3 and last == _DV_HEADER:
        return _unfinished(f"within frame {frames}", size)
    return _UNKNOWN


# MPEG program streams: packs and packets, which have sizes, and an end code that may be left out.


def _mpeg_ps(size: int) -> _Scan:
    """MPEG-PS: the last packet is complete."""
    start = max(0, size - _MOST_BYTES)
    tail = yield start, size - start
    at = tail.find(b"\0\0\1\xba")
    while 0 <= at < len(tail):
        code = tail[at : at + 4]
        if len(code) < 4 or code[:3] != b"\0\0\1":
            return _UNKNOWN
        if code[3] == 0xB9:
            at += 4
        elif code[3] == 0xBA:
            is_mpeg1 = tail[at + 4 : at + 5] < b"\x40"
            stuffing = tail[at + 13] & 7 if at + 13 < len(tail) else 0
            at += 12 if is_mpeg1 else 14 + stuffing
        elif code[3] >= 0xBB and at + 6 <= len(tail):
            at += 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
        else:
            return _UNKNOWN
    return _unfinished("within a packet", size) if at > len(tail) else _UNKNOWN


# MPEG transport streams: packets of 188 bytes that begin with 0x47, in 192 bytes with a time before
# each (Blu-ray) or in 204 bytes with a checksum after each.

_TS_SYNCS = 5


def _ts_packet_bytes(data: bytes) -> tuple[int, int] | None:
    """Return the size of the packets in some bytes and the offset of the first; None for none."""
    for step in (188, 192, 204):
        for first in range(step):
            marks = data[first::step]
            if len(marks) >= _TS_SYNCS and not marks.strip(b"\x47"):
                return step, first
    return None


def _mpeg_ts(size: int) -> _Scan:
    """MPEG-TS: the last packet is complete."""
    start = max(0, size - 2 * _HEAD_BYTES)
    tail = yield start, size - start
    found = _ts_packet_bytes(tail)
    if found is None:
        return _UNKNOWN  # other bytes follow
    step, first = found
    rest = (len(tail) - first) % step
    if 0 < rest < 188:
        return _unfinished(f"within a packet, of which it has {rest} of 188 bytes", size)
    return _UNKNOWN


def transport_gaps(file: object, pid: int, start: int, end: int) -> tuple[int, int] | None:
    """Compare the counters of one stream's packets in a part of a transport stream.

    Args:
        file: an open file, whose position is restored.
        pid: of the stream.
        start: the offset of the first packet in bytes.
        end: the offset of the last packet in bytes.

    Returns:
        How many counters do not continue the one before, and how many were compared. None where the
        bytes cannot be read without another request to a server.
    """
    most = file.block_bytes if isinstance(file, RemoteFile) else _MOST_COUNTED_BYTES
    if not 0 <= start < end < most - _HEAD_BYTES:
        return None
    opened = cast(Any, file)
    try:
        if not getattr(opened, "seekable", lambda: True)():
            return None
        position = opened.tell()
        opened.seek(start)
    except (AttributeError, OSError, ValueError):
        return None
    try:
        data = opened.read(end - start + _HEAD_BYTES)
    except OSError:
        return None  # the decoder meets the same error and reports it
    finally:
        opened.seek(position)
    found = _ts_packet_bytes(data)
    if found is None:
        return None
    step, first = found
    gaps = compared = 0
    last: int | None = None
    for at in range(first, min(end - start + step, len(data) - 188), step):
        header = int.from_bytes(data[at : at + 4], "big")
        if header >> 8 & 0x1FFF != pid:
            continue
        counter, has_payload, is_extended = header & 15, header >> 4 & 1, header >> 5 & 1
        is_reset = is_extended and data[at + 4] and data[at + 5] & 0x80
        if last is not None and not is_reset:
            compared += 1
            gaps += counter != (last + has_payload) % 16
        last = counter
    return gaps, compared
