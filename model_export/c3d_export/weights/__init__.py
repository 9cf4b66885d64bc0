"""Weights from any published file: recognised by content, converted to canonical arrays.

Each format has one reader. A file's first bytes decide which reader is used; its name does not.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from c3d_export.errors import WeightsError
from c3d_export.weights import caffe, keras_hdf5, lasagne, npz, torch
from c3d_export.weights.canonical import FULL_WIDTH, Weights, arrays_sha256
from c3d_export.weights.demo import DEMO, demo_weights
from c3d_export.weights.seeded import PREFIX as _RANDOM
from c3d_export.weights.seeded import random_weights

__all__ = ["Weights", "arrays_sha256", "random_weights", "read_weights"]


def _has_entry(path: Path, suffix: str) -> bool:
    """Return whether a zip archive has an entry whose name ends with a suffix."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(suffix) for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


@dataclass(frozen=True)
class _Format:
    name: str
    recognises: Callable[[bytes, Path], bool]
    read: Callable[[Path], Weights]


_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# The number with which torch's old files begin, as pickle writes it.
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"

# In this order: the first that recognises a file reads it.
_FORMATS = (
    _Format("Keras HDF5", lambda start, _: start.startswith(b"\x89HDF\r\n\x1a\n"), keras_hdf5.read),
    _Format(
        "torch",
        lambda start, path: (
            _TORCH_MAGIC in start or (start.startswith(_ZIP) and _has_entry(path, "data.pkl"))
        ),
        torch.read,
    ),
    _Format("C3D .npz", lambda start, _: start.startswith(_ZIP), npz.read),
    _Format(
        "Lasagne pickle", lambda start, _: start.startswith((_PICKLE, b"(l", b"]")), lasagne.read
    ),
    _Format("Caffe C3D-v1.0", lambda start, _: caffe.is_caffe(start), caffe.read),
)


def read_weights(spec: str, *, width: int = FULL_WIDTH) -> Weights:
    """Read weights from a file, or create seeded ones.

    Args:
        spec: a file's path, ``demo``, or ``random:SEED``.
        width: conv1's filters, for ``random:SEED``; ``demo`` has 64, a file has its number.

    Raises:
        WeightsError: the file cannot be read, has no known format, or is not C3D; the seed is no
            whole number, or the width is below 1.
    """
    if spec.startswith(_RANDOM):
        number = spec.removeprefix(_RANDOM)
        if not number.isdecimal():
            raise WeightsError(f"{spec}: the seed must be a whole number, as in random:0")
        return random_weights(int(number), width=width)
    if spec == DEMO:
        return demo_weights(width=width)
    path = Path(spec)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise WeightsError(f"{spec}: cannot be read ({error.strerror})") from error
    for known in _FORMATS:
        if known.recognises(start, path):
            return known.read(path)
    names = ", ".join(known.name for known in _FORMATS)
    raise WeightsError(f"{spec}: not a weight file of a known format ({names})")
