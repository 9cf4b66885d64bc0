"""What every weight file is turned into: one set of float32 arrays in one layout.

Keys are ``conv1/kernel``, ``conv1/bias`` … ``fc8/bias``. Convolution kernels are Keras's
``[depth, height, width, in, out]``, dense kernels ``[in, out]``. conv1 expects **BGR** input, as
Caffe trained it: the exporter turns it to RGB once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import CHANNELS, FEATURE_SIZE

from c3d_export.errors import WeightsError

# Layer -> multiple of conv1's filters that it has.
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
# pool5 gives 1 x 4 x 4 places of 8 widths each: 8192 for the full network.
_POOL5_PLACES = 16


def expected_shapes(width: int, classes: int | None) -> dict[str, tuple[int, ...]]:
    """Every array's shape, for conv1 of ``width`` filters and fc8 of ``classes`` outputs.

    Without classes there is no fc8.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    channels = CHANNELS
    for layer, multiple in _CONV_WIDTHS.items():
        filters = multiple * width
        shapes[f"{layer}/kernel"] = (3, 3, 3, channels, filters)
        shapes[f"{layer}/bias"] = (filters,)
        channels = filters
    rows = channels * _POOL5_PLACES
    for layer, columns in (("fc6", FEATURE_SIZE), ("fc7", FEATURE_SIZE), ("fc8", classes)):
        if columns is None:
            continue
        shapes[f"{layer}/kernel"] = (rows, columns)
        shapes[f"{layer}/bias"] = (columns,)
        rows = columns
    return shapes


@dataclass(frozen=True)
class Weights:
    """C3D's weights in the canonical layout, checked on creation.

    Args:
        arrays: float32 arrays by key; exactly those of :func:`expected_shapes`.
        source: a file's name, or ``random:SEED``.
        format: the format that they were read from.
        random: whether nobody trained them.
        file_sha256: the file's digest; None where there is no file.
        note: what people must know of them; empty for published weights.
        labels: the classes' names, where the weights bring their own.

    Raises:
        WeightsError: an array is missing, extra, of another shape, or holds NaN or infinity.
    """

    arrays: Mapping[str, npt.NDArray[np.float32]] = field(repr=False)
    source: str
    format: str
    random: bool = False
    file_sha256: str | None = None
    note: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _audit(self.arrays, self.source)

    @property
    def width(self) -> int:
        """conv1's filters: 64 in C3D."""
        return int(self.arrays["conv1/bias"].shape[0])

    @property
    def classes(self) -> int | None:
        """fc8's outputs: 487 for Sports-1M; None where the file has no fc8, so features only."""
        return int(self.arrays["fc8/bias"].shape[0]) if "fc8/bias" in self.arrays else None

    @property
    def parameters(self) -> int:
        """All numbers together: 79,991,015 in C3D."""
        return sum(array.size for array in self.arrays.values())

    @cached_property
    def sha256(self) -> str:
        """A digest of all keys, shapes and values, the same whatever file they came in."""
        return arrays_sha256(self.arrays)

    def layers(self) -> dict[str, dict[str, Any]]:
        """Every array's shape and SHA-256, in the network's order."""
        return {
            key: {
                "shape": list(self.arrays[key].shape),
                "sha256": arrays_sha256({key: self.arrays[key]}),
            }
            for key in expected_shapes(self.width, self.classes)
        }

    def describe(self) -> dict[str, Any]:
        """What the model card says of them."""
        return {
            "source": self.source,
            "format": self.format,
            "random": self.random,
            "sha256": self.sha256,
            "file_sha256": self.file_sha256,
            "parameters": self.parameters,
            "width": self.width,
            "channel_order": "BGR",
            "note": self.note,
            "layers": self.layers(),
        }


def turned_to_rgb(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The same arrays with conv1's input channels the other way round; its own inverse."""
    return {**arrays, "conv1/kernel": arrays["conv1/kernel"][:, :, :, ::-1, :]}


def arrays_sha256(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 over each array's key, dtype, shape and little-endian bytes, in the keys' order."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = arrays[key]
        digest.update(f"{key} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _audit(arrays: Mapping[str, npt.NDArray[Any]], source: str) -> None:
    # fc8 may be absent as a whole: such a network gives features only.
    needed = [layer for layer in LAYERS if layer != "fc8" or any(k[:4] == "fc8/" for k in arrays)]
    missing = [f"{layer}/{part}" for layer in needed for part in ("kernel", "bias")]
    missing = [key for key in missing if key not in arrays]
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
    extra = sorted(set(arrays) - set(shapes))
    if extra:
        raise WeightsError(f"{source}: not C3D's weights: {', '.join(extra)} not expected")
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise WeightsError(
                f"{source}: {key} has shape {list(arrays[key].shape)}, expected {list(shape)}"
            )
        if arrays[key].dtype != np.float32:
            raise WeightsError(f"{source}: {key} is {arrays[key].dtype}, expected float32")
        if not np.isfinite(arrays[key]).all():
            raise WeightsError(f"{source}: {key} holds NaN or infinity; the file is damaged")
