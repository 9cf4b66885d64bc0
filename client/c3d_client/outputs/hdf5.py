"""``.h5``: datasets under the same names as in ``.npz``, provenance as an attribute of the file.

``clip_features`` has a checksum for every 64 rows, or every megabyte of longer ones. Layers after
the first are datasets under their own names, such as ``pool5``. Any HDF5 library reads the file.
The format ``activitynet`` uses the functions after ``read_provenance`` too.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.files import atomic_file, chunk_rows, row_chunks
from c3d_client.core.provenance import Provenance
from c3d_client.outputs.validation import (
    check_array,
    collect_rows,
    load_library,
    make_features,
    parse_provenance,
    provenance_json,
    row_shapes,
)
from c3d_client.results import VideoFeatures

_EXTRA = "h5"
_SMALL_ARRAYS = ("video_feature", "clip_starts", "clip_times_s")


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features."""
    with new_file(path) as file:
        write_rows(file, "clip_features", features.clip_features)
        for layer, rows in features.layers.items():
            write_rows(file, layer, rows)
        for key in _SMALL_ARRAYS:
            file.create_dataset(key, data=getattr(features, key), fletcher32=True)
        set_provenance(file, features)


def read(path: Path) -> VideoFeatures:
    """Read a video's features."""
    with open_file(path) as file:
        provenance = parse_provenance(file.attrs["provenance"])
        (_, first), *further = row_shapes(provenance).items()
        return make_features(
            clip_features=read_rows(file, "clip_features", first),
            layers={layer: read_rows(file, layer, shape) for layer, shape in further},
            provenance=provenance,
            **{key: dataset_of(file, key)[...] for key in _SMALL_ARRAYS},
        )


def read_provenance(path: Path) -> Provenance:
    """Read the provenance, and check that the datasets exist."""
    with open_file(path) as file:
        provenance = parse_provenance(file.attrs["provenance"])
        for key in ("clip_features", *_SMALL_ARRAYS, *provenance.layers[1:]):
            dataset_of(file, key)
        return provenance


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """Open an ``h5py.File`` to write, which takes its name when the block ends.

    Raises:
        OSError: the file cannot be written.
        UsageError: h5py is not installed.
    """
    h5py = load_library("h5py", extra=_EXTRA)
    with atomic_file(path) as raw:
        safe_file = _ErrorHoldingFile(raw)
        with h5py.File(safe_file, "w") as file:
            yield file
        if safe_file.error:
            raise safe_file.error


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open an ``h5py.File`` to read.

    Raises:
        OSError: the file is not an HDF5 file, or cut short.
        UsageError: h5py is not installed.
    """
    h5py = load_library("h5py", extra=_EXTRA)
    with h5py.File(path, "r") as file:
        yield file


def write_rows(group: Any, name: str, rows: npt.NDArray[np.float32]) -> None:
    """Write rows ``[n, ...]`` as a dataset with checksums, in chunks."""
    # A chunk has a megabyte at most, the size of the cache of HDF5. Fletcher-32 is part of HDF5:
    # every reader checks it without an option.
    dataset = group.create_dataset(
        name,
        shape=rows.shape,
        dtype="<f4",
        chunks=(min(chunk_rows(rows.shape[1:]), len(rows)), *rows.shape[1:]),
        fletcher32=True,
    )
    start = 0
    for chunk in row_chunks(rows):
        dataset[start : start + len(chunk)] = chunk
        start += len(chunk)


def read_rows(
    group: Any, name: str, shape: Sequence[int] = (FEATURE_SIZE,)
) -> npt.NDArray[np.float32]:
    """Read rows float32 ``[n, ...]``.

    Args:
        group: the group of the dataset.
        name: the dataset's name.
        shape: the expected shape of a row; -1 for any length.

    Raises:
        ValueError: the dataset does not exist, or is another one.
    """
    rows = dataset_of(group, name)
    check_array(name, rows, dtype="float32", shape=(-1, *shape))
    return collect_rows(row_chunks(rows))


def set_provenance(group: Any, features: VideoFeatures) -> None:
    """Store the provenance of features as the attribute ``provenance``, JSON text."""
    group.attrs["provenance"] = provenance_json(features)


def dataset_of(group: Any, name: str) -> Any:
    """Return a dataset of a group.

    Raises:
        ValueError: the group has no dataset of that name.
    """
    dataset = group.get(name)
    if dataset is None or not hasattr(dataset, "dtype"):
        raise ValueError(f"no dataset {name}")
    return dataset


class _ErrorHoldingFile(io.RawIOBase):
    """File whose writes never raise: the first error is stored, and later writes are dropped.

    HDF5 cannot close a file after a failed write: it crashes the process at exit (h5py's issue
    914). So every write seems to succeed, and :func:`new_file` raises the stored error and
    discards the file, which has no name yet.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._try(lambda: self._raw.read(len(buffer))) or b""
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        self._try(lambda: self._raw.write(data))
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(lambda: self._raw.seek(offset, whence)) or 0

    def tell(self) -> int:
        return self._raw.tell()

    def truncate(self, size: int | None = None) -> int:
        self._try(lambda: self._raw.truncate(size))
        return size or 0

    def flush(self) -> None:
        self._try(self._raw.flush)

    def _try(self, action: Callable[[], Any]) -> Any:
        if self.error is None:
            try:
                return action()
            except OSError as error:
                self.error = error
        return None
