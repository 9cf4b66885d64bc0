"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from c3d_client.core.arguments import path_text
from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

# The prefix of unfinished files and folders, by which code that lists a folder recognises them. A
# temporary name does not contain the final name, which may already have the greatest length.
TEMPORARY_PREFIX = ".c3d-"
# Rows that are in memory, and passed to a writer, at a time: 1 MB of fc6. Of longer rows fewer.
CHUNK_ROWS = 64
_CHUNK_NUMBERS = CHUNK_ROWS * FEATURE_SIZE
MAX_NAME_BYTES = 255  # the limit of common file systems for one part of a path

_cleanups: set[Callable[[], object]] = set()


@contextlib.contextmanager
def cleaned_up(clean: Callable[[], object]) -> Iterator[None]:
    """Call a function when the block ends, or earlier in :func:`clean_up`.

    Args:
        clean: removes what the block leaves unfinished, and does nothing where nothing is left. Its
            OSError is ignored, so that the error that ended the block is raised.
    """
    _cleanups.add(clean)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            clean()
        _cleanups.discard(clean)


def clean_up() -> None:
    """Remove all unfinished files and folders of this process, which must end now."""
    for clean in list(_cleanups):
        with contextlib.suppress(OSError):
            clean()


@contextlib.contextmanager
def atomic_file(
    path: str | os.PathLike[str],
    *,
    text: bool = False,
    prefix: str = TEMPORARY_PREFIX,
    synced: bool = True,
    final: Callable[[], str | os.PathLike[str]] | None = None,
) -> Iterator[IO[Any]]:
    """Open a file that gets its name when the block ends, synced to disk, or never.

    An existing file of that name stays unchanged until then; an error removes the unfinished file.
    A file of bytes can also be read within the block.

    Args:
        path: the final path; its folder must exist.
        text: write UTF-8 text without converting newlines, instead of bytes.
        prefix: the start of the unfinished file's name, itself beginning with TEMPORARY_PREFIX.
        synced: False for a file that a power failure may remove or empty.
        final: called when the block ends; returns the final path, in the same folder, where it is
            not known before.

    Raises:
        OSError: the file cannot be written, or cannot be renamed.
        UsageError: the path is neither a str nor an os.PathLike.
    """
    target = Path(path_text(path, "path"))
    unfinished = _temporary_path(target, prefix)
    mode, encoding, newline = ("x", "utf-8", "") if text else ("x+b", None, None)
    with (
        cleaned_up(lambda: unfinished.unlink(missing_ok=True)),
        open(unfinished, mode, encoding=encoding, newline=newline) as file,
    ):
        yield file
        file.flush()
        if synced:
            os.fsync(file.fileno())
        os.replace(unfinished, target if final is None else final())


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder that gets its name when the block ends, synced to disk, or never.

    An existing folder of that name is replaced, with its content; an error removes the unfinished
    folder. No system call replaces a folder, so the name is free for a moment between two renames.

    Args:
        path: the final path; the folder above it must exist.

    Yields:
        The folder to write files to, under a temporary name.

    Raises:
        OSError: the folder cannot be made, or cannot be renamed because a file has the name.
    """
    target = Path(path)
    unfinished = _temporary_path(target)
    with cleaned_up(lambda: shutil.rmtree(unfinished, ignore_errors=True)):
        unfinished.mkdir()
        yield unfinished
        for entry in unfinished.iterdir():
            sync(entry)
        sync(unfinished)
        _rename_folder(unfinished, target)


def sync(path: str | os.PathLike[str]) -> None:
    """Sync a file, or the entries of a folder, to disk, so that it survives a power failure.

    Raises:
        OSError: the path cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_folder(folder: Path, target: Path) -> None:
    if not target.is_dir():
        os.rename(folder, target)
        return
    former = _temporary_path(target)
    os.rename(target, former)
    try:
        os.rename(folder, target)
    except BaseException:
        os.rename(former, target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _temporary_path(target: Path, prefix: str = TEMPORARY_PREFIX) -> Path:
    # The tempfile module makes files that only their owner can read, but results have the
    # permissions of the umask; and reading the umask means changing it, for all threads.
    return target.parent / f"{prefix}{secrets.token_hex(8)}"


def ignores_case(folder: str | os.PathLike[str]) -> bool:
    """Return whether names that differ in case alone are the same file in a folder.

    Where the folder does not exist, the folder above it decides; where no file can be written
    there, the answer is False.
    """
    path = Path(folder).absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=TEMPORARY_PREFIX) as file:
            return Path(file.name).with_name(Path(file.name).name.swapcase()).exists()
    except OSError:
        return False


def chunk_rows(shape: Sequence[int]) -> int:
    """Return how many float32 rows of a shape are a chunk: 64, or as many of longer rows as 1 MB.

    Args:
        shape: of one row; lengths of -1 are unknown and count as 1.
    """
    return max(1, min(CHUNK_ROWS, _CHUNK_NUMBERS // max(1, math.prod(map(abs, shape)))))


def cut_name(name: str, max_bytes: int) -> str:
    """Return a file's name, or its start, ``~`` and 16 digits of its SHA-256 where it is too long.

    Args:
        name: one part of a path.
        max_bytes: the length that the name may have.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= max_bytes:
        return name
    digest = f"~{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: max_bytes - len(digest)].decode("utf-8", "ignore") + digest


def row_chunks(rows: npt.NDArray[Any], size: int | None = None) -> Iterator[npt.NDArray[Any]]:
    """Yield rows in chunks, so that writing them needs no more memory than one chunk.

    Args:
        rows: an array, or a dataset that is read in chunks.
        size: rows in a chunk; :func:`chunk_rows` by default.
    """
    import numpy as np  # imported here, because commands start faster without it

    size = chunk_rows(rows.shape[1:]) if size is None else size
    for start in range(0, len(rows), size):
        yield rows[start : start + size].view(np.ndarray)
        _free_pages(rows)


def iter_rows(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows of an array one by one, with as few in memory as in :func:`row_chunks`."""
    for chunk in row_chunks(rows):
        yield from chunk


def _free_pages(rows: npt.NDArray[Any]) -> None:
    """Let the system free the pages of a mapped file that were read."""
    mapped = getattr(rows, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def read_token(path: str | os.PathLike[str]) -> str:
    """Read a bearer token from a file, without the line end.

    Raises:
        UsageError: the file cannot be read, or is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{os.fspath(path)}: the token cannot be read ({reason})") from error
