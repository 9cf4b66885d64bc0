"""Keras HDF5 weight files: Keras 2 on TensorFlow, and Keras 1 on Theano.

Published as `C3D_Sport1M_weights_keras_2.2.4.h5`, `sports1M_weights_tf.h5` and Keras 1's
`c3d-sports1M_weights.h5`. Keras 3 is not used to load them: it loads by order and ignores the
file's `backend`, so a Theano file, whose kernels are flipped and channels first, would load without
an error and be wrong. Dataset names differ between writers (`/conv1/conv1/kernel:0`,
`/conv1/conv1_1/kernel:0`, `/conv1/conv1_W`), so the reader follows each layer's `weight_names` and
recognises the layout by conv1's shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import CHANNELS, FEATURE_SIZE

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import (
    LAYERS,
    Weights,
    conv_from_channels_first,
    fc6_from_channels_first,
    file_sha256,
)

# The size of fc6's kernel.
_LARGEST = 8192 * FEATURE_SIZE
# Keras 1 names the datasets conv1_W and conv1_b.
_PARTS = {"W": "kernel", "b": "bias"}


def read(path: Path) -> Weights:
    """Read a Keras weight file, or the weights inside a saved model.

    Raises:
        WeightsError: the file is damaged, of another backend, or not C3D.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays, theano = _arrays(file, path)
    except (OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: a damaged HDF5 file ({error})") from error
    name = "keras1-theano-hdf5" if theano else "keras2-hdf5"
    return Weights(arrays=arrays, source=path.name, format=name, file_sha256=file_sha256(path))


def _arrays(file: h5py.File, path: Path) -> tuple[dict[str, Any], bool]:
    root = file.get("model_weights", file)
    if "layer_names" not in root.attrs:
        raise WeightsError(f"{path}: an HDF5 file without Keras's `layer_names`; not a weight file")
    arrays: dict[str, Any] = {}
    for layer in map(_text, root.attrs["layer_names"]):
        names = [_text(name) for name in root[layer].attrs.get("weight_names", ())]
        if not names:
            continue  # pools, dropout
        if layer not in LAYERS:
            raise WeightsError(f"{path}: layer {layer!r} is not one of C3D's ({', '.join(LAYERS)})")
        for name in names:
            dataset = root[layer][name]
            # Checked before memory is allocated.
            if (getattr(dataset, "size", 0) or 0) > _LARGEST:
                raise WeightsError(
                    f"{path}: {name} has shape {list(dataset.shape)}; "
                    f"C3D's largest array has {_LARGEST:,} numbers"
                )
            part = name.rsplit("/", 1)[-1].split(":")[0].rsplit("_", 1)[-1]
            arrays[f"{layer}/{_PARTS.get(part, part)}"] = np.asarray(dataset[()], np.float32)
    if not _is_theano(arrays, _text(root.attrs.get("backend", "")), path):
        return arrays, False
    return {key: _from_theano(key, array) for key, array in arrays.items()}, True


def _is_theano(arrays: dict[str, Any], backend: str, path: Path) -> bool:
    """Return whether Keras 1 on Theano wrote the file: conv1 is then (filters, 3, 3, 3, 3)."""
    shape: tuple[int, ...] = getattr(arrays.get("conv1/kernel"), "shape", ())
    channels_first = len(shape) == 5 and shape[1:] == (CHANNELS, 3, 3, 3) and shape[0] != CHANNELS
    if channels_first and backend in ("", "theano"):
        return True
    if channels_first or backend not in ("", "tensorflow"):
        # Nothing in such a file shows in which order pool5 was flattened.
        raise WeightsError(
            f"{path}: written by Keras on {backend or 'an unnamed backend'} with a kernel of shape "
            f"{list(shape)}; read are TensorFlow's layout, and Keras 1's on Theano"
        )
    return False


def _from_theano(key: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert an array of a Theano file; its convolution kernels are flipped in all three axes."""
    layer, part = key.split("/")
    if part == "kernel" and layer.startswith("conv"):
        array = conv_from_channels_first(array[:, :, ::-1, ::-1, ::-1])
    elif key == "fc6/kernel":
        array = fc6_from_channels_first(array.T)  # dense kernels are [in, out] already
    return np.ascontiguousarray(array)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
