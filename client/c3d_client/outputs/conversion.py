"""From one format to another: a file or folder a video, or many videos to one collection."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from c3d_client.core.errors import OutputError, UsageError
from c3d_client.outputs import activitynet
from c3d_client.outputs.registry import (
    Format,
    Found,
    converted,
    find_features,
    format_named,
    output_path,
    read_features,
    read_provenance,
    reading,
    write_features,
    writing,
)
from c3d_client.results import VideoFeatures


class Conversion(NamedTuple):
    """What became of one video.

    Args:
        source: the file or folder that was read.
        target: what was written; None where that failed.
        error: why it failed; None where it did not.
    """

    source: Path
    target: Path | None
    error: OutputError | None = None


@dataclass(frozen=True)
class _Video:
    path: Path
    name: str
    read: Callable[[], VideoFeatures]
    read_provenance: Callable[[], dict[str, Any]]


def convert(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    to: str,
    format: str | None = None,
) -> Iterator[Conversion]:
    """Write features again in another format. What cannot be read is told, and the rest goes on.

    Args:
        inputs: features, or folders to look through; those found in folders keep their relative
            paths. All in one format. Of a file of many videos, each is converted.
        out: the folder to write to, made where it is missing; the file, where the format holds
            many videos: it has every video under :func:`activitynet.video_id` of its name, and
            appears once the last is in it, if there is one.
        to: one of :data:`c3d_client.outputs.FORMATS`.
        format: what the inputs are; by their names' endings where None.

    Returns:
        One :class:`Conversion` for each video, as it is done; for a collection, as it is added.

    Raises:
        UsageError: before anything is written: nothing was found, formats are mixed or unknown,
            two inputs would be written to the same place, or means are to be made clips again.
        ProvenanceError: before anything is written: videos for one collection were made
            differently.
        OutputError: a folder cannot be looked through, or a collection cannot be written.
    """
    target = format_named(to)
    source, found = find_features(inputs, format)
    if source.name == "sultani" and target is not source:
        raise UsageError("sultani holds 32 means and no clips; convert what they were made of")
    videos, failed = _videos(source, found)
    if not target.many:
        _refuse_collisions(videos, lambda name: str(output_path(out, name, to)))
        return _one_by_one(videos, failed, Path(out), to)
    _refuse_collisions(videos, activitynet.video_id)
    videos, unreadable = _made_the_same(videos)
    return _collected(videos, failed + unreadable, Path(out))


def _videos(source: Format, found: list[Found]) -> tuple[list[_Video], list[Conversion]]:
    videos, failed = [], []
    for one in found:
        if not source.many:
            videos.append(
                _Video(
                    one.path,
                    one.name,
                    functools.partial(read_features, one.path, format=source.name),
                    functools.partial(read_provenance, one.path, format=source.name),
                )
            )
            continue
        try:
            with reading(one.path, source):
                names = activitynet.video_ids(one.path)
        except OutputError as error:
            failed.append(Conversion(one.path, None, error))
            continue
        videos += [_in_collection(source, one.path, name) for name in names]
    return videos, failed


def _in_collection(source: Format, path: Path, name: str) -> _Video:
    where = path / name  # for messages: there are many videos in one file

    def read() -> VideoFeatures:
        with reading(where, source):
            return converted(activitynet.read(path, name), source, name)

    def provenance() -> dict[str, Any]:
        with reading(where, source):
            return activitynet.read_provenance(path, name)

    return _Video(where, name, read, provenance)


def _refuse_collisions(videos: list[_Video], place_of: Callable[[str], str]) -> None:
    taken: dict[str, Path] = {}
    for video in videos:
        place = place_of(video.name)
        if place in taken:
            raise UsageError(
                f"{taken[place]} and {video.path} would both be written to {place}; "
                "convert them apart, or rename one"
            )
        taken[place] = video.path


def _made_the_same(videos: list[_Video]) -> tuple[list[_Video], list[Conversion]]:
    from c3d_client.core.provenance import require_same  # which loads the decoder

    readable, failed, provenances = [], [], []
    for video in videos:
        try:
            provenances.append(video.read_provenance())
            readable.append(video)
        except OutputError as error:
            failed.append(Conversion(video.path, None, error))
    require_same(provenances)
    return readable, failed


def _one_by_one(
    videos: list[_Video], failed: list[Conversion], out: Path, to: str
) -> Iterator[Conversion]:
    yield from failed
    for video in videos:
        target = output_path(out, video.name, to)
        try:
            features = video.read()
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            write_features(target, features, format=to)
        except OutputError as error:
            yield Conversion(video.path, None, error)
        else:
            yield Conversion(video.path, target)


def _collected(videos: list[_Video], failed: list[Conversion], out: Path) -> Iterator[Conversion]:
    yield from failed
    with writing(out), contextlib.ExitStack() as opened:
        collection = None
        for video in videos:
            try:
                features = video.read()
            except OutputError as error:
                yield Conversion(video.path, None, error)
                continue
            if collection is None:  # only now: a collection of none is not written
                out.parent.mkdir(parents=True, exist_ok=True)
                collection = opened.enter_context(activitynet.new_collection(out))
            collection.add(activitynet.video_id(video.name), features)
            yield Conversion(video.path, out)
