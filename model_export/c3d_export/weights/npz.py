"""The project's own weight file: the canonical arrays in one `.npz`."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from c3d_client.core.files import atomic_file

from c3d_export.disk import FULL, free_bytes, need_text
from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import Weights, file_sha256

# The entry next to the arrays that describes their source, so that random weights stay marked.
_ORIGIN = "origin"
_ORIGIN_KEYS = ("source", "format", "random", "note", "labels", "file_sha256")
# Present only where a user gave them; see Weights.given.
_GIVEN_KEYS = ("source_channel_order", "source_fc6_rows")

_DAMAGE = (
    *(OSError, ValueError, KeyError, AttributeError, EOFError, zlib.error, zipfile.BadZipFile),
    TypeError,  # the origin is of another type
    RuntimeError,  # the archive is encrypted, or compressed in a way that Python does not know
    MemoryError,  # the header claims more than any machine has
)


def read(path: Path) -> Weights:
    """Read arrays with the keys ``conv1/kernel`` … ``fc8/bias`` in the canonical layout.

    Raises:
        WeightsError: the file is damaged, holds pickled objects, or is not C3D.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            # NumPy returns an entry that is no array as bytes, which asanyarray makes one of.
            arrays = {key: np.asanyarray(file[key]) for key in file.files if key != _ORIGIN}
            origin = json.loads(str(file[_ORIGIN])) if _ORIGIN in file.files else {}
            came_from = f" from {origin['source']}" if origin else ""
            random, note = bool(origin.get("random")), str(origin.get("note", ""))
            labels = tuple(map(str, origin.get("labels", ())))
            given = {key: str(origin[key]) for key in _GIVEN_KEYS if key in origin}
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
        **given,
    )


def write(path: Path, weights: Weights) -> None:
    """Write weights and their source as ``.npz``, whole or not at all.

    Args:
        path: the file; its folder must exist.
        weights: the weights.

    Raises:
        WeightsError: the file cannot be written.
    """
    free = free_bytes(path)
    described = {key: getattr(weights, key) for key in _ORIGIN_KEYS}
    origin = json.dumps({**described, **weights.given}, sort_keys=True)
    try:
        with atomic_file(path) as file:
            content: dict[str, Any] = {**weights.arrays, _ORIGIN: np.array(origin)}
            np.savez(file, **content)
    except OSError as error:
        needed = sum(array.nbytes for array in weights.arrays.values())
        sizes = f": {need_text(needed, free)}" if error.errno in FULL else ""
        reason = f"cannot be written ({error.strerror or error}){sizes}"
        raise WeightsError(f"{path}: {reason}") from error
