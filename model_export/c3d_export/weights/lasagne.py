"""Lasagne's list of arrays in a Python 2 pickle: `c3d_model.pkl`.

Unpickling can run any code, so this unpickler rebuilds NumPy arrays and refuses everything else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import FEATURE_SIZE

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import (
    LAYERS,
    Weights,
    conv_from_channels_first,
    fc6_from_channels_first,
    file_sha256,
)

# The names in a pickled ndarray, as NumPy 1 and NumPy 2 spell them.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes in the old protocols
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read(path: Path) -> Weights:
    """Read a list of kernels and biases, in the network's order, channels first.

    Raises:
        WeightsError: the pickle holds something other than arrays, is damaged, or is not C3D.
    """
    try:
        # latin1 keeps the bytes of Python 2's NumPy arrays.
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError) as error:
        raise WeightsError(f"{path}: not a pickle of arrays alone ({error})") from error
    if not isinstance(content, list) or not all(isinstance(a, np.ndarray) for a in content):
        raise WeightsError(
            f"{path}: not a list of arrays, as Lasagne's get_all_param_values returns"
        )
    if len(content) not in (2 * len(LAYERS), 2 * len(LAYERS) - 2):
        raise WeightsError(f"{path}: {len(content)} arrays, C3D has {2 * len(LAYERS)}")
    # Dense kernels are [in, out] in Lasagne and [out, in] in Caffe. fc6's shape shows which they
    # are; fc7 is square.
    fc6 = content[2 * LAYERS.index("fc6")]
    inputs_first = fc6.shape[-1:] == (FEATURE_SIZE,) != fc6.shape[:1]
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for layer, kernel, bias in zip(LAYERS, content[::2], content[1::2], strict=False):
        if not kernel.dtype.kind == bias.dtype.kind == "f":
            raise WeightsError(
                f"{path}: {layer} has arrays of {kernel.dtype} and {bias.dtype}, expected float32"
            )
        arrays[f"{layer}/kernel"] = np.array(
            _kernel(layer, kernel, inputs_first=inputs_first), np.float32, order="C"
        )
        arrays[f"{layer}/bias"] = np.array(bias, np.float32)
    return Weights(arrays=arrays, source=path.name, format="lasagne", file_sha256=file_sha256(path))


def _kernel(layer: str, array: npt.NDArray[Any], *, inputs_first: bool) -> npt.NDArray[Any]:
    if layer.startswith("conv"):
        return conv_from_channels_first(array)
    matrix = array.T if inputs_first else array  # [out, in], as in Caffe
    return fc6_from_channels_first(matrix) if layer == "fc6" else matrix.T
