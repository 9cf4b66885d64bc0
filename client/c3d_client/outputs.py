"""Results to files: whole or not at all, with what made them inside."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from c3d_client.atomic import atomic_file
from c3d_client.errors import OutputError
from c3d_client.extract import VideoFeatures

NPZ_KEYS = ("clip_features", "video_feature", "clip_starts", "clip_times_s", "provenance")


def prepare_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder for results, and see that files can be written there, before any work is done.

    Raises:
        OutputError: it cannot be made, is a file, or cannot be written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".c3d-"):
            pass
    except OSError as error:
        raise OutputError(path, f"results cannot be written there ({error.strerror})") from error
    return path


def write_npz(path: str | os.PathLike[str], features: VideoFeatures) -> None:
    """Write a video's features as ``.npz``, appearing under its name only when complete.

    Keys: ``clip_features`` float32 ``[n, 4096]``, ``video_feature`` float32 ``[4096]``,
    ``clip_starts`` int64 ``[n]``, ``clip_times_s`` float64 ``[n, 2]``, ``provenance`` (JSON text).

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with atomic_file(path) as file:
            np.savez(
                file,
                clip_features=features.clip_features,
                video_feature=features.video_feature,
                clip_starts=features.clip_starts,
                clip_times_s=features.clip_times_s,
                provenance=np.array(json.dumps(features.provenance, sort_keys=True)),
            )
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


def read_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read back what :func:`write_npz` wrote: its arrays, and ``provenance`` as a dict.

    Raises:
        OutputError: the file is not there, or is not such a file.
    """
    try:
        # Opened here: np.load leaves a file open that it cannot read.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            content: dict[str, Any] = {key: file[key] for key in NPZ_KEYS}
        content["provenance"] = json.loads(str(content["provenance"].item()))
    except FileNotFoundError as error:
        raise OutputError(path, "no such file") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise OutputError(path, f"is not a file of C3D features ({error})") from error
    return content
