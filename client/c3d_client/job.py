"""Extraction of many videos into one folder, which a later run continues.

Every video of a run ends as one row: done; skipped, because its output exists already; or failed
with a reason, which is also written to ``failures.csv``. A run with the same arguments does only
what is left.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from c3d_client.client import C3DClient, Fingerprint
from c3d_client.core.arguments import path_text, require_each
from c3d_client.core.errors import (
    C3DError,
    OutputError,
    ProvenanceError,
    VideoError,
    VideoUnreadableError,
    reason_of,
)
from c3d_client.core.files import atomic_file
from c3d_client.core.provenance import Provenance
from c3d_client.core.text import escape_bytes, escape_controls
from c3d_client.core.uri import Uri
from c3d_client.outputs import (
    output_path,
    prepare_folder,
    read_provenance,
    usable_format,
    write_features,
)
from c3d_client.parallel import map_parallel, share_cores
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
        format: one of :data:`c3d_client.outputs.FORMATS`.
        overwrite: extract videos that are done too, and replace outputs of other videos.
        retry_failed: try videos again that failed before because of the video itself. Videos that
            failed because of the server or the disk are always tried again.

    Raises:
        UsageError: the format is unknown, or its library is not installed.
        OutputError: the folder is not writable.
        ServingError: the server does not answer, or its model is not C3D.
    """

    def __init__(
        self,
        c3d: C3DClient,
        folder: str | os.PathLike[str],
        *,
        format: str = "npz",
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> None:
        usable_format(format)
        self._c3d = c3d
        self._folder = Path(path_text(folder, "folder"))
        self._stream = c3d.window.stream
        self._format = format
        self._overwrite = overwrite
        self._retry_failed = retry_failed
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
            sources: videos with different names.
            workers: videos at a time; as many as there are cores by default.
            stop: set to start no further video.
            note: called with a line about outputs that other versions of the software made.

        Yields:
            One row for each video, as it ends; none for videos that were not started.

        Raises:
            UsageError: workers is below 1, or the sources are not those of :func:`expand`.
            ProvenanceError: outputs of these videos were made differently, and ``overwrite`` is
                not set; nothing was requested or written.
            ContractMismatch, ModelNotFound: the model is not usable, or was replaced.
            ServingError: the server answered for none of several videos in a row.
            Exception: a defect; the video and every outcome so far are in ``failures.csv`` by then.
        """
        require_each(sources, Source, "sources", made_by="what expand() returns")
        count, threads = share_cores(workers, videos=len(sources))
        if not self._overwrite:
            self._require_same(sources, workers=count, stop=stop, note=note)
        failures = dict(self._earlier_failures)
        fingerprints: dict[str, Fingerprint] = {}

        def extract(source: Source, cancel: threading.Event) -> Row:
            try:
                known = fingerprints[source.name] = fingerprint(source.uri)
                return self._extract(source, known, threads=threads, cancel=cancel)
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
                    failures.pop(listed_name(source), None)
                yield row
        finally:
            write_failures(self._folder, failures)

    def _extract(
        self, source: Source, current: Fingerprint, *, threads: int, cancel: threading.Event
    ) -> Row:
        path = self._path(source)
        # Not Path.exists(), which raises an OSError for a path that is too long.
        if not self._overwrite and os.path.exists(path):
            is_same = self._made_before.get(source.name) == fingerprint_text(current)
            if is_same or self._is_done(source, path, current):
                return Row(source, path, SKIPPED)
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
        features = self._c3d._extract(
            source.uri, threads=threads, cancel=cancel, fingerprint=current
        )
        self._c3d.model.require_unchanged(self._expected, Provenance(features.provenance))
        prepare_folder(path.parent)
        write_features(path, features, format=self._format)
        video = features.provenance["video"]
        return Row(
            source,
            path,
            DONE,
            clips=len(features.clip_starts),
            clips_left_out=video.get("clips_left_out", 0),
            frames_left_out=video.get("frames_left_out", 0),
        )

    def _path(self, source: Source) -> Path:
        return output_path(self._folder, source.name, self._format)

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
        path = self._path(source)
        if not os.path.exists(path):
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
            OutputError: the output is of another video, or cannot be read.
        """
        try:
            provenance = Provenance(read_provenance(path, format=self._format))
        except OutputError as error:
            raise OutputError(
                path, f"is in the way of {source.name} ({error.reason}); remove it or --overwrite"
            ) from error
        video = provenance.video
        if video.get("fingerprint") == current:
            return not self._expected.differences(provenance)
        uri = Uri.of(source.uri)
        # Release 0.1.0 stored the bytes of a name that are not UTF-8 as surrogates.
        if escape_bytes(str(video.get("source"))) != str(uri):
            raise OutputError(
                path,
                f"holds the features of {provenance.video_name}, not of {uri}; "
                "use another folder or --overwrite",
            )
        return False


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


def read_failures(folder: Path) -> dict[str, Failure]:
    """Return the failures of an earlier run by the video's name; none where there is no file.

    Columns of later releases are stored in :attr:`Failure.unknown`.

    Raises:
        OutputError: the file is not a list of failures.
    """
    path = folder / FILE_NAME
    failures = {}
    try:
        with path.open(encoding="utf-8", newline="") as file, _any_cell_size():
            reader = csv.DictReader(file, restval="")
            if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
            for row in reader:
                if None in row:
                    raise ValueError(f"line {reader.line_num} has more cells than columns")
                known = {name: row.pop(name) for name in _COLUMNS}
                failures[known["video"]] = Failure(**known, unknown=row)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(path, f"is not a run's list of failures ({error}); remove it") from error
    return failures


def write_failures(folder: Path, failures: Mapping[str, Failure]) -> None:
    """Write the failures, sorted by name; without failures the file is deleted.

    Unknown columns follow the known ones; they are empty for failures of this run.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / FILE_NAME
    try:
        if not failures:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        rows = [asdict(failures[name]) for name in sorted(failures)]
        rows = [
            {column: _cell(value) for column, value in {**row.pop("unknown"), **row}.items()}
            for row in rows
        ]
        unknown = dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS)
        with atomic_file(path, text=True) as file:
            writer = csv.DictWriter(file, (*_COLUMNS, *unknown), restval="")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


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
    while it is the same. A video that could not be read is always tried again.
    """
    if isinstance(error, VideoUnreadableError) or not isinstance(error, VideoError):
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
