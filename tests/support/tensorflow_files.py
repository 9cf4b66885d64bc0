"""Writers of TensorFlow checkpoints with the names and layout of the port C3D-tensorflow.

:func:`write_checkpoint` uses TensorFlow's own savers. :func:`write_table` writes the bytes of an
index by hand, with right checksums, so that it can hold what no saver writes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from support.caffe_bytes import Net
from support.weight_files import plain

_DENSE = {"fc6": "d1", "fc7": "d2", "fc8": "out"}


def port_arrays(net: Net, *, rows: str) -> dict[str, np.ndarray]:
    """Return the net's arrays by the port's names: conv1's channels as in the net.

    Args:
        rows: how wd1's rows run over pool5: ``chw`` or ``hwc``.
    """
    arrays = {}
    for layer, (kernel, bias) in plain(net).items():
        name = _DENSE.get(layer, layer.replace("conv", "c"))
        if layer.startswith("conv"):
            kernel = np.einsum("oithw->thwio", kernel)
        else:
            kernel = np.einsum("oi->io", kernel)
        if layer == "fc6" and rows == "hwc":
            channels = len(kernel) // 16
            swapped = np.empty_like(kernel)
            for channel in range(channels):
                for position in range(16):  # 4 rows of 4 columns
                    swapped[position * channels + channel] = kernel[channel * 16 + position]
            kernel = swapped
        arrays[f"w{name}"] = np.ascontiguousarray(kernel)
        arrays[f"b{name}"] = np.ascontiguousarray(bias)
    return arrays


def write_checkpoint(path: Path, arrays: dict[str, np.ndarray], *, version: str) -> Path:
    """Write arrays by their variables' names.

    Args:
        path: the V1 file, or the V2 prefix.
        version: ``V1`` or ``V2`` with TensorFlow 1's Saver, ``object`` with tf.train.Checkpoint,
            whose names get an ending.

    Returns:
        The V1 file, or V2's index.
    """
    import tensorflow as tf

    if version == "object":
        root = tf.train.Checkpoint()
        for name, array in arrays.items():
            *scopes, last = name.split("/")
            node: Any = root
            for scope in scopes:
                if not hasattr(node, scope):
                    setattr(node, scope, tf.train.Checkpoint())
                node = getattr(node, scope)
            setattr(node, last, tf.Variable(array))
        root.write(str(path))
        return path.with_name(f"{path.name}.index")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        values = {name: v1.placeholder(array.dtype, array.shape) for name, array in arrays.items()}
        # Not variables with these values in the graph, which would pass protobuf's two gigabytes.
        variables = {name: v1.Variable(value, name="v") for name, value in values.items()}
        feeds = {values[name]: array for name, array in arrays.items()}
        session.run([variable.initializer for variable in variables.values()], feeds)
        saver = v1.train.Saver(variables, write_version=getattr(v1.train.SaverDef, version))
        saver.save(session, str(path), write_meta_graph=False, write_state=False)
    return path if version == "V1" else path.with_name(f"{path.name}.index")


def write_table(path: Path, entries: dict[bytes, bytes]) -> Path:
    """Write one block of keys and values as a table with right checksums."""
    block, position = b"", 0
    for key, value in sorted(entries.items()):
        block += b"\0" + _varint(len(key)) + _varint(len(value)) + key + value
    data = _block(block)
    handle = _varint(0) + _varint(len(data) - 5)
    position = len(data)
    metaindex = _block(b"")
    meta_handle = _varint(position) + _varint(len(metaindex) - 5)
    position += len(metaindex)
    last = max(entries)
    index = _block(b"\0" + _varint(len(last)) + _varint(len(handle)) + last + handle)
    footer = meta_handle + _varint(position) + _varint(len(index) - 5)
    magic = (0xDB4775248B80FB57).to_bytes(8, "little")
    path.write_bytes(data + metaindex + index + footer.ljust(40, b"\0") + magic)
    return path


def v2_index(name: str, *, dtype: int, shape: list[int], offset: int, size: int) -> dict:
    """Return the entries of a V2 index with one array.

    Args:
        dtype: TensorFlow's number of the type: 1 is float32.
        offset, size: of the array's bytes in the data file.
    """
    header = b"\x08\x01\x1a\x02\x08\x01"  # one shard, little endian, producer 1
    entry = _number(1, dtype) + _bytes(2, _shape(shape)) + _number(4, offset) + _number(5, size)
    return {b"": header, name.encode(): entry + b"\x35" + bytes(4)}


def v1_index(name: str, *, dtype: int, shape: list[int]) -> dict:
    """Return the entries of a V1 file that names one array and holds no numbers."""
    whole = b"".join(_bytes(1, b"") for _ in shape)  # a slice of all rows, columns ...
    array = _bytes(1, name.encode()) + _bytes(2, _shape(shape)) + _number(3, dtype)
    return {b"": _bytes(1, _bytes(1, array + _bytes(4, whole)) + _bytes(2, b"\x08\x15"))}


def _shape(sizes: list[int]) -> bytes:
    return b"".join(_bytes(2, _number(1, size)) for size in sizes)


def _block(entries: bytes) -> bytes:
    content = entries + struct.pack("<II", 0, 1) + b"\0"  # one restart; not compressed
    return content + struct.pack("<I", _masked_crc32c(content))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _masked_crc32c(content: bytes) -> int:
    crc = 2**32 - 1
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 2**32 - 1
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & (2**32 - 1)
