"""Rows of clip features, more of them than memory should hold.

An hour of film gives eleven thousand rows, 184 MB. They are kept in memory while they are few, and
in a temporary file without a name beyond that: the memory that a film takes does not grow with it.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.errors import OutputError

# Rows held in memory, and handed to a writer, at a time: 1 MB of fc6.
CHUNK_ROWS = 64


class RowStore:
    """Collects float32 rows in order.

    Args:
        most_in_memory: rows; more than these are in a temporary file, in the folder that TMPDIR
            names, whose room on the disk is free again when its array is gone.
    """

    def __init__(self, *, most_in_memory: int = CHUNK_ROWS) -> None:
        self._most = most_in_memory
        self._held: list[npt.NDArray[np.float32]] = []
        self._held_rows = 0
        self._size = 0
        self._file: IO[bytes] | None = None
        self.count = 0

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Add a batch of rows ``[n, size]``.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        self._size = rows.shape[1]
        self._held.append(rows)
        self._held_rows += len(rows)
        self.count += len(rows)
        if self._held_rows > self._most:
            self._spill()

    def array(self) -> npt.NDArray[np.float32]:
        """All rows, float32 ``[count, size]``: an array, or a read-only map of the file.

        Raises:
            OutputError: the temporary file cannot be written.
            ValueError: there are no rows.
        """
        if self._file is None:
            return np.concatenate(self._held)
        self._spill()
        return np.memmap(self._file, np.float32, mode="r", shape=(self.count, self._size))

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="c3d-rows-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)  # also of a video that failed
            for rows in self._held:
                self._file.write(np.ascontiguousarray(rows, np.float32).data)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                tempfile.gettempdir(),
                f"clip features cannot be kept there ({error.strerror or error}); "
                "make room, or name another folder in TMPDIR",
            ) from error
        self._held, self._held_rows = [], 0


def row_chunks(rows: npt.NDArray[Any], size: int = CHUNK_ROWS) -> Iterator[npt.NDArray[Any]]:
    """Rows by the chunk, so that writing them needs no more memory than one chunk."""
    for start in range(0, len(rows), size):
        yield np.asarray(rows[start : start + size])
        _let_go(rows)


def _let_go(rows: npt.NDArray[Any]) -> None:
    """Tell the system that what was read of a mapped file need not stay in memory."""
    mapped = getattr(rows, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
