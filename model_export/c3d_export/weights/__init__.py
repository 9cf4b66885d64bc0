"""Weights in: `read_weights` recognises what it is given by its content and gives canonical arrays.

One reader a format; each says whether a file's first bytes are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from c3d_client.contract import SPORTS1M_CLASSES
from c3d_client.errors import WeightsError

from c3d_export.weights import keras_hdf5, npz
from c3d_export.weights.canonical import Weights, arrays_sha256
from c3d_export.weights.seeded import PREFIX as _RANDOM
from c3d_export.weights.seeded import random_weights

__all__ = ["Weights", "arrays_sha256", "random_weights", "read_weights"]


@dataclass(frozen=True)
class _Format:
    name: str
    magic: bytes
    read: Callable[[Path], Weights]


_FORMATS = (
    _Format("Keras 2 HDF5", b"\x89HDF\r\n\x1a\n", keras_hdf5.read),
    _Format("C3D .npz", b"PK\x03\x04", npz.read),
)


def read_weights(spec: str, *, width: int = 64, classes: int | None = None) -> Weights:
    """Read weights from a file, or make them.

    Args:
        spec: a file's path, or ``random:SEED``.
        width: conv1's filters, for ``random:SEED`` alone.
        classes: fc8's outputs, for ``random:SEED`` alone; 487 by default.

    Raises:
        WeightsError: there is no such file, no reader knows it, or it is not C3D.
    """
    if spec.startswith(_RANDOM):
        number = spec.removeprefix(_RANDOM)
        if not number.isdecimal():
            raise WeightsError(f"{spec}: the seed must be a whole number, as in random:0")
        return random_weights(int(number), width=width, classes=classes or SPORTS1M_CLASSES)
    path = Path(spec)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise WeightsError(f"{spec}: cannot be read ({error.strerror})") from error
    for known in _FORMATS:
        if start.startswith(known.magic):
            return known.read(path)
    names = ", ".join(known.name for known in _FORMATS)
    raise WeightsError(f"{spec}: not a weight file of a known format ({names})")
