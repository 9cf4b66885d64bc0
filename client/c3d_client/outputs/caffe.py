"""A folder of ``000000.fc6-1`` files, as the original C3D writes them, for code that reads those.

C3D-v1.0's ``extract_image_features`` leaves a file for each clip and layer, named by the prefix
that its user gave and the layer; the C3D user guide's examples give the start frame in six digits,
counted from 0 for video files. A file is five int32, which are number, channels, length, height
and width (1, 4096, 1, 1, 1 for fc6), then the values as float32, all little-endian: that is
``save_blob_to_binary`` in its ``image_io.cpp``, and what ``read_binary_blob.m`` and the readers in
Python expect. The folder has ``provenance.json`` besides. Times are not kept, and the video feature
is computed again on reading.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.files import atomic_folder, row_chunks
from c3d_client.outputs.validation import UNKNOWN_START, collect, features_of, from_json, to_json
from c3d_client.results import VideoFeatures

LAYER_SUFFIX = ".fc6-1"
_PROVENANCE = "provenance.json"
_SHAPE = (1, FEATURE_SIZE, 1, 1, 1)
_HEADER = struct.pack("<5i", *_SHAPE)
_FILE_BYTES = len(_HEADER) + FEATURE_SIZE * 4


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features as a folder, in place of one of this kind that is there.

    Raises:
        OSError: it cannot be written, or the folder that is there has other files in it.
        ValueError: two clips start at the same frame, or it is not known where they start.
    """
    starts = features.clip_starts.tolist()
    if UNKNOWN_START in starts:
        raise ValueError("its clips' first frames are not known, and files are named by them")
    if len(set(starts)) != len(starts):
        raise ValueError("two of its clips start at the same frame, and files are named by that")
    _see_that_it_may_go(path)
    provenance = to_json(features.provenance)
    names = iter(starts)
    with atomic_folder(path) as folder:
        for chunk in row_chunks(features.clip_features):
            for row in chunk:
                (folder / f"{next(names):06d}{LAYER_SUFFIX}").write_bytes(
                    _HEADER + row.astype("<f4").tobytes()
                )
        (folder / _PROVENANCE).write_text(provenance, encoding="utf-8")


def read(path: Path) -> VideoFeatures:
    """Read a folder of such files, ours or the original's, in the order of their numbers."""
    files = sorted((_start(file), file) for file in path.iterdir() if file.suffix == LAYER_SUFFIX)
    if not files:
        raise ValueError(f"no {LAYER_SUFFIX} files in it")
    return features_of(
        clip_features=collect(_blobs([file for _, file in files])),
        provenance=read_provenance(path),
        clip_starts=np.array([start for start, _ in files], np.int64),
    )


def read_provenance(path: Path) -> dict[str, Any]:
    """Read what made a video's features; nothing is known of a folder without our file."""
    if not is_folder_of_blobs(path):
        raise ValueError(f"no {LAYER_SUFFIX} files in it")
    try:
        return from_json((path / _PROVENANCE).read_bytes())
    except FileNotFoundError:
        return {}


def is_folder_of_blobs(path: Path) -> bool:
    """Whether a folder has a file of fc6 in it.

    Raises:
        OSError: it is not there, not a folder, or cannot be read.
    """
    return any(entry.suffix == LAYER_SUFFIX for entry in path.iterdir())


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


def _see_that_it_may_go(path: Path) -> None:
    """A folder gives way to a new one with all that is in it, so it must be one of this kind."""
    if not path.is_dir():
        return
    for entry in path.iterdir():
        if entry.suffix != LAYER_SUFFIX and entry.name != _PROVENANCE:
            raise FileExistsError(None, f"the folder is there and has other files: {entry.name}")
