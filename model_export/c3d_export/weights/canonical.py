"""The one layout that every weight file is converted to: float32 arrays by key.

Keys are ``conv1/kernel``, ``conv1/bias`` … ``fc8/bias``. Convolution kernels have Keras's layout
``[depth, height, width, in, out]``, dense kernels ``[in, out]``. conv1 expects **BGR** input, as
Caffe trained it; the exporter converts it to RGB once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import CHANNELS, FEATURE_SIZE

from c3d_export.errors import WeightsError

FULL_WIDTH = 64
"""conv1's filters in C3D."""

# Filters of each convolution as a multiple of conv1's.
_CONV_WIDTHS = {
    "conv1": 1,
    "conv2": 2,
    "conv3a": 4,
    "conv3b": 4,
    "conv4a": 8,
    "conv4b": 8,
    "conv5a": 8,
    "conv5b": 8,
}
LAYERS = (*_CONV_WIDTHS, "fc6", "fc7", "fc8")

# pool5's output without its channels: length, height, width. fc6 of the full network has
# 16 * 512 = 8192 inputs.
_POOL5 = (1, 4, 4)
_POOL5_POSITIONS = 16


@dataclass(frozen=True)
class Weights:
    """C3D's weights in the canonical layout, checked on creation.

    Args:
        arrays: float32 arrays by key; exactly those of :func:`expected_shapes`.
        source: a file's name, or ``random:SEED``.
        format: the format that the arrays were read from.
        random: whether the network was never trained.
        file_sha256: the file's digest; None where there is no file.
        note: a warning for users of these weights; empty for published weights.
        labels: the classes' names, where the weights bring them.
        source_channel_order: ``BGR`` or ``RGB``, the order that the file's conv1 takes, where the
            user gave it; None for the formats that always have BGR.
        source_fc6_rows: the order of the rows of the file's fc6, where the user gave it.

    Raises:
        WeightsError: an array is missing, unexpected, of another shape, or holds NaN or infinity.
    """

    arrays: Mapping[str, npt.NDArray[np.float32]] = field(repr=False)
    source: str
    format: str
    random: bool = False
    file_sha256: str | None = None
    note: str = ""
    labels: tuple[str, ...] = ()
    source_channel_order: str | None = None
    source_fc6_rows: str | None = None

    def __post_init__(self) -> None:
        _check_arrays(self.arrays, self.source)

    @property
    def width(self) -> int:
        """The number of conv1's filters: :data:`FULL_WIDTH` in C3D."""
        return int(self.arrays["conv1/bias"].shape[0])

    @property
    def classes(self) -> int | None:
        """The number of fc8's outputs: 487 for Sports-1M; None where the file has no fc8."""
        return int(self.arrays["fc8/bias"].shape[0]) if "fc8/bias" in self.arrays else None

    @property
    def parameters(self) -> int:
        """The number of parameters: 79,991,015 in C3D."""
        return sum(array.size for array in self.arrays.values())

    @cached_property
    def sha256(self) -> str:
        """Digest of all keys, shapes and values, independent of the file format."""
        return arrays_sha256(self.arrays)

    def layers(self) -> dict[str, dict[str, Any]]:
        """Return every array's shape and SHA-256, in the network's order."""
        return {
            key: {
                "shape": list(self.arrays[key].shape),
                "sha256": arrays_sha256({key: self.arrays[key]}),
            }
            for key in expected_shapes(self.width, self.classes)
        }

    @property
    def given(self) -> dict[str, str]:
        """What the user gave because the file does not record it, by the model card's names."""
        values = {
            "source_channel_order": self.source_channel_order,
            "source_fc6_rows": self.source_fc6_rows,
        }
        return {name: value for name, value in values.items() if value is not None}

    def describe(self) -> dict[str, Any]:
        """Return the model card's entry for the weights."""
        return {
            "source": self.source,
            "format": self.format,
            "random": self.random,
            "sha256": self.sha256,
            "file_sha256": self.file_sha256,
            "parameters": self.parameters,
            "width": self.width,
            "channel_order": "BGR",
            # Only where they were given: the fields that other formats repeat in results, and with
            # them the names of bulk runs, stay as they are.
            **self.given,
            "note": self.note,
            "layers": self.layers(),
        }


def expected_shapes(width: int, classes: int | None) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array.

    Args:
        width: conv1's filters.
        classes: fc8's outputs; None for a network without fc8.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    channels = CHANNELS
    for layer, multiple in _CONV_WIDTHS.items():
        filters = multiple * width
        shapes[f"{layer}/kernel"] = (3, 3, 3, channels, filters)
        shapes[f"{layer}/bias"] = (filters,)
        channels = filters
    rows = channels * _POOL5_POSITIONS
    for layer, columns in (("fc6", FEATURE_SIZE), ("fc7", FEATURE_SIZE), ("fc8", classes)):
        if columns is None:
            continue
        shapes[f"{layer}/kernel"] = (rows, columns)
        shapes[f"{layer}/bias"] = (columns,)
        rows = columns
    return shapes


def swap_red_and_blue(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays with conv1's input channels reversed: BGR to RGB, or RGB to BGR."""
    return {**arrays, "conv1/kernel": arrays["conv1/kernel"][:, :, :, ::-1, :]}


def conv_from_channels_first(kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Transpose ``[out, in, length, height, width]`` to ``[length, height, width, in, out]``.

    Raises:
        WeightsError: the kernel does not have five dimensions.
    """
    if kernel.ndim != 5:
        raise WeightsError(
            f"a convolution kernel of shape {list(kernel.shape)}, expected five dimensions"
            + (": this is a network of 2-D convolutions, not C3D" if kernel.ndim == 4 else "")
        )
    return kernel.transpose(2, 3, 4, 1, 0)


def fc6_from_channels_first(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Transpose fc6 from ``[out, in]`` to ``[in, out]`` and reorder its inputs.

    A channels-first network (Caffe, torch, Theano, Lasagne) flattens pool5 as (channel, length,
    height, width), Keras as (length, height, width, channel).

    Raises:
        WeightsError: the number of inputs is not a multiple of pool5's 16 positions.
    """
    if matrix.ndim != 2 or matrix.shape[1] % _POOL5_POSITIONS:
        raise WeightsError(f"fc6 has shape {list(matrix.shape)}, expected [4096, 8192]")
    outputs, inputs = matrix.shape
    blocks = matrix.reshape(outputs, inputs // _POOL5_POSITIONS, *_POOL5)
    return blocks.transpose(2, 3, 4, 1, 0).reshape(inputs, outputs)


def arrays_sha256(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return SHA-256 over each array's key, dtype, shape and bytes, in the keys' order."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = arrays[key]
        digest.update(f"{key} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_arrays(arrays: Mapping[str, npt.NDArray[Any]], source: str) -> None:
    # fc8 may be absent as a whole: such a network computes features only.
    layers = [layer for layer in LAYERS if layer != "fc8" or any(k[:4] == "fc8/" for k in arrays)]
    keys = [f"{layer}/{part}" for layer in layers for part in ("kernel", "bias")]
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise WeightsError(f"{source}: not C3D's weights: {', '.join(missing)} missing")
    kernel = arrays["conv1/kernel"]
    if kernel.ndim == 4:
        raise WeightsError(
            f"{source}: conv1/kernel has shape {list(kernel.shape)}: this is a network of 2-D "
            "convolutions, not C3D"
        )
    width = arrays["conv1/bias"].shape[-1] if arrays["conv1/bias"].ndim else 0
    classes = None
    if "fc8/bias" in arrays:
        classes = arrays["fc8/bias"].shape[-1] if arrays["fc8/bias"].ndim else 0
    shapes = expected_shapes(width, classes)
    unexpected = sorted(set(arrays) - set(shapes))
    if unexpected:
        raise WeightsError(f"{source}: not C3D's weights: {', '.join(unexpected)} not expected")
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise WeightsError(
                f"{source}: {key} has shape {list(arrays[key].shape)}, expected {list(shape)}"
            )
        if arrays[key].dtype != np.float32:
            raise WeightsError(f"{source}: {key} is {arrays[key].dtype}, expected float32")
        if not np.isfinite(arrays[key]).all():
            raise WeightsError(f"{source}: {key} holds NaN or infinity; the file is damaged")
