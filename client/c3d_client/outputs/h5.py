"""``.h5``: datasets under the same names as in ``.npz``, provenance as an attribute of the file.

``clip_features`` has a checksum for every 64 rows. Any HDF5 library reads the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.outputs import hdf5
from c3d_client.outputs.validation import collect, expect, features_of, from_json, slices
from c3d_client.results import VideoFeatures

_SMALL = ("video_feature", "clip_starts", "clip_times_s")


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features."""
    with hdf5.new_file(path) as file:
        hdf5.write_rows(file, "clip_features", features.clip_features)
        for key in _SMALL:
            file.create_dataset(key, data=getattr(features, key), fletcher32=True)
        hdf5.set_provenance(file, features.provenance)


def read(path: Path) -> VideoFeatures:
    """Read a video's features."""
    with hdf5.open_file(path) as file:
        rows = hdf5.dataset_of(file, "clip_features")
        expect("clip_features", rows, dtype="float32", shape=(-1, FEATURE_SIZE))
        return features_of(
            clip_features=collect(slices(rows)),
            provenance=_provenance(file),
            **{key: hdf5.dataset_of(file, key)[...] for key in _SMALL},
        )


def read_provenance(path: Path) -> dict[str, Any]:
    """Read what made a video's features, and see that its datasets are there."""
    with hdf5.open_file(path) as file:
        for key in ("clip_features", *_SMALL):
            hdf5.dataset_of(file, key)
        return _provenance(file)


def _provenance(file: Any) -> dict[str, Any]:
    return from_json(file.attrs["provenance"])
