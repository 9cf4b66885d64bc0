"""``.npz``, the default: everything in one file that NumPy alone opens, checked by CRC-32."""

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
)
from c3d_client.results import VideoFeatures

NPZ_KEYS = ("clip_features", "video_feature", "clip_starts", "clip_times_s", "provenance")


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features; :func:`c3d_client.outputs.write_npz` lists the keys."""
    provenance = np.array(provenance_json(features))
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key in NPZ_KEYS[:-1]:
            with _new_member(archive, key) as member:
                write_array(member, getattr(features, key))
        with _new_member(archive, "provenance") as member:
            NPY.write_array(member, provenance, allow_pickle=False)


def read(path: Path) -> VideoFeatures:
    """Read a video's features."""
    with zipfile.ZipFile(path) as archive:
        with archive.open("clip_features.npy") as member:
            rows = collect_rows(read_rows(member))
        return make_features(
            clip_features=rows,
            provenance=_provenance(archive),
            clip_starts=_array(archive, "clip_starts"),
            clip_times_s=_array(archive, "clip_times_s"),
            video_feature=_array(archive, "video_feature"),
        )


def read_provenance(path: Path) -> Provenance:
    """Read the provenance, and check that the arrays exist."""
    with zipfile.ZipFile(path) as archive:
        for key in NPZ_KEYS:
            archive.getinfo(f"{key}.npy")
        return _provenance(archive)


def _new_member(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    # A member opened by name has no time of day: the same features give the same bytes.
    return archive.open(f"{key}.npy", "w", force_zip64=True)


def _array(archive: zipfile.ZipFile, key: str) -> npt.NDArray[Any]:
    content = io.BytesIO(archive.read(f"{key}.npy"))
    return cast("npt.NDArray[Any]", NPY.read_array(content, allow_pickle=False))


def _provenance(archive: zipfile.ZipFile) -> Provenance:
    return parse_provenance(str(_array(archive, "provenance").item()))
