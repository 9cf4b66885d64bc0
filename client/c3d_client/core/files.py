"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from c3d_client.core.arguments import path_text
from c3d_client.core.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

# The prefix of unfinished files and folders, by which code that lists a folder recognises them. A
# temporary name does not contain the final name, which may already have the greatest length.
TEMPORARY_PREFIX = ".c3d-"
# Rows that are in memory, and passed to a writer, at a time: 1 MB of fc6.
CHUNK_ROWS = 64


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, text: bool = False) -> Iterator[IO[Any]]:
    """Open a file that gets its name when the block ends, synced to disk, or never.

    An existing file of that name stays unchanged until then; an error removes the unfinished file.
    A file of bytes can also be read within the block.

    Args:
        path: the final path; its folder must exist.
        text: write UTF-8 text without converting newlines, instead of bytes.

    Raises:
        OSError: the file cannot be written, or cannot be renamed.
        UsageError: the path is neither a str nor an os.PathLike.
    """
    target = Path(path_text(path, "path"))
    unfinished = _temporary_path(target)
    mode, encoding, newline = ("x", "utf-8", "") if text else ("x+b", None, None)
    with open(unfinished, mode, encoding=encoding, newline=newline) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(unfinished, target)
        except BaseException:  # KeyboardInterrupt too must remove the file
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise


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
    unfinished.mkdir()
    try:
        yield unfinished
        for entry in unfinished.iterdir():
            sync(entry)
        sync(unfinished)
        _rename_folder(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


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


def _temporary_path(target: Path) -> Path:
    # The tempfile module makes files that only their owner can read, but results have the
    # permissions of the umask; and reading the umask means changing it, for all threads.
    return target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def row_chunks(rows: npt.NDArray[Any], size: int = CHUNK_ROWS) -> Iterator[npt.NDArray[Any]]:
    """Yield rows in chunks, so that writing them needs no more memory than one chunk."""
    import numpy as np  # imported here, because commands start faster without it

    for start in range(0, len(rows), size):
        yield rows[start : start + size].view(np.ndarray)
        _free_pages(rows)


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
