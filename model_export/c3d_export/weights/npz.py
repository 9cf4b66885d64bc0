"""The project's own file of weights: the canonical arrays in one `.npz`."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from c3d_client.errors import WeightsError

from c3d_export.digest import file_sha256
from c3d_export.weights.canonical import Weights


def read(path: Path) -> Weights:
    """Read weights whose keys are ``conv1/kernel`` … ``fc8/bias``, in the canonical layout.

    Raises:
        WeightsError: it is damaged, holds pickled objects, or is not C3D.
    """
    try:
        # Opened here: np.load leaves a file that is no archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(f"{path}: a damaged .npz file ({error})") from error
    return Weights(arrays=arrays, source=path.name, format="npz", file_sha256=file_sha256(path))
