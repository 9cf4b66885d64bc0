"""Keras 2 HDF5 with TensorFlow's layout: `C3D_Sport1M_weights_keras_2.2.4.h5` and its kin.

Read by hand: Keras 3 loads such files by order and ignores their `backend`, so a Theano file, with
its kernels flipped and its channels first, would load without complaint and be wrong. Dataset
names differ between writers (`/conv1/conv1/kernel:0`, `/conv1/conv1_1/kernel:0`), so each layer's
own `weight_names` is followed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from c3d_client.errors import WeightsError

from c3d_export.digest import file_sha256
from c3d_export.weights.canonical import LAYERS, Weights


def read(path: Path) -> Weights:
    """Read a Keras 2 weight file, or the weights inside a saved Keras 2 model.

    Raises:
        WeightsError: it is damaged, of another backend, or not C3D.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays = _arrays(file, path)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: a damaged HDF5 file ({error})") from error
    return Weights(
        arrays=arrays, source=path.name, format="keras2-hdf5", file_sha256=file_sha256(path)
    )


def _arrays(file: h5py.File, path: Path) -> dict[str, Any]:
    root = file.get("model_weights", file)
    if "layer_names" not in root.attrs:
        raise WeightsError(f"{path}: an HDF5 file without Keras's `layer_names`; not a weight file")
    backend = _text(root.attrs.get("backend", "tensorflow"))
    if backend != "tensorflow":
        raise WeightsError(
            f"{path}: written by Keras on {backend}, whose kernels lie differently; "
            "only TensorFlow's layout is read"
        )
    arrays: dict[str, Any] = {}
    for layer in map(_text, root.attrs["layer_names"]):
        names = [_text(name) for name in root[layer].attrs.get("weight_names", ())]
        if not names:
            continue  # pools, dropout
        if layer not in LAYERS:
            raise WeightsError(f"{path}: layer {layer!r} is not one of C3D's ({', '.join(LAYERS)})")
        for name in names:
            part = name.rsplit("/", 1)[-1].split(":")[0]
            arrays[f"{layer}/{part}"] = np.asarray(root[layer][name][()], np.float32)
    return arrays


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
