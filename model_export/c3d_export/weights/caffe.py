"""Weight and mean files of Caffe in the dialect of C3D-v1.0.

    NetParameter { repeated LayerParameter layers = 2 }
    LayerParameter { string name = 4; LayerType type = 5; repeated BlobProto blobs = 6 }
    BlobProto { num = 1; channels = 2; length = 3; height = 4; width = 5; repeated float data = 6 }

Convolution blobs are (out, in, length, height, width), dense ones (1, 1, 1, out, in). fc6's inputs
follow Caffe's flattening of pool5, (channel, length, height, width), and are reordered for Keras.

The protobuf messages are parsed here, without generated code, for three reasons. A weight file is
one message of 320 MB, of which only the numbers need to be copied. The later dialect (C3D-v1.1 and
BVLC's Caffe) uses the same field numbers for other things, so reading it as this one would return
garbage; it is recognised and refused. And sizes are checked before memory is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import (
    LAYERS,
    Weights,
    conv_from_channels_first,
    fc6_from_channels_first,
    file_sha256,
)

# Field numbers of NetParameter, LayerParameter and BlobProto.
_LAYERS, _LATER_LAYER = 2, 100
_NAME, _BLOBS = 4, 6
_DIMENSIONS = (1, 2, 3, 4, 5)
_DATA = 6
# In C3D-v1.0 this field is the width, a number; in the later dialect it holds the data, as bytes.
_WIDTH_OR_LATER_DATA = 5

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# The Sports-1M network names its layers conv1a, conv2a and fc6-1; a fine-tuned one has fc6.
_NAMES = {"conv1a": "conv1", "conv2a": "conv2", "fc6-1": "fc6", "fc7-1": "fc7", "fc8-1": "fc8"}


class BlobError(ValueError):
    """The bytes are not a C3D-v1.0 message; the error's text names the difference."""


class LaterDialectError(BlobError):
    """The bytes are of the dialect of C3D-v1.1 and BVLC's Caffe."""


def is_caffe(start: bytes) -> bool:
    """Return whether a file can begin with a NetParameter's first field: name or layer."""
    return start[:1] in (b"\x0a", b"\x12")


def read(path: Path) -> Weights:
    """Read a C3D-v1.0 model file.

    Raises:
        WeightsError: the file is truncated, of the later dialect, or not C3D.
    """
    try:
        # Mapped instead of read: every number of the 320 MB is copied only once.
        arrays = _arrays(np.memmap(path, np.uint8, "r").data, path)
    except LaterDialectError as error:
        raise WeightsError(
            f"{path}: {error}, not by C3D-v1.0's; fetch the C3D-v1.0 model, or a Keras port of it"
        ) from error
    except BlobError as error:
        raise WeightsError(f"{path}: not a C3D-v1.0 Caffe model ({error})") from error
    return Weights(arrays=arrays, source=path.name, format="caffe", file_sha256=file_sha256(path))


def read_blob(content: memoryview) -> npt.NDArray[np.float32]:
    """Parse one BlobProto.

    Returns:
        float32 of five dimensions; a view of the content where the numbers are in one piece.

    Raises:
        LaterDialectError: the content is of the later dialect.
        BlobError: the content ends early, is no BlobProto, or its numbers do not fill its shape.
    """
    dimensions = dict.fromkeys(_DIMENSIONS, 0)
    pieces: list[memoryview] = []
    for number, value in message_fields(content):
        if number == _WIDTH_OR_LATER_DATA and not isinstance(value, int):
            raise LaterDialectError("written by a later Caffe (C3D-v1.1 or BVLC)")
        if isinstance(value, int):
            if number in dimensions:
                dimensions[number] = value
        elif number == _DATA:
            pieces.append(value)
    shape = tuple(dimensions.values())
    count = math.prod(shape)
    size = sum(len(piece) for piece in pieces)
    if not count or size != 4 * count:
        raise BlobError(f"{size} bytes of numbers where its shape {list(shape)} needs {4 * count}")
    data: bytes | memoryview = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return np.frombuffer(data, "<f4").reshape(shape)


def _arrays(content: memoryview, path: Path) -> dict[str, npt.NDArray[np.float32]]:
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for number, value in message_fields(content):
        if number == _LATER_LAYER:
            raise LaterDialectError("written by a later Caffe (C3D-v1.1 or BVLC)")
        if number != _LAYERS or isinstance(value, int):
            continue
        name, blobs = _layer(value)
        if not blobs:
            continue  # data, pools, activations
        layer = _NAMES.get(name, name)
        if layer not in LAYERS:
            raise WeightsError(f"{path}: layer {name!r} is not one of C3D's")
        if len(blobs) != 2:
            raise WeightsError(f"{path}: layer {name!r} has {len(blobs)} blobs, expected 2")
        kernel, bias = blobs
        # Copies, so that the arrays do not depend on the mapped file.
        arrays[f"{layer}/kernel"] = np.array(_kernel(layer, kernel), order="C")
        arrays[f"{layer}/bias"] = np.array(bias.reshape(-1))
    if not arrays:
        raise BlobError("no layer with weights")
    return arrays


def _layer(content: memoryview) -> tuple[str, list[npt.NDArray[np.float32]]]:
    name = ""
    blobs: list[npt.NDArray[np.float32]] = []
    for number, value in message_fields(content):
        if isinstance(value, int):
            continue
        if number == _NAME:
            name = bytes(value).decode("utf-8", "replace")
        elif number == _BLOBS:
            blobs.append(read_blob(value))
    return name, blobs


def _kernel(layer: str, blob: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    if layer.startswith("conv"):
        return conv_from_channels_first(blob)
    if blob.shape[:3] != (1, 1, 1):
        raise BlobError(f"{layer} has shape {list(blob.shape)}, expected [1, 1, 1, out, in]")
    matrix = blob[0, 0, 0]
    return fc6_from_channels_first(matrix) if layer == "fc6" else matrix.T


def message_fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a protobuf message.

    A value is an int for a varint, otherwise a view of the content; fixed-width fields are yielded
    as their bytes.

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
