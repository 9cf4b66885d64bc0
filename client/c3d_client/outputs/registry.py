"""The formats that features are written in, and reading and writing by a format's name or suffix.

This is the one place where a format is registered. To add a format:

1. Write a module of this package with the three functions of :class:`FormatModule`. ``write`` uses
   :func:`c3d_client.core.files.atomic_file`; :mod:`c3d_client.outputs.validation` has the checks
   and the JSON that all formats share.
2. Add one entry to :data:`FORMATS`. The commands, their help and the tests use that entry.
"""

from __future__ import annotations

import contextlib
import functools
import os
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from c3d_client.core.arguments import path_text
from c3d_client.core.contract import DEFAULT_LAYER, FEATURE_SIZE
from c3d_client.core.errors import C3DError, OutputError, UsageError
from c3d_client.core.files import MAX_NAME_BYTES, TEMPORARY_PREFIX, cut_name, ignores_case
from c3d_client.core.provenance import Provenance
from c3d_client.core.text import escape_bytes
from c3d_client.outputs import activitynet, caffe, hdf5, npy, npz, parquet, sultani
from c3d_client.outputs.npy_io import SIDECAR_SUFFIX
from c3d_client.outputs.validation import check_features, load_library
from c3d_client.results import VideoFeatures

DEFAULT_FORMAT = "npz"

_Video = TypeVar("_Video")

_PARTIAL_SUFFIX = ".partial"

# The fields of a pattern for names of outputs; see output_path().
NAME_FIELDS = ("stem", "suffix", "name", "parent", "relative")


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
        any_layers: whether the format holds any layers, and several; otherwise fc6 or fc7.
        layer_path: returns the path of a layer after the first, for the path of the first; None
            where all layers are in one file.
        is_part: returns whether a file belongs to the features of another file; None where each
            file with the suffix is a video.
        any_size: whether rows may have another number of numbers than the 4096 of fc6.
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
    any_size: bool = True
    any_layers: bool = False
    layer_path: Callable[[Path, str], Path] | None = None
    is_part: Callable[[Path], bool] | None = None

    def layers_problem(self, layers: Sequence[str]) -> str | None:
        """Return why the format cannot hold these layers, and what can; None where it can."""
        if self.any_layers or tuple(layers) in ((DEFAULT_LAYER,), ("fc7",)):
            return None
        others = [entry.name for entry in FORMATS.values() if entry.any_layers]
        return (
            f"the format {self.name} holds fc6 or fc7 alone, not {', '.join(layers)}; "
            f"choose {', '.join(others[:-1])} or {others[-1]}"
        )


FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            name="npz",
            suffix=".npz",
            description="NumPy archive, all in one file",
            module=npz,
            any_layers=True,
        ),
        Format(
            name="npy",
            suffix=".npy",
            description="NumPy array of the clips, with everything else in a .json file",
            module=npy,
            sidecar_suffix=SIDECAR_SUFFIX,
            any_layers=True,
            layer_path=npy.layer_path,
            is_part=npy.is_further_layer,
        ),
        Format(
            name="h5",
            suffix=".h5",
            description="HDF5, one dataset for each array",
            module=hdf5,
            library="h5py",
            extra="h5",
            any_layers=True,
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
            description="a folder of 000000.fc6-1 or .fc7-1 files, as the original C3D writes",
            module=caffe,
            lossless=False,
            is_folder=caffe.has_blobs,
            any_size=False,
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
            any_size=False,
        ),
    )
}


# Other names of formats.
_ALIASES = {"hdf5": "h5"}


def format_named(name: str) -> Format:
    """Return a format by its name; ``hdf5`` is ``h5``.

    Raises:
        UsageError: there is no format of that name.
    """
    name = _ALIASES.get(name, name)
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def usable_format(name: str, *, layers: Sequence[str] = (DEFAULT_LAYER,)) -> Format:
    """Return a format by its name, after loading the library that it needs.

    Args:
        name: the format's name.
        layers: the layers that will be written.

    Raises:
        UsageError: there is no format of that name, it does not hold the layers, or its library is
            not installed.
    """
    chosen = format_named(name)
    if problem := chosen.layers_problem(layers):
        raise UsageError(problem)
    if chosen.library is not None and chosen.extra is not None:
        load_library(chosen.library, extra=chosen.extra)
    return chosen


def require_size(format: str, size: int) -> None:
    """Check that a format can hold rows of a number of numbers.

    Raises:
        UsageError: there is no format of that name, or it holds rows of fc6's 4096 numbers only.
    """
    chosen = format_named(format)
    if not chosen.any_size and size != FEATURE_SIZE:
        raise UsageError(
            f"{chosen.name} holds rows of {FEATURE_SIZE} numbers, and these have {size} after PCA; "
            f"leave out the PCA, or choose {_any_size_text()}"
        )


def _any_size_text() -> str:
    *names, last = [entry.name for entry in FORMATS.values() if entry.any_size]
    return f"{', '.join(names)} or {last}"


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
        features: clip features float32 ``[n, 4096]``, n at least 1, and the rest; after PCA
            ``[n, dim]``.
        format: one of :data:`FORMATS`; None for the format of the path's suffix.

    Raises:
        OutputError: the disk is full, the folder does not exist or is not writable, or the format
            cannot hold these features.
        UsageError: the format is unknown, or needs a library that is not installed.
    """
    chosen = _choose(path, format)
    with output_errors(path):
        check_features(features)
        if problem := chosen.layers_problem(Provenance(features.provenance).layers):
            raise ValueError(problem)
        if not chosen.any_size and (size := features.clip_features.shape[1]) != FEATURE_SIZE:
            raise ValueError(
                f"{chosen.name} holds rows of {FEATURE_SIZE} numbers, not of {size}; choose "
                f"{_any_size_text()}"
            )
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


def output_path(
    folder: str | os.PathLike[str], name: str, format: str, *, pattern: str | None = None
) -> Path:
    """Return the path of a video's features: ``FOLDER/a/b.mp4.npz`` for ``a/b.mp4``.

    The video's suffix stays in the name, so that ``b.mp4`` and ``b.avi`` get different files. A
    part that would be longer than the 255 bytes that file systems allow is cut and ends in ``~``
    and 16 hex digits of the SHA-256 of the whole part, so that two cut names differ.

    Args:
        folder: the folder of all features.
        name: the video's path below its own folder, with ``/``.
        format: one of :data:`c3d_client.outputs.FORMATS`.
        pattern: the path below ``folder`` instead, which ends in the format's suffix, with these
            fields, here for the video ``a/b.mp4``: ``{stem}`` b, ``{suffix}`` .mp4, ``{name}``
            b.mp4, ``{parent}`` a, ``{relative}`` a/b.mp4. Without a folder ``{parent}`` is empty,
            and a ``/`` after it is left out. Digits alone are no suffix: the ``{stem}`` of
            ``shot.0001`` is shot.0001. ``{{`` and ``}}`` are braces.

    Raises:
        UsageError: the name is empty, absolute or has ``..``; the format is unknown; or the pattern
            has another field, or gives a path that is empty, absolute, has ``..`` or lacks the
            format's suffix.
    """
    chosen = format_named(format)
    if pattern is not None:
        text = _fill(pattern, name)
        if problem := _path_problem(text, chosen):
            raise UsageError(f"name {pattern!r} gives {text!r} for {name!r}: {problem}")
        name = text.removesuffix(chosen.suffix)
    return result_path(folder, name, chosen.suffix, sidecar_suffix=chosen.sidecar_suffix)


def partial_path(output: Path) -> Path:
    """Return the path of the rows of an unfinished output: a hidden file next to it."""
    return output.with_name(
        cut_name(f".{output.name}", MAX_NAME_BYTES - len(_PARTIAL_SUFFIX)) + _PARTIAL_SUFFIX
    )


def pattern_format(pattern: str, format: str | None = None) -> str:
    """Check a pattern for :func:`output_path`, and return the name of its format.

    Args:
        pattern: as for :func:`output_path`.
        format: one of :data:`c3d_client.outputs.FORMATS`; None for the format of the suffix.

    Raises:
        UsageError: no video can have an output of this name.
    """
    text = _fill(pattern, "folder/video.mp4")
    known = (entry for entry in FORMATS.values() if text.endswith(entry.suffix))
    chosen = next(known, None) if format is None else format_named(format)
    if chosen is None:
        endings = ", ".join(f"{entry.suffix} ({entry.name})" for entry in FORMATS.values())
        raise UsageError(
            f"name {pattern!r}: its suffix is not that of a format; end it in one of {endings}"
        )
    if problem := _path_problem(text, chosen):
        raise UsageError(f"name {pattern!r}: {problem}")
    return chosen.name


def output_format(format: str | None, name: str | None) -> str:
    """Return the name of the format of outputs: as given, or that of the pattern's suffix.

    Raises:
        UsageError: no video can have an output of this name and format.
    """
    return (format or DEFAULT_FORMAT) if name is None else pattern_format(name, format)


def refuse_collisions(
    videos: Iterable[tuple[_Video, str]],
    target_of: Callable[[str], str | os.PathLike[str]],
    *,
    folder: str | os.PathLike[str] | None,
    advice: str,
    shown: Callable[[_Video], str] = str,
) -> None:
    """Check that no two videos have the same output.

    Args:
        videos: each video, and its name.
        target_of: returns the output of a name.
        folder: the folder of the outputs; None where they are in one file. Where its file system
            ignores case, names that differ in case alone are the same.
        advice: what to do, for the message.
        shown: returns a video's address, for the message.

    Raises:
        UsageError: two videos would be written to the same path.
    """
    folds = folder is not None and ignores_case(folder)
    found: dict[str, _Video] = {}
    for video, name in videos:
        target = os.fspath(target_of(name))
        # A file system that ignores case ignores how accents are composed too.
        key = unicodedata.normalize("NFC", target).casefold() if folds else target
        if found.setdefault(key, video) is not video:
            reason = " (upper and lower case are the same there)" if folds else ""
            raise UsageError(
                f"{shown(found[key])} and {shown(video)} would both be written to "
                f"{target}{reason}; {advice}"
            )


@functools.lru_cache
def _parse(pattern: str) -> tuple[tuple[str, str | None], ...]:
    """Return the parts of a pattern: text, and the field after it, None after the last text.

    Raises:
        UsageError: it has another field, or a brace without its other one.
    """
    fields = ", ".join(f"{{{field}}}" for field in NAME_FIELDS)
    parts = []
    try:
        for text, field, spec, conversion in string.Formatter().parse(pattern):
            if field is not None and (field not in NAME_FIELDS or spec or conversion):
                whole = field + (f"!{conversion}" if conversion else "")
                whole += f":{spec}" if spec else ""
                raise UsageError(
                    f"name {pattern!r}: there is no field {{{whole}}}; the fields are {fields}"
                )
            parts.append((text, field))
    except UsageError:  # a ValueError too
        raise
    except ValueError as error:
        raise UsageError(
            f"name {pattern!r}: {error}; the fields are {fields}, and {{{{ is a brace"
        ) from error
    return tuple(parts)


def _fill(pattern: str, name: str) -> str:
    """Return a pattern with the fields of a video's name."""
    path = PurePosixPath(name)
    suffix = "" if path.suffix[1:].isdecimal() else path.suffix  # shot.0001, a folder of images
    values = {
        "stem": path.name.removesuffix(suffix),
        "relative": name,
        "parent": "/".join(path.parts[:-1]),
        "name": path.name,
        "suffix": suffix,
    }
    filled, before = "", ""
    for text, field in _parse(path_text(pattern, "name")):
        without_folder = before == "parent" and not values["parent"]
        filled += text.removeprefix("/") if without_folder else text
        filled += values[field] if field else ""
        before = field or ""
    return filled


def _path_problem(text: str, format: Format) -> str:
    """Return why a text cannot be the path of an output below its folder; empty where it can."""
    parts = text.removesuffix(format.suffix).split("/")
    if text.startswith("/"):
        return "it is absolute; give a path below the folder of outputs"
    if ".." in parts or "\0" in text:
        return "it has '..'; give a path below the folder of outputs"
    if not text.endswith(format.suffix):
        return f"it does not end in {format.suffix}, the suffix of {format.name}"
    if parts[-1] in ("", "."):
        return f"it is empty before {format.suffix}"
    if any(part.startswith(TEMPORARY_PREFIX) for part in parts):
        return f"names that begin with {TEMPORARY_PREFIX} are those of unfinished files"
    return ""


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
    last = cut_name(parts[-1], MAX_NAME_BYTES - suffix_bytes) + suffix
    return Path(folder, *(cut_name(part, MAX_NAME_BYTES) for part in parts[:-1]), last)


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
