"""Features to files and back: a file appears complete or not at all, with its provenance inside.

    write_features("video.npz", features)               # or .npy, .h5, .parquet, ...
    features = read_features("video.npz")               # the same features
    for conversion in convert(["features"], "other", to="parquet"): ...

Each format is a module of this package; :mod:`c3d_client.outputs.registry` lists the formats and
describes how to add one. Importing this package loads NumPy and no other library.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from c3d_client.core.errors import OutputError
from c3d_client.core.files import TEMPORARY_PREFIX
from c3d_client.outputs.conversion import Conversion, convert, export, iter_features
from c3d_client.outputs.npz import NPZ_KEYS
from c3d_client.outputs.registry import (
    DEFAULT_FORMAT,
    FORMATS,
    Format,
    format_named,
    format_of,
    output_format,
    output_path,
    partial_path,
    pattern_format,
    read_features,
    read_provenance,
    refuse_collisions,
    require_size,
    result_path,
    usable_format,
    write_features,
)
from c3d_client.outputs.validation import collect_rows
from c3d_client.results import VideoFeatures

__all__ = [
    "DEFAULT_FORMAT",
    "FORMATS",
    "NPZ_KEYS",
    "Conversion",
    "Format",
    "collect_rows",
    "convert",
    "export",
    "format_named",
    "format_of",
    "iter_features",
    "output_format",
    "output_path",
    "partial_path",
    "pattern_format",
    "prepare_folder",
    "read_features",
    "read_npz",
    "read_provenance",
    "refuse_collisions",
    "require_size",
    "result_path",
    "usable_format",
    "write_features",
    "write_npz",
]


def prepare_folder(folder: str | os.PathLike[str]) -> Path:
    """Create a folder for results and check that files can be written there.

    Raises:
        OutputError: the folder cannot be created, is a file, or is not writable.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=TEMPORARY_PREFIX):
            pass
    except OSError as error:
        raise OutputError(path, f"results cannot be written there ({error.strerror})") from error
    return path


def write_npz(path: str | os.PathLike[str], features: VideoFeatures) -> None:
    """Write a video's features as ``.npz``; the file appears under its name when complete.

    Keys: ``clip_features`` float32 ``[n, 4096]``, ``video_feature`` float32 ``[4096]``,
    ``clip_starts`` int64 ``[n]``, ``clip_times_s`` float64 ``[n, 2]``, ``provenance`` (JSON text);
    and layers after the first by name, float32 ``[n, ...]``. After PCA, rows have as many numbers
    as it has dimensions.

    Raises:
        OutputError: the file cannot be written.
    """
    write_features(path, features, format="npz")


def read_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of :func:`write_npz`: its arrays by key, and ``provenance`` as a dict.

    Raises:
        OutputError: the file does not exist, or is not such a file.
    """
    features = read_features(path, format="npz")
    return {**{key: getattr(features, key) for key in NPZ_KEYS}, **features.layers}
