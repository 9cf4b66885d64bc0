"""Caffe's BlobProto in the dialect of C3D-v1.0, read with sizes checked before anything is copied.

Written by hand for three reasons: a weight file is one message of 320 MB, of which nothing need be
copied but the numbers; the later dialect (C3D-v1.1, BVLC) uses the same field numbers for other
things, and reading one as the other gives garbage, so it must be told apart; and a file that claims
more than it holds must fail before memory is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

# num, channels, length, height, width; then the numbers, packed or one by one.
_DIMENSIONS = (1, 2, 3, 4, 5)
_DATA = 6
# A number here is C3D-v1.0's width; floats here are the later dialect's data.
_WIDTH_OR_LATER_DATA = 5

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class BlobError(ValueError):
    """The bytes are not what they should be; the message says how."""


class LaterDialectError(BlobError):
    """The bytes are of the dialect of C3D-v1.1 and BVLC's Caffe."""


def fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: number and value, bytes as views that copy nothing.

    Fixed-width fields are given as their bytes.

    Raises:
        BlobError: the bytes end early, or are no protobuf message.
    """
    position, end = 0, len(content)
    while position < end:
        tag, position = _varint(content, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise BlobError("not a protobuf message")
        if wire_type == _VARINT:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            size, position = _varint(content, position)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise BlobError("not a protobuf message")
        if size > end - position:
            raise BlobError(f"ends early: {size - (end - position)} bytes are missing")
        yield number, content[position : position + size]
        position += size


def read_blob(content: memoryview) -> npt.NDArray[np.float32]:
    """One BlobProto to an array of five dimensions, a view of the content where it can be.

    Raises:
        LaterDialectError: it is of the later dialect.
        BlobError: it ends early, is no BlobProto, or its numbers do not fill its shape.
    """
    dimensions = dict.fromkeys(_DIMENSIONS, 0)
    packed: list[memoryview] = []
    for number, value in fields(content):
        if number == _WIDTH_OR_LATER_DATA and not isinstance(value, int):
            raise LaterDialectError("written by a later Caffe (C3D-v1.1 or BVLC)")
        if isinstance(value, int):
            if number in dimensions:
                dimensions[number] = value
        elif number == _DATA:
            packed.append(value)
    shape = tuple(dimensions.values())
    count = math.prod(shape)
    held = sum(len(part) for part in packed)
    if not count or held != 4 * count:
        raise BlobError(f"{held} bytes of numbers where its shape {list(shape)} needs {4 * count}")
    data: bytes | memoryview = packed[0] if len(packed) == 1 else b"".join(packed)
    return np.frombuffer(data, "<f4").reshape(shape)


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(content):
            raise BlobError("ends early, in the middle of a number")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise BlobError("not a protobuf message")
