"""Display orientation messages in the packets of H.264 and HEVC.

libavcodec gives the picture of a message a display matrix, but none where the message is that the
picture is upright, and the pictures that follow have none either. A message holds until the next
one, so a video that is turned back needs the messages that libavcodec drops. And PyAV makes a cycle
of references of each frame whose matrix is read: only the angle can be read from every frame.

Hence the angle in the packets is changed so that it contains the whole message: a quarter turn,
plus an angle that no message has otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

from av.codec.context import CodecContext
from av.packet import Packet
from av.stream import Stream

from c3d_client.video.h264 import messages_in

# The type of the message, in both standards.
_DISPLAY_ORIENTATION = 47

# Angles in 1/65536 of a turn. Those that are added are multiples of 8: the last three bits, which
# share a byte with other fields, are always 0.
_QUARTER = 1 << 14
_SLACK = 182  # one degree
_PLAIN, _MIRRORED = 456, 1000  # 2.5 and 5.5 degrees


class OrientationMessages:
    """Changes the messages of packets, and reads them from the angles of frames.

    Messages that cancel an earlier one, and angles other than quarter turns, are not changed.

    Args:
        codec: the decoder of the packets.
    """

    def __init__(self, codec: CodecContext) -> None:
        standard = codec.codec.canonical_name
        self._is_h264 = standard == "h264"
        self._has_messages = standard in ("h264", "hevc")
        self._is_found = False
        # In MP4 and Matroska a unit begins with its length, elsewhere with a start code.
        self._length_bytes = 0
        header = bytes(codec.extradata or b"")
        at = 4 if self._is_h264 else 21
        if header[:1] == b"\1" and len(header) > at:
            self._length_bytes = (header[at] & 3) + 1

    def prepare(self, packet: Packet[Stream]) -> None:
        """Change the messages of a packet; packets without them stay as they are."""
        if not self._has_messages:
            return
        data = bytes(packet)
        changed: bytearray | None = None
        for start, end in self._message_units(data):
            if _DISPLAY_ORIENTATION in data[start:end]:
                changed = changed or bytearray(data)
                self._is_found |= _change_messages(changed, start, min(end, len(data)))
        if changed is not None:
            packet.update(bytes(changed))

    def orientation(self, angle: int) -> tuple[int, bool] | None:
        """Return the message of a frame; None where the angle is of no message.

        Args:
            angle: the frame's ``rotation``, degrees counter-clockwise.

        Returns:
            The quarter turns counter-clockwise, 0 to 3, and whether the picture is mirrored left to
            right before it is turned.
        """
        if not self._is_found:
            return None
        quarters, rest = divmod(angle % 360, 90)
        if rest not in (2, 3, 5, 6):  # PyAV cuts the fraction off, towards 0
            return None
        return quarters, rest > 4

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


def _change_messages(data: bytearray, start: int, end: int) -> bool:
    """Change the messages of a unit.

    Args:
        data: of the packet.
        start: of the unit's messages, after its header.
        end: of the unit.

    Returns:
        Whether there are any.
    """
    # A 3 after two zeros keeps start codes out of messages and does not belong to them.
    kept = [
        position
        for position in range(start, end)
        if data[position] != 3 or data[max(start, position - 2) : position] != b"\0\0"
    ]
    payload = bytes(data[position] for position in kept)
    is_found = False
    for kind, at, size in messages_in(payload):
        if kind == _DISPLAY_ORIENTATION and 3 <= size <= len(payload) - at:
            angle = _changed_angle(int.from_bytes(payload[at : at + 3], "big"))
            if angle is not None:
                is_found = True
                first, second, third = kept[at : at + 3]
                # After a bit that cancels and two that mirror come the 16 of the angle.
                data[first], data[second] = angle >> 11, angle >> 3 & 255
                data[third] &= 31
                if third > second + 1:  # the 3 between them now belongs to the message
                    data[first - 1] += 1
    return is_found


def _changed_angle(bits: int) -> int | None:
    """Return the angle for a message, in 1/65536 of a turn; None where it is not changed.

    Args:
        bits: the first 24 of the message.
    """
    is_cancelled, hflip, vflip, angle = (
        bits >> 23,
        bits >> 22 & 1,
        bits >> 21 & 1,
        bits >> 5 & 65535,
    )
    quarters = round(angle / _QUARTER)
    if is_cancelled or abs(angle - quarters * _QUARTER) > _SLACK:
        return None
    # Mirrored top to bottom is mirrored left to right and turned by half.
    added = _MIRRORED if hflip != vflip else _PLAIN
    return (quarters + 2 * vflip) % 4 * _QUARTER + added
