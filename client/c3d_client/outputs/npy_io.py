"""NumPy's array format as a stream in chunks, and JSON sidecars with a checksum."""

from __future__ import annotations

import contextlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.files import atomic_file, chunk_rows, row_chunks
from c3d_client.core.provenance import Provenance
from c3d_client.outputs.validation import parse_object

SIDECAR_SUFFIX = ".json"
NPY: Any = np.lib.format  # its functions have no type information


class ChecksumFile:
    """File that is written or read from start to end, with the CRC-32 of its bytes so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc32 = 0
        self.size = 0

    def write(self, data: Any) -> int:
        """Write bytes, or any object with a buffer."""
        self._update(memoryview(data).cast("B"))
        return self._file.write(data)

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer only at the end; all remaining bytes by default."""
        data = self._file.read(size)
        self._update(data)
        return data

    def _update(self, data: bytes | memoryview) -> None:
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


def read_rows(
    file: Any, expected: Sequence[int] = (FEATURE_SIZE,), *, name: str = "clip_features"
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield rows float32 ``[n, ...]`` in chunks.

    Args:
        file: an open file in NumPy's format.
        expected: the shape of a row; -1 for any length.
        name: the array's name, for the message.

    Raises:
        ValueError: the array is another one, or the file ends early or late.
    """
    if NPY.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of NumPy's format")
    shape, fortran, dtype = NPY.read_array_header_1_0(file)
    fits = len(shape) == 1 + len(expected) and all(
        length in (-1, size) for size, length in zip(shape[1:], expected, strict=True)
    )
    if fortran or dtype != np.float32 or not fits:
        order = " in Fortran order" if fortran else ""
        lengths = ", ".join("n" if length == -1 else str(length) for length in (-1, *expected))
        raise ValueError(f"{name} is {dtype} {list(shape)}{order}; expected float32 [{lengths}]")
    rows, row_bytes = chunk_rows(shape[1:]), 4 * math.prod(shape[1:])
    for start in range(0, shape[0], rows):
        size = min(rows, shape[0] - start) * row_bytes
        data = file.read(size)
        if len(data) != size:
            raise ValueError(f"cut short: ends before the last of {shape[0]} rows")
        yield np.frombuffer(data, np.float32).reshape(-1, *shape[1:])
    if file.read(1):
        raise ValueError(f"goes on after its {shape[0]} rows")


def sidecar_of(path: Path) -> Path:
    """Return the path of a file's sidecar."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


@contextlib.contextmanager
def write_with_sidecar(path: Path, content: dict[str, Any]) -> Iterator[ChecksumFile]:
    """Write a file and its sidecar; see :func:`write_several_with_sidecar`."""
    with write_several_with_sidecar(path, content, {}) as (file, _):
        yield file


@contextlib.contextmanager
def write_several_with_sidecar(
    path: Path, content: dict[str, Any], further: Mapping[str, Path]
) -> Iterator[tuple[ChecksumFile, dict[str, ChecksumFile]]]:
    """Write a file, further files that belong to it, and its sidecar.

    The file takes its name last, so that a file that exists is complete, and none of them takes its
    name before all are written. The sidecar has the content and the size and CRC-32 of each file,
    those of further files under ``layers``: after a power cut between two of them, an older file is
    not mistaken for the one that the sidecar describes.

    Args:
        path: the file.
        content: of the sidecar.
        further: the paths of the further files, by layer.

    Yields:
        The file, and the further files by layer.

    Raises:
        OSError: one of them cannot be written, or a folder has a file's name.
    """
    if any(each.is_dir() for each in (path, *further.values())):  # before one takes its name
        raise IsADirectoryError(None, "Is a directory")
    with contextlib.ExitStack() as stack:  # closes the files, which names them, last one first
        raw = stack.enter_context(atomic_file(path))
        sidecar = stack.enter_context(atomic_file(sidecar_of(path), text=True))
        raws = {name: stack.enter_context(atomic_file(each)) for name, each in further.items()}
        file, files = ChecksumFile(raw), {name: ChecksumFile(each) for name, each in raws.items()}
        yield file, files
        layers = {name: {"bytes": f.size, "crc32": f.crc32} for name, f in files.items()}
        json.dump(
            {
                **content,
                **({"layers": layers} if layers else {}),
                "bytes": file.size,
                "crc32": file.crc32,
            },
            sidecar,
            sort_keys=True,
            allow_nan=False,
        )
        for each in (raw, sidecar, *raws.values()):
            each.flush()
            os.fsync(each.fileno())


def read_sidecar(path: Path) -> tuple[dict[str, Any], Provenance]:
    """Read a file's sidecar, and check that the file has the size that the sidecar gives.

    Returns:
        The content of the sidecar, and the provenance in it.

    Raises:
        FileNotFoundError: the file or its sidecar does not exist.
        ValueError: it is not a sidecar, or not the sidecar of this file.
    """
    with path.open("rb") as file:  # a missing file is reported before a missing sidecar
        size = os.fstat(file.fileno()).st_size
    content = parse_object(sidecar_of(path).read_bytes())
    if content["bytes"] != size:
        raise ValueError(f"has {size} bytes where its {SIDECAR_SUFFIX} says {content['bytes']}")
    if not isinstance(content["provenance"], dict):
        raise ValueError("provenance is not a JSON object")
    return content, Provenance(content["provenance"])


def check_crc(content: dict[str, Any], file: ChecksumFile) -> None:
    """Check that a file, read to its end, is the one that its sidecar describes.

    Raises:
        ValueError: the bytes differ.
    """
    if content["crc32"] != file.crc32:
        raise ValueError(f"its bytes are not those that its {SIDECAR_SUFFIX} was written for")
