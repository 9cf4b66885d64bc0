"""``.npy``: the clip features alone, as people feed them to their own code, and a JSON sidecar.

``NAME.npy`` is float32 ``[n, 4096]``. ``NAME.npy.json`` has ``video_feature``, ``clip_starts``,
``clip_times_s`` (null where unknown), ``provenance``, and the other file's ``bytes`` and ``crc32``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from c3d_client.outputs.npy_io import (
    Summed,
    check_sum,
    read_rows,
    read_sidecar,
    with_sidecar,
    write_array,
)
from c3d_client.outputs.validation import collect, features_of, to_json
from c3d_client.results import VideoFeatures


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features: the sidecar first, so that a ``.npy`` that is there is complete."""
    to_json(features.provenance)  # refused here where it cannot be written
    times = features.clip_times_s
    content = {
        "video_feature": features.video_feature.tolist(),
        "clip_starts": features.clip_starts.tolist(),
        # JSON has no NaN.
        "clip_times_s": np.where(np.isnan(times), None, times).tolist(),  # type: ignore[call-overload]
        "provenance": features.provenance,
    }
    with with_sidecar(path, content) as file:
        write_array(file, features.clip_features)


def read(path: Path) -> VideoFeatures:
    """Read a video's features from the array and its sidecar."""
    content = read_sidecar(path)
    with path.open("rb") as raw:
        file = Summed(raw)
        rows = collect(read_rows(file))
    check_sum(content, file)
    return features_of(
        clip_features=rows,
        provenance=content["provenance"],
        clip_starts=np.array(content["clip_starts"], np.int64),
        clip_times_s=np.array(content["clip_times_s"], np.float64),
        video_feature=np.array(content["video_feature"], np.float32),
    )


def read_provenance(path: Path) -> dict[str, Any]:
    """Read what made a video's features: from the sidecar, if the array has the size said there."""
    provenance: dict[str, Any] = read_sidecar(path)["provenance"]
    return provenance
