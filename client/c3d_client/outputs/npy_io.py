"""NumPy's own array format as a stream: written and read by the chunk, alone or inside a zip."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.files import CHUNK_ROWS, atomic_file, row_chunks
from c3d_client.outputs.validation import from_json

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


SIDECAR_SUFFIX = ".json"


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of a file is."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


@contextlib.contextmanager
def with_sidecar(path: Path, content: dict[str, Any]) -> Iterator[Summed]:
    """Write a file and its sidecar; the file takes its name last, so what is there is complete.

    The sidecar has the content, and the file's size and CRC-32: should the power fail between the
    two, an older file is not taken for what the sidecar describes.

    Raises:
        OSError: one of them cannot be written, or the name is a folder's.
    """
    if path.is_dir():  # seen before the sidecar is there
        raise IsADirectoryError(None, "Is a directory")
    with atomic_file(path) as file:
        summed = Summed(file)
        yield summed
        file.flush()
        os.fsync(file.fileno())
        with atomic_file(sidecar_of(path), text=True) as notes:
            json.dump(
                {**content, "bytes": summed.size, "crc32": summed.crc32},
                notes,
                sort_keys=True,
                allow_nan=False,
            )


def read_sidecar(path: Path) -> dict[str, Any]:
    """What the sidecar of a file says; the file must have the size that is said there.

    Raises:
        FileNotFoundError: there is no such file, or no sidecar.
        ValueError: it is not a sidecar, or not that of this file.
    """
    with path.open("rb") as file:  # its absence comes before the sidecar's
        size = os.fstat(file.fileno()).st_size
    content = from_json(sidecar_of(path).read_bytes())
    if content["bytes"] != size:
        raise ValueError(f"has {size} bytes where its {SIDECAR_SUFFIX} says {content['bytes']}")
    if not isinstance(content["provenance"], dict):
        raise ValueError("provenance is not a JSON object")
    return content


def check_sum(content: dict[str, Any], read: Summed) -> None:
    """See that a file that was read to its end is the one that its sidecar describes.

    Raises:
        ValueError: it is not.
    """
    if content["crc32"] != read.crc32:
        raise ValueError(f"its bytes are not those that its {SIDECAR_SUFFIX} was written for")
