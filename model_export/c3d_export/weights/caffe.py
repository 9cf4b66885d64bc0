"""Caffe's NetParameter as C3D-v1.0 writes it: `conv3d_deepnetA_sport1m_iter_1900000` and its kin.

    NetParameter { repeated LayerParameter layers = 2 }
    LayerParameter { string name = 4; LayerType type = 5; repeated BlobProto blobs = 6 }

Convolution blobs are (out, in, length, height, width), dense ones (1, 1, 1, out, in). fc6 follows
Caffe's flattening of pool5, (channel, length, height, width); Keras flattens (length, height,
width, channel), so its inputs are reordered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_export.blob_proto import BlobError, LaterDialectError, fields, read_blob
from c3d_export.digest import file_sha256
from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import LAYERS, Weights
from c3d_export.weights.layout import conv_from_channels_first, fc6_from_channels_first

_LAYERS, _LATER_LAYER = 2, 100
_NAME, _BLOBS = 4, 6
# The Sports-1M net says conv1a, conv2a and fc6-1; a fine-tuned one says fc6.
_NAMES = {"conv1a": "conv1", "conv2a": "conv2", "fc6-1": "fc6", "fc7-1": "fc7", "fc8-1": "fc8"}


def looks_like(start: bytes) -> bool:
    """Whether a file's first bytes can be a NetParameter's: its name, or its first layer."""
    return start[:1] in (b"\x0a", b"\x12")


def read(path: Path) -> Weights:
    """Read a C3D-v1.0 model file.

    Raises:
        WeightsError: it is cut short, of the later dialect, or not C3D.
    """
    try:
        # Mapped, not read: 320 MB, of which every number is copied once, into its final place.
        arrays = _arrays(np.memmap(path, np.uint8, "r").data, path)
    except LaterDialectError as error:
        raise WeightsError(
            f"{path}: {error}, not by C3D-v1.0's; fetch the C3D-v1.0 model, or a Keras port of it"
        ) from error
    except BlobError as error:
        raise WeightsError(f"{path}: not a C3D-v1.0 Caffe model ({error})") from error
    return Weights(arrays=arrays, source=path.name, format="caffe", file_sha256=file_sha256(path))


def _arrays(content: memoryview, path: Path) -> dict[str, npt.NDArray[np.float32]]:
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for number, value in fields(content):
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
        # Copies: what is kept must not point into the file.
        arrays[f"{layer}/kernel"] = np.array(_kernel(layer, kernel), order="C")
        arrays[f"{layer}/bias"] = np.array(bias.reshape(-1))
    if not arrays:
        raise BlobError("no layer with weights")
    return arrays


def _layer(content: memoryview) -> tuple[str, list[npt.NDArray[np.float32]]]:
    name = ""
    blobs: list[npt.NDArray[np.float32]] = []
    for number, value in fields(content):
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
