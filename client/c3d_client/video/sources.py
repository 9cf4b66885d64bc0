"""Names of videos to opened videos: files, folders, patterns, lists and URLs.

:func:`expand` turns what a user names into :class:`Source` values, each with the name under which
its results are written; :func:`open_source` opens one of them. Object stores and web servers are in
:mod:`c3d_client.video.stores`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import PurePath

from c3d_client.core.arguments import path_text, require_several
from c3d_client.core.errors import UsageError, VideoUnreadableError
from c3d_client.core.uri import Uri, UriLike
from c3d_client.video import stores
from c3d_client.video.stores import RemoteFile, fingerprint_of, is_object, open_store, reason

__all__ = [
    "EVERYTHING",
    "Parts",
    "VIDEO_SUFFIXES",
    "Source",
    "expand",
    "fingerprint",
    "fingerprint_of",
    "is_object",
    "is_pattern",
    "is_video",
    "is_wanted",
    "leads",
    "open_source",
    "open_store",
    "reason",
]

# The suffixes of FFmpeg's common formats; a folder's other files are not inputs.
VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts")
    + (".ogv", ".ts", ".vob", ".webm", ".wmv")
)

Parts = tuple[str, ...]
EVERYTHING: Parts = ("**",)


@dataclass(frozen=True, slots=True)
class Source:
    """One video of a run.

    Args:
        uri: the path or URL that opens the video. It may contain credentials, so it is not in the
            repr; ``str(Uri(uri))`` shows it redacted.
        name: the relative path, with forward slashes, under which its results are written.

    Raises:
        UsageError: the name is empty, absolute, or leads out of its folder.
    """

    uri: str = field(repr=False)
    name: str

    def __post_init__(self) -> None:
        parts = self.name.split("/")
        if "\0" in self.name or not {"", ".", ".."}.isdisjoint(parts):
            raise UsageError(
                f"{str(Uri(self.uri))!r}: its results cannot be written under the name "
                f"{self.name!r}; a relative path without '..' expected"
            )


def expand(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    root: str | os.PathLike[str] | None = None,
    stdin: Iterable[str] | Iterable[bytes] | None = None,
) -> list[Source]:
    """Return the videos that the inputs name: in the order of the inputs, folders sorted by path.

    - A file is accepted under any name, and also where it does not exist: it fails later, as one
      video. Its name is its path as typed, without leading `../`, or the file name alone of an
      absolute path or a URL.
    - A folder is searched for files with :data:`VIDEO_SUFFIXES`, recursively and through links.
      Hidden files and folders are left out. Names are relative to it, as with `rsync folder/`.
    - A pattern (`*`, `?`, `[a-z]`, and `**` for any folders) that is no existing file is matched as
      a shell does it, and a folder that matches is searched. Names are relative to the part before
      the pattern. Only files with video suffixes match, unless the pattern has another suffix.
    - `-` reads inputs from standard input, one on each line; empty lines and those that begin with
      `#` are left out.
    - `s3://` and `gs://` name objects, folders (a name that ends in `/`, or has no video suffix and
      is one) and patterns. `http://` and `https://` name one file. `file://` is a path. FFmpeg
      opens other URLs.

    Args:
        inputs: paths, patterns, URLs or `-`.
        root: a folder or URL; names are then relative to it.
        stdin: the lines that `-` reads; the process's standard input where None.

    Returns:
        The videos; a video that is named twice counts once.

    Raises:
        UsageError: a folder or pattern without videos, a folder that cannot be listed, an input
            that is not below `root`, two inputs of the same name, a library that is missing, or
            one path instead of a list.
    """
    sources: dict[str, Source] = {}
    seen: set[Uri] = set()
    for uri, name in _inputs(inputs, stdin):
        canonical = uri.canonical()
        if canonical in seen:
            continue
        seen.add(canonical)
        source = Source(uri.raw, name if root is None else _name_below(uri, Uri.of(root)))
        other = sources.setdefault(source.name, source)
        if other is not source:
            raise UsageError(
                f"{Uri(other.uri)} and {uri} would both be written as "
                f"{source.name!r}; give the folder that holds both, or name it with --root, or "
                "use two runs"
            )
    return list(sources.values())


@contextlib.contextmanager
def open_source(uri: UriLike, *, size: int | None = None) -> Iterator[str | RemoteFile]:
    """Open a video for PyAV's `av.open`, until the block ends.

    Args:
        uri: a path or URL.
        size: the size in bytes of a video on a web server, from its fingerprint; saves a request.

    Yields:
        The path of a local file, a URL that FFmpeg opens itself (rtsp://), or a file to read from:
        s3://, gs://, http:// and https:// are read in blocks, each once, and without a copy on
        disk.

    Raises:
        VideoUnreadableError: the video cannot be opened; or, when the block ends, it could not be
            read to its end, even where the decoder ignored that. A server that stops sending is
            given up after three minutes at most.
        VideoDecodeError: the video is empty.
        UsageError: the library for this kind of URL is not installed.
    """
    uri = Uri.of(uri)
    if not uri.store:
        yield uri.raw if uri.local_path is None else uri.local_path
        return
    with stores.open_remote(uri, size=size) as file:
        yield file


def fingerprint(uri: UriLike) -> dict[str, str | int]:
    """Return the properties that show whether a video has changed, without reading it.

    Returns:
        `size` in bytes and `mtime_ns` of a file; `size`, `etag`, `checksum` and `modified` of a
        remote one, as far as the server sends them; nothing for URLs that FFmpeg opens itself.

    Raises:
        VideoUnreadableError: the video does not exist, or the server does not answer.
        UsageError: the library for this kind of URL is not installed.
    """
    uri = Uri.of(uri)
    if uri.store:
        return stores.remote_fingerprint(uri)
    path = uri.local_path
    if path is None:
        return {}
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise VideoUnreadableError(path, "no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoUnreadableError(path, f"cannot be read ({reason})") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def is_video(name: str) -> bool:
    """Whether the name of a file has a video suffix."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_pattern(text: str) -> bool:
    """Whether a shell would treat the text as a pattern."""
    return any(mark in text for mark in "*?[")


def leads(parts: Parts, pattern: Parts) -> bool:
    """Whether a folder, given by its path in parts, may contain files that a pattern matches."""
    return _matches(parts, pattern, is_folder=True)


def is_wanted(parts: Parts, pattern: Parts) -> bool:
    """Whether a file, given by the parts of its path, is a video that a pattern matches.

    Files without a video suffix do not match, unless the pattern itself ends in their suffix.
    Hidden files, and files in hidden folders, never match.
    """
    suffix = os.path.splitext(pattern[-1])[1]
    is_named = suffix and not is_pattern(suffix) and fnmatch.fnmatchcase(parts[-1], pattern[-1])
    is_hidden = any(part.startswith(".") for part in parts)
    return bool(is_named or is_video(parts[-1])) and not is_hidden and _matches(parts, pattern)


def files_in(
    folder: str,
    pattern: Parts,
    *,
    parts: Parts = (),
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[Parts]:
    """Yield the paths of the matching files below a folder on disk, in parts, sorted.

    Links are followed.

    Args:
        folder: the folder.
        pattern: the pattern, in parts.
        parts: of the folder's path below the first folder, when the function calls itself.
        above: the device and inode numbers of the folders above, when it calls itself.

    Raises:
        UsageError: a folder cannot be listed.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=attrgetter("name"))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({error.strerror})") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a folder that contains it
        return
    for entry in entries:
        below = (*parts, entry.name)
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            if not entry.name.startswith(".") and leads(below, pattern):
                yield from files_in(entry.path, pattern, parts=below, above=above | {identity})
        # A broken link is a video that fails, so that it is not missing from the results.
        elif (entry.is_symlink() or entry.is_file()) and is_wanted(below, pattern):
            yield below


def _inputs(
    inputs: Iterable[str | os.PathLike[str]], stdin: Iterable[str] | Iterable[bytes] | None
) -> Iterator[tuple[Uri, str]]:
    """Yield the address of each video, and its name."""
    for entry in require_several(inputs, "inputs", each="paths, patterns or URLs"):
        text = path_text(entry, "an input")
        if text != "-":
            yield from _videos_of(Uri(text))
            continue
        # Bytes, where standard input has them: names of files need not be valid UTF-8.
        lines = getattr(sys.stdin, "buffer", sys.stdin) if stdin is None else stdin
        is_empty = True
        for number, line in enumerate(lines):
            text = os.fsdecode(line).rstrip("\r\n")
            if not number:
                text = text.removeprefix("\N{BYTE ORDER MARK}")
            if text.strip() and not text.startswith("#"):
                is_empty = False
                yield from _videos_of(Uri(text))
        if is_empty:
            raise UsageError("-: standard input names no videos; give one path or URL a line")


def _videos_of(uri: Uri) -> Iterator[tuple[Uri, str]]:
    path = uri.local_path
    if path is not None:
        for local, name in _local_videos(path):
            yield Uri(local), name
    elif uri.is_object_store:
        yield from _stored_videos(uri)
    else:
        yield uri, uri.name


def _local_videos(path: str) -> Iterator[tuple[str, str]]:
    if not path:
        raise UsageError("an input is empty; give a file, a folder, a pattern or a URL")
    folder, pattern = path, EVERYTHING
    if not os.path.isdir(path):
        if os.path.lexists(path) or not is_pattern(path):
            if path.endswith("/"):
                raise UsageError(f"{path}: no such folder")
            yield path, _file_name(path)
            return
        folder, pattern = _split_pattern(path)
    is_empty = True
    for parts in files_in(folder or ".", pattern) if os.path.isdir(folder or ".") else ():
        is_empty = False
        yield os.path.join(folder, *parts), "/".join(parts)
    if is_empty:
        raise _no_videos(Uri(path))


def _stored_videos(uri: Uri) -> Iterator[tuple[Uri, str]]:
    folder, pattern = Uri(uri.raw.rstrip("/")), EVERYTHING
    if is_pattern(uri.raw) and not uri.has_version and not stores.is_object(uri):
        folder, pattern = uri.split_before(is_pattern)
    elif not uri.names_folder and (is_video(uri.name) or not stores.is_folder(uri)):
        yield uri, uri.name
        return
    # Only the folders that the pattern can match are listed, not the whole bucket.
    descend = None if pattern[0] == "**" else lambda below: leads(below, pattern)
    is_empty = True
    for parts in stores.files_below(folder, descend):
        if is_wanted(parts, pattern):
            is_empty = False
            # The name of an object may contain "//", the path of results may not.
            yield folder.join("/".join(parts)), "/".join(filter(None, parts))
    if is_empty:
        raise _no_videos(uri)


def _no_videos(uri: Uri) -> UsageError:
    what = "matches no videos" if is_pattern(uri.raw) else "no videos there"
    suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
    return UsageError(f"{uri}: {what} (files named {suffixes})")


def _split_pattern(path: str) -> tuple[str, Parts]:
    """Split a path into the folder before a pattern and the pattern's parts.

    The names of existing folders may contain `[`.
    """
    parts = PurePath(path).parts
    folder = ""
    for index, part in enumerate(parts):
        inner = os.path.join(folder, part)
        if is_pattern(part) and not os.path.isdir(inner):
            return folder, parts[index:]
        folder = inner
    return folder, EVERYTHING


def _file_name(path: str) -> str:
    pure = PurePath(os.path.normpath(path))
    return pure.name if pure.is_absolute() else "/".join(p for p in pure.parts if p != "..")


def _name_below(uri: Uri, root: Uri) -> str:
    name = uri.relative_to(root)
    if name is None:
        raise UsageError(f"{uri}: is not below the root, {root}")
    return name


def _matches(parts: Parts, pattern: Parts, *, is_folder: bool = False) -> bool:
    """Whether a path, or a folder above it, matches a pattern.

    Args:
        parts: of the path.
        pattern: in parts.
        is_folder: the path is a folder; it also matches where a file below it could.
    """
    if not pattern:
        return True
    if pattern[0] == "**":
        return is_folder or any(
            _matches(parts[index:], pattern[1:]) for index in range(len(parts) + 1)
        )
    if not parts:
        return is_folder
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(
        parts[1:], pattern[1:], is_folder=is_folder
    )
