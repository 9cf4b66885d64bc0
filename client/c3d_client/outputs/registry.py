"""The formats that features are written in, by name and by what a file's name ends in."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from c3d_client.core.errors import C3DError, OutputError, UsageError
from c3d_client.core.files import TEMPORARY_PREFIX
from c3d_client.outputs import activitynet, caffe, h5, npy, npz, parquet, sultani
from c3d_client.outputs.caffe import is_folder_of_blobs
from c3d_client.outputs.npy_io import SIDECAR_SUFFIX
from c3d_client.outputs.validation import check, needed
from c3d_client.results import VideoFeatures

DEFAULT_FORMAT = "npz"
_LIBRARIES = {"h5": "h5py", "parquet": "pyarrow"}  # by the extra that brings each


@dataclass(frozen=True)
class Format:
    """One way to keep a video's features.

    Use :func:`write_features` and its like, which turn what goes wrong into an error of ours.

    Args:
        name: as people ask for it.
        suffix: what its files' names end in.
        about: what it is, in a few words.
        write: features to a path.
        read: features from a path.
        read_provenance: the provenance from a path, without the clips.
        extra: which extra of the distribution it needs; None for none.
        lossless: whether all that was written can be read back.
        many: whether one file holds many videos.
        folder: whether a video is a folder.
        beside: what a second file's name adds to the first's; empty where there is none.
    """

    name: str
    suffix: str
    about: str
    write: Callable[[Path, VideoFeatures], None]
    read: Callable[[Path], VideoFeatures]
    read_provenance: Callable[[Path], dict[str, Any]]
    extra: str | None = None
    lossless: bool = True
    many: bool = False
    folder: bool = False
    beside: str = ""


FORMATS = {
    known.name: known
    for known in (
        Format(
            name="npz",
            suffix=".npz",
            about="NumPy archive, all in one file",
            write=npz.write,
            read=npz.read,
            read_provenance=npz.read_provenance,
        ),
        Format(
            name="npy",
            suffix=".npy",
            about="NumPy array of the clips, the rest in a .json beside it",
            write=npy.write,
            read=npy.read,
            read_provenance=npy.read_provenance,
            beside=SIDECAR_SUFFIX,
        ),
        Format(
            name="h5",
            suffix=".h5",
            about="HDF5, a dataset each",
            write=h5.write,
            read=h5.read,
            read_provenance=h5.read_provenance,
            extra="h5",
        ),
        Format(
            name="parquet",
            suffix=".parquet",
            about="Parquet, one row a clip",
            write=parquet.write,
            read=parquet.read,
            read_provenance=parquet.read_provenance,
            extra="parquet",
        ),
        Format(
            name="caffe",
            suffix=".fc6",
            about="a folder of 000000.fc6-1 files, as the original C3D writes",
            write=caffe.write,
            read=caffe.read,
            read_provenance=caffe.read_provenance,
            lossless=False,
            folder=True,
        ),
        Format(
            name="activitynet",
            suffix=".hdf5",
            about="one HDF5 of many videos, as ActivityNet's C3D features come",
            write=activitynet.write,
            read=activitynet.read,
            read_provenance=activitynet.read_provenance,
            extra="h5",
            lossless=False,
            many=True,
        ),
        Format(
            name="sultani",
            suffix="_C.txt",
            about="text of 32 segments, for the anomaly detector of Sultani, Chen and Shah",
            write=sultani.write,
            read=sultani.read,
            read_provenance=sultani.read_provenance,
            lossless=False,
            beside=SIDECAR_SUFFIX,
        ),
    )
}


def format_named(name: str) -> Format:
    """A format by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def usable_format(name: str) -> Format:
    """A format by its name, its library loaded: to know before any work is done.

    Raises:
        UsageError: there is none of that name, or the library that it needs is not installed.
    """
    found = format_named(name)
    if found.extra is not None:
        needed(_LIBRARIES[found.extra], extra=found.extra)
    return found


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a path's name says.

    Raises:
        UsageError: it says none.
    """
    for known in FORMATS.values():
        if os.fspath(path).endswith(known.suffix):
            return known
    endings = ", ".join(f"{known.suffix} ({known.name})" for known in FORMATS.values())
    raise UsageError(
        f"{os.fspath(path)}: its name does not tell the format; end it in one of {endings}, "
        "or name the format"
    )


def write_features(
    path: str | os.PathLike[str], features: VideoFeatures, *, format: str | None = None
) -> None:
    """Write a video's features; they appear under their name only when complete.

    What was there under that name is replaced.

    Args:
        path: where; the folder must exist.
        features: clip features float32 ``[n, 4096]``, n at least 1, and the rest.
        format: one of :data:`FORMATS`; by the name's ending where None.

    Raises:
        OutputError: they cannot be written: no room, no right, no such folder; or the format has
            no way to say them.
        UsageError: the format is not known, or needs a library that is not installed.
    """
    chosen = format_of(path) if format is None else format_named(format)
    with writing(path):
        check(features)
        chosen.write(Path(path), features)


def read_features(path: str | os.PathLike[str], *, format: str | None = None) -> VideoFeatures:
    """Read back a video's features.

    Args:
        path: what :func:`write_features` wrote, or others in the formats caffe, activitynet and
            sultani.
        format: as in :func:`write_features`.

    Returns:
        The features; more than a few rows are a read-only map of a temporary file. Timings are
        zero. A format that is not lossless gives -1 for starts and NaN for times that it does not
        keep, the mean for the video feature, and ``converted_from`` in the provenance.

    Raises:
        OutputError: it is not there, damaged, cut short, or something else.
        UsageError: the format is not known, or needs a library that is not installed.
    """
    chosen = format_of(path) if format is None else format_named(format)
    with reading(path, chosen):
        features = chosen.read(Path(path))
    return features if chosen.lossless else converted(features, chosen, Path(path).name)


def read_provenance(path: str | os.PathLike[str], *, format: str | None = None) -> dict[str, Any]:
    """What made a video's features, as written; the clips are not read.

    Empty for files of others in the formats caffe, activitynet and sultani. Arguments and errors
    are those of :func:`read_features`.
    """
    chosen = format_of(path) if format is None else format_named(format)
    with reading(path, chosen):
        return chosen.read_provenance(Path(path))


def converted(features: VideoFeatures, source: Format, name: str) -> VideoFeatures:
    """The same features, whose provenance says that they come from a format that loses some."""
    note = {"converted_from": {"format": source.name, "name": name}}
    return replace(features, provenance={**features.provenance, **note})


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what goes wrong in writing into an OutputError that names the path."""
    try:
        yield
    except C3DError:
        raise
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error
    except ValueError as error:
        raise OutputError(path, f"these features cannot be written: {error}") from error


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], source: Format) -> Iterator[None]:
    """Turn whatever a reader stumbles over into an OutputError that names the path."""
    try:
        yield
    except C3DError:
        raise
    except FileNotFoundError as error:
        missing = Path(error.filename or path)
        beside = missing.name != Path(path).name and Path(path).exists()
        words = f"{missing.name}, which belongs to it, is missing" if beside else "no such file"
        raise OutputError(path, words) from error
    # Damaged bytes make the parsers of four libraries raise nearly anything.
    except Exception as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OutputError(
            path,
            f"holds no C3D features that can be read as {source.name} ({' '.join(said.split())})",
        ) from error


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
