"""Writers of Caffe's weight and mean files, in the dialect of C3D-v1.0 and in the later one.

The bytes are written without the product's code and without a protobuf library: the field numbers
are those of C3D-v1.0's ``caffe.proto``. So the files are an independent test of the readers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

Net = dict[str, tuple[np.ndarray, np.ndarray]]

CONVOLUTION3D, INNER_PRODUCT = 30, 14
RELU, DROPOUT, SOFTMAX_LOSS = 18, 6, 21
# Readers must not depend on these two: their layers have no blobs and are skipped.
POOLING3D, VIDEO_DATA = 31, 32

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Filters at width 64; other widths are proportional.
_FILTERS = {
    "conv1a": 64,
    "conv2a": 128,
    "conv3a": 256,
    "conv3b": 256,
    "conv4a": 512,
    "conv4b": 512,
    "conv5a": 512,
    "conv5b": 512,
}
_POOLED_AFTER = {"conv1a": 1, "conv2a": 2, "conv3b": 3, "conv4b": 4, "conv5b": 5}
_HIDDEN = 4096
_PIXEL_STD = 60.0  # standard deviation of pixels less the mean; conv1's outputs are then about 1


def random_net(seed: int, *, classes: int = 487, width: int = 64, names: str = "sport1m") -> Net:
    """Create seeded weights with Caffe's names and layout, float32.

    Args:
        width: conv1's filters; 64 is C3D, 4 gives 4, 8, 16, 16, 32, 32, 32, 32.
        names: ``sport1m`` (fc6-1, fc7-1, fc8-1) or ``ucf101`` (fc6, fc7, fc8).

    Returns:
        layer -> (kernel, bias): convolutions (out, in, 3, 3, 3), inner products
        (1, 1, 1, out, in), biases (1, 1, 1, 1, out). He's scale: activations stay about 1.
    """
    suffix = {"sport1m": "-1", "ucf101": ""}[names]
    rng = np.random.default_rng(seed)

    def layer(shape: tuple[int, ...], fan_in: int, out: int, input_std: float = 1.0):
        kernel = rng.standard_normal(shape, np.float32)
        kernel *= np.float32(np.sqrt(2 / fan_in) / input_std)
        bias = rng.standard_normal((1, 1, 1, 1, out), np.float32) * np.float32(0.05)
        return kernel, bias

    net, channels = {}, 3
    for name, filters in _FILTERS.items():
        out = filters * width // 64
        std = _PIXEL_STD if name == "conv1a" else 1.0
        net[name] = layer((out, channels, 3, 3, 3), channels * 27, out, std)
        channels = out
    features = channels * 1 * 4 * 4  # pool5: 1 step in time, 4 rows, 4 columns
    for name, out in (("fc6", _HIDDEN), ("fc7", _HIDDEN), ("fc8", classes)):
        net[name + suffix] = layer((1, 1, 1, out, features), features, out)
        features = out
    return net


def random_mean(seed: int) -> np.ndarray:
    """Create a mean cube like the real ones: float32 (3, 16, 128, 171), BGR, smooth.

    The crop's averages are those of the Sports-1M mean. All columns, rows and frames differ, so
    that another crop, a mirrored cube or exchanged axes show.
    """
    rng = np.random.default_rng(seed)
    level = np.array([100.6, 108.1, 107.8]).reshape(3, 1, 1, 1)
    frame = np.linspace(-0.5, 0.5, 16).reshape(1, 16, 1, 1)
    row = np.linspace(-1, 1, 128).reshape(1, 1, 128, 1)
    column = np.linspace(-1, 1, 171).reshape(1, 1, 1, 171)
    tilt, slope, drift = rng.uniform(3, 9, (3, 3, 1, 1, 1))
    # As in averaged videos, brighter at the top than at the bottom, and in the centre.
    cube = level - 12 * (row**2 + column**2 - 0.4) - slope * row + tilt * column + drift * frame
    return cube.astype(np.float32)


# Wire format: a field is a key (number * 8 + wire type) and a value.


def varint(value: int) -> bytes:
    """Encode a non-negative integer: seven bits per byte, lowest first."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def integer(number: int, value: int) -> bytes:
    """Encode a varint field."""
    return varint(number << 3 | VARINT) + varint(value)


def nested(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field: message, string or packed numbers."""
    return b"".join((varint(number << 3 | BYTES), varint(len(value)), value))


def unknown_fields() -> bytes:
    """Encode one field of every wire type with unassigned numbers, which readers must skip."""
    return b"".join(
        (
            integer(1001, 2**40 + 6),
            varint(1002 << 3 | FIXED64) + struct.pack("<d", 6.0),
            nested(1003, b"\x32\x04not blobs"),
            varint(1004 << 3 | FIXED32) + struct.pack("<f", 6.0),
        )
    )


def _floats(number: int, array: np.ndarray, packing: str) -> bytes:
    flat = np.ascontiguousarray(array, "<f4").reshape(-1)
    if packing == "packed":
        return nested(number, flat.tobytes())
    if packing == "split":  # legal: the pieces of a packed field are joined
        return b"".join(nested(number, piece.tobytes()) for piece in np.array_split(flat, 3))
    if packing == "unpacked":  # legal: readers take both; every value has its own one-byte key
        fields = np.empty(flat.size, [("key", "u1"), ("value", "<f4")])
        fields["key"], fields["value"] = number << 3 | FIXED32, flat
        return fields.tobytes()
    raise ValueError(f"packing {packing!r}: expected packed, split or unpacked")


def blob_bytes(
    array: np.ndarray, *, packing: str = "packed", diff: bool = False, extras: bool = False
) -> bytes:
    """Encode a BlobProto of C3D-v1.0: num 1, channels 2, length 3, height 4, width 5, data 6.

    A mean cube (3, 16, 128, 171) gets Caffe's leading axis: (1, 3, 16, 128, 171).

    Args:
        packing: ``packed`` as in Caffe, or ``split`` or ``unpacked``, which protobuf allows too.
        diff: write gradients (7) too, which differ from the data.
        extras: write unknown fields too.
    """
    shape = (1,) * (5 - array.ndim) + array.shape
    parts = [integer(number, size) for number, size in enumerate(shape, 1)]
    parts.append(_floats(6, array, packing))
    if diff:
        parts.append(_floats(7, np.full_like(array, 77), packing))
    if extras:
        parts.append(unknown_fields())
    return b"".join(parts)


def _layer(name: str, kind: int, bottom: str, top: str, blobs: tuple[bytes, ...] = ()) -> bytes:
    """Encode a LayerParameter: bottom 2, top 3, name 4, type 5, blobs 6, in Caffe's order."""
    parts = [nested(2, bottom.encode())] if bottom else []
    parts += [nested(3, top.encode()), nested(4, name.encode()), integer(5, kind)]
    parts += [nested(6, blob) for blob in blobs]
    if blobs:  # blobs_lr 7: one float each, unpacked
        parts += [varint(7 << 3 | FIXED32) + struct.pack("<f", rate) for rate in (1.0, 2.0)]
    return b"".join(parts)


def _layers(net: Net, **how) -> Iterator[bytes]:
    yield _layer("data", VIDEO_DATA, "", "data")
    below = "data"
    for name, arrays in net.items():
        blobs = tuple(blob_bytes(array, **how) for array in arrays)
        convolution = name.startswith("conv")
        yield _layer(name, CONVOLUTION3D if convolution else INNER_PRODUCT, below, name, blobs)
        below = name
        if name.startswith("fc8"):
            continue
        yield _layer(name.replace("conv", "relu").replace("fc", "relu"), RELU, name, name)
        if not convolution:
            yield _layer(name.replace("fc", "drop"), DROPOUT, name, name)
        if name in _POOLED_AFTER:
            below = f"pool{_POOLED_AFTER[name]}"
            yield _layer(below, POOLING3D, name, below)
    yield _layer("loss", SOFTMAX_LOSS, below, "loss")


def net_bytes(
    net: Net, *, packing: str = "packed", diff: bool = False, extras: bool = True
) -> bytes:
    """Encode a NetParameter of C3D-v1.0: name 1, layers 2, with a real file's layers without blobs.

    ``packing``, ``diff`` and ``extras`` are those of :func:`blob_bytes`; extras are also written
    in the network and every layer.
    """
    more = unknown_fields() if extras else b""
    layers = _layers(net, packing=packing, diff=diff, extras=extras)
    parts = [nested(1, b"DeepConv3DNet_Sport1M"), more]
    parts += [nested(2, more + layer + more) for layer in layers]
    return b"".join([*parts, more])


def later_dialect_blob_bytes(array: np.ndarray, *, legacy: bool = False) -> bytes:
    """Encode a BlobProto of v1.1 and BVLC's Caffe: data 5, and shape 7 with packed dims 1.

    Args:
        legacy: num 1, channels 2, height 3, width 4 instead of the shape; the axes before the
            last two are merged into channels.
    """
    if legacy:
        shape = (1, int(np.prod(array.shape[:-2])), *array.shape[-2:])
        sizes = b"".join(integer(number, size) for number, size in enumerate(shape, 1))
        return sizes + _floats(5, array, "packed")
    dims = b"".join(varint(size) for size in (1,) * (5 - array.ndim) + array.shape)
    return _floats(5, array, "packed") + nested(7, nested(1, dims))


def later_dialect_net_bytes(net: Net, *, legacy: bool = False) -> bytes:
    """Encode a NetParameter of the later dialect: layer 100 {name 1, type 2 (string), blobs 7}.

    Args:
        legacy: BVLC's first form: layers 2 as in C3D-v1.0, but with legacy blobs.
    """
    parts = [nested(1, b"c3d")]
    for name, arrays in net.items():
        blobs = [later_dialect_blob_bytes(array, legacy=legacy) for array in arrays]
        convolution = name.startswith("conv")
        if legacy:
            kind = 4 if convolution else INNER_PRODUCT  # CONVOLUTION: BVLC has no 3D type
            parts.append(nested(2, _layer(name, kind, "", name, tuple(blobs))))
        else:
            kind = b"Convolution" if convolution else b"InnerProduct"
            fields = [nested(1, name.encode()), nested(2, kind), nested(4, name.encode())]
            fields += [nested(7, blob) for blob in blobs]
            parts.append(nested(100, b"".join(fields)))
    return b"".join(parts)
