"""Extract the videos of one shard: one row per video, and a report when all are done.

This is the work of a pod of a bulk run; :func:`do_shard` is also usable as a library function. A
worker may be killed at any moment: the videos of a long shard are stored in parts, every few
minutes, and a call after a crash does the videos that are not stored. A shard that is done is not
touched.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import cast

from c3d_client import Cancelled, ModelInfo
from c3d_client.core.arguments import require_each
from c3d_client.core.contract import CLASSIFY, FC6_FEATURES
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

from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.commits import (
    done_in_parts,
    name_of,
    names_of,
    part_name,
    read_report,
    remove_stale,
    remove_temporary,
    total,
)
from c3d_pipelines.shards.in_hand import (
    Deaths,
    InHandFile,
    read_in_hand,
    remove_in_hand,
    worker_died,
)
from c3d_pipelines.shards.in_hand import deaths as former_deaths
from c3d_pipelines.shards.progress import Progress, ShardProgress, ticking
from c3d_pipelines.shards.retry import ServerGone, StoreRetry, ask_server, was_retried
from c3d_pipelines.shards.schema import OK, STATUSES, TIMINGS, ShardReport, report_file
from c3d_pipelines.shards.writer import Result, ShardWriter, writing_shard
from c3d_pipelines.storage import Storage, storage_of_run

_CHECK_MODEL_EVERY_S = 10.0
_CHECK_CANCEL_EVERY_S = 0.2
_POLL_S = 0.1
# A part of a shard is stored after this time and this share of the shard's time, so that a killed
# worker loses little, and a shard of a day has some 60 parts.
_COMMIT_EVERY_S = 300.0
_COMMIT_SHARE = 0.05

_log = logging.getLogger(__name__)


def do_shard(
    settings: JobSettings,
    rows: Sequence[ManifestRow],
    index: int,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    halt: threading.Event | None = None,
    cores: int | None = None,
    deaths: Mapping[str, int] | None = None,
) -> ShardReport:
    """Extract or classify all videos of one shard, and write its files and its report.

    Every video becomes one row. A shard that this run has done is not done again, nor is a shard of
    another run in which all videos are ok and have a key: its report is returned. The report of a
    shard without videos is returned and not written.

    A shard that takes longer than five minutes is stored in parts (see
    :mod:`c3d_pipelines.shards.commits`). A call after a crash does the videos that are not stored.
    The videos that this run's killed worker was processing come last, one at a time. A video with
    which workers were killed twice, at least once while it was the only one, becomes ``failed``.

    Args:
        settings: the run's settings, with the provenance of the preflight.
        rows: the shard's videos, in the order of its rows.
        index: the shard's number in the run's plan.
        on_progress: called after each video and at the end, in this thread.
        cancel: set by another thread to cancel the shard.
        halt: the former name of ``cancel``; accepted until release 0.3.
        cores: how many cores the decoder threads may use; all of this process by default.
        deaths: by ``video_id``, how often workers were killed while they processed a video; these
            videos become ``failed`` and are not tried.

    Returns:
        The shard's report; of a shard that is stored in parts, the sums over its parts.

    Raises:
        UsageError: the settings have no provenance, or the model has no classes.
        ContractMismatch: the model is not, or no longer, the one that the run began with.
        ShardError: the server was away for longer than ``patience_s``, or refuses this client.
        StorageError: the dataset's folder cannot be read or written.
        Cancelled: ``cancel`` was set.

        After an error no half-written file is left, and the same call does the rest of the shard.
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
        return _empty_report(settings, name, index, began)
    storage = storage_of_run(settings.out, settings.run, index)
    for done in filter(None, (read_report(storage, each) for each in (name, former_name))):
        # Failures of another run are retried: this run planned them. A video without a key may
        # have changed.
        is_final = done.counts[OK] == done.videos and all(row.key for row in rows)
        if done.run == settings.run or is_final:
            _report_done(done, settings.run, index, on_progress)
            _forget_attempts(storage, settings.run, index)
            return done
    remove_stale(storage)
    # An attempt begins when the one before it is dead.
    remove_temporary(storage, settings.run, index)
    stored_ids, parts = done_in_parts(storage, settings, rows)
    rest = [row for row in rows if row.video_id not in stored_ids]
    if not rest:
        report = total(parts, name)
        _report_done(report, settings.run, index, on_progress)
        _forget_attempts(storage, settings.run, index, replaced=(name, former_name))
        return report
    if parts:
        _log.info("shard %d: %d of its %d videos are stored", index, len(stored_ids), len(rows))
    former = read_in_hand(storage, run=settings.run, shard=index)
    died = former_deaths(former, run=settings.run, shard=index)
    groups, dead = _in_order(rest, died, deaths or {})
    for row in chain.from_iterable(groups[1:]):
        _log.warning(
            "shard %d: a worker was killed while it processed %s, which comes last now",
            index,
            row.video_id,
        )
    with (
        InHandFile(storage, run=settings.run, shard=index, is_only_video=len(rows) == 1) as in_hand,
        contextlib.closing(
            _Work(settings, rest, cancel or threading.Event(), in_hand, cores=cores, dead=dead)
        ) as work,
        ShardProgress(
            settings.run,
            index,
            videos=len(rows),
            clips=lambda: work.c3d.clips_answered,
            on_progress=on_progress,
        ) as progress,
    ):
        for part in parts:
            progress.done_before(part.counts)
        shard = _Shard(storage, settings, rows, index, began, parts)
        try:
            work.write(shard, groups, progress)
        except ServerGone as error:
            timeout = f"did not come back within {settings.patience_s:g} s"
            videos = sum(part.videos for part in shard.parts)
            stored = (
                f"{videos} of its {len(rows)} videos are" if videos else "nothing of this shard is"
            )
            raise ShardError(
                f"shard {index}: the server {'refuses' if error.refuses else timeout} ({error}); "
                f"{stored} stored; start the run again when the server answers: shards that are "
                "done are not done again"
            ) from error.error
    is_whole = shard.parts[0].name == name
    replaced = () if is_whole else (name, former_name)
    _forget_attempts(storage, settings.run, index, replaced=replaced)
    return shard.parts[0] if is_whole else total(shard.parts, name)


def _in_order(
    rows: Sequence[ManifestRow],
    died: Mapping[tuple[str, str], Deaths],
    deaths: Mapping[str, int],
) -> tuple[list[list[ManifestRow]], dict[str, int]]:
    """Return in which order to do videos, so that a video that kills its worker costs no other.

    Args:
        rows: the videos.
        died: by id and key, how often a worker of this run died with a video.
        deaths: as for :func:`do_shard`.

    Returns:
        Groups of videos to do one after the other: the ones that no worker died with, and those
        that are not tried; then each other one. And by ``video_id`` the deaths of those that are
        not tried.
    """
    suspects = {row.video_id: died[key] for row in rows if (key := (row.video_id, row.key)) in died}
    dead = {video_id: each.times for video_id, each in suspects.items() if each.is_proof}
    dead |= deaths
    late = suspects.keys() - dead.keys()
    first = [row for row in rows if row.video_id not in late]
    return [first, *([row] for row in rows if row.video_id in late)], dead


def _commit_after(elapsed_s: float) -> float:
    """Return the time between two parts of a shard that was begun some seconds ago, in seconds."""
    return max(_COMMIT_EVERY_S, _COMMIT_SHARE * elapsed_s)


def _empty_report(settings: JobSettings, name: str, index: int, began: float) -> ShardReport:
    return ShardReport(
        name=name,
        run=settings.run,
        index=index,
        answer=settings.answer,
        videos=0,
        clips=0,
        counts=dict.fromkeys(STATUSES, 0),
        video_bytes=0,
        clip_bytes=0,
        started_at=began,
        ended_at=time.time(),
        timings=dict.fromkeys(TIMINGS, 0.0),
        clips_answered=0,
        retries=0,
        provenance=settings.provenance,
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


def _forget_attempts(
    storage: Storage, run: str, index: int, *, replaced: Sequence[str] = ()
) -> None:
    """Remove what a shard does not need any more when all its videos have rows.

    Args:
        storage: the dataset.
        run: the run's name.
        index: the shard's number; the files of its killed attempts are removed.
        replaced: names of shards that another run stored and that the shard's parts replace.
    """
    try:
        for name in replaced:
            storage.remove(report_file(name))
        for record in read_in_hand(storage, run=run, shard=index):
            remove_in_hand(storage, record.file)
    except StorageError as error:  # the shard is done; publishing removes the files later
        _log.warning("%s", error)


@dataclass
class _Shard:
    """A shard that is being stored, as a whole or in parts.

    Args:
        storage, settings, rows, index: as for :func:`do_shard`.
        began: when the part that is being made was begun, in seconds since 1970.
        parts: the reports of the parts that are stored.
    """

    storage: Storage
    settings: JobSettings
    rows: Sequence[ManifestRow]
    index: int
    began: float
    parts: list[ShardReport]
    _clips_answered: int = 0
    _retries: int = 0

    @property
    def name(self) -> str:
        """The name of the whole shard."""
        return name_of(self.settings, self.rows)

    def part_name(self, rows: Sequence[ManifestRow]) -> str:
        """Return the name under which some of the videos are stored."""
        is_whole = len(rows) == len(self.rows)
        return self.name if is_whole else part_name(self.settings, self.name, rows)

    def commit(self, rows: Sequence[ManifestRow], writer: ShardWriter, work: _Work) -> None:
        """Write the report of a part whose files are written."""
        clips_answered, retries = work.c3d.clips_answered, work.retried
        report = ShardReport(
            name=self.part_name(rows),
            run=self.settings.run,
            index=self.index,
            answer=self.settings.answer,
            videos=writer.videos,
            clips=writer.clips,
            counts={status: writer.counts[status] for status in STATUSES},
            video_bytes=writer.video_bytes,
            clip_bytes=writer.clip_bytes,
            started_at=self.began,
            ended_at=time.time(),
            timings=writer.timings,
            clips_answered=clips_answered - self._clips_answered,
            retries=retries - self._retries,
            provenance=work.provenance,
        )
        self.storage.write(report_file(report.name), report.to_json(), retry=work.store_retry())
        if len(rows) < len(self.rows):
            _log.info("shard %d: stored %d videos", self.index, len(rows))
        self.parts.append(report)
        self.began = report.ended_at
        self._clips_answered, self._retries = clips_answered, retries


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
        in_hand: InHandFile,
        *,
        cores: int | None,
        dead: Mapping[str, int],
    ) -> None:
        self._settings = settings
        self._cancel = cancel
        self._in_hand = in_hand
        self._dead = dead
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

    def write(
        self, shard: _Shard, groups: Sequence[Sequence[ManifestRow]], progress: ShardProgress
    ) -> None:
        """Write all videos into the files of the shard or its parts.

        Args:
            shard: what is stored of the shard.
            groups: the videos to do. What is done of a group is stored before the next one begins.
            progress: records each video.
        """
        self._require_same_model()
        software = self.c3d.provenance()["software"]
        self.provenance = Provenance({**self._settings.provenance, "software": software})
        began = time.monotonic()
        for group in filter(None, groups):
            with contextlib.closing(self._each(group)) as each:
                self._write_parts(shard, each, progress, began=began)

    def _write_parts(
        self,
        shard: _Shard,
        each: Iterator[tuple[ManifestRow, _Done]],
        progress: ShardProgress,
        *,
        began: float,
    ) -> None:
        """Write videos into a file, and into another one whenever it is time to store them.

        Args:
            shard: what is stored of the shard.
            each: one or more videos.
            progress: records each video.
            began: when the shard was begun, by the monotonic clock.
        """
        labels = self.c3d.model.info(self._signature).labels
        of_classes = self._signature is CLASSIFY
        checked = committed = time.monotonic()
        following: tuple[ManifestRow, _Done] | None = None
        while True:
            rows: list[ManifestRow] = []
            with writing_shard(
                shard.storage,
                shard.name,
                answer=self._settings.answer,
                size=len(labels) if of_classes else self.provenance.feature_size,
                provenance=self.provenance,
                labels=labels if of_classes else (),
                clip_rows=self._settings.clip_rows,
                retry=self.store_retry(),
                final=partial(shard.part_name, rows),
            ) as writer:
                for row, done in each if following is None else chain([following], each):
                    rows.append(row)
                    if done.result is not None:
                        progress.note(writer.add(row, done.result))
                    else:
                        assert done.error is not None
                        progress.note(writer.add_failed(row, done.error))
                    now = time.monotonic()
                    if now - committed > _commit_after(now - began):
                        break
                    if now - checked > _CHECK_MODEL_EVERY_S:
                        self._require_same_model()
                        checked = time.monotonic()
                if self._cancel.is_set():
                    raise Cancelled
                # A restarted server may serve another model under the same version number. The
                # numbers are of one model only if that model is still served.
                self._require_same_model()
                # From here on, the files may differ from those that an earlier report describes.
                shard.storage.remove(report_file(shard.part_name(rows)))
            shard.commit(rows, writer, self)
            checked = committed = time.monotonic()
            following = next(each, None)
            if following is None:
                return

    def _each(
        self, rows: Sequence[ManifestRow]
    ) -> Generator[tuple[ManifestRow, _Done], None, None]:
        """Yield each row with the result or error of its video, in order."""
        outcomes = map_parallel(
            self._one,
            rows,
            workers=min(self._workers, len(rows)),
            in_order=True,
            stop=self._cancel,
        )
        # Requests in flight would delay the end of a cancelled shard until their deadline.
        with ticking(self._close_if_cancelled, every_s=_CHECK_CANCEL_EVERY_S, name="c3d-cancel"):
            try:
                for outcome in outcomes:
                    yield outcome.source, outcome.unwrap()
            finally:
                cast("Generator[object, None, None]", outcomes).close()

    def _one(self, row: ManifestRow, cancel: threading.Event) -> _Done:
        if row.video_id in self._dead:
            return _Done(error=worker_died(self._dead[row.video_id]))
        either = AnyEvent(cancel, self._cancel)
        began = time.monotonic()
        with self._counted(either), self._in_hand.holding(row):
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
