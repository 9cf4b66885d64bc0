"""Extract the videos of one shard: one row per video, and a report when all are done.

This is the work of a pod of a bulk run; :func:`do_shard` is also usable as a library function. A
call after a crash does the shard again, into the same files; a shard that is done is not touched.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from c3d_client import Cancelled, ModelInfo
from c3d_client.core.arguments import require_each
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
from c3d_pipelines.shards.commits import names_of, read_report, remove_stale
from c3d_pipelines.shards.progress import Progress, ShardProgress, ticking
from c3d_pipelines.shards.retry import ServerGone, StoreRetry, ask_server, was_retried
from c3d_pipelines.shards.schema import OK, STATUSES, ShardReport, report_file
from c3d_pipelines.shards.writer import TIMINGS, Result, ShardWriter, writing_shard
from c3d_pipelines.storage import Storage

_CHECK_MODEL_EVERY_S = 10.0
_CHECK_CANCEL_EVERY_S = 0.2
_POLL_S = 0.1


def do_shard(
    settings: JobSettings,
    rows: Sequence[ManifestRow],
    index: int,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    halt: threading.Event | None = None,
    cores: int | None = None,
) -> ShardReport:
    """Extract or classify all videos of one shard, and write its files and its report.

    Every video becomes one row. A shard that this run has done is not done again, nor is a shard of
    another run in which all videos are ok and have a key: its report is returned. The report of a
    shard without videos is returned and not written.

    Args:
        settings: the run's settings, with the provenance of the preflight.
        rows: the shard's videos, in the order of its rows.
        index: the shard's number in the run's plan.
        on_progress: called after each video and at the end, in this thread.
        cancel: set by another thread to cancel the shard.
        halt: the former name of ``cancel``; accepted until release 0.3.
        cores: how many cores the decoder threads may use; all of this process by default.

    Raises:
        UsageError: the settings have no provenance, or the model has no classes.
        ContractMismatch: the model is not, or no longer, the one that the run began with.
        ShardError: the server was away for longer than ``patience_s``, or refuses this client.
        StorageError: the dataset's folder cannot be read or written.
        Cancelled: ``cancel`` was set.

        After an error no half-written file is left, and the same call does the shard again.
    """
    if halt is not None:
        warnings.warn("halt is called cancel now", DeprecationWarning, stacklevel=2)
        cancel = halt
    require_each(rows, ManifestRow, "rows", made_by="the ManifestRow values of a plan's shard")
    if not settings.provenance:
        raise UsageError("the run's settings have no provenance; run the preflight step first")
    name, former_name = names_of(settings, rows)
    began = time.time()
    if not rows:
        return _report(settings, name, index, began=began)
    storage = Storage(settings.out)
    for done in filter(None, (read_report(storage, each) for each in (name, former_name))):
        # Failures of another run are retried: this run planned them. A video without a key may
        # have changed.
        is_final = done.counts[OK] == done.videos and all(row.key for row in rows)
        if done.run == settings.run or is_final:
            _report_done(done, settings.run, index, on_progress)
            return done
    remove_stale(storage)
    with (
        contextlib.closing(_Work(settings, rows, cancel or threading.Event(), cores=cores)) as work,
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
        except ServerGone as error:
            timeout = f"did not come back within {settings.patience_s:g} s"
            raise ShardError(
                f"shard {index}: the server {'refuses' if error.refuses else timeout} ({error}); "
                "nothing of this shard is stored; start the run again when the server answers: "
                "shards that are done are not done again"
            ) from error.error
        report = _report(settings, name, index, began=began, writer=writer, work=work)
        storage.write(report_file(name), report.to_json(), retry=work.store_retry())
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
        retries=work.retried if work else 0,
        provenance=work.provenance if work else settings.provenance,
    )


def _report_done(
    report: ShardReport, run: str, index: int, on_progress: Callable[[Progress], None] | None
) -> None:
    """Report the progress of a shard that was done before."""
    with ShardProgress(
        run,
        index,
        videos=report.videos,
        clips=lambda: report.clips_answered,
        on_progress=on_progress,
    ) as progress:
        progress.done_before(report.counts)


@dataclass(frozen=True)
class _Done:
    """The result or the error of one video."""

    result: Result | None = None
    error: C3DError | None = None


class AnyEvent(threading.Event):
    """An event that is set while at least one of several events is set.

    Waiting polls the events ten times a second: events have no callbacks.
    """

    def __init__(self, *events: threading.Event) -> None:
        super().__init__()
        self._events = events

    def is_set(self) -> bool:
        """Return whether this event or one of the events is set."""
        return super().is_set() or any(event.is_set() for event in self._events)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, for at most a number of seconds; return whether it is."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left := until - time.monotonic()) > 0:
            super().wait(min(left, _POLL_S))
        return self.is_set()


class _Work:
    """The connection and the cancel event that the videos of one shard share.

    Attributes:
        retried: videos for which a request was sent again, because the server was away or full.
    """

    def __init__(
        self,
        settings: JobSettings,
        rows: Sequence[ManifestRow],
        cancel: threading.Event,
        *,
        cores: int | None,
    ) -> None:
        self._settings = settings
        self._rows = rows
        self._cancel = cancel
        self._signature = FC6_FEATURES if settings.answer == "features" else CLASSIFY
        self._workers, self._threads = share_cores(
            settings.workers or None, videos=len(rows), cores=cores
        )
        self._running: set[AnyEvent] = set()
        self._lock = threading.Lock()
        self._served_at = -math.inf
        self.retried = 0
        self.c3d = settings.client()
        # This process may have other versions of the software than the one of the preflight.
        self.provenance = settings.provenance
        # The server answered the preflight: it is not missing but starts, or loads its model.
        self.c3d.serving.patience.assume_model()

    def close(self) -> None:
        """Close the connection."""
        self.c3d.close()

    def store_retry(self) -> StoreRetry:
        """Return the retries of one file's upload."""
        return StoreRetry(wait_s=self._settings.patience_s, cancel=self._cancel)

    def write(self, storage: Storage, name: str, progress: ShardProgress) -> ShardWriter:
        """Write all videos into the shard's files."""
        self._require_same_model()
        software = self.c3d.provenance()["software"]
        self.provenance = Provenance({**self._settings.provenance, "software": software})
        labels = self.c3d.model.info(self._signature).labels
        of_classes = self._signature is CLASSIFY
        checked = time.monotonic()
        with (
            writing_shard(
                storage,
                name,
                answer=self._settings.answer,
                size=len(labels) if of_classes else FEATURE_SIZE,
                provenance=self.provenance,
                labels=labels if of_classes else (),
                clip_rows=self._settings.clip_rows,
                retry=self.store_retry(),
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
                    self._require_same_model()
                    checked = time.monotonic()
            if self._cancel.is_set():
                raise Cancelled
            # A restarted server may serve another model under the same version number. The numbers
            # are of one model only if that model is still served.
            self._require_same_model()
            # From here on, the files may differ from those that an earlier report describes.
            storage.remove(report_file(name))
        return writer

    def _each(self) -> Generator[tuple[ManifestRow, _Done], None, None]:
        """Yield each row with the result or error of its video, in order."""
        outcomes = map_parallel(
            self._one, self._rows, workers=self._workers, in_order=True, stop=self._cancel
        )
        # Requests in flight would delay the end of a cancelled shard until their deadline.
        with ticking(self._close_if_cancelled, every_s=_CHECK_CANCEL_EVERY_S, name="c3d-cancel"):
            try:
                for outcome in outcomes:
                    yield outcome.source, outcome.unwrap()
            finally:
                cast("Generator[object, None, None]", outcomes).close()

    def _one(self, row: ManifestRow, cancel: threading.Event) -> _Done:
        either = AnyEvent(cancel, self._cancel)
        began = time.monotonic()
        with self._counted(either):
            try:
                result = ask_server(self.c3d, partial(self._result, row, either), either)
            except ContractMismatch:
                raise
            except ServerGone as gone:
                # A server that answered for other videos meanwhile, and answers now, fails this
                # video only.
                if gone.refuses or self._served_at < began or not self._answers(either):
                    raise
                self._count_retried()
                return _Done(error=gone.error)
            except (VideoError, OutputError, ServingError, UsageError) as error:
                if was_retried(error):
                    self._count_retried()
                return _Done(error=error)
        self._served_at = time.monotonic()
        if result.timings.retries:
            self._count_retried()
        return _Done(result)

    def _answers(self, cancel: threading.Event) -> bool:
        try:
            self.c3d.serving.model_info(cancel=cancel)
        except ContractMismatch:
            raise
        except ServingError:
            return False
        return True

    def _count_retried(self) -> None:
        with self._lock:
            self.retried += 1

    def _result(self, row: ManifestRow, cancel: threading.Event) -> Result:
        result: Result
        if self._signature is CLASSIFY:
            result = self.c3d.classify(row.uri, top_k=1, threads=self._threads, cancel=cancel)
        else:
            result = self.c3d.extract(row.uri, threads=self._threads, cancel=cancel)
        self.c3d.model.require_unchanged(self._settings.provenance, Provenance(result.provenance))
        return result

    def _require_same_model(self) -> None:
        """Request the model's properties and check them.

        Raises:
            ContractMismatch: the model is another one.
            ServerGone: the server did not come back in time.
            Cancelled: the shard was cancelled.
        """

        def request() -> ModelInfo:
            return self.c3d.serving.model_info(cancel=self._cancel)

        provenance = self.c3d.model.provenance(ask_server(self.c3d, request, self._cancel))
        self.c3d.model.require_unchanged(self._settings.provenance, provenance)

    @contextlib.contextmanager
    def _counted(self, cancel: AnyEvent) -> Iterator[None]:
        with self._lock:
            self._running.add(cancel)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(cancel)

    def _close_if_cancelled(self) -> None:
        with self._lock:
            is_cancelled = any(cancel.is_set() for cancel in self._running)
        if is_cancelled:
            self.c3d.close()
