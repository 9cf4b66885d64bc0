"""Extraction of many videos into one folder, which a later run continues.

Every video of a run ends as one row: done; skipped, because its output exists already; or failed
with a reason, which is also written to ``failures.csv``. A run with the same arguments does only
what is left.

Several processes may do one share of the videos each, at the same time and in the same folder. Each
writes its failures to a list of its own, ``failures.2-of-16.csv``, and reads all lists.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

from c3d_client.client import C3DClient
from c3d_client.core.arguments import path_text, require_each
from c3d_client.core.contract import DEFAULT_LAYER
from c3d_client.core.errors import (
    C3DError,
    OutputError,
    ProvenanceError,
    VideoError,
    VideoTooLarge,
    VideoUnreadableError,
    reason_of,
)
from c3d_client.core.files import TEMPORARY_PREFIX, atomic_file
from c3d_client.core.provenance import Provenance
from c3d_client.core.text import escape_bytes, escape_controls
from c3d_client.core.uri import Uri
from c3d_client.outputs import (
    format_named,
    output_format,
    output_path,
    partial_path,
    prepare_folder,
    read_provenance,
    refuse_collisions,
    require_size,
    usable_format,
    write_features,
)
from c3d_client.parallel import map_parallel, share_cores
from c3d_client.partial import PartialRows
from c3d_client.shard import Shard
from c3d_client.video.frames import Fingerprint
from c3d_client.video.sources import Source, fingerprint

DONE, SKIPPED, FAILED = "done", "skipped", "failed"

_log = logging.getLogger(__name__)

# In a message about outputs that were made differently.
_MOST_NAMES = 3
_MOST_GROUPS = 4

FILE_NAME = "failures.csv"
# The columns of the first release. Columns are only added, after these; read_failures() must give a
# later column the value of that release where a file lacks it.
_COLUMNS = ("video", "uri", "error_type", "error", "fingerprint")
_LIST_NAME = re.compile(r"failures(?:\.([1-9][0-9]{0,8})-of-([1-9][0-9]{0,8}))?\.csv")
_MESSAGE_CHARACTERS = 2000
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Row:
    """The outcome of one video.

    Args:
        source: the video.
        path: its output, which exists unless the video failed.
        status: ``done``, ``skipped`` or ``failed``.
        clips: number of clips, where it was done.
        error: why it failed; empty otherwise.
        tried: False where the failure of an earlier run is repeated without a new attempt.
        reason: the error without the video's address, in one line.
        clips_left_out: number of clips that touch a damaged stretch of the video, where it was done
            with ``damage="skip"``.
        frames_left_out: number of pictures before the first one that can be decoded, where it was
            done.
        clips_kept: number of clips whose features an earlier run of a long video had kept, where it
            was done; they were not requested again.
    """

    source: Source
    path: Path
    status: str
    clips: int = 0
    error: str = ""
    tried: bool = True
    reason: str = ""
    clips_left_out: int = 0
    frames_left_out: int = 0
    clips_kept: int = 0


@dataclass(frozen=True)
class _Existing:
    """What a run needs to know of an output that exists.

    Args:
        fingerprint: of the video that it was made of, as in ``failures.csv``; None without one.
        difference: how it was made differently from this job, which is refused; or empty.
        note: other versions of the software that made it, which are accepted; or empty.
    """

    fingerprint: str | None
    difference: str
    note: str


class ExtractJob:
    """Extraction of the features of many videos into one folder.

    Args:
        c3d: the client, which also defines how clips are cut.
        folder: the folder for outputs, each under its video's name; created where it is missing.
        format: one of :data:`c3d_client.outputs.FORMATS`; None for that of the suffix of ``name``,
            or npz.
        name: a pattern for the names of outputs, such as ``{stem}.npy``, as for
            :func:`c3d_client.outputs.output_path`. An output that an earlier run wrote under the
            default name is found there: its video is done.
        shard: the share of the videos that this job does, such as ``2/16``; None for all.
        overwrite: extract videos that are done too, and replace outputs of other videos.
        retry_failed: try videos again that failed before because of the video itself. Videos that
            failed because of the server or the disk are always tried again.
        frames_fps: the rate of the images, where the videos are folders of images; see
            :meth:`C3DClient.extract`.

    Raises:
        UsageError: the format is unknown, its library is not installed, or it cannot hold the
            layers or the rows of the client's PCA; there is no such shard; or no video can have an
            output of this name.
        OutputError: the folder is not writable.
        ServingError: the server does not answer, or its model is not C3D.
    """

    def __init__(
        self,
        c3d: C3DClient,
        folder: str | os.PathLike[str],
        *,
        format: str | None = None,
        name: str | None = None,
        shard: Shard | str | None = None,
        overwrite: bool = False,
        retry_failed: bool = False,
        frames_fps: float | Fraction | None = None,
    ) -> None:
        format = output_format(format, name)
        usable_format(format, layers=c3d.layers)
        if c3d.pca is not None:
            require_size(format, c3d.pca.dim)
        self._name = name
        self._shard = shard if shard is None or isinstance(shard, Shard) else Shard.parse(shard)
        self._c3d = c3d
        self._folder = Path(path_text(folder, "folder"))
        self._stream = c3d.window.stream
        self._format = format
        self._overwrite = overwrite
        self._retry_failed = retry_failed
        self._frames_fps = frames_fps
        self._expected = Provenance(c3d.provenance())
        prepare_folder(self._folder)
        self._earlier_failures = read_failures(self._folder)
        # The fingerprint of each video whose output needs no work unless the video has changed.
        self._made_before: dict[str, str] = {}

    def run(
        self,
        sources: Sequence[Source],
        *,
        workers: int | None = None,
        stop: threading.Event | None = None,
        note: Callable[[str], None] = _log.info,
    ) -> Iterator[Row]:
        """Extract the videos, several at a time.

        Before any work, the outputs that exist are compared with what this job would make. Outputs
        of another model or of clips made in another way are refused; other versions of the
        software are noted.

        Args:
            sources: videos with different names, of all shards.
            workers: videos at a time; as many as there are cores by default.
            stop: set to start no further video.
            note: called with a line about outputs that other versions of the software made, or
                that have default names, and about rows of a long video that cannot be kept or used.
                Threads call it.

        Yields:
            One row for each video of this job's shard, as it ends; none for videos that were not
            started.

        Raises:
            UsageError: workers is below 1, the sources are not those of :func:`expand`, or two of
                them would have the same output.
            ProvenanceError: outputs of these videos were made differently, and ``overwrite`` is
                not set; nothing was requested or written.
            ContractMismatch, ModelNotFound: the model is not usable, or was replaced.
            ServingError: the server answered for none of several videos in a row.
            Exception: a defect; the video and every outcome so far are in ``failures.csv`` by then.
        """
        require_each(sources, Source, "sources", made_by="what expand() returns")
        require_own_outputs(
            sources,
            self._folder,
            format=self._format,
            name=self._name,
            layers=self._c3d.layers,
        )
        sources = shard_of(sources, self._shard)
        count, threads = share_cores(workers, videos=len(sources))
        if not self._overwrite:
            self._require_same(sources, workers=count, stop=stop, note=note)
        failures: dict[str, Failure] = {}  # of this run
        ended: set[str] = set()  # failures of earlier runs that are over
        fingerprints: dict[str, Fingerprint] = {}
        under_default_names: list[str] = []

        def extract(source: Source, cancel: threading.Event) -> Row:
            try:
                known = fingerprints[source.name] = fingerprint(source.uri)
                return self._extract(source, known, threads=threads, cancel=cancel, note=note)
            except C3DError:
                raise
            except Exception as error:
                failures[listed_name(source)] = _failure(source, error, {})
                raise

        try:
            for outcome in map_parallel(extract, sources, workers=count, stop=stop):
                source = outcome.source
                if outcome.result is not None:
                    row = outcome.result
                else:
                    assert outcome.error is not None
                    # Another stream of the same file may be intact: the next run tries again.
                    known = {} if self._stream is not None else fingerprints.get(source.name, {})
                    failures[listed_name(source)] = _failure(source, outcome.error, known)
                    row = Row(
                        source,
                        self._path(source),
                        FAILED,
                        error=str(outcome.error),
                        reason=reason_of(outcome.error),
                    )
                if row.status != FAILED:
                    ended.add(listed_name(source))
                if row.status == SKIPPED and row.path != self._path(source):
                    under_default_names.append(row.path.name)
                yield row
            if under_default_names:
                count = len(under_default_names)
                note(
                    f"{count} video{'s' * (count != 1)} done before under the default name: "
                    f"{escape_bytes(min(under_default_names))}{' and others' * (count > 1)}"
                )
        finally:
            self._write_failures(failures, ended)

    def _write_failures(self, failures: Mapping[str, Failure], ended: Collection[str]) -> None:
        """Write this job's list: its failures, and those of earlier runs that are not over."""
        # Read again: other shards may have ended meanwhile.
        listed = {
            name: failure
            for name, failure in _current(_read_lists(self._folder, intact=True)).items()
            if name not in ended and _is_in(self._shard, name)
        }
        write_failures(self._folder, {**listed, **failures}, shard=self._shard)

    def _extract(
        self,
        source: Source,
        current: Fingerprint,
        *,
        threads: int,
        cancel: threading.Event,
        note: Callable[[str], None],
    ) -> Row:
        path = self._path(source)
        if not self._overwrite and (found := self._find(source)) is not None:
            is_same = self._made_before.get(source.name) == fingerprint_text(current)
            if is_same or self._is_done(source, found, current):
                return Row(source, found, SKIPPED)
        earlier = self._earlier_failures.get(listed_name(source))
        if (
            not self._retry_failed
            and self._stream is None
            and earlier is not None
            and current
            and earlier.fingerprint == fingerprint_text(current)
        ):
            reason = earlier.error.removeprefix(f"{earlier.uri}: ")
            return Row(source, path, FAILED, error=earlier.error, tried=False, reason=reason)
        partial = PartialRows(
            partial_path(path),
            video={
                "fingerprint": dict(current),
                "stream": self._stream,
                # With a frame rate of the clips it decides which frames they have.
                "frames_fps": self._frames_fps and float(self._frames_fps),
            },
            note=lambda line: note(f"{listed_name(source)}: {line}"),
        )
        if self._overwrite or not current:  # without a fingerprint another video may be there
            partial.remove()
        try:
            features = self._c3d._extract(
                source.uri,
                frames_fps=self._frames_fps,
                threads=threads,
                cancel=cancel,
                fingerprint=current,
                partial=partial if current else None,
            )
            self._c3d.model.require_unchanged(self._expected, Provenance(features.provenance))
            prepare_folder(path.parent)
            write_features(path, features, format=self._format)
            partial.remove()
        except VideoError as error:
            if not _may_pass(error):
                partial.remove()
            raise
        finally:
            partial.close()
        video = features.provenance["video"]
        return Row(
            source,
            path,
            DONE,
            clips=len(features.clip_starts),
            clips_left_out=video.get("clips_left_out", 0),
            frames_left_out=video.get("frames_left_out", 0),
            clips_kept=partial.taken,
        )

    def _path(self, source: Source) -> Path:
        return output_path(self._folder, source.name, self._format, pattern=self._name)

    def _find(self, source: Source) -> Path | None:
        """Return the path of a video's output, which may have its default name; None without one.

        The file may also be another program's, or that of another video.
        """
        # Not Path.exists(), which raises an OSError for a path that is too long.
        path = self._path(source)
        if os.path.exists(path):
            return path
        if self._name is None:
            return None
        path = output_path(self._folder, source.name, self._format)
        return path if os.path.exists(path) else None

    def _require_same(
        self,
        sources: Sequence[Source],
        *,
        workers: int,
        stop: threading.Event | None,
        note: Callable[[str], None],
    ) -> None:
        """Compare the outputs that exist with what this job would make.

        Only provenances are read, and of each output only a fingerprint stays in memory. A video
        that has changed is extracted again, however its output was made.

        Raises:
            ProvenanceError: outputs were made differently.
        """
        done = 0
        different: dict[str, list[str]] = {}
        noted: dict[str, list[str]] = {}
        for outcome in map_parallel(self._existing, sources, workers=workers, stop=stop):
            existing = outcome.result
            if existing is None:  # there is none, or its error is the outcome of its video
                continue
            done += 1
            name = listed_name(outcome.source)
            if existing.difference:
                different.setdefault(existing.difference, []).append(name)
                continue
            if existing.fingerprint is not None:
                self._made_before[outcome.source.name] = existing.fingerprint
            if existing.note:
                noted.setdefault(existing.note, []).append(name)
        if stop is not None and stop.is_set():
            return
        if different:
            raise ProvenanceError(
                f"{self._folder}: {_made_text(different, done)}; nothing was done: use another "
                "folder, or --overwrite to extract them again"
            )
        if noted:
            note(f"{_made_text(noted, done)}; they stay as they are, and may be used together")

    def _existing(self, source: Source, cancel: threading.Event) -> _Existing | None:
        """Return what a video's output was made of and how; None where there is no such output."""
        path = self._find(source)
        if path is None:
            return None
        provenance = Provenance(read_provenance(path, format=self._format))
        if not provenance.video:  # a file of another program
            return None
        made_of = provenance.video.get("fingerprint")
        differences = [difference.phrase for difference in provenance.differences(self._expected)]
        # Release 0.1.0 did not record the stream.
        if self._stream is not None and (found := provenance.video.get("stream")) != self._stream:
            found = "an unknown stream" if found is None else f"stream {found}"
            differences.append(f"{found}, not {self._stream}")
        # The rate decides the times, and with another frame rate of the clips also the frames.
        if provenance.video.get("input") == "images":
            found = provenance.video.get("frames_fps")
            if found != (self._frames_fps and float(self._frames_fps)):
                wanted = self._frames_fps or "unknown"
                differences.append(f"frames-fps {found or 'unknown'}, not {wanted}")
        if differences:
            with contextlib.suppress(VideoError):  # a video that is away may be the same
                if fingerprint(source.uri) != made_of:
                    return None
        return _Existing(
            None if made_of is None else fingerprint_text(made_of),
            " and ".join(differences),
            " and ".join(difference.phrase for difference in provenance.notes(self._expected)),
        )

    def _is_done(self, source: Source, path: Path, current: Fingerprint) -> bool:
        """Return whether the output is of the same video, extracted in the same way.

        Raises:
            OutputError: the output is of another video, or cannot be read, and is in the way.
        """
        is_in_the_way = path == self._path(source)  # and not under the default name
        try:
            provenance = Provenance(read_provenance(path, format=self._format))
        except OutputError as error:
            if not is_in_the_way:
                return False
            raise OutputError(
                path, f"is in the way of {source.name} ({error.reason}); remove it or --overwrite"
            ) from error
        video = provenance.video
        if video.get("fingerprint") == current:
            return not self._expected.differences(provenance)
        if not is_in_the_way:
            return False
        uri = Uri.of(source.uri)
        # Release 0.1.0 stored the bytes of a name that are not UTF-8 as surrogates.
        if escape_bytes(str(video.get("source"))) != str(uri):
            raise OutputError(
                path,
                f"holds the features of {provenance.video_name}, not of {uri}; "
                "use another folder or --overwrite",
            )
        return False


def require_own_outputs(
    sources: Sequence[Source],
    folder: str | os.PathLike[str],
    *,
    format: str,
    name: str | None,
    layers: Sequence[str] = (DEFAULT_LAYER,),
) -> None:
    """Check that no two videos of a run have the same output.

    Args:
        sources: the videos of all shards.
        folder, format, name: as for :class:`ExtractJob`.
        layers: the layers of each output.

    Raises:
        UsageError: two of them have; or one cannot have an output of this name.
    """
    chosen = format_named(format)
    target_of: Callable[[str], str | os.PathLike[str]]
    target_of = functools.partial(output_path, folder, format=format, pattern=name)
    if name is None:  # different names give different paths: the fast way to compare many
        ending = chosen.suffix
        target_of = lambda video: os.path.join(folder, f"{video}{ending}")  # noqa: E731

    def targets() -> Iterator[tuple[Source, str]]:
        for source in sources:
            target = target_of(source.name)
            yield source, os.fspath(target)
            if chosen.layer_path is not None:  # each further layer is a file
                for layer in layers[1:]:
                    yield source, os.fspath(chosen.layer_path(Path(target), layer))

    refuse_collisions(
        targets(),
        str,
        folder=folder,
        shown=lambda source: str(Uri.of(source.uri)),
        advice="rename one, or use two runs" if name is None else "use a name with more fields",
    )


def shard_of(sources: Sequence[Source], shard: Shard | None) -> Sequence[Source]:
    """Return the videos of a shard, in their order; all without one."""
    return [source for source in sources if _is_in(shard, source.name)]


def _is_in(shard: Shard | None, name: str) -> bool:
    return shard is None or shard.takes(name)


def _made_text(names: Mapping[str, list[str]], done: int) -> str:
    """Return how many of the done files were made how, with a few names.

    Args:
        names: the names of videos by how their files were made.
        done: all done files.
    """
    groups = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    total = sum(len(of_group) for _, of_group in groups)
    parts = []
    for how, of_group in groups[:_MOST_GROUPS]:
        few = ", ".join(sorted(of_group)[:_MOST_NAMES])
        more = f" and {len(of_group) - _MOST_NAMES} more" if len(of_group) > _MOST_NAMES else ""
        count = f"{len(of_group)} " if len(groups) > 1 else ""
        parts.append(f"{count}with {how} ({few}{more})")
    if rest := sum(len(of_group) for _, of_group in groups[_MOST_GROUPS:]):
        parts.append(f"{rest} in other ways")
    return (
        f"{total} of {done} done file{'s' * (done != 1)} {'was' if total == 1 else 'were'} made "
        f"{'differently: ' if len(groups) > 1 else ''}{'; '.join(parts)}"
    )


@dataclass(frozen=True)
class Failure:
    """One video that has no output.

    Args:
        video: the video's name in the run; see :func:`listed_name`.
        uri: the video's address, without credentials.
        error_type: the error's class, e.g. ``VideoDecodeError``.
        error: the error's message.
        fingerprint: fingerprint of the file that failed, JSON text; empty where there is none.
        unknown: values of columns that this release does not know, by column.
    """

    video: str
    uri: str
    error_type: str
    error: str
    fingerprint: str
    unknown: Mapping[str, str] = field(default_factory=dict)


def listed_name(source: Source) -> str:
    r"""Return a video's name as ``failures.csv`` has it: bytes that are not UTF-8 as ``\xNN``."""
    return escape_bytes(source.name)


def fingerprint_text(fingerprint: Fingerprint) -> str:
    """Return a fingerprint as it is stored in ``failures.csv``."""
    return json.dumps(dict(fingerprint), sort_keys=True) if fingerprint else ""


@dataclass(frozen=True)
class _List:
    """One list of failures in a folder.

    Args:
        path: the file.
        shard: the share of the videos that the list is about; None for all.
        status: of the file, from os.stat.
        failures: by the video's name.
    """

    path: Path
    shard: Shard | None
    status: os.stat_result
    failures: Mapping[str, Failure]

    def covers(self, name: str) -> bool:
        return _is_in(self.shard, name)


def list_name(shard: Shard | None) -> str:
    """Return the name of a shard's list of failures, or of the list of a run without shards."""
    return FILE_NAME if shard is None else f"failures.{shard.number}-of-{shard.count}.csv"


def read_failures(folder: Path) -> dict[str, Failure]:
    """Return the failures of earlier runs by the video's name; none where there is no list.

    A run reads all lists, and its own list has all failures of its share that are not over. So of
    several lists, of shards of any number, the newest one about a video decides. Columns of later
    releases are stored in :attr:`Failure.unknown`.

    Raises:
        OutputError: a file is not a list of failures.
    """
    return _current(_read_lists(folder))


def _current(lists: Sequence[_List]) -> dict[str, Failure]:
    failures: dict[str, Failure] = {}
    for newer in lists:
        failures = {name: kept for name, kept in failures.items() if not newer.covers(name)}
        failures.update(newer.failures)
    return failures


def _read_lists(folder: Path, *, intact: bool = False) -> list[_List]:
    """Return all lists of failures in a folder, the oldest first.

    Args:
        folder: the folder of the outputs.
        intact: leave out files that are not lists of failures, instead of raising an error.

    Raises:
        OutputError: a file is not a list of failures.
    """
    lists = []
    try:
        names = os.listdir(folder)
    except OSError:  # writing there raises an error with its reason
        return []
    for name in names:
        if match := _LIST_NAME.fullmatch(name):
            shard = None
            if match[1] is not None:
                if int(match[1]) > int(match[2]):
                    continue
                shard = Shard(int(match[1]), int(match[2]))
            try:
                lists.append(_read_list(folder / name, shard))
            except FileNotFoundError:  # removed meanwhile
                continue
            except OutputError:
                if not intact:
                    raise
    return sorted(lists, key=lambda one: (one.status.st_mtime_ns, one.path.name))


def _read_list(path: Path, shard: Shard | None) -> _List:
    failures = {}
    try:
        with path.open(encoding="utf-8", newline="") as file, _any_cell_size():
            status = os.fstat(file.fileno())
            reader = csv.DictReader(file, restval="")
            if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
            for row in reader:
                if None in row:
                    raise ValueError(f"line {reader.line_num} has more cells than columns")
                known = {name: row.pop(name) for name in _COLUMNS}
                failures[known["video"]] = Failure(**known, unknown=row)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(path, f"is not a run's list of failures ({error}); remove it") from error
    return _List(path, shard, status, failures)


def write_failures(
    folder: Path, failures: Mapping[str, Failure], *, shard: Shard | None = None
) -> None:
    """Write the list of a run, sorted by name, as the newest one of the folder.

    Each process writes its own list alone. A list without failures is written where older lists
    have failures of its share, which are over, and is deleted otherwise. Lists of others that have
    become meaningless, because newer lists decide about all of their videos, are deleted.

    Unknown columns follow the known ones; they are empty for failures of this run.

    Args:
        folder: the folder of the outputs.
        failures: all that are not over, of the share, by the video's name.
        shard: the share; None for all videos.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / list_name(shard)
    try:
        others = [one for one in _read_lists(folder, intact=True) if one.path != path]
        are_listed = any(_is_in(shard, name) for one in others for name in one.failures)
        if not failures and not are_listed:
            path.unlink(missing_ok=True)
            return
        rows = [asdict(failures[name]) for name in sorted(failures)]
        rows = [
            {column: _cell(value) for column, value in {**row.pop("unknown"), **row}.items()}
            for row in rows
        ]
        unknown = dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS)
        newest_ns = max((one.status.st_mtime_ns for one in others), default=0)
        with atomic_file(path, text=True) as file:
            writer = csv.DictWriter(file, (*_COLUMNS, *unknown), restval="")
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            # The clocks of machines differ, and those of file systems are coarse.
            if os.fstat(file.fileno()).st_mtime_ns <= newest_ns:
                os.utime(file.name, ns=(newest_ns + 1, newest_ns + 1))
        with contextlib.suppress(OSError):
            _remove_meaningless(folder)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


def _remove_meaningless(folder: Path) -> None:
    """Delete the lists without a current failure, unless an older list would be current then."""
    lists = _read_lists(folder, intact=True)
    current = _current(lists)
    left: list[_List] = []
    for one in lists:
        is_current = any(current.get(name) is failure for name, failure in one.failures.items())
        ends_others = any(one.covers(name) for older in left for name in older.failures)
        if is_current or ends_others:
            left.append(one)
        else:
            _remove(one)


def _remove(one: _List) -> None:
    """Delete a list, unless its owner has written it again since it was read."""
    claimed = one.path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):  # another process was first
        os.rename(one.path, claimed)
        status = os.stat(claimed)
        if (status.st_ino, status.st_mtime_ns) == (one.status.st_ino, one.status.st_mtime_ns):
            claimed.unlink()
        else:
            os.rename(claimed, one.path)


@contextlib.contextmanager
def _any_cell_size() -> Iterator[None]:
    """Read cells of more than the csv module's 131,072 characters within the block."""
    with _LOCK:  # the limit is the process's
        limit = csv.field_size_limit(sys.maxsize)
        try:
            yield
        finally:
            csv.field_size_limit(limit)


def _cell(value: str) -> str:
    """Return a text that UTF-8 can hold and every Python's csv module reads."""
    return escape_bytes(value).replace("\0", "\\x00")


def _failure(source: Source, error: Exception, known: Fingerprint) -> Failure:
    """Return the row of a video that failed.

    Only a failure of the video itself has a fingerprint, so that the video is not tried again
    while it is the same. A video that could not be read, or for which there was too little memory,
    is always tried again.
    """
    if _may_pass(error) or not isinstance(error, VideoError):
        known = {}
    message = escape_controls(" ".join(str(error).split()))
    if len(message) > _MESSAGE_CHARACTERS:
        message = message[: _MESSAGE_CHARACTERS - 1] + "…"
    return Failure(
        video=listed_name(source),
        uri=str(Uri.of(source.uri)),
        error_type=type(error).__name__,
        error=message,
        fingerprint=fingerprint_text(known),
    )


def _may_pass(error: Exception) -> bool:
    """Whether a video may be sound although it failed."""
    return isinstance(error, (VideoUnreadableError, VideoTooLarge))
