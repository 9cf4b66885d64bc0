"""Arrays to TensorProto messages and back, in both encodings that servers use.

Requests carry ``tensor_content``: the array's bytes, little-endian. TensorFlow Serving answers
with ``float_val`` unless it was started with ``--enable_serialization_as_tensor_content``, so both
are read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.serving import wire_pb2 as wire

# DataType -> (dtype in memory, the repeated field that holds its values)
_NUMERIC: dict[int, tuple[np.dtype[Any], str]] = {
    wire.DT_FLOAT: (np.dtype("<f4"), "float_val"),
    wire.DT_DOUBLE: (np.dtype("<f8"), "double_val"),
    wire.DT_INT32: (np.dtype("<i4"), "int_val"),
    wire.DT_UINT8: (np.dtype("u1"), "int_val"),
    wire.DT_INT64: (np.dtype("<i8"), "int64_val"),
    wire.DT_BOOL: (np.dtype("?"), "bool_val"),
}
_TYPES: dict[np.dtype[Any], int] = {dtype: number for number, (dtype, _) in _NUMERIC.items()}


def _tag(field_number: int) -> bytes:
    """Return the tag of a field whose length and bytes follow it (protobuf's wire type 2)."""
    return bytes([field_number << 3 | 2])


_CONTENT_TAG, _FLOATS_TAG = _tag(4), _tag(5)  # of TensorProto: tensor_content, float_val
_INPUTS_TAG, _FILTER_TAG = _tag(2), _tag(3)  # of PredictRequest: inputs, a map; output_filter
_KEY_TAG, _VALUE_TAG = _tag(1), _tag(2)  # of an entry of a map


def predict_request(
    spec: wire.ModelSpec, name: str, array: npt.NDArray[Any], *, outputs: Iterable[str] = ()
) -> bytes:
    """Return the bytes of a PredictRequest with one input, as protobuf would write them.

    Args:
        spec: the model and the signature.
        name: the input's name.
        array: its value; see :func:`encode`.
        outputs: the outputs to compute; all of the signature by default.

    Raises:
        TypeError: the array's dtype cannot be sent.
    """
    _reuse_memory()
    head, content = encode(array)
    key = name.encode()
    entry = b"".join(
        (_KEY_TAG, varint(len(key)), key, _VALUE_TAG, varint(len(head) + content.nbytes), head)
    )
    start = wire.PredictRequest(model_spec=spec).SerializeToString()
    length = varint(len(entry) + content.nbytes)
    filters = [_FILTER_TAG + varint(len(output)) + output for output in map(str.encode, outputs)]
    return b"".join((start, _INPUTS_TAG, length, entry, content.data, *filters))


def encode(array: npt.NDArray[Any]) -> tuple[bytes, npt.NDArray[Any]]:
    """Return the bytes of a TensorProto in two parts; the second is the array's own memory.

    protobuf would copy the array three times; joining the two parts copies it once.
    ``tensor_content`` is the last of the fields, so its bytes can follow the others.

    Args:
        array: float32, float64, int32, uint8, int64 or bool, any shape.

    Returns:
        The bytes before the content, and the content: contiguous and little-endian, not copied if
        the array already is.

    Raises:
        TypeError: the array has another dtype.
    """
    dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    if dtype not in _TYPES:
        raise TypeError(
            f"dtype {array.dtype} cannot be sent; use one of {sorted(map(str, _TYPES))}"
        )
    proto = wire.TensorProto(dtype=wire.DataType.Name(_TYPES[dtype]))
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    head = proto.SerializeToString()
    # Not ascontiguousarray, which adds a dimension to a scalar.
    content = np.asarray(array, dtype, order="C")
    if content.nbytes:
        head += _CONTENT_TAG + varint(content.nbytes)
    return head, content


def from_proto(proto: wire.TensorProto) -> npt.NDArray[Any]:
    """Decode a tensor from ``tensor_content`` or from its repeated field.

    Returns:
        An array of the tensor's dtype and shape; strings become an object array of ``bytes``. It
        is read-only where it shares the message's memory. As in TensorFlow, a repeated field
        shorter than the shape repeats its last value.

    Raises:
        ValueError: the shape is unknown, the dtype is not one of the client's, or the values do
            not fill the shape.
    """
    if proto.tensor_shape.unknown_rank or any(dim.size < 0 for dim in proto.tensor_shape.dim):
        raise ValueError("tensor of unknown shape")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    count = int(np.prod(shape, dtype=np.int64))
    if proto.dtype == wire.DT_STRING:
        content = proto.tensor_content
        strings = _split_strings(content, count) if content else list(proto.string_val)
        return _filled(np.array(strings, dtype=object), count).reshape(shape)
    if proto.dtype not in _NUMERIC:
        raise ValueError(f"tensor of dtype number {proto.dtype}, which this client does not read")
    dtype, field = _NUMERIC[proto.dtype]
    content = proto.tensor_content  # each access makes a copy
    if content:
        if len(content) != count * dtype.itemsize:
            raise ValueError(
                f"tensor of shape {shape} {dtype} holds {len(content)} bytes, "
                f"expected {count * dtype.itemsize}"
            )
        return np.frombuffer(content, dtype).reshape(shape)
    values = _floats(proto) if field == "float_val" else np.array(getattr(proto, field), dtype)
    return _filled(values, count).reshape(shape)


def _floats(proto: wire.TensorProto) -> npt.NDArray[Any]:
    """Return the values of ``float_val``, a hundred times faster than reading each as an object.

    A packed field holds the array's bytes. protobuf writes the fields in order, so these bytes are
    at the message's end, after their tag and length. Where they are not, the field is read value by
    value.
    """
    encoded = proto.SerializeToString()
    size = 4 * len(proto.float_val)
    head, values = encoded[: len(encoded) - size], encoded[len(encoded) - size :]
    if head.endswith(_FLOATS_TAG + varint(size)):
        return np.frombuffer(values, "<f4")
    return np.array(proto.float_val, "<f4")


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """Split strings that TensorFlow packed: all lengths as varints, then all bytes."""
    lengths: list[int] = []
    position = length = shift = 0
    while len(lengths) < count and position < len(content):
        byte = content[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            lengths.append(length)
            length = shift = 0
    if len(lengths) < count or position + sum(lengths) != len(content):
        raise ValueError(
            f"tensor of {count} strings whose lengths do not fit its {len(content)} bytes"
        )
    strings = []
    for length in lengths:
        strings.append(content[position : position + length])
        position += length
    return strings


def _filled(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Repeat the last value until there are ``count`` values."""
    if len(values) == count:
        return values
    if not 0 < len(values) < count:
        raise ValueError(f"tensor holds {len(values)} values where its shape has {count}")
    return np.concatenate([values, np.repeat(values[-1:], count - len(values))])


def varint(number: int) -> bytes:
    """Return a length as protobuf writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@functools.cache
def _reuse_memory() -> None:
    """Make the C library reuse the memory of one request for the next.

    glibc returns a block as large as a batch to the system and requests it again page by page,
    which takes several times as long as the copy, until a block of that size was freed once. This
    block is just below 32 MiB, the largest size for which glibc adapts, and is never written to, so
    it takes microseconds. With other C libraries the call has no effect.
    """
    bytes(2**25 - 2**16)
