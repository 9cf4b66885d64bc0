"""The formats that features are written in, and reading and writing by a format's name or suffix.

This is the one place where a format is registered. To add a format:

1. Write a module of this package with the three functions of :class:`FormatModule`. ``write`` uses
   :func:`c3d_client.core.files.atomic_file`; :mod:`c3d_client.outputs.validation` has the checks
   and the JSON that all formats share.
2. Add one entry to :data:`FORMATS`. The commands, their help and the tests use that entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from c3d_client.core.arguments import path_text
from c3d_client.core.errors import C3DError, OutputError, UsageError
from c3d_client.core.provenance import Provenance
from c3d_client.core.text import escape_bytes
from c3d_client.outputs import activitynet, caffe, hdf5, npy, npz, parquet, sultani
from c3d_client.outputs.npy_io import SIDECAR_SUFFIX
from c3d_client.outputs.validation import check_features, load_library
from c3d_client.results import VideoFeatures

DEFAULT_FORMAT = "npz"

_MAX_NAME_BYTES = 255  # the limit of common file systems for one part of a path


class FormatModule(Protocol):
    """The functions of a module that implements a format.

    They may raise any exception of the format's library; :func:`write_features`,
    :func:`read_features` and :func:`read_provenance` turn it into an error of this project.
    """

    def write(self, path: Path, features: VideoFeatures) -> None:
        """Write features to a path."""

    def read(self, path: Path) -> VideoFeatures:
        """Read features from a path."""

    def read_provenance(self, path: Path) -> Provenance:
        """Read the provenance from a path, without the clips."""


@dataclass(frozen=True)
class Format:
    """One file format for the features of a video.

    Args:
        name: the name for ``--format`` and ``format=``.
        suffix: the end of every file name of this format.
        description: the format in a few words.
        module: the module that writes and reads the format.
        library: the library that the format needs besides NumPy; None for none.
        extra: the extra of the distribution that installs the library; None for none.
        lossless: whether everything that was written can be read.
        many_videos: whether one file holds many videos.
        is_folder: returns whether a folder of any name holds a video in this format; None where
            each video is a file.
        sidecar_suffix: what the name of a second file adds to that of the first; empty for none.
    """

    name: str
    suffix: str
    description: str
    module: FormatModule
    library: str | None = None
    extra: str | None = None
    lossless: bool = True
    many_videos: bool = False
    is_folder: Callable[[Path], bool] | None = None
    sidecar_suffix: str = ""


FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            name="npz",
            suffix=".npz",
            description="NumPy archive, all in one file",
            module=npz,
        ),
        Format(
            name="npy",
            suffix=".npy",
            description="NumPy array of the clips, with everything else in a .json file",
            module=npy,
            sidecar_suffix=SIDECAR_SUFFIX,
        ),
        Format(
            name="h5",
            suffix=".h5",
            description="HDF5, one dataset for each array",
            module=hdf5,
            library="h5py",
            extra="h5",
        ),
        Format(
            name="parquet",
            suffix=".parquet",
            description="Parquet, one row for each clip",
            module=parquet,
            library="pyarrow",
            extra="parquet",
        ),
        Format(
            name="caffe",
            suffix=".fc6",
            description="a folder of 000000.fc6-1 files, as the original C3D writes",
            module=caffe,
            lossless=False,
            is_folder=caffe.has_blobs,
        ),
        Format(
            name="activitynet",
            suffix=".hdf5",
            description="one HDF5 file of many videos, as ActivityNet's C3D features",
            module=activitynet,
            library="h5py",
            extra="h5",
            lossless=False,
            many_videos=True,
        ),
        Format(
            name="sultani",
            suffix="_C.txt",
            description="text of 32 segments, for the anomaly detector of Sultani, Chen and Shah",
            module=sultani,
            lossless=False,
            sidecar_suffix=SIDECAR_SUFFIX,
        ),
    )
}


def format_named(name: str) -> Format:
    """Return a format by its name.

    Raises:
        UsageError: there is no format of that name.
    """
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def usable_format(name: str) -> Format:
    """Return a format by its name, after loading the library that it needs.

    Raises:
        UsageError: there is no format of that name, or its library is not installed.
    """
    chosen = format_named(name)
    if chosen.library is not None and chosen.extra is not None:
        load_library(chosen.library, extra=chosen.extra)
    return chosen


def format_of(path: str | os.PathLike[str]) -> Format:
    """Return the format that a path's suffix belongs to.

    Raises:
        UsageError: the suffix belongs to no format.
    """
    for entry in FORMATS.values():
        if os.fspath(path).endswith(entry.suffix):
            return entry
    endings = ", ".join(f"{entry.suffix} ({entry.name})" for entry in FORMATS.values())
    raise UsageError(
        f"{os.fspath(path)}: its suffix is not that of a format; end it in one of {endings}, "
        "or name the format"
    )


def write_features(
    path: str | os.PathLike[str], features: VideoFeatures, *, format: str | None = None
) -> None:
    """Write a video's features; the file appears under its name when complete.

    A file of that name is replaced.

    Args:
        path: the file to write; its folder must exist.
        features: clip features float32 ``[n, 4096]``, n at least 1, and the rest.
        format: one of :data:`FORMATS`; None for the format of the path's suffix.

    Raises:
        OutputError: the disk is full, the folder does not exist or is not writable, or the format
            cannot hold these features.
        UsageError: the format is unknown, or needs a library that is not installed.
    """
    chosen = _choose(path, format)
    with output_errors(path):
        check_features(features)
        chosen.module.write(Path(path), features)


def read_features(path: str | os.PathLike[str], *, format: str | None = None) -> VideoFeatures:
    """Read a video's features.

    Args:
        path: a file of :func:`write_features`; in the formats caffe, activitynet and sultani also
            a file of other programs.
        format: as in :func:`write_features`.

    Returns:
        The features; more than a few rows are a read-only map of a temporary file. Timings are
        zero. For a format that is not lossless, starts that it does not store are -1, times are
        NaN, the video feature is computed from the clips, and the provenance has
        ``converted_from``.

    Raises:
        OutputError: the file does not exist, is damaged or cut short, or holds something else.
        UsageError: the format is unknown, or needs a library that is not installed.
    """
    chosen = _choose(path, format)
    with input_errors(path, chosen):
        features = chosen.module.read(Path(path))
    return features if chosen.lossless else note_conversion(features, chosen, Path(path).name)


def read_provenance(path: str | os.PathLike[str], *, format: str | None = None) -> dict[str, Any]:
    """Read the provenance of a video's features as it was written, without reading the clips.

    It is empty for files of other programs in the formats caffe, activitynet and sultani.
    Arguments and errors are those of :func:`read_features`.
    """
    chosen = _choose(path, format)
    with input_errors(path, chosen):
        return chosen.module.read_provenance(Path(path)).to_dict()


def output_path(folder: str | os.PathLike[str], name: str, format: str) -> Path:
    """Return the path of a video's features: ``FOLDER/a/b.mp4.npz`` for ``a/b.mp4``.

    The video's suffix stays in the name, so that ``b.mp4`` and ``b.avi`` get different files. A
    part that would be longer than the 255 bytes that file systems allow is cut and ends in ``~``
    and 16 hex digits of the SHA-256 of the whole part, so that two cut names differ.

    Args:
        folder: the folder of all features.
        name: the video's path below its own folder, with ``/``.
        format: one of :data:`c3d_client.outputs.FORMATS`.

    Raises:
        UsageError: the name is empty, absolute or has ``..``; or the format is unknown.
    """
    chosen = format_named(format)
    return result_path(folder, name, chosen.suffix, sidecar_suffix=chosen.sidecar_suffix)


def result_path(
    folder: str | os.PathLike[str], name: str, suffix: str, *, sidecar_suffix: str = ""
) -> Path:
    """Return the path of a file about a video, as :func:`output_path` does.

    Args:
        folder: the folder of all results.
        name: the video's path below its own folder, with ``/``.
        suffix: added to the name.
        sidecar_suffix: what the name of a second file adds, which must fit too.

    Raises:
        UsageError: the name is empty, absolute or has ``..``.
    """
    relative = PurePosixPath(name)
    parts = relative.parts
    if not parts or relative.is_absolute() or ".." in parts or "\0" in name:
        raise UsageError(f"{name!r} cannot name features; give a relative path without '..'")
    suffix_bytes = len(os.fsencode(suffix + sidecar_suffix))
    last = _cut_name(parts[-1], _MAX_NAME_BYTES - suffix_bytes) + suffix
    return Path(folder, *(_cut_name(part, _MAX_NAME_BYTES) for part in parts[:-1]), last)


def note_conversion(features: VideoFeatures, source: Format, name: str) -> VideoFeatures:
    """Return the features with a note in the provenance that they come from a lossy format."""
    note = {"converted_from": {"format": source.name, "name": escape_bytes(name)}}
    return replace(features, provenance={**features.provenance, **note})


@contextlib.contextmanager
def output_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of writing into an OutputError that names the path."""
    try:
        yield
    except C3DError:
        raise
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error
    except ValueError as error:
        raise OutputError(path, f"these features cannot be written: {error}") from error


@contextlib.contextmanager
def input_errors(path: str | os.PathLike[str], source: Format) -> Iterator[None]:
    """Turn errors of reading into an OutputError that names the path."""
    try:
        yield
    except C3DError:
        raise
    except FileNotFoundError as error:
        missing = Path(error.filename or path)
        is_sidecar = missing.name != Path(path).name and Path(path).exists()
        reason = (
            f"{missing.name}, which belongs to it, is missing" if is_sidecar else "no such file"
        )
        raise OutputError(path, reason) from error
    # Damaged bytes make the parsers of four libraries raise nearly any exception.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OutputError(
            path,
            f"holds no C3D features that can be read as {source.name} ({' '.join(reason.split())})",
        ) from error


def _choose(path: str | os.PathLike[str], format: str | None) -> Format:
    path_text(path, "path")
    return format_of(path) if format is None else format_named(format)


def _cut_name(part: str, max_bytes: int) -> str:
    encoded = os.fsencode(part)
    if len(encoded) <= max_bytes:
        return part
    digest = f"~{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: max_bytes - len(digest)].decode("utf-8", "ignore") + digest
