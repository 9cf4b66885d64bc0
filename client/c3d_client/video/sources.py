"""What the user names, turned into the videos of a run, and each of them opened.

The step before the walk: files, folders, patterns, lists and URLs become `Source`s, each with the
name under which its results are written. `remote.py` does what lies in stores and on web servers.
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
from urllib.parse import unquote

from c3d_client.core.errors import UsageError, VideoUnreadableError
from c3d_client.core.uri import OBJECT_STORES, STORES, redact, scheme
from c3d_client.video import stores as remote
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


@dataclass(frozen=True, slots=True)
class Source:
    """One video of a run.

    Args:
        uri: what opens it: a path or a URL. It may hold credentials and is not shown; see
            :func:`display`.
        name: the relative path, with forward slashes, under which its results go.

    Raises:
        UsageError: a name that is empty, absolute, or leads out of its folder.
    """

    uri: str = field(repr=False)
    name: str

    def __post_init__(self) -> None:
        parts = self.name.split("/")
        if "\0" in self.name or not {"", ".", ".."}.isdisjoint(parts):
            raise UsageError(
                f"{redact(self.uri)!r}: its results cannot be written under the name "
                f"{self.name!r}; a relative path without '..' expected"
            )


def expand(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    root: str | os.PathLike[str] | None = None,
    stdin: Iterable[str] | Iterable[bytes] | None = None,
) -> list[Source]:
    """Turn what the user names into videos: in the order given, folders sorted by path.

    - A file is taken whatever it is called, and also where it does not exist: it fails later, as
      one video. Its name is its path as typed, without leading `../`, or the file name alone of an
      absolute path or a URL.
    - A folder is searched for files with :data:`VIDEO_SUFFIXES`, recursively and through links.
      Hidden files and folders are left out. Names are relative to it, as with `rsync folder/`.
    - A pattern (`*`, `?`, `[a-z]`, and `**` for any folders) that is no existing file is matched as
      a shell does it, a folder that matches being searched. Names are relative to the part before
      the pattern. Only files with video suffixes are taken, unless the pattern names another.
    - `-` reads inputs from standard input, one a line; empty lines and those that begin with `#`
      are left out.
    - `s3://` and `gs://` name objects, folders (a name that ends in `/`, or has no video suffix and
      is one) and patterns. `http://` and `https://` name one file. `file://` is a path. Other URLs
      are left to FFmpeg.

    Args:
        inputs: paths, patterns, URLs or `-`.
        root: a folder or URL; names are then relative to it.
        stdin: the lines that `-` stands for; the process's standard input where None.

    Returns:
        The videos; what is named twice counts once.

    Raises:
        UsageError: a folder or pattern without videos, a folder that cannot be listed, an input
            that is not below `root`, two inputs of the same name, or a library that is missing.
    """
    found: dict[str, Source] = {}
    seen: set[str] = set()
    for uri, name in _inputs(inputs, stdin):
        same = uri if scheme(uri) else os.path.abspath(uri)
        if same in seen:
            continue
        seen.add(same)
        source = Source(uri, name if root is None else _below(uri, os.fsdecode(root)))
        other = found.setdefault(source.name, source)
        if other is not source:
            raise UsageError(
                f"{redact(other.uri)} and {redact(uri)} would both be written as "
                f"{source.name!r}; give the folder that holds both, or name it with --root, or "
                "take them in two runs"
            )
    return list(found.values())


@contextlib.contextmanager
def open_source(uri: str | os.PathLike[str]) -> Iterator[str | RemoteFile]:
    """What PyAV's `av.open` takes, until the block ends.

    Yields:
        The path of a local file, a URL that FFmpeg opens itself (rtsp://), or a file to read from:
        s3://, gs://, http:// and https:// come in blocks, each once, and without a copy on disk.

    Raises:
        VideoUnreadableError: it cannot be opened; or, when the block ends, it could not be read to
            the end, whatever the decoder made of that. A server that falls silent is given up
            after three minutes at most.
        VideoDecodeError: it is empty.
        UsageError: the library for this kind of URL is not installed.
    """
    text = os.fsdecode(uri)
    if scheme(text) not in STORES:
        yield _local_path(text)
        return
    with remote.open_remote(text) as file:
        yield file


def fingerprint(uri: str | os.PathLike[str]) -> dict[str, str | int]:
    """What tells whether a source is still the same, without reading it.

    Returns:
        `size` in bytes and `mtime_ns` of a file; `size`, `etag`, `checksum` and `modified` of a
        remote one, as far as the server gives them; nothing of URLs that FFmpeg opens itself.

    Raises:
        VideoUnreadableError: it is not there, or cannot be asked for.
        UsageError: the library for this kind of URL is not installed.
    """
    text = os.fsdecode(uri)
    if scheme(text) in STORES:
        return remote.remote_fingerprint(text)
    path = _local_path(text)
    if scheme(path):
        return {}
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise VideoUnreadableError(path, "no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoUnreadableError(path, f"cannot be read ({reason})") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _inputs(
    inputs: Iterable[str | os.PathLike[str]], stdin: Iterable[str] | Iterable[bytes] | None
) -> Iterator[tuple[str, str]]:
    """Each video's path or URL, and its name."""
    for given in inputs:
        text = os.fsdecode(given)
        if text != "-":
            yield from _expanded(text)
            continue
        # Bytes, where there are any: names of files need not be valid UTF-8.
        lines = getattr(sys.stdin, "buffer", sys.stdin) if stdin is None else stdin
        empty = True
        for number, line in enumerate(lines):
            text = os.fsdecode(line).rstrip("\r\n")
            if not number:
                text = text.removeprefix("\N{BYTE ORDER MARK}")
            if text.strip() and not text.startswith("#"):
                empty = False
                yield from _expanded(text)
        if empty:
            raise UsageError("-: standard input names no videos; give one path or URL a line")


def _expanded(text: str) -> Iterator[tuple[str, str]]:
    kind = scheme(text)
    if kind in ("", "file"):
        yield from _local(_local_path(text))
    elif kind in OBJECT_STORES:
        yield from _stored(text)
    else:
        yield text, _url_name(text)


def _local(path: str) -> Iterator[tuple[str, str]]:
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
    empty = True
    for parts in files_in(folder or ".", pattern) if os.path.isdir(folder or ".") else ():
        empty = False
        yield os.path.join(folder, *parts), "/".join(parts)
    if empty:
        raise _nothing(path)


def _stored(uri: str) -> Iterator[tuple[str, str]]:
    folder, pattern = uri.rstrip("/"), EVERYTHING
    last = uri.rpartition("/")[2]
    if is_pattern(uri) and "?versionId=" not in uri and not remote.is_object(uri):
        parts = uri.split("/")
        fixed = next(at for at, part in enumerate(parts) if is_pattern(part))
        folder, pattern = "/".join(parts[:fixed]), tuple(parts[fixed:])
    elif last and (is_video(last) or not remote.is_folder(uri)):
        yield uri, _url_name(uri)
        return
    # Only where a pattern leads, not all that the bucket holds.
    narrow = None if pattern[0] == "**" else lambda below: leads(below, pattern)
    empty = True
    for below in remote.files_below(folder, narrow):
        if is_wanted(below, pattern):
            empty = False
            # A key may hold "//", a path of results not.
            yield "/".join((folder, *below)), "/".join(filter(None, below))
    if empty:
        raise _nothing(uri)


def _nothing(text: str) -> UsageError:
    what = "matches no videos" if is_pattern(text) else "no videos there"
    suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
    return UsageError(f"{redact(text)}: {what} (files named {suffixes})")


def _split_pattern(path: str) -> tuple[str, Parts]:
    """The folder before a pattern, and the pattern's parts; folders may have `[` in their names."""
    parts = PurePath(path).parts
    folder = ""
    for at, part in enumerate(parts):
        inner = os.path.join(folder, part)
        if is_pattern(part) and not os.path.isdir(inner):
            return folder, parts[at:]
        folder = inner
    return folder, EVERYTHING


def _local_path(text: str) -> str:
    if scheme(text) != "file":
        return text
    return unquote(text[len("file://") :].removeprefix("localhost"))


def _file_name(path: str) -> str:
    pure = PurePath(os.path.normpath(path))
    return pure.name if pure.is_absolute() else "/".join(p for p in pure.parts if p != "..")


def _url_parts(uri: str) -> list[str]:
    """A URL's host or bucket, and its path in parts, without user and query."""
    kind = scheme(uri)
    rest = uri[len(kind) + 3 :]
    if kind in OBJECT_STORES:
        parts = rest.partition("?versionId=")[0].split("/")
    else:
        host, _, path = rest.partition("?")[0].partition("#")[0].partition("/")
        parts = [host.rpartition("@")[2], *unquote(path).split("/")]
    return [part for part in parts if part not in ("", ".", "..")]


def _url_name(uri: str) -> str:
    return "".join(_url_parts(uri)[-1:])


def _below(uri: str, root: str) -> str:
    """A source's path below the root."""
    if scheme(uri):
        base, parts = _url_parts(root), _url_parts(uri)
        inside = scheme(root) == scheme(uri) and parts[: len(base)] == base
        name = "/".join(parts[len(base) :])
    else:
        parts = os.path.relpath(uri, _local_path(root)).split(os.sep)
        inside = not scheme(_local_path(root)) and parts[0] != ".."
        name = "/".join(parts)
    if not inside:
        raise UsageError(f"{redact(uri)}: is not below the root, {redact(root)}")
    return name


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
