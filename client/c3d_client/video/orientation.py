"""Display orientation messages in the packets of H.264 and HEVC that say "upright".

libavcodec gives a picture a display matrix where a message says that it is rotated or mirrored, and
nothing where a message says that it is neither. A message holds until the next one, so a video that
is turned back needs the messages that libavcodec drops. A rotation by 1/65536 of a turn, the
smallest that a message can express, takes their place: its display matrix is read as upright.
"""

from __future__ import annotations

from collections.abc import Iterator

from av.codec.context import CodecContext
from av.packet import Packet
from av.stream import Stream

# The type of the message, in both standards.
_DISPLAY_ORIENTATION = 47


class OrientationMessages:
    """Changes upright messages in packets so that libavcodec reports them.

    Messages that only cancel an earlier one are not changed.

    Args:
        codec: the decoder of the packets.
    """

    def __init__(self, codec: CodecContext) -> None:
        standard = codec.codec.canonical_name
        self._is_h264 = standard == "h264"
        self._has_messages = standard in ("h264", "hevc")
        # In MP4 and Matroska a unit begins with its length, elsewhere with a start code.
        self._length_bytes = 0
        header = bytes(codec.extradata or b"")
        at = 4 if self._is_h264 else 21
        if header[:1] == b"\1" and len(header) > at:
            self._length_bytes = (header[at] & 3) + 1

    def report_upright(self, packet: Packet[Stream]) -> None:
        """Change the packet's upright messages; other packets stay as they are."""
        if not self._has_messages:
            return
        data = bytes(packet)
        positions = [
            position
            for start, end in self._message_units(data)
            if _DISPLAY_ORIENTATION in data[start:end]
            for position in _upright_messages(data, start, min(end, len(data)))
        ]
        if positions:
            changed = bytearray(data)
            for position in positions:
                changed[position] |= 0x20
            packet.update(bytes(changed))

    def _message_units(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield start and end of the units of messages before the first slice of the picture."""
        for start, end in self._units(data):
            if start >= len(data):
                return
            kind = data[start] & 31 if self._is_h264 else data[start] >> 1 & 63
            if kind == (6 if self._is_h264 else 39):
                yield start + (1 if self._is_h264 else 2), end
            elif 1 <= kind <= 5 if self._is_h264 else kind < 32:
                return

    def _units(self, data: bytes) -> Iterator[tuple[int, int]]:
        if self._length_bytes:
            start = 0
            while start + self._length_bytes < len(data):
                size = int.from_bytes(data[start : start + self._length_bytes], "big")
                start += self._length_bytes
                yield start, start + size
                start += size
            return
        start = data.find(b"\0\0\1")
        while start >= 0:
            end = data.find(b"\0\0\1", start + 3)
            yield start + 3, len(data) if end < 0 else end
            start = end


def _upright_messages(data: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the position of the byte with the angle's last bit, of each upright message of a unit.

    Args:
        data: of the packet.
        start: of the unit's messages, after its header.
        end: of the unit.
    """
    # A 3 after two zeros keeps start codes out of messages and does not belong to them.
    kept = [
        position
        for position in range(start, end)
        if data[position] != 3 or data[max(start, position - 2) : position] != b"\0\0"
    ]
    payload = bytes(data[position] for position in kept)
    at = 0
    while at + 2 <= len(payload):
        numbers = []
        for _ in ("type", "size"):  # each the sum of bytes up to the first that is not 255
            number = 0
            while at < len(payload):
                number += payload[at]
                at += 1
                if payload[at - 1] != 255:
                    break
            numbers.append(number)
        kind, size = numbers
        # A bit that cancels, two that mirror, 16 of the angle, and then how long it holds.
        bits = int.from_bytes(payload[at : at + 3], "big")
        if kind == _DISPLAY_ORIENTATION and size >= 3 and at + 3 <= len(payload) and not bits >> 5:
            yield kept[at + 2]
        at += size
