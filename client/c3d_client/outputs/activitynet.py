"""``.hdf5`` in the layout of ActivityNet's C3D features: many videos, ``/ID/c3d_features``.

Readers of ``sub_activitynet_v1-3.c3d.hdf5`` (dense captioning, moment retrieval) take
``file[id]["c3d_features"][:]``, rows in order of time, as float32; their ids are ``v_`` and
YouTube's id. The published rows are reduced to 500 numbers by PCA; these are too where the client
has a PCA, float32 ``[n, dim]``, and are fc6, float32 ``[n, 4096]``, where it has none. Each group
has the attribute ``provenance``, JSON text. Starts and times are not stored, and the video feature
is computed from the clips when the file is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c3d_client.core.errors import UsageError
from c3d_client.core.provenance import Provenance, require_same
from c3d_client.core.text import escape_bytes
from c3d_client.outputs import hdf5
from c3d_client.outputs.validation import make_features, parse_provenance, video_source
from c3d_client.results import VideoFeatures

_DATASET = "c3d_features"


def video_id(name: str) -> str:
    r"""Return a video's id: its name without folders and without the suffix.

    ``train/v_QOlSCBRmfWY.mp4`` is ``v_QOlSCBRmfWY``, the id that readers look up. HDF5 stores it as
    UTF-8; other bytes of a file's name are written as ``\xNN``.
    """
    last = escape_bytes(name).rpartition("/")[2]
    return last.rpartition(".")[0] or last


def write(path: Path, features: VideoFeatures) -> None:
    """Write one video's features as a collection of one, under the id of its source."""
    with new_collection(path) as collection:
        collection.add(video_id(video_source(features)) or "video", features)


@contextlib.contextmanager
def new_collection(path: Path) -> Iterator[Collection]:
    """Open a collection to add videos to, which takes its name when the block ends.

    Raises:
        OSError: the file cannot be written.
        UsageError: h5py is not installed.
    """
    with hdf5.new_file(path) as file:
        yield Collection(file)


class Collection:
    """Many videos in one file, made the same way; created by :func:`new_collection`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._first: dict[str, Any] | None = None

    def add(self, name: str, features: VideoFeatures) -> None:
        """Add a video under its id.

        Raises:
            OSError: the collection cannot be written.
            UsageError: the id is already used, or cannot name a group.
            ProvenanceError: the features were made in another way than those of the first video.
        """
        if not name or "/" in name or name in (".", ".."):
            raise UsageError(f"{name!r} cannot be a video's id")
        if name in self._file:
            raise UsageError(f"two videos have the id {name}; rename one of them")
        self._first = features.provenance if self._first is None else self._first
        require_same([self._first, features.provenance])
        group = self._file.create_group(name)
        hdf5.write_rows(group, _DATASET, features.clip_features)
        hdf5.set_provenance(group, features)


def video_ids(path: Path) -> list[str]:
    """Return the ids of a collection's videos, in order."""
    with hdf5.open_file(path) as file:
        return [str(name) for name in file]


def read(path: Path, name: str | None = None) -> VideoFeatures:
    """Read the features of one video; without an id, of the only video in the file."""
    with hdf5.open_file(path) as file:
        group = _group(file, name)
        provenance = _provenance(group)
        rows = hdf5.read_rows(group, _DATASET, (provenance.feature_size,))
        return make_features(clip_features=rows, provenance=provenance)


def read_provenance(path: Path, name: str | None = None) -> Provenance:
    """Read the provenance of one video's features; it is empty for a published file."""
    with hdf5.open_file(path) as file:
        return _provenance(_group(file, name))


def _group(file: Any, name: str | None) -> Any:
    if name is None:
        if len(file) != 1:
            raise ValueError(f"{len(file)} videos, not one; convert it to have a file for each")
        name = next(iter(file))
    group = file[name]
    if hasattr(group, "dtype"):
        raise ValueError(f"{name} is a dataset; expected groups with a dataset {_DATASET} in each")
    hdf5.dataset_of(group, _DATASET)
    return group


def _provenance(group: Any) -> Provenance:
    text = group.attrs.get("provenance")
    return Provenance() if text is None else parse_provenance(text)
