"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, text: bool = False) -> Iterator[IO[Any]]:
    """Open a file that takes its name when the block ends, synced to disk; an error leaves nothing.

    A file that was there before stays as it was until then.

    Args:
        path: the name to take; its folder must exist.
        text: UTF-8 text with newlines as written, instead of bytes.

    Raises:
        OSError: the file cannot be written, or cannot take its name.
    """
    target = Path(path)
    mode, encoding, newline = ("w", "utf-8", "") if text else ("wb", None, None)
    with tempfile.NamedTemporaryFile(
        mode,
        encoding=encoding,
        newline=newline,
        dir=target.parent,
        prefix=f".{target.name}.",
        delete=False,
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())  # temporary files are private, results are not
            os.replace(file.name, target)
        except BaseException:  # Ctrl-C too must leave nothing; it goes on from here
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)
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


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
