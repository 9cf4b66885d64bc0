"""Writers of weights in Caffe's layout to every published file format.

Each layout change is written by index here, independent of the product's transposes.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np

from support.caffe_bytes import Net

LAYERS = (
    "conv1 conv2 conv3a conv3b conv4a conv4b conv5a conv5b fc6 fc7 fc8".split()  # noqa: SIM905
)


def plain(net: Net) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the net by canonical layer name.

    Kernels are (out, in, 3, 3, 3) or (out, in), biases (out,).
    """
    layers = {}
    for name, (kernel, bias) in net.items():
        layer = {"conv1a": "conv1", "conv2a": "conv2"}.get(name, name.removesuffix("-1"))
        layers[layer] = (kernel if layer.startswith("conv") else kernel[0, 0, 0], bias.reshape(-1))
    return {layer: layers[layer] for layer in LAYERS if layer in layers}


def canonical(net: Net) -> dict[str, np.ndarray]:
    """Return the arrays that every reader must return: Keras's layout, BGR."""
    arrays = {}
    for layer, (kernel, bias) in plain(net).items():
        arrays[f"{layer}/kernel"] = keras_kernel(layer, kernel)
        arrays[f"{layer}/bias"] = bias
    return arrays


def keras_kernel(layer: str, kernel: np.ndarray) -> np.ndarray:
    if layer.startswith("conv"):
        return np.ascontiguousarray(np.einsum("oithw->thwio", kernel))
    if layer != "fc6":
        return np.ascontiguousarray(np.einsum("oi->io", kernel))
    channels = kernel.shape[1] // 16
    rows = np.empty((kernel.shape[1], kernel.shape[0]), np.float32)
    for position in range(16):  # (row, column) of pool5; its length is 1
        for channel in range(channels):
            rows[position * channels + channel] = kernel[:, channel * 16 + position]
    return rows


def write_keras2(
    path: Path, arrays: dict[str, np.ndarray], *, inner: str = "{layer}", root: str = ""
) -> Path:
    """Write Keras 2 HDF5; ``inner`` is the group below the layer's, e.g. ``{layer}_1``."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        layers = list(dict.fromkeys(key.split("/")[0] for key in arrays))
        group.attrs["layer_names"] = [name.encode() for name in (*layers, "flatten_1")]
        group.attrs["backend"] = b"tensorflow"
        group.attrs["keras_version"] = b"2.2.4"
        group.create_group("flatten_1").attrs["weight_names"] = np.array([], "S1")
        for layer in layers:
            names = [f"{inner.format(layer=layer)}/{part}:0" for part in ("kernel", "bias")]
            layer_group = group.create_group(layer)
            layer_group.attrs["weight_names"] = [name.encode() for name in names]
            for name, part in zip(names, ("kernel", "bias"), strict=True):
                layer_group[name] = arrays[f"{layer}/{part}"]
    return path


def write_keras1_theano(path: Path, net: Net) -> Path:
    """Write Keras 1 on Theano: channels first, kernels flipped, dense kernels (in, out)."""
    with h5py.File(path, "w") as file:
        layers = plain(net)
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, (kernel, bias) in layers.items():
            flipped = kernel[:, :, ::-1, ::-1, ::-1] if kernel.ndim == 5 else kernel.T
            layer_group = file.create_group(layer)
            layer_group.attrs["weight_names"] = [f"{layer}_W".encode(), f"{layer}_b".encode()]
            layer_group[f"{layer}_W"] = flipped
            layer_group[f"{layer}_b"] = bias
    return path


def write_torch(path: Path, net: Net, *, style: str) -> Path:
    """Write a torch file: ``plain`` (c3d.pickle), ``sequential`` or ``mmaction`` (no fc8)."""
    import torch

    state = {}
    for position, (layer, (kernel, bias)) in enumerate(plain(net).items()):
        if style == "mmaction":
            if layer == "fc8":
                continue
            layer = {"conv1": "conv1a", "conv2": "conv2a"}.get(layer, layer)
            stem = f"{layer}.conv" if layer.startswith("conv") else layer
        elif style == "sequential":
            block = "features" if layer.startswith("conv") else "classifier"
            stem = f"{block}.{3 * position}"
        else:
            stem = layer
        state[f"{stem}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
        state[f"{stem}.bias"] = torch.from_numpy(np.ascontiguousarray(bias))
    if style == "mmaction":
        torch.save({"state_dict": state, "meta": {"mmaction_version": "0.6.0"}}, path)
    else:
        torch.save(state, path)
    return path


def write_lasagne(path: Path, net: Net, *, inputs_first: bool) -> Path:
    """Write a Python 2 pickle of a list of arrays, dense ones (in, out) or (out, in)."""
    values = []
    for layer, (kernel, bias) in plain(net).items():
        dense = not layer.startswith("conv")
        values += [np.ascontiguousarray(kernel.T if dense and inputs_first else kernel), bias]
    content = pickle.dumps(values, protocol=2)
    # The module's name in NumPy 1 on Python 2.
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path
