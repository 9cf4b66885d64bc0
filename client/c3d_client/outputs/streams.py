"""NumPy's own array format as a stream: written and read by the chunk, alone or inside a zip."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.contract import FEATURE_SIZE
from c3d_client.rows import CHUNK_ROWS, row_chunks

_ROW_BYTES = FEATURE_SIZE * 4
# Its functions have no types.
NPY: Any = np.lib.format


class Summed:
    """A file that is written or read from start to end, with the CRC-32 of its bytes so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc32 = 0
        self.size = 0

    def write(self, data: Any) -> int:
        """Write bytes, or anything that lies in memory as such."""
        self._note(memoryview(data).cast("B"))
        return self._file.write(data)

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, fewer only at the end; all that are left by default."""
        data = self._file.read(size)
        self._note(data)
        return data

    def _note(self, data: bytes | memoryview) -> None:
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)


def write_array(file: Any, array: npt.NDArray[Any]) -> None:
    """Write an array of one dimension or more, which may be larger than memory."""
    header = {
        "descr": NPY.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": array.shape,
    }
    NPY.write_array_header_1_0(file, header)
    for chunk in row_chunks(array):
        file.write(np.ascontiguousarray(chunk).data)


def read_rows(file: Any) -> Iterator[npt.NDArray[np.float32]]:
    """Clip features float32 ``[n, 4096]``, by the chunk.

    Raises:
        ValueError: it is another array, or ends early or late.
    """
    if NPY.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of NumPy's format")
    shape, fortran, dtype = NPY.read_array_header_1_0(file)
    if fortran or dtype != np.float32 or shape[1:] != (FEATURE_SIZE,):
        order = " in Fortran order" if fortran else ""
        raise ValueError(
            f"clip_features is {dtype} {list(shape)}{order}; expected float32 [n, {FEATURE_SIZE}]"
        )
    for start in range(0, shape[0], CHUNK_ROWS):
        wanted = min(CHUNK_ROWS, shape[0] - start) * _ROW_BYTES
        data = file.read(wanted)
        if len(data) != wanted:
            raise ValueError(f"cut short: ends before the last of {shape[0]} rows")
        yield np.frombuffer(data, np.float32).reshape(-1, FEATURE_SIZE)
    if file.read(1):
        raise ValueError(f"goes on after its {shape[0]} rows")
