"""One run over many videos into one folder: what is there is kept, what failed is written down.

Every video of a run ends in one row: done, skipped because its output is there already, or failed
with a reason. The same run again does only what is left.
"""

from __future__ import annotations

import contextlib
import csv
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from c3d_client.client import C3DClient
from c3d_client.core.errors import C3DError, OutputError, VideoError
from c3d_client.core.files import atomic_file
from c3d_client.core.provenance import Provenance
from c3d_client.core.uri import redact
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


@dataclass(frozen=True)
class Row:
    """What became of one video.

    Args:
        source: the video.
        path: its output; there unless the video failed.
        status: ``done``, ``skipped`` or ``failed``.
        clips: how many, where it was done.
        error: why it failed; empty otherwise.
        tried: False where an earlier run's failure was taken over.
    """

    source: Source
    path: Path
    status: str
    clips: int = 0
    error: str = ""
    tried: bool = True


class ExtractJob:
    """Features of many videos into one folder.

    Args:
        c3d: the client, with how clips are to be made.
        folder: where outputs go, each under its video's name; made if it is not there.
        format: one of :data:`c3d_client.outputs.FORMATS`.
        overwrite: do again what is done, and write over files of other videos.
        retry_failed: try videos again that failed before for a reason of their own. What failed
            because of the server or the disk is always tried again.

    Raises:
        UsageError: there is no such format, or its library is not installed.
        OutputError: the folder cannot be written to.
        ServingError: the server cannot be asked, or its model is not C3D.
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
        self._before = read_failures(folder)

    def run(
        self,
        sources: Sequence[Source],
        *,
        workers: int | None = None,
        halt: threading.Event | None = None,
    ) -> Iterator[Row]:
        """Do them, several at a time.

        Args:
            sources: with names that differ.
            workers: videos at a time; as many as there are cores by default.
            halt: set to begin no further video.

        Yields:
            One row a video, as they are done; none for those that were not begun.

        Raises:
            UsageError: workers is below 1.
            ContractMismatch, ModelNotFound: the model is not, or no longer, what it should be.
            ServingError: the server answered for none of several videos in a row.
        """
        count, threads = share_cores(workers, videos=len(sources))
        failures = dict(self._before)

        def one(source: Source, cancel: threading.Event) -> Row:
            return self._one(source, threads=threads, cancel=cancel)

        try:
            for outcome in map_parallel(one, sources, workers=count, stop=halt):
                source = outcome.source
                if outcome.result is not None:
                    row = outcome.result
                else:
                    assert outcome.error is not None
                    failures[source.name] = self._failure(source, outcome.error)
                    row = Row(source, self._path(source), FAILED, error=str(outcome.error))
                if row.status != FAILED:
                    failures.pop(source.name, None)
                yield row
        finally:
            write_failures(self._folder, failures)

    def _one(self, source: Source, *, threads: int, cancel: threading.Event) -> Row:
        path = self._path(source)
        known_by = fingerprint(source.uri)
        if not self._overwrite and path.exists() and self._is_done(source, path, known_by):
            return Row(source, path, SKIPPED)
        before = self._before.get(source.name)
        if (
            not self._retry_failed
            and before is not None
            and known_by
            and before.fingerprint == as_fingerprint(known_by)
        ):
            return Row(source, path, FAILED, error=before.error, tried=False)
        features = self._c3d.extract(source.uri, threads=threads, cancel=cancel)
        self._c3d.model.require_unchanged(self._expected, Provenance(features.provenance))
        prepare_folder(path.parent)
        write_features(path, features, format=self._format)
        return Row(source, path, DONE, clips=len(features.clip_starts))

    def _path(self, source: Source) -> Path:
        return output_path(self._folder, source.name, self._format)

    def _is_done(self, source: Source, path: Path, known_by: dict[str, Any]) -> bool:
        """Whether the output is of this very video, made this very way."""
        try:
            found = Provenance(read_provenance(path, format=self._format))
        except OutputError as error:
            raise OutputError(
                path, f"is in the way of {source.name} ({error.reason}); remove it or --overwrite"
            ) from error
        video = found.video
        if video.get("fingerprint") == known_by:
            return not self._expected.differences(found)
        if video.get("source") != redact(source.uri):
            raise OutputError(
                path,
                f"holds the features of {video.get('source')}, not of {redact(source.uri)}; "
                "use another folder or --overwrite",
            )
        return False

    def _failure(self, source: Source, error: C3DError) -> Failure:
        known_by: dict[str, Any] = {}
        if isinstance(error, VideoError):  # others are not the video's fault and are tried again
            try:
                known_by = fingerprint(source.uri)
            except VideoError:
                known_by = {}
        return Failure(
            video=source.name,
            uri=redact(source.uri),
            error_type=type(error).__name__,
            error=" ".join(str(error).split()),
            fingerprint=as_fingerprint(known_by),
        )


FILE_NAME = "failures.csv"


@dataclass(frozen=True)
class Failure:
    """One video that has no output.

    Args:
        video: its name in the run.
        uri: where it is, without credentials.
        error_type: the error's class, e.g. ``VideoDecodeError``.
        error: the error's message.
        fingerprint: of the file that failed, JSON text; empty where it has none.
    """

    video: str
    uri: str
    error_type: str
    error: str
    fingerprint: str


_COLUMNS = [field.name for field in fields(Failure)]


def as_fingerprint(fingerprint: Mapping[str, Any]) -> str:
    """A fingerprint as the file keeps it."""
    return json.dumps(dict(fingerprint), sort_keys=True) if fingerprint else ""


def read_failures(folder: Path) -> dict[str, Failure]:
    """The failures that an earlier run left in its folder, by name; none where there is no file.

    Raises:
        OutputError: the file is not what a run leaves.
    """
    path = folder / FILE_NAME
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if list(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
            rows = [Failure(**row) for row in reader]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise OutputError(path, f"is not a run's list of failures ({error}); remove it") from error
    return {row.video: row for row in rows}


def write_failures(folder: Path, failures: Mapping[str, Failure]) -> None:
    """Write them, sorted by name; without failures there is no file.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / FILE_NAME
    try:
        if not failures:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        with atomic_file(path, text=True) as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(asdict(failures[name]) for name in sorted(failures))
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error
