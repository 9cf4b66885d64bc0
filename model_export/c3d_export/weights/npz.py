"""The project's own file of weights: the canonical arrays in one `.npz`."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from c3d_client.core.files import atomic_file

from c3d_export.digest import file_sha256
from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import Weights

# Beside the arrays: what they were read from, so that random weights stay marked as such.
_ORIGIN = "origin"
_DAMAGE = (
    *(OSError, ValueError, KeyError, AttributeError, EOFError, zlib.error, zipfile.BadZipFile),
    MemoryError,  # a header that claims more than any machine has
)
_ORIGIN_KEYS = ("source", "format", "random", "note", "labels", "file_sha256")


def write(path: Path, weights: Weights) -> None:
    """Write weights as ``.npz``, whole or not at all.

    Args:
        path: the file; its folder must exist.
        weights: what to write; what they were read from goes with them.

    Raises:
        WeightsError: it cannot be written.
    """
    origin = json.dumps({key: getattr(weights, key) for key in _ORIGIN_KEYS}, sort_keys=True)
    try:
        with atomic_file(path) as file:
            content: dict[str, Any] = {**weights.arrays, _ORIGIN: np.array(origin)}
            np.savez(file, **content)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error})") from error


def read(path: Path) -> Weights:
    """Read weights whose keys are ``conv1/kernel`` … ``fc8/bias``, in the canonical layout.

    Raises:
        WeightsError: it is damaged, holds pickled objects, or is not C3D.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key != _ORIGIN}
            origin = json.loads(str(file[_ORIGIN])) if _ORIGIN in file.files else {}
            came_from = f" from {origin['source']}" if origin else ""
            random, note = bool(origin.get("random")), str(origin.get("note", ""))
            labels = tuple(map(str, origin.get("labels", ())))
    except _DAMAGE as error:
        raise WeightsError(f"{path}: a damaged .npz file ({error})") from error
    return Weights(
        arrays=arrays,
        source=f"{path.name}{came_from}",
        format="npz",
        random=random,
        note=note,
        labels=labels,
        file_sha256=file_sha256(path),
    )
