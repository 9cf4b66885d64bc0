"""Conversion between formats: one file or folder for each video, or one collection of videos."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from c3d_client.core.arguments import path_text, require_several
from c3d_client.core.contract import LAYERS
from c3d_client.core.errors import OutputError, ProvenanceError, UsageError
from c3d_client.core.files import TEMPORARY_PREFIX
from c3d_client.core.provenance import Provenance, require_same
from c3d_client.outputs import activitynet, sultani
from c3d_client.outputs.registry import (
    FORMATS,
    Format,
    format_named,
    format_of,
    input_errors,
    note_conversion,
    output_errors,
    output_path,
    pattern_format,
    read_features,
    refuse_collisions,
    require_size,
    usable_format,
    write_features,
)
from c3d_client.pca import PCA
from c3d_client.results import VideoFeatures

# The files that make a folder a data set of c3d-pipelines.
_DATASET_FILES = ("dataset.json", "index.parquet")
_NO_CLIPS = "sultani holds 32 means and no clips; convert what they were made of"


class Conversion(NamedTuple):
    """The outcome of converting one video.

    Args:
        source: the file or folder that was read.
        target: the file or folder that was written; None where that failed.
        error: why it failed; None where it did not.
    """

    source: Path
    target: Path | None
    error: OutputError | None = None


def convert(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    to: str,
    format: str | None = None,
    stride: int | None = None,
    name: str | None = None,
    pca: str | os.PathLike[str] | PCA | None = None,
) -> Iterator[Conversion]:
    """Write features in another format. A file that cannot be read is reported and skipped.

    Args:
        inputs: files of features, and folders to search. Features in folders keep their relative
            paths. All are in one format. Of a file of many videos, each video is converted.
        out: the folder to write to, created where it does not exist. Where the format holds many
            videos, the file to write: it holds each video under
            :func:`c3d_client.outputs.activitynet.video_id` of its name, and appears after the
            last video, if there is any.
        to: one of :data:`c3d_client.outputs.FORMATS`.
        format: the format of the inputs; None for the format of their suffixes.
        stride: for ``sultani``: use the clips that an extraction with this stride has, a multiple
            of the stride of the features; None for all clips. The original work has 16.
        name: a pattern for the names of the files, as for
            :func:`c3d_client.outputs.output_path`; None for the names of the inputs.
        pca: reduces the features; a fitted PCA, or the path or address of its file.

    Returns:
        An iterator of one :class:`Conversion` for each video, as it is written; for a collection,
        as it is added.

    Raises:
        UsageError: before anything is written: there are no features, formats are mixed or
            unknown, two inputs would be written to the same path, or one to the path of another,
            ``out`` is a file where a folder is needed or the reverse, means would be converted to
            clips, an input is a data set of c3d-pipelines, a stride is given for another format
            than ``sultani``, the pattern cannot be used, or a PCA is given for a format of 4096
            numbers.
        ProvenanceError: before anything is written: videos for one collection were made
            differently, or a video's features are not of the kind that the PCA was fitted on.
        OutputError: a folder cannot be searched, a collection cannot be written, or the PCA cannot
            be read.
    """
    target = format_named(to)
    _check_stride(target, stride)
    if name is not None:
        if target.many_videos:
            raise UsageError(f"{to} is one file of all videos; leave out the name {name!r}")
        pattern_format(name, to)
    pca = _usable_pca(pca, target)
    source, inputs_found = _find_inputs(inputs, format)
    if source.name == "sultani" and (target is not source or stride is not None):
        raise UsageError(_NO_CLIPS)
    videos, failed = _list_videos(source, inputs_found)
    if target.many_videos or pca is not None:
        videos, provenances, unreadable = _read_provenances(videos)
        failed += unreadable
        if target.many_videos:
            require_same(provenances, names=[str(video.path) for video in videos])
        if pca is not None:
            for provenance in provenances:
                pca.require_fits(provenance)
            videos = [_reducing(video, pca) for video in videos]
    return _convert_all(videos, failed, Path(out), target, stride=stride, pattern=name)


def iter_features(
    inputs: Sequence[str | os.PathLike[str]], *, format: str | None = None
) -> Iterator[VideoFeatures]:
    """Yield the features of files and folders, which were made in the same way.

    Args:
        inputs: files of features, folders to search, and patterns such as ``features/*.npz``. All
            are in one format.
        format: the format of the inputs; None for the format of their suffixes.

    Raises:
        UsageError: before anything is read: there are no features, formats are mixed or unknown,
            an input is a data set of c3d-pipelines, or the format has no clips.
        ProvenanceError: before anything is read: the features were made differently.
        OutputError: a file cannot be read.
    """
    source, inputs_found = _find_inputs(_matches(inputs), format)
    if source.name == "sultani":
        raise UsageError(_NO_CLIPS)
    videos, failed = _list_videos(source, inputs_found)
    videos, provenances, unreadable = _read_provenances(videos)
    for conversion in (*failed, *unreadable):
        assert conversion.error is not None
        raise conversion.error
    require_same(provenances, names=[str(video.path) for video in videos])
    return (video.read() for video in videos)


def _matches(inputs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the inputs, and in place of a pattern the files and folders that match it."""
    paths: list[str] = []
    for entry in require_several(inputs, "inputs", each="files or folders of features"):
        path = path_text(entry, "an input")
        if os.path.exists(path) or not glob.has_magic(path):
            paths.append(path)
        elif found := sorted(glob.glob(path, recursive=True)):
            paths += found
        else:
            raise UsageError(f"{path}: no file or folder matches this pattern")
    return paths


def export(
    videos: Mapping[str, Callable[[], VideoFeatures]],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str,
    stride: int | None = None,
    pca: PCA | None = None,
    name: str | None = None,
) -> Iterator[Conversion]:
    """Write features that are not in files, as :func:`convert` writes those of files.

    Args:
        videos: for each video, a function that returns its features, by the video's name, a
            relative path. All were made in the same way.
        source: what the features are read from, for messages.
        out, to, stride, name: as for :func:`convert`.
        pca: reduces the features.

    Raises:
        UsageError: before anything is written: two videos would be written to the same path, or
            the format, the stride, the name or the kind of ``out`` is wrong.
        OutputError: a collection cannot be written.
        ProvenanceError: the features are not of the kind that the PCA was fitted on.
    """
    target = usable_format(to)
    _check_stride(target, stride)
    if name is not None:
        pattern_format(name, to)
    pca = _usable_pca(pca, target)
    listed = [_Video(Path(source, key), key, read, Provenance) for key, read in videos.items()]
    if pca is not None:
        listed = [_reducing(video, pca) for video in listed]
    return _convert_all(listed, [], Path(out), target, stride=stride, pattern=name)


def _usable_pca(pca: str | os.PathLike[str] | PCA | None, target: Format) -> PCA | None:
    """Return the PCA, read if it is a path, for a format that can hold its rows."""
    if pca is None:
        return None
    loaded = pca if isinstance(pca, PCA) else PCA.load(pca)
    require_size(target.name, loaded.dim)
    return loaded


def _reducing(video: _Video, pca: PCA) -> _Video:
    """Return the video with reduced features."""

    def read() -> VideoFeatures:
        features = video.read()
        try:
            return pca.apply(features)
        except ProvenanceError:
            raise
        except ValueError as error:
            raise OutputError(video.path, f"cannot be reduced: {error}") from error

    return replace(video, read=read)


def _check_stride(target: Format, stride: int | None) -> None:
    if stride is not None and (target.name != "sultani" or stride < 1):
        raise UsageError(f"stride is {stride} for {target.name}; give 1 or more, for sultani alone")


def _convert_all(
    videos: list[_Video],
    failed: list[Conversion],
    out: Path,
    target: Format,
    *,
    stride: int | None,
    pattern: str | None = None,
) -> Iterator[Conversion]:
    if target.many_videos and out.is_dir():
        raise UsageError(
            f"{out}: is a folder; {target.name} is one file of all videos, such as "
            f"{out / 'features'}{target.suffix}"
        )
    if not target.many_videos and out.is_file():
        raise UsageError(f"{out}: is a file; give a folder to write to")
    target_of: Callable[[str], str | Path] = activitynet.video_id
    if not target.many_videos:
        target_of = functools.partial(output_path, out, format=target.name, pattern=pattern)
    refuse_collisions(
        ((video.path, video.name) for video in videos),
        target_of,
        folder=None if target.many_videos else out,
        advice="use a name with more fields"
        if pattern
        else "convert them separately, or rename one",
    )
    if target.many_videos:
        return _convert_to_collection(videos, failed, out)
    inputs = {os.path.abspath(video.path): video.path for video in videos}
    for video in videos:
        other = inputs.get(os.path.abspath(target_of(video.name)), video.path)
        if other != video.path:  # it would be replaced before it is read
            raise UsageError(
                f"{video.path} would be written to {other}, which is another input; "
                "use another folder"
            )
    return _convert_each(videos, failed, target_of, target.name, stride=stride)


@dataclass(frozen=True)
class _Input:
    """A file or folder of features: one video, or a collection of videos.

    Args:
        path: the file or folder.
        name: its path below the folder that was searched, without the format's suffix.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class _Video:
    """A video to convert; ``path`` is its address for messages."""

    path: Path
    name: str
    read: Callable[[], VideoFeatures]
    read_provenance: Callable[[], Provenance]


def _find_inputs(
    inputs: Sequence[str | os.PathLike[str]], format: str | None
) -> tuple[Format, list[_Input]]:
    """Return the named features and those below the named folders, in order, with their format."""
    require_several(inputs, "inputs", each="files or folders of features")
    inputs = [path_text(entry, "an input") for entry in inputs]
    only = None if format is None else format_named(format)
    found: dict[Path, tuple[Format, _Input]] = {}
    for top in map(Path, inputs):
        _refuse_dataset(top)
        for kind, path in _features_at(top, only):
            folder = top if path != top else path.parent
            name = path.relative_to(folder).as_posix().removesuffix(kind.suffix)
            found.setdefault(path, (kind, _Input(path, name)))
    for path, (kind, _) in list(found.items()):  # a pattern matches the files of all layers
        if kind.layer_path is None or kind.is_part is None:
            continue
        for part in (kind.layer_path(path, layer) for layer in LAYERS):
            if part in found and kind.is_part(part):
                del found[part]
    paths = {kind.name: input.path for kind, input in found.values()}
    if not paths:
        what = "features" if only is None else f"{only.name} features"
        raise UsageError(
            f"no {what} in {', '.join(os.fspath(path) for path in inputs) or 'nothing'}"
        )
    if len(paths) > 1:
        several = " and ".join(f"{path} ({name})" for name, path in sorted(paths.items()))
        raise UsageError(f"features of several formats, {several}; name the format to convert from")
    return format_named(next(iter(paths))), [input for _, input in found.values()]


def _refuse_dataset(path: Path) -> None:
    """Refuse the folder of a data set of c3d-pipelines, and the files in it.

    Raises:
        UsageError: the path is one of them.
    """
    # A data set's files of videos and clips are one folder below the data set.
    for folder in (path, path.parent, path.parent.parent):
        is_parquet = folder is path or path.suffix == ".parquet"
        if is_parquet and all((folder / name).is_file() for name in _DATASET_FILES):
            raise UsageError(
                f"{folder}: is a data set of c3d-pipelines; write its features as files with "
                f"c3d-pipelines export {shlex.quote(str(folder))} --to FORMAT --out DIR"
            )


def _features_at(path: Path, only: Format | None) -> Iterator[tuple[Format, Path]]:
    if not path.is_dir():
        try:
            yield only or format_of(path), path
        except UsageError as error:
            if path.exists():
                raise
            raise UsageError(f"{path}: no such file or folder; give what has features") from error
    elif kind := _folder_format(path, only):
        yield kind, path
    else:
        yield from _features_below(path, only)


def _features_below(top: Path, only: Format | None) -> Iterator[tuple[Format, Path]]:
    """Yield the features in a folder and the folders below; other files are ignored."""

    def fail(error: OSError) -> None:
        raise OutputError(error.filename, f"cannot be read ({error.strerror})") from error

    for folder, folders, files in os.walk(top, onerror=fail):
        _refuse_dataset(Path(folder))
        folders[:] = sorted(name for name in folders if not name.startswith(TEMPORARY_PREFIX))
        for name in list(folders):
            if kind := _folder_format(Path(folder, name), only):
                folders.remove(name)
                yield kind, Path(folder, name)
        for name in sorted(files):
            for kind in FORMATS.values():
                fits = name.endswith(kind.suffix) and kind.is_folder is None
                if fits and only in (None, kind) and not name.startswith(TEMPORARY_PREFIX):
                    path = Path(folder, name)
                    if kind.is_part is None or not kind.is_part(path):
                        yield kind, path


def _folder_format(path: Path, only: Format | None) -> Format | None:
    """Return the format in which a folder is one video.

    A folder without the format's suffix counts only where that format was requested.
    """
    for kind in FORMATS.values():
        if kind.is_folder is not None and only in (None, kind):
            has_suffix = path.name.endswith(kind.suffix)
            if has_suffix or (only is kind and kind.is_folder(path)):
                return kind
    return None


def _list_videos(source: Format, inputs: list[_Input]) -> tuple[list[_Video], list[Conversion]]:
    videos: list[_Video] = []
    failed: list[Conversion] = []
    for input in inputs:
        if not source.many_videos:
            videos.append(_single_video(source, input))
            continue
        try:
            with input_errors(input.path, source):
                names = activitynet.video_ids(input.path)
        except OutputError as error:
            failed.append(Conversion(input.path, None, error))
            continue
        videos += [_collection_video(source, input.path, name) for name in names]
    return videos, failed


def _single_video(source: Format, input: _Input) -> _Video:
    def read_provenance() -> Provenance:
        with input_errors(input.path, source):
            return source.module.read_provenance(input.path)

    read = functools.partial(read_features, input.path, format=source.name)
    return _Video(input.path, input.name, read, read_provenance)


def _collection_video(source: Format, path: Path, name: str) -> _Video:
    address = path / name  # for messages: one file has many videos

    def read() -> VideoFeatures:
        with input_errors(address, source):
            return note_conversion(activitynet.read(path, name), source, name)

    def read_provenance() -> Provenance:
        with input_errors(address, source):
            return activitynet.read_provenance(path, name)

    return _Video(address, name, read, read_provenance)


def _read_provenances(
    videos: list[_Video],
) -> tuple[list[_Video], list[Mapping[str, Any]], list[Conversion]]:
    """Return the videos that can be read, their provenances, and the others as failed."""
    readable: list[_Video] = []
    provenances: list[Mapping[str, Any]] = []
    failed: list[Conversion] = []
    for video in videos:
        try:
            provenances.append(video.read_provenance().data)
            readable.append(video)
        except OutputError as error:
            failed.append(Conversion(video.path, None, error))
    return readable, provenances, failed


def _convert_each(
    videos: list[_Video],
    failed: list[Conversion],
    target_of: Callable[[str], str | Path],
    to: str,
    *,
    stride: int | None,
) -> Iterator[Conversion]:
    yield from failed
    for video in videos:
        target = Path(target_of(video.name))
        try:
            features = _read_for(format_named(to), video)
            if stride is not None:
                features = _with_stride(video, features, stride)
            with output_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            write_features(target, features, format=to)
        except OutputError as error:
            yield Conversion(video.path, None, error)
        else:
            yield Conversion(video.path, target)


def _read_for(target: Format, video: _Video) -> VideoFeatures:
    """Return a video's features.

    Raises:
        OutputError: they cannot be read, or the target cannot hold their layers or size.
    """
    if target.any_layers:
        return video.read()
    provenance = video.read_provenance()  # before rows are read
    if problem := target.layers_problem(provenance.layers):
        raise OutputError(video.path, problem)
    try:
        require_size(target.name, provenance.feature_size)
    except UsageError as error:
        raise OutputError(video.path, str(error)) from error
    return video.read()


def _with_stride(video: _Video, features: VideoFeatures, stride: int) -> VideoFeatures:
    try:
        return sultani.with_stride(features, stride)
    except ValueError as error:
        raise OutputError(video.path, str(error)) from error


def _convert_to_collection(
    videos: list[_Video], failed: list[Conversion], out: Path
) -> Iterator[Conversion]:
    yield from failed
    with output_errors(out), contextlib.ExitStack() as stack:
        collection = None
        for video in videos:
            try:
                features = _read_for(FORMATS["activitynet"], video)
            except OutputError as error:
                yield Conversion(video.path, None, error)
                continue
            if collection is None:  # opened late: a collection of no videos is not written
                out.parent.mkdir(parents=True, exist_ok=True)
                collection = stack.enter_context(activitynet.new_collection(out))
            collection.add(activitynet.video_id(video.name), features)
            yield Conversion(video.path, out)
