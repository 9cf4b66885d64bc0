"""Keras HDF5: `C3D_Sport1M_weights_keras_2.2.4.h5`, `sports1M_weights_tf.h5`, and Keras 1's
`c3d-sports1M_weights.h5`, which was written on Theano.

Read by hand: Keras 3 loads such files by order and ignores their `backend`, so a Theano file, with
its kernels turned round and its channels first, would load without complaint and be wrong. Dataset
names differ between writers (`/conv1/conv1/kernel:0`, `/conv1/conv1_1/kernel:0`, `/conv1/conv1_W`),
so each layer's own `weight_names` is followed, and the layout is told by conv1's shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import CHANNELS, FEATURE_SIZE

from c3d_export.digest import file_sha256
from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import LAYERS, Weights
from c3d_export.weights.layout import conv_from_channels_first, fc6_from_channels_first

# fc6's kernel.
_LARGEST = 8192 * FEATURE_SIZE
# Keras 1 says conv1_W and conv1_b.
_PARTS = {"W": "kernel", "b": "bias"}


def read(path: Path) -> Weights:
    """Read a Keras weight file, or the weights inside a saved model.

    Raises:
        WeightsError: it is damaged, of another backend, or not C3D.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays, theano = _arrays(file, path)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
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
            if (getattr(dataset, "size", 0) or 0) > _LARGEST:  # before memory is asked for
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
    """Whether the file is Keras 1's on Theano: its conv1 is (filters, 3, 3, 3, 3)."""
    shape: tuple[int, ...] = getattr(arrays.get("conv1/kernel"), "shape", ())
    channels_first = len(shape) == 5 and shape[1:] == (CHANNELS, 3, 3, 3) and shape[0] != CHANNELS
    if channels_first and backend in ("", "theano"):
        return True
    if channels_first or backend not in ("", "tensorflow"):
        # Nothing in such a file tells in which order pool5 was flattened.
        raise WeightsError(
            f"{path}: written by Keras on {backend or 'an unnamed backend'} with a kernel of shape "
            f"{list(shape)}; read are TensorFlow's layout, and Keras 1's on Theano"
        )
    return False


def _from_theano(key: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Theano convolves: its kernels are the cross-correlation's turned round in all three axes."""
    layer, part = key.split("/")
    if part == "kernel" and layer.startswith("conv"):
        array = conv_from_channels_first(array[:, :, ::-1, ::-1, ::-1])
    elif key == "fc6/kernel":
        array = fc6_from_channels_first(array.T)  # dense kernels are [in, out] already
    return np.ascontiguousarray(array)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
