"""One shard: several videos in flight to the server, each of them one row, and a report at the end.

What a pod of a bulk run does, and of use as a library: ``do_shard(settings, rows, index)``. Killed
at any moment and called again, it does the shard anew, into the same files; what is done stays.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from c3d_client import Cancelled, ModelInfo
from c3d_client.core.contract import CLASSIFY, FC6_FEATURES, FEATURE_SIZE
from c3d_client.core.errors import (
    C3DError,
    ContractMismatch,
    OutputError,
    ServingError,
    UsageError,
    VideoError,
)
from c3d_client.core.provenance import Provenance
from c3d_client.parallel import map_parallel, share_cores

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.commits import name_of, read_report, remove_stale
from c3d_pipelines.shards.progress import Progress, ShardProgress, ticking
from c3d_pipelines.shards.retry import Patience, ServerGone, StoreTries
from c3d_pipelines.shards.schema import OK, STATUSES, ShardReport, report_file
from c3d_pipelines.shards.writer import TIMINGS, Result, ShardWriter, writing_shard
from c3d_pipelines.storage import Storage

_CHECK_MODEL_EVERY_S = 10.0
_LOOK_EVERY_S = 0.2


def do_shard(
    settings: JobSettings,
    rows: Sequence[ManifestRow],
    index: int,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    halt: threading.Event | None = None,
    cores: int | None = None,
) -> ShardReport:
    """Do one shard: every video ends in one row, and then there is a report.

    A shard that this run has done is left as it is, and so is one of another run in which all is
    well and has a key: its report is returned. A shard without videos has a report that is not
    written.

    Args:
        settings: of the run, with the provenance that the preflight found.
        rows: the shard's videos, in the order of its rows.
        index: its number in the run's plan.
        on_progress: called after each video and at the end, in this thread.
        halt: set by another thread to give the shard up.
        cores: how many cores the decoder threads may use; all of this process by default.

    Raises:
        UsageError: the settings hold no provenance, or the model gives no classes.
        ContractMismatch: the model is, or became, another one than the run began with.
        ShardError: the server stayed away for longer than ``patience_s``, or lets nobody in.
        StorageError: the dataset's place cannot be read or written.
        Cancelled: halt was set.

        After each of them nothing half-written is left, and the same call does the shard anew.
    """
    if not settings.provenance:
        raise UsageError("the run's settings hold no provenance; ask the server first (preflight)")
    name = name_of(settings, rows)
    began = time.time()
    if not rows:
        return _report(settings, name, index, began=began)
    storage = Storage(settings.out)
    done = read_report(storage, name)
    # Of another run's shard only what is well is not to be done again: it was planned, after all.
    # And what has no key may be another video by now.
    stays = done is not None and done.counts[OK] == done.videos and all(row.key for row in rows)
    if done is not None and (done.run == settings.run or stays):
        _tell_of(done, settings.run, index, on_progress)
        return done
    remove_stale(storage)
    with (
        contextlib.closing(_Work(settings, rows, halt or threading.Event(), cores=cores)) as work,
        ShardProgress(
            settings.run,
            index,
            videos=len(rows),
            clips=lambda: work.c3d.clips_answered,
            on_progress=on_progress,
        ) as progress,
    ):
        try:
            writer = work.write(storage, name, progress)
        except ServerGone as gone:
            stayed_away = f"did not come back within {settings.patience_s:g} s"
            raise ShardError(
                f"shard {index}: the server {'refuses' if gone.refuses else stayed_away} ({gone}); "
                "nothing of this shard is kept; start the run again when the server answers: "
                "shards that are done stay"
            ) from gone.error
        report = _report(settings, name, index, began=began, writer=writer, work=work)
        storage.write(report_file(name), report.to_json(), again=work.store_tries())
    return report


def _report(
    settings: JobSettings,
    name: str,
    index: int,
    *,
    began: float,
    writer: ShardWriter | None = None,
    work: _Work | None = None,
) -> ShardReport:
    return ShardReport(
        name=name,
        run=settings.run,
        index=index,
        answer=settings.answer,
        videos=writer.videos if writer else 0,
        clips=writer.clips if writer else 0,
        counts={status: writer.counts[status] if writer else 0 for status in STATUSES},
        video_bytes=writer.video_bytes if writer else 0,
        clip_bytes=writer.clip_bytes if writer else 0,
        started_at=began,
        ended_at=time.time(),
        timings=writer.timings if writer else dict.fromkeys(TIMINGS, 0.0),
        clips_answered=work.c3d.clips_answered if work else 0,
        retries=work.patience.retried if work else 0,
        provenance=settings.provenance,
    )


def _tell_of(
    report: ShardReport, run: str, index: int, on_progress: Callable[[Progress], None] | None
) -> None:
    """Say of a shard that was done before that it is done."""
    with ShardProgress(
        run,
        index,
        videos=report.videos,
        clips=lambda: report.clips_answered,
        on_progress=on_progress,
    ) as progress:
        progress.take_over(report.counts)


@dataclass(frozen=True)
class _Done:
    """What became of one video: one of the two."""

    result: Result | None = None
    error: C3DError | None = None


class _Either(threading.Event):
    """Set when one of several others is."""

    def __init__(self, *events: threading.Event) -> None:
        super().__init__()
        self._events = events

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._events)


class _Work:
    """What the videos of one shard share: the connection, the patience, the wish to end it."""

    def __init__(
        self,
        settings: JobSettings,
        rows: Sequence[ManifestRow],
        halt: threading.Event,
        *,
        cores: int | None,
    ) -> None:
        self._settings = settings
        self._rows = rows
        self._halt = halt
        self._signature = FC6_FEATURES if settings.answer == "features" else CLASSIFY
        self._workers, self._threads = share_cores(
            settings.workers or None, videos=len(rows), cores=cores
        )
        self._in_hand: set[_Either] = set()
        self._lock = threading.Lock()
        self.c3d = settings.client()
        self.patience = Patience(
            self.c3d.serving.options, patience_s=settings.patience_s, check=self._require_same
        )

    def close(self) -> None:
        """Close the connections."""
        self.patience.close()
        self.c3d.close()

    def store_tries(self) -> StoreTries:
        """How often a bucket is tried again, for one file."""
        return StoreTries(patience_s=self._settings.patience_s, stop=self._halt)

    def write(self, storage: Storage, name: str, progress: ShardProgress) -> ShardWriter:
        """All videos, into the shard's files."""
        self.patience.require_model(self._halt)
        labels = self.c3d.model.info(self._signature).labels
        of_classes = self._signature is CLASSIFY
        checked = time.monotonic()
        with (
            writing_shard(
                storage,
                name,
                answer=self._settings.answer,
                size=len(labels) if of_classes else FEATURE_SIZE,
                provenance=self._settings.provenance,
                labels=labels if of_classes else (),
                clip_rows=self._settings.clip_rows,
                again=self.store_tries(),
            ) as writer,
            contextlib.closing(self._each()) as each,
        ):
            for row, done in each:
                if done.result is not None:
                    progress.note(writer.add(row, done.result))
                else:
                    assert done.error is not None
                    progress.note(writer.add_failed(row, done.error))
                if time.monotonic() - checked > _CHECK_MODEL_EVERY_S:
                    self.patience.require_model(self._halt)
                    checked = time.monotonic()
            if self._halt.is_set():
                raise Cancelled
            # A server may come back with another model under the same number, unseen by those
            # that ask it: what was read until now is of the one model only if it is there still.
            self.patience.require_model(self._halt)
            # From here on, the files may be others than those that an earlier report fits.
            storage.remove(report_file(name))
        return writer

    def _each(self) -> Generator[tuple[ManifestRow, _Done], None, None]:
        """Each row with what became of its video, in order."""
        outcomes = map_parallel(
            self._one, self._rows, workers=self._workers, in_order=True, stop=self._halt
        )
        # Requests on their way would hold up one that is told to go.
        with ticking(self._close_if_given_up, every_s=_LOOK_EVERY_S, name="c3d-halt"):
            try:
                for outcome in outcomes:
                    yield outcome.source, outcome.unwrap()
            finally:
                cast("Generator[object, None, None]", outcomes).close()

    def _one(self, row: ManifestRow, cancel: threading.Event) -> _Done:
        stop = _Either(cancel, self._halt)
        with self._counted(stop):
            try:
                return _Done(self.patience.do(partial(self._asked, row, stop), stop))
            except ContractMismatch:
                raise
            except (VideoError, OutputError, ServingError, UsageError) as error:
                return _Done(error=error)

    def _asked(self, row: ManifestRow, stop: threading.Event) -> Result:
        result: Result
        if self._signature is CLASSIFY:
            result = self.c3d.classify(row.uri, top_k=1, threads=self._threads, cancel=stop)
        else:
            result = self.c3d.extract(row.uri, threads=self._threads, cancel=stop)
        self.c3d.model.require_unchanged(
            Provenance(self._settings.provenance), Provenance(result.provenance)
        )
        return result

    def _require_same(self, info: ModelInfo) -> None:
        made_by = self.c3d.model.provenance(info)
        self.c3d.model.require_unchanged(Provenance(self._settings.provenance), made_by)

    @contextlib.contextmanager
    def _counted(self, stop: _Either) -> Iterator[None]:
        with self._lock:
            self._in_hand.add(stop)
        try:
            yield
        finally:
            with self._lock:
                self._in_hand.discard(stop)

    def _close_if_given_up(self) -> None:
        with self._lock:
            given_up = any(stop.is_set() for stop in self._in_hand)
        if given_up:
            self.c3d.close()
