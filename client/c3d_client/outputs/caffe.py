"""A folder of ``000000.fc6-1`` files, as the original C3D writes, for code that reads those.

The files of fc7 are ``000000.fc7-1``. Of a folder of the original C3D with both, fc6 is read.

C3D-v1.0's ``extract_image_features`` writes a file for each clip and layer, named by the user's
prefix and the layer; in the examples of the C3D user guide the prefix is the start frame in six
digits, counted from 0 for video files. A file is five int32, which are number, channels, length,
height and width (1, 4096, 1, 1, 1 for fc6), then the values as float32, all little-endian: the
layout of ``save_blob_to_binary`` in ``image_io.cpp``, which ``read_binary_blob.m`` and the readers
in Python expect. This client adds ``provenance.json``. Times are not stored, and the video feature
is computed from the clips when the folder is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import DEFAULT_LAYER, FEATURE_SIZE
from c3d_client.core.files import atomic_folder, row_chunks
from c3d_client.core.provenance import Provenance
from c3d_client.outputs.validation import (
    UNKNOWN_START,
    collect_rows,
    make_features,
    parse_provenance,
    provenance_json,
)
from c3d_client.results import VideoFeatures

# What C3D-v1.0's network for Sports-1M calls the layers.
_SUFFIXES = {DEFAULT_LAYER: ".fc6-1", "fc7": ".fc7-1"}
_PROVENANCE = "provenance.json"
_SHAPE = (1, FEATURE_SIZE, 1, 1, 1)
_HEADER = struct.pack("<5i", *_SHAPE)
_FILE_BYTES = len(_HEADER) + FEATURE_SIZE * 4


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features as a folder, which replaces an existing folder of this format.

    Raises:
        OSError: the folder cannot be written, or the existing folder has other files in it.
        ValueError: two clips start at the same frame, or their starts are unknown.
    """
    starts = features.clip_starts.tolist()
    if UNKNOWN_START in starts:
        raise ValueError("its clips' first frames are not known, and files are named by them")
    if len(set(starts)) != len(starts):
        raise ValueError("two of its clips start at the same frame, and files are named by that")
    _refuse_other_files(path)
    provenance = provenance_json(features)
    suffix = _SUFFIXES[Provenance(features.provenance).layers[0]]
    next_start = iter(starts)
    with atomic_folder(path) as folder:
        for chunk in row_chunks(features.clip_features):
            for row in chunk:
                (folder / f"{next(next_start):06d}{suffix}").write_bytes(
                    _HEADER + row.astype("<f4").tobytes()
                )
        (folder / _PROVENANCE).write_text(provenance, encoding="utf-8")


def read(path: Path) -> VideoFeatures:
    """Read a folder of this client or of the original C3D, in the order of the start frames."""
    provenance = read_provenance(path)
    suffix = _SUFFIXES[provenance.layers[0]]
    files = sorted((_start(file), file) for file in path.iterdir() if file.suffix == suffix)
    if not files:
        raise ValueError(f"no {suffix} files in it")
    return make_features(
        clip_features=collect_rows(_blobs([file for _, file in files])),
        provenance=provenance,
        clip_starts=np.array([start for start, _ in files], np.int64),
    )


def read_provenance(path: Path) -> Provenance:
    """Read the provenance; of a folder of the original C3D it is empty, or has fc7 as its layer."""
    layers = [layer for layer, suffix in _SUFFIXES.items() if _has(path, suffix)]
    if not layers:
        raise ValueError(f"no {' or '.join(_SUFFIXES.values())} files in it")
    try:
        return parse_provenance((path / _PROVENANCE).read_bytes())
    except FileNotFoundError:
        return Provenance({} if DEFAULT_LAYER in layers else {"layer": layers[0]})


def has_blobs(folder: Path) -> bool:
    """Return whether a folder has a file of fc6 or fc7 in it.

    Raises:
        OSError: the folder does not exist, is a file, or cannot be read.
    """
    return any(_has(folder, suffix) for suffix in _SUFFIXES.values())


def _has(folder: Path, suffix: str) -> bool:
    return any(entry.suffix == suffix for entry in folder.iterdir())


def _blobs(files: list[Path]) -> Iterator[npt.NDArray[np.float32]]:
    for file in files:
        content = file.read_bytes()
        if not content.startswith(_HEADER) or len(content) != _FILE_BYTES:
            shape = struct.unpack_from("<5i", content) if len(content) >= len(_HEADER) else ()
            raise ValueError(
                f"{file.name} has {len(content)} bytes, shape {list(shape)}; "
                f"expected {_FILE_BYTES}, {list(_SHAPE)}"
            )
        yield np.frombuffer(content, "<f4", offset=len(_HEADER))[None]


def _start(file: Path) -> int:
    if not (file.stem.isascii() and file.stem.isdigit()):
        raise ValueError(f"{file.name} is not named by a frame's number")
    return int(file.stem)


def _refuse_other_files(path: Path) -> None:
    """Refuse to replace a folder that has files of other kinds, which would be deleted."""
    if not path.is_dir():
        return
    for entry in path.iterdir():
        if entry.suffix not in _SUFFIXES.values() and entry.name != _PROVENANCE:
            raise FileExistsError(None, f"the folder is there and has other files: {entry.name}")
