"""Extraction of many videos into one folder, which a later run continues.

Every video of a run ends as one row: done; skipped, because its output exists already; or failed
with a reason, which is also written to ``failures.csv``. A run with the same arguments does only
what is left.
"""

from __future__ import annotations

import contextlib
import csv
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from c3d_client.client import C3DClient, Fingerprint
from c3d_client.core.errors import C3DError, OutputError, VideoError, VideoUnreadableError
from c3d_client.core.files import atomic_file
from c3d_client.core.provenance import Provenance
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

FILE_NAME = "failures.csv"
# The columns of the first release. Columns are only added, after these; read_failures() must give a
# later column the value of that release where a file lacks it.
_COLUMNS = ("video", "uri", "error_type", "error", "fingerprint")


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
    clips_left_out: int = 0
    frames_left_out: int = 0


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
        folder: Path,
        *,
        format: str = "npz",
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> None:
        usable_format(format)
        self._c3d = c3d
        self._folder = folder
        self._format = format
        self._overwrite = overwrite
        self._retry_failed = retry_failed
        self._expected = Provenance(c3d.provenance())
        prepare_folder(folder)
        self._earlier_failures = read_failures(folder)

    def run(
        self,
        sources: Sequence[Source],
        *,
        workers: int | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Row]:
        """Extract the videos, several at a time.

        Args:
            sources: videos with different names.
            workers: videos at a time; as many as there are cores by default.
            stop: set to start no further video.

        Yields:
            One row for each video, as it ends; none for videos that were not started.

        Raises:
            UsageError: workers is below 1.
            ContractMismatch, ModelNotFound: the model is not usable, or was replaced.
            ServingError: the server answered for none of several videos in a row.
        """
        count, threads = share_cores(workers, videos=len(sources))
        failures = dict(self._earlier_failures)
        fingerprints: dict[str, Fingerprint] = {}

        def extract(source: Source, cancel: threading.Event) -> Row:
            fingerprints[source.name] = fingerprint(source.uri)
            return self._extract(source, fingerprints[source.name], threads=threads, cancel=cancel)

        try:
            for outcome in map_parallel(extract, sources, workers=count, stop=stop):
                source = outcome.source
                if outcome.result is not None:
                    row = outcome.result
                else:
                    assert outcome.error is not None
                    known = fingerprints.get(source.name, {})
                    failures[source.name] = _failure(source, outcome.error, known)
                    row = Row(source, self._path(source), FAILED, error=str(outcome.error))
                if row.status != FAILED:
                    failures.pop(source.name, None)
                yield row
        finally:
            write_failures(self._folder, failures)

    def _extract(
        self, source: Source, current: Fingerprint, *, threads: int, cancel: threading.Event
    ) -> Row:
        path = self._path(source)
        if not self._overwrite and path.exists() and self._is_done(source, path, current):
            return Row(source, path, SKIPPED)
        earlier = self._earlier_failures.get(source.name)
        if (
            not self._retry_failed
            and earlier is not None
            and current
            and earlier.fingerprint == fingerprint_text(current)
        ):
            return Row(source, path, FAILED, error=earlier.error, tried=False)
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
        if video.get("source") != str(uri):
            raise OutputError(
                path,
                f"holds the features of {video.get('source')}, not of {uri}; "
                "use another folder or --overwrite",
            )
        return False


@dataclass(frozen=True)
class Failure:
    """One video that has no output.

    Args:
        video: the video's name in the run.
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
        with path.open(encoding="utf-8", newline="") as file:
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
        rows = [{**row.pop("unknown"), **row} for row in rows]
        unknown = dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS)
        with atomic_file(path, text=True) as file:
            writer = csv.DictWriter(file, (*_COLUMNS, *unknown), restval="")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error


def _failure(source: Source, error: C3DError, known: Fingerprint) -> Failure:
    """Return the row of a video that failed.

    Only a failure of the video itself has a fingerprint, so that the video is not tried again
    while it is the same. A video that could not be read may have changed since ``known``.
    """
    if isinstance(error, VideoUnreadableError):
        try:
            known = fingerprint(source.uri)
        except VideoError:
            known = {}
    elif not isinstance(error, VideoError):
        known = {}
    return Failure(
        video=source.name,
        uri=str(Uri.of(source.uri)),
        error_type=type(error).__name__,
        error=" ".join(str(error).split()),
        fingerprint=fingerprint_text(known),
    )
