"""Where a video's features go: the video's own relative name, and what the format adds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

from c3d_client.errors import UsageError
from c3d_client.outputs.formats import format_named

# What file systems allow for one part of a path.
_MOST_BYTES = 255


def output_path(folder: str | os.PathLike[str], name: str, format: str) -> Path:
    """The path of a video's features: ``a/b.mp4`` gives ``FOLDER/a/b.mp4.npz``.

    The name is kept with its ending, so that ``b.mp4`` and ``b.avi`` do not meet. A part that
    would be longer than the 255 bytes that file systems allow is cut, and told from others by
    what follows a ``~``: 16 digits of the SHA-256 of that part in full.

    Args:
        folder: where all features go.
        name: the video's path inside its own folder, with ``/``.
        format: one of :data:`c3d_client.outputs.FORMATS`.

    Raises:
        UsageError: the name is empty or absolute, or leaves the folder; or the format is unknown.
    """
    chosen = format_named(format)
    relative = PurePosixPath(name)
    parts = relative.parts
    if not parts or relative.is_absolute() or ".." in parts or "\0" in name:
        raise UsageError(f"{name!r} cannot name features; give a relative path without '..'")
    room = _MOST_BYTES - len(os.fsencode(chosen.suffix + chosen.beside))
    last = _fitting(parts[-1], room) + chosen.suffix
    return Path(folder, *(_fitting(part, _MOST_BYTES) for part in parts[:-1]), last)


def _fitting(part: str, room: int) -> str:
    encoded = os.fsencode(part)
    if len(encoded) <= room:
        return part
    digest = f"~{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: room - len(digest)].decode("utf-8", "ignore") + digest
