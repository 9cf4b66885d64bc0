"""Free space of disks, and the texts for full disks and for files that cannot be read."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The numbers of the errors of a full disk, and of a full quota on it."""

_NAMES_SHOWN = 5


def free_bytes(path: Path) -> int | None:
    """Return the bytes that this user may write on a path's disk; None where that is unknown.

    Args:
        path: a file or folder, which may not exist yet.
    """
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(path)
        if usage.total:  # some network file systems have no size
            return usage.free
    return None


def need_text(needed: int, free: int | None) -> str:
    """Return the needed and the free bytes for a message about a full disk."""
    text = f"it needs {needed:,} bytes"
    return text if free is None else f"{text}, and {free:,} are free there"


def unreadable_text(path: str | Path, error: OSError) -> str:
    """Return why a file cannot be read; for one that is missing, what its folder has."""
    text = f"cannot be read ({error.strerror})"
    if not isinstance(error, FileNotFoundError):
        return text
    folder = Path(path).parent
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as folder_error:
        return f"{text}; its folder neither ({folder_error.strerror})"
    more = len(names) - _NAMES_SHOWN
    shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return (
        f"{text}: {folder} has {shown or 'no files'}; put the file there, or fetch a published one "
        "with c3d-export fetch"
    )
