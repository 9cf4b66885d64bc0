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

from c3d_client.core.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

# Of everything that is not finished: short, so that a name of any length can be written, and to
# be known again by those who look through a folder.
# Rows held in memory, and handed to a writer, at a time: 1 MB of fc6.
CHUNK_ROWS = 64
TEMPORARY_PREFIX = ".c3d-"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, text: bool = False) -> Iterator[IO[Any]]:
    """Open a file that takes its name when the block ends, synced to disk; an error leaves nothing.

    A file that was there before stays as it was until then. Bytes can be read back meanwhile.

    Args:
        path: the name to take; its folder must exist.
        text: UTF-8 text with newlines as written, instead of bytes.

    Raises:
        OSError: the file cannot be written, or cannot take its name.
    """
    target = Path(path)
    made = _unfinished(target)
    mode, encoding, newline = ("x", "utf-8", "") if text else ("x+b", None, None)
    with open(made, mode, encoding=encoding, newline=newline) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(made, target)
        except BaseException:  # Ctrl-C too must leave nothing; it goes on from here
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
            raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder that takes its name when the block ends, synced to disk; an error leaves none.

    A folder that was there before, with all that is in it, stays until then and is gone after. No
    system call puts one folder in another's place, so between two renames the name is free.

    Args:
        path: the name to take; the folder above it must exist.

    Yields:
        The folder to fill with files, under another name.

    Raises:
        OSError: the folder cannot be made, or cannot take its name: a file has it.
    """
    target = Path(path)
    made = _unfinished(target)
    made.mkdir()
    try:
        yield made
        for entry in made.iterdir():
            sync(entry)
        sync(made)
        _take_name(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def sync(path: str | os.PathLike[str]) -> None:
    """Have a file or a folder's entries on the disk, so that they outlive a power cut.

    Raises:
        OSError: it cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_name(made: Path, target: Path) -> None:
    if not target.is_dir():
        os.rename(made, target)
        return
    aside = _unfinished(target)
    os.rename(target, aside)
    try:
        os.rename(made, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _unfinished(target: Path) -> Path:
    # Not the tempfile module: its files are private, results are as open as the umask lets them be,
    # and to ask for the umask is to change it, for all threads.
    return target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def row_chunks(rows: npt.NDArray[Any], size: int = CHUNK_ROWS) -> Iterator[npt.NDArray[Any]]:
    """Yield rows by the chunk, so that writing them needs no more memory than one chunk."""
    import numpy as np  # not loaded with the package: commands start faster without it

    for start in range(0, len(rows), size):
        yield rows[start : start + size].view(np.ndarray)
        _let_go(rows)


def _let_go(rows: npt.NDArray[Any]) -> None:
    """Tell the system that what was read of a mapped file need not stay in memory."""
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
