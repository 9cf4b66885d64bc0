"""``.npy``: the clip features as one plain array, and a JSON sidecar with the rest.

``NAME.npy`` is float32 ``[n, 4096]``. ``NAME.npy.json`` has ``video_feature``, ``clip_starts``,
``clip_times_s`` (null where unknown), ``provenance``, and the other file's ``bytes`` and ``crc32``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from c3d_client.core.provenance import Provenance
from c3d_client.outputs.npy_io import (
    ChecksumFile,
    check_crc,
    read_rows,
    read_sidecar,
    write_array,
    write_with_sidecar,
)
from c3d_client.outputs.validation import collect_rows, make_features, provenance_json
from c3d_client.results import VideoFeatures


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features: the sidecar first, so that a ``.npy`` that exists is complete."""
    provenance_json(features)  # refuses a provenance that is not JSON before anything is written
    times = features.clip_times_s
    content = {
        "video_feature": features.video_feature.tolist(),
        "clip_starts": features.clip_starts.tolist(),
        # JSON has no NaN.
        "clip_times_s": np.where(np.isnan(times), None, times).tolist(),  # type: ignore[call-overload]
        "provenance": features.provenance,
    }
    with write_with_sidecar(path, content) as file:
        write_array(file, features.clip_features)


def read(path: Path) -> VideoFeatures:
    """Read a video's features from the array and its sidecar."""
    content, provenance = read_sidecar(path)
    with path.open("rb") as raw:
        file = ChecksumFile(raw)
        rows = collect_rows(read_rows(file))
    check_crc(content, file)
    return make_features(
        clip_features=rows,
        provenance=provenance,
        clip_starts=np.array(content["clip_starts"], np.int64),
        clip_times_s=np.array(content["clip_times_s"], np.float64),
        video_feature=np.array(content["video_feature"], np.float32),
    )


def read_provenance(path: Path) -> Provenance:
    """Read the provenance from the sidecar, if the array has the size that the sidecar gives."""
    return read_sidecar(path)[1]
