"""Pictures that are absent from H.264, found by the numbers of those that are there.

Every picture that others refer to has a number one higher than the one before, modulo a power of 2
(``frame_num``, ITU-T H.264, 7.4.3). FFmpeg's decoder replaces an absent picture by a copy of
another one, without a mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

IDR_SLICE = 5
_MESSAGES, _SEQUENCE, _PICTURE = 6, 7, 8
# Data partitions, and the layers of scalable and multiview video: their numbers are not read.
_OTHER_KINDS = frozenset((2, 3, 4, 14, 15, 20, 21))
_RECOVERY_POINT = 6
# Profiles whose sequence parameters begin with the format of chroma and scaling lists.
_HIGH_PROFILES = frozenset((44, 100, 110, 122, 244))
_PROFILES = frozenset((66, 77, 88)) | _HIGH_PROFILES
# A slice header up to frame_num: three numbers of up to 31 bits, a plane, and 16 bits.
_START_BYTES = 32
# Enough for the whole header, with weights for 32 references in both directions.
HEADER_BYTES = 2048
_PARAMETER_BYTES = 4096
_SLICE_P, _SLICE_B, _, _SLICE_SP, _ = range(5)
_MOST_SLICE_TYPE = 9
_RESET = 5  # memory_management_control_operation


class _Sequence(NamedTuple):
    """What a sequence parameter set determines about slice headers."""

    number_bits: int
    references: int
    allows_gaps: bool
    has_planes: bool
    chroma: int
    order_type: int
    order_bits: int
    order_is_zero: bool
    frames_only: bool


class _Parameters(NamedTuple):
    """What a picture parameter set determines about slice headers."""

    sequence: int
    has_order: bool
    has_groups: bool
    references: tuple[int, int]
    is_weighted: bool
    weights_both: int
    is_redundant: bool


@dataclass
class _Reference:
    """The last picture that others refer to: its number, and its first slice."""

    number: int
    slice: bytes | None


class _Bits:
    """Reader of the bits of a unit, whose first byte is left out."""

    def __init__(self, unit: bytes) -> None:
        # A 3 after two zeros keeps start codes out of units and does not belong to them.
        payload = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def bits(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the unit is too short")
        result = self._value >> self._left
        self._value &= (1 << self._left) - 1
        return result

    def number(self) -> int:
        """Read ue(v): as many zeros as digits follow the first 1."""
        zeros = self._left - self._value.bit_length()
        if zeros > 31:
            raise ValueError("not a number")
        self._left -= zeros
        return self.bits(zeros + 1) - 1

    def signed(self) -> int:
        """Read se(v): 0, 1, -1, 2, -2 and so on."""
        number = self.number()
        return -(number // 2) if number % 2 == 0 else (number + 1) // 2


class PictureNumbers:
    """Compares the numbers of pictures. All is given in order of decoding."""

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, _Parameters] = {}
        self._messages: list[bytes] = []
        self._last: _Reference | None = None
        self._is_known = True
        # Whether the packet before was a keyframe that begins a part of a video, and may lack the
        # pictures that are shown before it.
        self._may_lack = True

    @property
    def references(self) -> int:
        """How many pictures later ones may refer to, by the parameters read so far."""
        return max((sequence.references for sequence in self._sequences.values()), default=0)

    def add_parameters(self, data: bytes) -> None:
        """Read a stream's parameters, in the form of MP4 or with start codes."""
        if data[:1] != b"\1":
            for unit in data.split(b"\0\0\1")[1:]:
                self.add_unit(unit)
            return
        at = 5
        for mask in (31, 255):
            count = data[at] & mask if at < len(data) else 0
            at += 1
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2], "big")
                self.add_unit(data[at + 2 : at + 2 + size])
                at += 2 + size

    def add_unit(self, unit: bytes) -> None:
        """Read a unit that comes before the first slice of a picture."""
        kind = unit[0] & 31 if unit else 0
        try:
            if kind == _SEQUENCE:
                number, sequence = _sequence(_Bits(unit[:_PARAMETER_BYTES]))
                self._sequences[number] = sequence
            elif kind == _PICTURE:
                number, picture = _picture(_Bits(unit[:_PARAMETER_BYTES]))
                self._pictures[number] = picture
            elif kind == _MESSAGES:
                self._messages.append(unit)
            elif kind in _OTHER_KINDS:
                self._is_known = False
        except ValueError:
            self._is_known = False

    def skip(self, *, is_empty: bool) -> None:
        """Note a packet without a slice.

        Args:
            is_empty: whether it has no picture, and not one that is damaged.
        """
        self._messages.clear()
        if not is_empty:
            self._last = None

    def absent(self, first: bytes, *, is_keyframe: bool) -> int:
        """Return how many pictures at least are absent before one that depends on them.

        Args:
            first: its first slice, of which :data:`HEADER_BYTES` are enough.
            is_keyframe: whether the container marks it as a keyframe.

        Returns:
            0 where none is, where others do not depend on them, and where it is not known.
        """
        messages = self._messages.copy()
        self._messages.clear()
        if not self._is_known:
            return 0
        is_reference, is_idr = first[0] >> 5 & 3 != 0, first[0] & 31 == IDR_SLICE
        try:
            bits = _Bits(first[:_START_BYTES])
            if bits.number() != 0 or bits.number() > _MOST_SLICE_TYPE:
                raise ValueError("damaged, or not the first slice")
            sequence = self._sequences[self._pictures[bits.number()].sequence]
            bits.bits(2 * sequence.has_planes)
            number = bits.bits(sequence.number_bits)
        except (ValueError, KeyError):
            self._last = None
            return 0
        last, modulus = self._last, 1 << sequence.number_bits
        may_lack, self._may_lack = self._may_lack, False
        lost = 0
        if last is None:
            self._may_lack = not is_idr
        elif not is_idr and number != last.number and number != (last.number + 1) % modulus:
            if last.slice is not None and number <= 1 and self._may_reset(last.slice):
                pass
            elif is_keyframe or any(map(_is_recovery_point, messages)):
                self._may_lack = True
            elif not (sequence.allows_gaps or may_lack):
                # If a keyframe is absent too, numbers began at 0 again.
                lost = (number - last.number - 1) % modulus
                lost = lost if number > last.number else min(lost, max(1, number))
        if is_reference:
            self._last = _Reference(number, first[:HEADER_BYTES])
        elif last is None or number != last.number:
            self._last = _Reference((number - 1) % modulus, None)
        return lost

    def _may_reset(self, first: bytes) -> bool:
        """Whether a picture may set the numbers to 0, by the header of its first slice."""
        try:
            return _RESET in self._operations(first)
        except (ValueError, KeyError):
            return True

    def _operations(self, first: bytes) -> list[int]:
        """Return the memory management operations of a slice of a reference picture."""
        bits = _Bits(first)
        bits.number()
        kind = bits.number() % 5
        picture = self._pictures[bits.number()]
        sequence = self._sequences[picture.sequence]
        if picture.has_groups:
            raise ValueError("not read")
        bits.bits(2 * sequence.has_planes)
        bits.bits(sequence.number_bits)
        if not sequence.frames_only and bits.bits(1):
            raise ValueError("a field: the other one may reset")
        if first[0] & 31 == IDR_SLICE:
            return []
        if sequence.order_type == 0:
            bits.bits(sequence.order_bits)
        if sequence.order_type < 2 and not sequence.order_is_zero:
            for _ in range(sequence.order_type + picture.has_order):
                bits.signed()
        if picture.is_redundant:
            bits.number()
        is_predicted, is_both = kind in (_SLICE_P, _SLICE_SP), kind == _SLICE_B
        if is_both:
            bits.bits(1)
        lists = 1 + is_both if is_predicted or is_both else 0
        references = list(picture.references[:lists])
        if lists and bits.bits(1):
            references = [bits.number() + 1 for _ in references]
        for _ in references:
            if bits.bits(1):
                while bits.number() != 3:
                    bits.number()
        if picture.is_weighted if is_predicted else is_both and picture.weights_both == 1:
            for _ in range(2 if sequence.chroma else 1):
                bits.number()
            for _ in range(sum(references)):
                for count in (2, 4)[: 2 if sequence.chroma else 1]:
                    for _ in range(count if bits.bits(1) else 0):
                        bits.signed()
        found: list[int] = []
        if bits.bits(1):
            while operation := bits.number():
                found.append(operation)
                for _ in range({3: 2, _RESET: 0}.get(operation, 1)):
                    bits.number()
        return found


def _sequence(bits: _Bits) -> tuple[int, _Sequence]:
    profile = bits.bits(8)
    if profile not in _PROFILES:
        raise ValueError("unknown profile")
    bits.bits(16)
    identity = bits.number()
    chroma, has_planes = 1, False
    if profile in _HIGH_PROFILES:
        chroma = bits.number()
        has_planes = chroma == 3 and bool(bits.bits(1))
        bits.number()
        bits.number()
        bits.bits(1)
        if bits.bits(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.bits(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    number_bits = bits.number() + 4
    order_type, order_bits, order_is_zero = bits.number(), 0, False
    if order_type == 0:
        order_bits = bits.number() + 4
    elif order_type == 1:
        order_is_zero = bool(bits.bits(1))
        bits.signed()
        bits.signed()
        for _ in range(bits.number()):
            bits.signed()
    references = bits.number()
    allows_gaps = bool(bits.bits(1))
    bits.number()  # width
    bits.number()  # height
    frames_only = bool(bits.bits(1))
    return identity, _Sequence(
        number_bits,
        references,
        allows_gaps,
        has_planes,
        0 if has_planes else chroma,
        order_type,
        order_bits,
        order_is_zero,
        frames_only,
    )


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = 8
    for _ in range(size):
        last = (last + bits.signed()) % 256
        if not last:  # the rest is like the one before
            return


def _picture(bits: _Bits) -> tuple[int, _Parameters]:
    identity, sequence = bits.number(), bits.number()
    bits.bits(1)  # entropy coding
    has_order = bool(bits.bits(1))
    has_groups = bits.number() > 0
    if has_groups:  # the rest is needed for resets only, and is not read
        return identity, _Parameters(sequence, has_order, True, (0, 0), False, 0, False)
    references = bits.number() + 1, bits.number() + 1
    is_weighted, weights_both = bool(bits.bits(1)), bits.bits(2)
    for _ in range(3):  # quantisers
        bits.signed()
    bits.bits(2)
    is_redundant = bool(bits.bits(1))
    return identity, _Parameters(
        sequence, has_order, False, references, is_weighted, weights_both, is_redundant
    )


def _is_recovery_point(unit: bytes) -> bool:
    """Whether a unit of messages has one about a point from which decoding may begin."""
    payload = unit[1:].replace(b"\0\0\3", b"\0\0")
    return any(kind == _RECOVERY_POINT for kind, _, _ in messages_in(payload))


def messages_in(payload: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield type, start and size in bytes of each message of a unit; HEVC has the same form.

    Args:
        payload: the unit after its header, without the bytes that keep start codes out.
    """
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
        yield kind, at, size
        at += size
