"""``.npz``, the default: everything in one file that NumPy alone opens, checked by CRC-32.

Layers after the first are arrays under their own names, such as ``pool5``.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from c3d_client.core.files import atomic_file
from c3d_client.core.provenance import Provenance
from c3d_client.outputs.npy_io import NPY, read_rows, write_array
from c3d_client.outputs.validation import (
    collect_rows,
    make_features,
    parse_provenance,
    provenance_json,
    row_shapes,
)
from c3d_client.results import VideoFeatures

NPZ_KEYS = ("clip_features", "video_feature", "clip_starts", "clip_times_s", "provenance")


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features; :func:`c3d_client.outputs.write_npz` lists the keys."""
    provenance = np.array(provenance_json(features))
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        arrays = {key: getattr(features, key) for key in NPZ_KEYS[:-1]}
        for key, array in (*arrays.items(), *features.layers.items()):
            with _new_member(archive, key) as member:
                write_array(member, array)
        with _new_member(archive, "provenance") as member:
            NPY.write_array(member, provenance, allow_pickle=False)


def read(path: Path) -> VideoFeatures:
    """Read a video's features."""
    with zipfile.ZipFile(path) as archive:
        provenance = _complete(archive)
        (_, first), *further = row_shapes(provenance).items()
        return make_features(
            clip_features=_rows(archive, "clip_features", first),
            layers={name: _rows(archive, name, shape) for name, shape in further},
            provenance=provenance,
            clip_starts=_array(archive, "clip_starts"),
            clip_times_s=_array(archive, "clip_times_s"),
            video_feature=_array(archive, "video_feature"),
        )


def read_provenance(path: Path) -> Provenance:
    """Read the provenance, and check that the arrays exist."""
    with zipfile.ZipFile(path) as archive:
        return _complete(archive)


def _new_member(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    # A member opened by name has no time of day: the same features give the same bytes.
    return archive.open(f"{key}.npy", "w", force_zip64=True)


def _rows(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    with archive.open(f"{key}.npy") as member:
        return collect_rows(read_rows(member, shape, name=key))


def _array(archive: zipfile.ZipFile, key: str) -> npt.NDArray[Any]:
    content = io.BytesIO(archive.read(f"{key}.npy"))
    return cast("npt.NDArray[Any]", NPY.read_array(content, allow_pickle=False))


def _complete(archive: zipfile.ZipFile) -> Provenance:
    """Return the provenance of an archive, after a check that all arrays are in it."""
    for key in NPZ_KEYS:
        archive.getinfo(f"{key}.npy")
    provenance = parse_provenance(str(_array(archive, "provenance").item()))
    for layer in provenance.layers[1:]:
        archive.getinfo(f"{layer}.npy")
    return provenance
