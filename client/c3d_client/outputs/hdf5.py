"""HDF5 files that are written and read by the chunk, and whose library survives a full disk."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.files import atomic_file, row_chunks
from c3d_client.outputs.validation import needed, to_json

_EXTRA = "h5"
# A megabyte of fc6: what HDF5's cache of chunks holds by default.
_CHUNK_ROWS = 64


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """An ``h5py.File`` to fill, which takes its name when the block ends.

    Raises:
        OSError: it cannot be written.
        UsageError: h5py is not installed.
    """
    h5py = needed("h5py", extra=_EXTRA)
    with atomic_file(path) as raw:
        steady = _Steady(raw)
        with h5py.File(steady, "w") as file:
            yield file
        if steady.error:
            raise steady.error


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """An ``h5py.File`` to read.

    Raises:
        OSError: it is not an HDF5 file, or cut short.
        UsageError: h5py is not installed.
    """
    h5py = needed("h5py", extra=_EXTRA)
    with h5py.File(path, "r") as file:
        yield file


def write_rows(group: Any, name: str, rows: npt.NDArray[np.float32]) -> None:
    """Write rows ``[n, 4096]`` as a dataset with checksums, by the chunk."""
    # Fletcher-32 is built into HDF5: every reader sees a damaged chunk, none has to ask.
    dataset = group.create_dataset(
        name,
        shape=rows.shape,
        dtype="<f4",
        chunks=(min(_CHUNK_ROWS, len(rows)), rows.shape[1]),
        fletcher32=True,
    )
    start = 0
    for chunk in row_chunks(rows):
        dataset[start : start + len(chunk)] = chunk
        start += len(chunk)


def set_provenance(group: Any, provenance: dict[str, Any]) -> None:
    """Keep a provenance as the attribute ``provenance``, JSON text."""
    group.attrs["provenance"] = to_json(provenance)


def dataset_of(group: Any, name: str) -> Any:
    """A dataset of a group.

    Raises:
        ValueError: there is none of that name.
    """
    found = group.get(name)
    if found is None or not hasattr(found, "dtype"):
        raise ValueError(f"no dataset {name}")
    return found


class _Steady(io.RawIOBase):
    """A file whose writes do not fail: the first error is kept, and what follows is dropped.

    HDF5 cannot close a file that it cannot write: it crashes the process at exit (h5py's issue
    914). So it is told that all went well, and the file, which has no name yet, is thrown away.
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
