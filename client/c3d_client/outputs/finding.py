"""What features there are: the ones named, and those in folders named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3d_client.atomic import TEMPORARY_PREFIX
from c3d_client.errors import OutputError, UsageError
from c3d_client.outputs.caffe import is_folder_of_blobs
from c3d_client.outputs.formats import FORMATS, Format, format_named, format_of


@dataclass(frozen=True)
class Found:
    """Features of a video, or a collection of many.

    Args:
        path: the file or folder.
        name: its path inside the folder that was looked through, without the format's ending.
    """

    path: Path
    name: str


def find_features(
    inputs: Sequence[str | os.PathLike[str]], format: str | None = None
) -> tuple[Format, list[Found]]:
    """The features named and those below the folders named, in order, all of one format.

    Args:
        inputs: files and folders. Below folders, files of other kinds are passed over.
        format: which to look for; whichever they are in where None.

    Raises:
        UsageError: there are none, or they are in several formats, or a name does not tell.
        OutputError: a folder cannot be read.
    """
    only = None if format is None else format_named(format)
    found: dict[Path, tuple[Format, Found]] = {}
    for given in map(Path, inputs):
        for kind, path in _at(given, only):
            top = given if path != given else path.parent
            relative = path.relative_to(top).as_posix()
            found.setdefault(path, (kind, Found(path, relative.removesuffix(kind.suffix))))
    kinds = {kind.name: one.path for kind, one in found.values()}
    if not kinds:
        what = "features" if only is None else f"{only.name} features"
        raise UsageError(
            f"no {what} in {', '.join(os.fspath(path) for path in inputs) or 'nothing'}"
        )
    if len(kinds) > 1:
        several = " and ".join(f"{path} ({name})" for name, path in sorted(kinds.items()))
        raise UsageError(f"features of several formats, {several}; say which to convert from")
    return format_named(next(iter(kinds))), [one for _, one in found.values()]


def _at(given: Path, only: Format | None) -> Iterator[tuple[Format, Path]]:
    if not given.is_dir():
        yield only or format_of(given), given
    elif kind := _folder_format(given, only):
        yield kind, given
    else:
        yield from _below(given, only)


def _below(top: Path, only: Format | None) -> Iterator[tuple[Format, Path]]:
    def fail(error: OSError) -> None:
        raise OutputError(error.filename, f"cannot be read ({error.strerror})") from error

    for folder, folders, files in os.walk(top, onerror=fail):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(TEMPORARY_PREFIX))
        for name in list(folders):
            if kind := _folder_format(here / name, only):
                folders.remove(name)
                yield kind, here / name
        for name in sorted(files):
            for kind in FORMATS.values():
                fits = name.endswith(kind.suffix) and not kind.folder
                if fits and only in (None, kind) and not name.startswith(TEMPORARY_PREFIX):
                    yield kind, here / name


def _folder_format(path: Path, only: Format | None) -> Format | None:
    """The format of which this folder is one video; folders without our ending only on request."""
    for kind in FORMATS.values():
        if kind.folder and only in (None, kind):
            named = path.name.endswith(kind.suffix)
            if named or (only is kind and is_folder_of_blobs(path)):
                return kind
    return None
