"""Names of videos to opened videos: files, folders, patterns, lists and URLs.

:func:`expand` turns what a user names into :class:`Source` values, each with the name under which
its results are written; :func:`open_source` opens one of them. Object stores and web servers are in
:mod:`c3d_client.video.stores`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import PurePath

from c3d_client.core.arguments import path_text, require_several
from c3d_client.core.contract import LAYERS
from c3d_client.core.errors import UsageError, VideoUnreadableError
from c3d_client.core.text import escape_bytes, escape_controls
from c3d_client.core.uri import Uri, UriLike
from c3d_client.video import stores
from c3d_client.video.images import (
    IMAGE_SUFFIXES,
    find_images,
    image_matcher,
    is_image,
    is_image_pattern,
    names_images,
)
from c3d_client.video.stores import RemoteFile, fingerprint_of, is_object, open_store, reason

__all__ = [
    "EVERYTHING",
    "NEW_SUFFIXES",
    "Parts",
    "Scan",
    "VIDEO_SUFFIXES",
    "Source",
    "expand",
    "fingerprint",
    "fingerprint_of",
    "is_object",
    "is_pattern",
    "is_video",
    "leads",
    "new_suffixes_text",
    "open_source",
    "open_store",
    "reason",
]

# The suffixes of the videos of data sets, in FFmpeg's formats; a folder's other files are not
# inputs. Stills and text are not among them, although FFmpeg has decoders that read them.
# Release 0.1.0 did not take the second group.
NEW_SUFFIXES = frozenset(
    (".asf", ".divx", ".dv", ".f4v", ".gif", ".m2v", ".mjpeg", ".mpe", ".mxf", ".nut", ".ogg")
    + (".ogm", ".qt", ".rm", ".rmvb", ".y4m")
)
VIDEO_SUFFIXES = NEW_SUFFIXES | frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts")
    + (".ogv", ".ts", ".vob", ".webm", ".wmv")
)

Parts = tuple[str, ...]
EVERYTHING: Parts = ("**",)

# What a run writes next to its videos: `a.mp4.npz` for `a.mp4`. A test compares these with the
# formats of c3d_client.outputs, which this package may not import.
_OUTPUT_SUFFIXES = (
    *(".h5", ".hdf5", ".npy", ".npy.json", ".npz", ".parquet", "_C.txt", "_C.txt.json"),
    *(".html", ".png", *(f".{layer}.npy" for layer in LAYERS)),
)
_OUTPUT_FOLDER_SUFFIX = ".fc6"
_FAILURES = re.compile(r"failures(\.[0-9]+-of-[0-9]+)?\.csv")
_CUT_NAME = re.compile("~[0-9a-f]{16}")  # how c3d_client.outputs ends a name that it cuts
_TAKES_ALL = "; --any takes all"
_MOST_SUFFIXES = 6
_LONGEST_SUFFIX = 16


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


class Scan:
    """What the searches of folders and patterns take, and how many files they left out.

    Hidden files, and files that a run wrote next to its videos (``failures.csv``, ``a.mp4.npz``),
    are neither taken nor counted.

    Args:
        any_file: take files of every suffix.
        frames: take folders of images, each as one video; see :func:`expand`.
        results: the folder of a run's results, whose files are neither taken nor counted where it
            is below a folder that is searched; None for none.

    Attributes:
        left_out: the number of files that were left out, by suffix in lower case; the key is empty
            for files without a suffix.
    """

    def __init__(
        self, *, any_file: bool = False, frames: bool = False, results: UriLike | None = None
    ) -> None:
        if any_file and frames:
            raise UsageError("any_file takes videos of every suffix, and frames takes no videos")
        self.any_file = any_file
        self.frames = frames
        self.left_out: Counter[str] = Counter()
        self._results = None if results is None else Uri.of(results)
        self._searched: set[tuple[Uri, Parts]] = set()

    def __str__(self) -> str:
        """Return what was left out, as ``6 files left out: 4 .bin, 2 .txt; --any takes all``.

        The text is empty where nothing was left out.
        """
        text = left_out_text(self.left_out)
        return text.removesuffix(_TAKES_ALL) if self.frames else text

    def search(
        self,
        folder: UriLike,
        pattern: Parts = EVERYTHING,
        *,
        is_input: Callable[[str], bool] | None = None,
    ) -> Search:
        """Return the decisions about the files of one folder. Files are counted once a folder.

        Args:
            folder: the folder.
            pattern: of the files, in parts.
            is_input: whether a file of this name is an input; by default those with video suffixes.
        """
        searched = (Uri.of(folder).canonical(), pattern)
        counts = Counter[str]() if searched in self._searched else self.left_out
        self._searched.add(searched)
        below = None if self._results is None else self._results.relative_to(Uri.of(folder))
        results = () if below in (None, ".") else tuple(str(below).split("/"))
        return Search(
            pattern, any_file=self.any_file, results=results, left_out=counts, is_input=is_input
        )


class Search:
    """Decides which files of one folder are inputs; created by :meth:`Scan.search`.

    Args:
        pattern: the pattern, in parts.
        any_file: take files of every suffix.
        results: the path of the folder of results below this folder, in parts; empty for none.
        left_out: where files are counted by their suffix.
        is_input: as for :meth:`Scan.search`.
    """

    def __init__(
        self,
        pattern: Parts,
        *,
        any_file: bool,
        results: Parts,
        left_out: Counter[str],
        is_input: Callable[[str], bool] | None = None,
    ) -> None:
        suffix = os.path.splitext(pattern[-1])[1]
        self._pattern = pattern
        self._is_input = is_input or is_video
        self._names_suffix = is_input is None and bool(suffix) and not is_pattern(suffix)
        self._any_file = any_file
        self._results = results
        self._left_out = left_out

    def takes(self, parts: Parts, *, beside: AbstractSet[str] = frozenset()) -> bool:
        """Whether a file is an input that the pattern matches.

        Files without a video suffix are left out and counted, unless all files are taken or the
        pattern itself ends in their suffix. Hidden files, and files in hidden folders, never match.

        Args:
            parts: of the file's path below the folder.
            beside: the names in the file's own folder, as far as they are known.
        """
        if any(part.startswith(".") for part in parts) or not _matches(parts, self._pattern):
            return False
        if self._results and parts[: len(self._results)] == self._results:
            return False
        name = parts[-1]
        if not name:  # the object that a store keeps for an empty folder
            return False
        if self._names_suffix and fnmatch.fnmatchcase(name, self._pattern[-1]):
            return True
        if self._is_input(name):
            return True
        if _is_output(parts, beside):
            return False
        if not self._any_file:
            self._left_out[os.path.splitext(name)[1].lower()] += 1
        return self._any_file


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Return how many files a search left out, by suffix, on one line; empty for none.

    >>> left_out_text({".bin": 4, ".txt": 2})
    '6 files left out: 4 .bin, 2 .txt; --any takes all'
    """
    total = sum(left_out.values())
    if not total:
        return ""
    files = "1 file" if total == 1 else f"{total} files"
    return f"{files} left out: {_by_suffix(left_out)}{_TAKES_ALL}"


def new_suffixes_text(names: Iterable[str]) -> str:
    """Return how many videos release 0.1.0 would not have taken from a folder; empty for none.

    >>> new_suffixes_text(["a.gif", "b.mp4"])
    '1 video has a suffix that release 0.1.0 left out: 1 .gif'
    """
    suffixes = (os.path.splitext(name)[1].lower() for name in names)
    counts = Counter(suffix for suffix in suffixes if suffix in NEW_SUFFIXES)
    total = sum(counts.values())
    if not total:
        return ""
    videos = "1 video has a suffix" if total == 1 else f"{total} videos have suffixes"
    return f"{videos} that release 0.1.0 left out: {_by_suffix(counts)}"


def _by_suffix(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [
        f"{number} {escape_controls(suffix[:_LONGEST_SUFFIX]) or 'without suffix'}"
        for suffix, number in ordered[:_MOST_SUFFIXES]
    ]
    others = sum(number for _, number in ordered[_MOST_SUFFIXES:])
    return ", ".join([*shown, f"{others} of other suffixes"] if others else shown)


def _is_output(parts: Parts, beside: AbstractSet[str]) -> bool:
    """Whether a run wrote the file for a video next to it."""
    if _FAILURES.fullmatch(parts[-1]):
        return True
    if any(part.endswith(_OUTPUT_FOLDER_SUFFIX) for part in parts[:-1]):
        return True
    stems = (parts[-1].removesuffix(suffix) for suffix in _OUTPUT_SUFFIXES)
    return any(
        stem != parts[-1]
        and (
            is_video(stem)
            or stem in beside
            or _CUT_NAME.search(stem[-17:])
            or any(f"{stem}{suffix}" in beside for suffix in VIDEO_SUFFIXES)  # named by {stem}
        )
        for stem in stems
    )


def expand(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    root: str | os.PathLike[str] | None = None,
    stdin: Iterable[str] | Iterable[bytes] | None = None,
    scan: Scan | None = None,
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

    With `Scan(frames=True)` each folder of images is one video, and the inputs are such folders, or
    folders above them, or patterns. The name of a video is the path of its folder below the input;
    of an input that holds images itself, the folder's own path as typed. A pattern whose last part
    is one of images (`frames/*/img_%05d.jpg`, `frames/*/*.png`) takes those images of each folder
    that its other parts match.

    Args:
        inputs: paths, patterns, URLs or `-`.
        root: a folder or URL; names are then relative to it.
        stdin: the lines that `-` reads; the process's standard input where None.
        scan: what folders and patterns take; it counts what they left out.

    Returns:
        The videos; a video that is named twice counts once.

    Raises:
        UsageError: a folder or pattern without videos, a folder that cannot be listed, an input
            that is not below `root`, two inputs of the same name or of names that lists show alike,
            a library that is missing, or one path instead of a list.
    """
    sources: dict[str, Source] = {}
    seen: set[Uri] = set()
    scan = scan or Scan()
    for uri, name in _inputs(inputs, stdin, scan):
        canonical = uri.canonical()
        if canonical in seen:
            continue
        seen.add(canonical)
        if root is not None:
            is_part = scan.frames and not os.path.isdir(uri.path)  # a pattern in a folder
            name = _name_below(uri.parent if is_part else uri, Uri.of(root))
        source = Source(uri.raw, name)
        other = sources.setdefault(escape_bytes(source.name), source)
        if other is not source and other.name != source.name:
            raise UsageError(
                f"two files would both be listed as {escape_bytes(source.name)}: one has bytes in "
                "its name that are not UTF-8, the other a backslash; rename one of them"
            )
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
        `size` in bytes and `mtime_ns` of a file; `images`, their number, and `listing_sha256`, a
        digest of their names, sizes and modification times, of a folder or pattern of images;
        `size`, `etag`, `checksum` and `modified` of a remote video, as far as the server sends
        them; nothing for URLs that FFmpeg opens itself.

    Raises:
        VideoUnreadableError: the video does not exist, or the server does not answer.
        VideoDecodeError: images are missing, or are not those of one video.
        UsageError: the library for this kind of URL is not installed.
    """
    uri = Uri.of(uri)
    if uri.store:
        return stores.remote_fingerprint(uri)
    path = uri.local_path
    if path is None:
        return {}
    if names_images(path):
        return find_images(path).fingerprint()
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


def files_in(
    folder: str,
    pattern: Parts,
    *,
    search: Search | None = None,
    parts: Parts = (),
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[Parts]:
    """Yield the paths of the matching files below a folder on disk, in parts, sorted.

    Links are followed.

    Args:
        folder: the folder.
        pattern: the pattern, in parts.
        search: which files match; by default the videos that the pattern matches.
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
    search = search or Scan().search(folder, pattern)
    names = {entry.name for entry in entries}
    for entry in entries:
        below = (*parts, entry.name)
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            if not entry.name.startswith(".") and leads(below, pattern):
                yield from files_in(
                    entry.path, pattern, search=search, parts=below, above=above | {identity}
                )
        # A broken link is a video that fails, so that it is not missing from the results.
        elif (entry.is_symlink() or entry.is_file()) and search.takes(below, beside=names):
            yield below


def _inputs(
    inputs: Iterable[str | os.PathLike[str]],
    stdin: Iterable[str] | Iterable[bytes] | None,
    scan: Scan,
) -> Iterator[tuple[Uri, str]]:
    """Yield the address of each video, and its name."""
    for entry in require_several(inputs, "inputs", each="paths, patterns or URLs"):
        text = path_text(entry, "an input")
        if text != "-":
            yield from _videos_of(Uri(text), scan)
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
                yield from _videos_of(Uri(text), scan)
        if is_empty:
            raise UsageError("-: standard input names no videos; give one path or URL a line")


def _videos_of(uri: Uri, scan: Scan) -> Iterator[tuple[Uri, str]]:
    path = uri.local_path
    if scan.frames:
        yield from _image_folders(uri, scan)
    elif path is not None:
        for local, name in _local_videos(path, scan):
            yield Uri(local), name
    elif uri.is_object_store:
        yield from _stored_videos(uri, scan)
    else:
        yield uri, uri.name


def _local_videos(path: str, scan: Scan) -> Iterator[tuple[str, str]]:
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
    top = folder or "."
    search = scan.search(top, pattern)
    for parts in files_in(top, pattern, search=search) if os.path.isdir(top) else ():
        is_empty = False
        yield os.path.join(folder, *parts), "/".join(parts)
    if is_empty:
        error = no_videos(Uri(path), scan)
        if IMAGE_SUFFIXES & scan.left_out.keys():
            raise UsageError(f"{error}; --frames takes folders of images")
        raise error


def _stored_videos(uri: Uri, scan: Scan) -> Iterator[tuple[Uri, str]]:
    folder, pattern = Uri(uri.raw.rstrip("/")), EVERYTHING
    if is_pattern(uri.raw) and not uri.has_version and not stores.is_object(uri):
        folder, pattern = uri.split_before(is_pattern)
    elif not uri.names_folder and (is_video(uri.name) or not stores.is_folder(uri)):
        yield uri, uri.name
        return
    # Only the folders that the pattern can match are listed, not the whole bucket.
    descend = None if pattern[0] == "**" else lambda below: leads(below, pattern)
    is_empty = True
    search = scan.search(folder, pattern)
    for parts in stores.files_below(folder, descend):
        if search.takes(parts):
            is_empty = False
            # The name of an object may contain "//", the path of results may not.
            yield folder.join("/".join(parts)), "/".join(filter(None, parts))
    if is_empty:
        raise no_videos(uri, scan)


def _image_folders(uri: Uri, scan: Scan) -> Iterator[tuple[Uri, str]]:
    """Yield each folder of images, or the pattern of images in it, and the name of its video."""
    path = uri.local_path
    if path is None:
        raise UsageError(f"{uri}: images are read from folders on this machine; copy them to one")
    head, last = os.path.split(path)
    if not os.path.isdir(path) and is_image_pattern(last):
        found = list(_folders_with(image_matcher(last), head))
    elif os.path.isdir(path) or is_pattern(path):
        folder, pattern = (path, EVERYTHING) if os.path.isdir(path) else _split_pattern(path)
        top, last = folder or ".", ""
        search = scan.search(top, pattern, is_input=is_image)
        files = files_in(top, pattern, search=search) if os.path.isdir(top) else ()
        # One entry for a folder, however many images it holds.
        found = [(folder, below) for below in dict.fromkeys(parts[:-1] for parts in files)]
    else:
        what = "a file" if os.path.lexists(path) else "not there"
        raise UsageError(f"{uri}: is {what}; give a folder of images, or folders of them")
    if not found:
        raise no_videos(uri, scan)
    for folder, below in found:
        own_name = _file_name(folder or ".") or os.path.basename(os.path.abspath(folder))
        directory = os.path.join(folder, *below)
        yield (
            Uri(os.path.join(directory, last) if last else directory or "."),
            "/".join(below) or own_name,
        )


def _folders_with(matches: Callable[[str], bool], path: str) -> Iterator[tuple[str, Parts]]:
    """Yield the folders that a path or pattern names and that hold a file of a matching name.

    Each is its part before the pattern, and the parts below.
    """
    folder = path
    pattern: Parts = ()
    if is_pattern(path) and not os.path.isdir(path):
        folder, pattern = _split_pattern(path)
    expression = os.path.join(glob.escape(folder or "."), *pattern)
    for name in sorted(filter(os.path.isdir, glob.glob(expression, recursive=True))):
        try:
            has_images = any(matches(each) for each in os.listdir(name))
        except OSError as error:
            raise UsageError(f"{name}: cannot be listed ({error.strerror})") from error
        if has_images:
            below = os.path.relpath(name, folder or ".")
            yield folder, () if below == "." else tuple(below.split(os.sep))


def no_videos(uri: Uri, scan: Scan) -> UsageError:
    """Return the error of a search that found no videos, with what it left out."""
    kind = "files" if scan.any_file else "images" if scan.frames else "videos"
    what = f"matches no {kind}" if is_pattern(uri.raw) else f"no {kind} there"
    named = ", ".join(sorted(IMAGE_SUFFIXES if scan.frames else VIDEO_SUFFIXES))
    suffixes = "" if scan.any_file else f" (files named {named})"
    left_out = f"; {scan}" if scan.left_out else ""
    return UsageError(f"{uri}: {what}{suffixes}{left_out}")


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
