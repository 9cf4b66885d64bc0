"""torch state dicts: `c3d.pickle`, `c3d-pretrained.pth`, and mmaction2's checkpoint.

Loaded with ``weights_only=True``, so that a file can contain tensors and no code. torch is an
optional extra: ``pip install 'c3d-export[torch]'``.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import (
    LAYERS,
    Weights,
    conv_from_channels_first,
    fc6_from_channels_first,
    file_sha256,
)

# mmaction2 wraps each convolution in a module named "conv".
_NAMED = re.compile(r"^(?:backbone\.)?(conv\d[ab]?|fc\d)(?:\.conv)?\.(weight|bias)$")
_NUMBERED = re.compile(r"^(features|classifier)\.(\d+)\.(weight|bias)$")
_NAMES = {"conv1a": "conv1", "conv2a": "conv2"}
_PARTS = {"weight": "kernel", "bias": "bias"}


def read(path: Path) -> Weights:
    """Read a torch state dict, by layer names or, where the names are numbers, by order.

    Raises:
        WeightsError: torch is not installed, the file is damaged or holds more than tensors, or
            is not C3D.
    """
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for key, tensor in _canonical_keys(_load(path), path).items():
        layer, part = key.split("/")
        array = np.asarray(tensor.detach().to("cpu").float().numpy(), np.float32)
        if part == "kernel":
            array = _kernel(layer, array)
        arrays[key] = np.array(array, order="C")
    return Weights(arrays=arrays, source=path.name, format="torch", file_sha256=file_sha256(path))


def _load(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: a torch file, and torch is not installed: pip install 'c3d-export[torch]'"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{path}: not a file of torch tensors alone ({reason})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise WeightsError(f"{path}: not a state dict; save model.state_dict()")
    return content


def _canonical_keys(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the tensors by canonical key."""
    if any(_NUMBERED.match(name) for name in state):
        return _by_order(state, path)
    tensors: dict[str, Any] = {}
    for name, tensor in state.items():
        match = _NAMED.match(name)
        layer = _NAMES.get(match[1], match[1]) if match else ""
        if layer not in LAYERS or match is None:
            raise WeightsError(f"{path}: {name!r} is not one of C3D's tensors")
        tensors[f"{layer}/{_PARTS[match[2]]}"] = tensor
    return tensors


def _by_order(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """``features.N`` are the convolutions in order, ``classifier.N`` the dense layers."""
    numbered: dict[tuple[int, int], dict[str, Any]] = {}
    for name, tensor in state.items():
        match = _NUMBERED.match(name)
        if not match:
            raise WeightsError(f"{path}: {name!r} is not one of C3D's tensors")
        block = ("features", "classifier").index(match[1])
        numbered.setdefault((block, int(match[2])), {})[_PARTS[match[3]]] = tensor
    if len(numbered) not in (len(LAYERS), len(LAYERS) - 1):
        raise WeightsError(f"{path}: {len(numbered)} layers with weights, C3D has {len(LAYERS)}")
    return {
        f"{layer}/{part}": tensor
        for layer, number in zip(LAYERS, sorted(numbered), strict=False)
        for part, tensor in numbered[number].items()
    }


def _kernel(layer: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if layer.startswith("conv"):
        return conv_from_channels_first(array)
    return fc6_from_channels_first(array) if layer == "fc6" else array.T
