"""Weights from any published file: recognised by content, converted to canonical arrays.

Each format has one reader. A file's first bytes decide which reader is used; its name does not. A
TensorFlow checkpoint is recognised by its last bytes, or by the names of its files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from c3d_client.core.file_kinds import explain_path

from c3d_export.disk import unreadable_text
from c3d_export.errors import WeightsError
from c3d_export.weights import caffe, keras_hdf5, lasagne, npz, tensorflow_checkpoint, torch
from c3d_export.weights.canonical import FULL_WIDTH, Weights, arrays_sha256
from c3d_export.weights.demo import DEMO, demo_weights
from c3d_export.weights.seeded import PREFIX as _RANDOM
from c3d_export.weights.seeded import random_weights

__all__ = ["Weights", "arrays_sha256", "random_weights", "read_weights"]


def _has_entry(path: Path, suffix: str, *, if_damaged: bool = False) -> bool:
    """Return whether a zip archive has an entry whose name ends with a suffix."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(suffix) for name in archive.namelist())
    except zipfile.BadZipFile:
        return if_damaged


@dataclass(frozen=True)
class _Format:
    """A format of one file.

    Args:
        name: for messages.
        recognises: whether a file with these first bytes may be of this format.
        read: returns the file's weights.
        is_certain: whether the first bytes belong to no other format.
    """

    name: str
    recognises: Callable[[bytes, Path], bool]
    read: Callable[[Path], Weights]
    is_certain: bool = True


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
    _Format(
        "C3D .npz",
        lambda start, path: start.startswith(_ZIP) and _has_entry(path, ".npy", if_damaged=True),
        npz.read,
    ),
    _Format(
        "Lasagne pickle",
        lambda start, _: start.startswith((_PICKLE, b"(l", b"]")),
        lasagne.read,
        is_certain=False,
    ),
    _Format("Caffe C3D-v1.0", lambda start, _: caffe.is_caffe(start), caffe.read, is_certain=False),
)
_WANTED = "weight file"
_ORDERS_REFUSED = "--channels and --fc6-rows are for TensorFlow checkpoints alone"


def read_weights(
    spec: str,
    *,
    width: int = FULL_WIDTH,
    channels: str | None = None,
    fc6_rows: str | None = None,
) -> Weights:
    """Read weights from a file, or create seeded ones.

    Args:
        spec: a file's path, ``demo``, or ``random:SEED``; of a TensorFlow checkpoint of several
            files, its `.index` or the name that they have in common.
        width: conv1's filters, for ``random:SEED``; ``demo`` has 64, a file has its number.
        channels: ``bgr`` or ``rgb``, the order of the channels that the network of a TensorFlow
            checkpoint was trained on; for other files None, as their format decides it.
        fc6_rows: ``chw`` or ``hwc``, the order of the rows of a TensorFlow checkpoint's fc6; for
            other files None.

    Raises:
        WeightsError: the file cannot be read, has no known format, or is not C3D; the seed is no
            whole number, or the width is below 1; `channels` and `fc6_rows` are missing for a
            TensorFlow checkpoint, or given for something else.
    """
    orders_given = channels is not None or fc6_rows is not None
    if orders_given and (spec == DEMO or spec.startswith(_RANDOM)):
        raise WeightsError(f"{spec}: {_ORDERS_REFUSED}")
    if spec.startswith(_RANDOM):
        number = spec.removeprefix(_RANDOM)
        if not number.isdecimal():
            raise WeightsError(f"{spec}: the seed must be a whole number, as in random:0")
        return random_weights(int(number), width=width)
    if spec == DEMO:
        return demo_weights(width=width)
    path = Path(spec)
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():
            # The first bytes decide which reader reads the file, from its start.
            raise WeightsError(f"{spec}: a pipe or a device; give a file that holds the weights")
        checkpoint = tensorflow_checkpoint.find(path)
        if checkpoint is not None:
            return tensorflow_checkpoint.read(checkpoint, channels=channels, fc6_rows=fc6_rows)
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        explained = explain_path(path, wanted=_WANTED)
        reason = explained or unreadable_text(path, error)
        raise WeightsError(f"{spec}: {reason}") from error
    if orders_given:
        raise WeightsError(f"{spec}: not a TensorFlow checkpoint, or cut short; {_ORDERS_REFUSED}")
    unknown = f"{spec}: not a {_WANTED} of a known format"
    for known in _FORMATS:
        if known.recognises(start, path):
            try:
                return known.read(path)
            except WeightsError as error:
                explained = explain_path(path, wanted=_WANTED, expects_text=True)
                if known.is_certain or explained is None:
                    raise
                raise WeightsError(f"{unknown}: {explained}") from error
    explained = explain_path(path, wanted=_WANTED)
    if explained is not None:
        raise WeightsError(f"{unknown}: {explained}")
    names = ", ".join((*(known.name for known in _FORMATS), "TensorFlow checkpoint"))
    raise WeightsError(f"{unknown} ({names})")
