"""``.hdf5`` as the C3D features of ActivityNet come: many videos, ``/ID/c3d_features``.

Readers of ``sub_activitynet_v1-3.c3d.hdf5`` (dense captioning, moment retrieval) take
``file[id]["c3d_features"][:]``, rows in time, and make them float32; their ids begin with ``v_``,
followed by YouTube's. The published rows are reduced to 500 numbers by PCA; these are fc6 as it is,
float32 ``[n, 4096]``. Each group has the attribute ``provenance``, JSON text. Starts and times are
not kept, and the video feature is computed again on reading.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.errors import UsageError
from c3d_client.outputs import hdf5
from c3d_client.outputs.validation import collect, expect, features_of, from_json, slices
from c3d_client.results import VideoFeatures

_DATASET = "c3d_features"


def video_id(name: str) -> str:
    """A video's id: its name without folders and without what follows the last dot.

    ``train/v_QOlSCBRmfWY.mp4`` is ``v_QOlSCBRmfWY``, as readers ask for it.
    """
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last


def write(path: Path, features: VideoFeatures) -> None:
    """Write one video's features as a collection of one, under the id of its source."""
    video = features.provenance.get("video")
    source = str(video.get("source", "")) if isinstance(video, dict) else ""
    with new_collection(path) as collection:
        collection.add(video_id(source) or "video", features)


@contextlib.contextmanager
def new_collection(path: Path) -> Iterator[Collection]:
    """A collection to add videos to, which takes its name when the block ends.

    Raises:
        OSError: it cannot be written.
        UsageError: h5py is not installed.
    """
    with hdf5.new_file(path) as file:
        yield Collection(file)


class Collection:
    """Many videos in one file, made the same way; :func:`new_collection` makes one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._first: dict[str, Any] | None = None

    def add(self, name: str, features: VideoFeatures) -> None:
        """Add a video under its id.

        Raises:
            OSError: the collection cannot be written.
            UsageError: the id is taken, or is not one.
            ProvenanceError: the video's features were made in another way than the first one's.
        """
        from c3d_client.core.provenance import require_same  # which loads the decoder

        if not name or "/" in name or name in (".", ".."):
            raise UsageError(f"{name!r} cannot be a video's id")
        if name in self._file:
            raise UsageError(f"two videos have the id {name}; rename one of them")
        self._first = features.provenance if self._first is None else self._first
        require_same([self._first, features.provenance])
        group = self._file.create_group(name)
        hdf5.write_rows(group, _DATASET, features.clip_features)
        hdf5.set_provenance(group, features.provenance)


def video_ids(path: Path) -> list[str]:
    """The ids of a collection's videos, in order."""
    with hdf5.open_file(path) as file:
        return [str(name) for name in file]


def read(path: Path, name: str | None = None) -> VideoFeatures:
    """Read the features of one video: of the only one where no id is given."""
    with hdf5.open_file(path) as file:
        group = _group(file, name)
        rows = hdf5.dataset_of(group, _DATASET)
        expect(_DATASET, rows, dtype="float32", shape=(-1, FEATURE_SIZE))
        return features_of(clip_features=collect(slices(rows)), provenance=_provenance(group))


def read_provenance(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read what made one video's features; nothing is known of a published file's."""
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


def _provenance(group: Any) -> dict[str, Any]:
    text = group.attrs.get("provenance")
    return {} if text is None else from_json(text)
