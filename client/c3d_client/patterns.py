"""Files below a folder that a pattern names: a shell's `*`, `?`, `[a-z]`, and `**` for any folders.

Used by `sources.py`, alike for folders on disk and for what object stores list. A folder without a
pattern is the pattern `**`.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from operator import attrgetter

from c3d_client.errors import UsageError

# What FFmpeg's common demuxers are called by; other files in a folder are not inputs.
VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts")
    + (".ogv", ".ts", ".vob", ".webm", ".wmv")
)

Parts = tuple[str, ...]
EVERYTHING: Parts = ("**",)


def is_video(name: str) -> bool:
    """Whether a file is called as videos are."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_pattern(text: str) -> bool:
    """Whether it would be a pattern to a shell."""
    return any(mark in text for mark in "*?[")


def leads(parts: Parts, pattern: Parts) -> bool:
    """Whether a folder, given by its path in parts, may hold what the pattern names."""
    return _fits(parts, pattern, partly=True)


def is_wanted(parts: Parts, pattern: Parts) -> bool:
    """Whether a file is a video that the pattern names.

    Files with other suffixes are left out, unless the pattern itself ends in theirs; what is hidden
    is left out always.
    """
    suffix = os.path.splitext(pattern[-1])[1]
    named = suffix and not is_pattern(suffix) and fnmatch.fnmatchcase(parts[-1], pattern[-1])
    hidden = any(part.startswith(".") for part in parts)
    return bool(named or is_video(parts[-1])) and not hidden and _fits(parts, pattern)


def files_in(
    folder: str,
    pattern: Parts,
    *,
    parts: Parts = (),
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[Parts]:
    """The wanted files' paths below a folder on disk, in parts, sorted; links are followed.

    `parts` and `above` are where it stands when it calls itself.

    Raises:
        UsageError: a folder cannot be listed.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=attrgetter("name"))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({error.strerror})") from error
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder that holds it
        return
    for entry in entries:
        below = (*parts, entry.name)
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            if not entry.name.startswith(".") and leads(below, pattern):
                yield from files_in(entry.path, pattern, parts=below, above=above | {here})
        # A link that leads nowhere is a video that fails, not one that was never there.
        elif (entry.is_symlink() or entry.is_file()) and is_wanted(below, pattern):
            yield below


def _fits(parts: Parts, pattern: Parts, *, partly: bool = False) -> bool:
    """Whether a path matches, or lies in a folder that does; partly: or may lead to what does."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return partly or any(_fits(parts[at:], pattern[1:]) for at in range(len(parts) + 1))
    if not parts:
        return partly
    fits = fnmatch.fnmatchcase(parts[0], pattern[0])
    return fits and _fits(parts[1:], pattern[1:], partly=partly)
