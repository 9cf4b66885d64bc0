"""Videos in hand: small files that show after a worker's sudden death what it was processing.

A worker that is killed, for example because it needs too much memory, cannot report anything. So
each attempt at a shard keeps one file ``in_hand/<run>-<shard>-<attempt>.json`` in the dataset,
which lists the videos that are being processed. The file is removed at every orderly end, also
after an error or SIGTERM. A file that stays and is not renewed any more lists the videos with which
a worker died: the suspects.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import ClassVar

from c3d_client.core.errors import C3DError
from c3d_client.core.uri import redact

from c3d_pipelines.errors import ShardError, StorageError, WorkerDied
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.records import Record
from c3d_pipelines.storage import SUMMARY, Storage, run_file, run_folder

FOLDER = "in_hand"
# A worker renews its file this often, also when nothing changes.
_HEARTBEAT_S = 60.0
# A file that is older belongs to a worker that died: five heartbeats are missing.
_OVER_S = 300.0
# The end of a video is written together with the start of the next one, or after this pause.
_SETTLE_S = 1.0
# The start of a video waits at most this long for its entry, so that a store that is away does
# not stop the shard. A store's first connection may take seconds.
_WAIT_S = 20.0
# A failed write is repeated after this pause; the end of the work waits this long for a write.
_PAUSE_S = 5.0
_READERS = 8  # threads, which mostly wait for a bucket

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInHand:
    """A video that is being processed.

    Args:
        video_id: its id in the dataset.
        uri: its address, without credentials.
        key: the key of its content in the run's plan; may be empty (see ManifestRow).
    """

    video_id: str
    uri: str
    key: str


@dataclass(frozen=True)
class InHand(Record):
    """The videos that one attempt at a shard is processing.

    Args:
        run: the run's name.
        shard: the shard's number in the run's plan, from 0.
        attempt: random text that distinguishes the attempts at the shard.
        is_only_video: whether the shard has one video.
        videos: the videos in hand, in the order in which they were begun.
        written_at: the time of the last write, in seconds since 1970, by the worker's clock.
    """

    _noun: ClassVar[str] = "a list of videos in hand"
    _error: ClassVar[type[C3DError]] = ShardError
    run: str
    shard: int
    attempt: str
    is_only_video: bool
    videos: tuple[VideoInHand, ...]
    written_at: float

    @property
    def file(self) -> str:
        """The record's file, below the dataset's folder."""
        return f"{FOLDER}/{self.run}-{self.shard}-{self.attempt}.json"

    def is_over(self, now: float | None = None) -> bool:
        """Return whether the worker is dead: its file was not renewed for five minutes.

        Args:
            now: seconds since 1970; this machine's time by default.
        """
        return (time.time() if now is None else now) - self.written_at > _OVER_S


@dataclass(frozen=True)
class Deaths:
    """How often a worker died while it processed a video.

    Args:
        times: the number of attempts.
        alone: the attempts in which no other video was in hand.
    """

    times: int
    alone: int

    @property
    def is_proof(self) -> bool:
        """Whether the video is the cause: two deaths, at least one with no other video in hand."""
        return self.times >= 2 and self.alone >= 1


def read_in_hand(storage: Storage, *, run: str = "", shard: int = -1) -> list[InHand]:
    """Return the lists of all attempts that are in progress or died, sorted by file.

    A file that cannot be understood is left out, with a warning.

    Args:
        storage: the dataset.
        run, shard: only the attempts at this shard; all by default.

    Raises:
        StorageError: the folder or a file cannot be read.
    """
    prefix = f"{run}-{shard}-" if run else ""
    names = [name for name in storage.names(FOLDER, prefix=prefix) if name.endswith(".json")]
    with ThreadPoolExecutor(_READERS) as pool:
        texts = list(pool.map(storage.read, names))
    records = []
    for name, text in zip(names, texts, strict=True):
        if text is None:
            continue  # its worker ended meanwhile
        try:
            record = InHand.from_json(text)
        except ShardError as error:
            _log.warning("%s: %s", storage.uri_of(name), error)
            continue
        if not run or (record.run, record.shard) == (run, shard):
            records.append(record)
    return records


def read_dead(storage: Storage, *, ended_runs: Collection[str] = ()) -> list[InHand]:
    """Return the lists of the attempts that died, sorted by file.

    An attempt is dead when its file is over, and when its run has reported its end since the file
    was written last: a report comes when all workers have ended.

    Args:
        storage: the dataset.
        ended_runs: runs that are known to have ended, with all their workers.

    Raises:
        StorageError: the folder or a file cannot be read.
    """

    def is_reported(record: InHand) -> bool:
        times = storage.times(run_folder(record.run))
        return times.get(run_file(record.run, SUMMARY), 0.0) > record.written_at

    return [
        record
        for record in read_in_hand(storage)
        if record.is_over() or record.run in ended_runs or is_reported(record)
    ]


def deaths(
    records: Iterable[InHand],
    *,
    run: str = "",
    shard: int = -1,
    now: float | None = None,
) -> dict[tuple[str, str], Deaths]:
    """Count by ``(video_id, key)`` the attempts that died with a video in hand.

    Args:
        records: from :func:`read_in_hand`.
        run, shard: a shard whose next attempt begins now; its former attempts are dead even if
            their files are new.
        now: seconds since 1970; this machine's time by default.
    """
    counts: dict[tuple[str, str], Deaths] = {}
    for record in records:
        if not (record.is_over(now) or (record.run, record.shard) == (run, shard)):
            continue
        for video in record.videos:
            before = counts.get((video.video_id, video.key), Deaths(0, 0))
            counts[video.video_id, video.key] = Deaths(
                before.times + 1, before.alone + (len(record.videos) == 1)
            )
    return counts


def worker_died(times: int) -> WorkerDied:
    """Return the error of a video with which workers died.

    Args:
        times: how often.
    """
    return WorkerDied(
        f"workers were killed {times} times while they processed this video; most likely it needs "
        "more memory, or more time, than they have: raise their memory limit or timeout, or "
        "convert the video to smaller pictures or shorter parts; the run after this one tries it "
        "again"
    )


class InHandFile:
    """Context manager that keeps the file of one attempt's videos in hand.

    One thread writes the file: when a video begins, soon after one ends, and once a minute. Starts
    at the same time share a write. A write that fails is logged once and repeated later; it does
    not stop the shard.

    Args:
        storage: the dataset.
        run: the run's name.
        shard: the shard's number in the run's plan.
        is_only_video: whether the shard has one video.
    """

    def __init__(self, storage: Storage, *, run: str, shard: int, is_only_video: bool) -> None:
        self._storage = storage
        self._record = InHand(run, shard, secrets.token_hex(4), is_only_video, (), 0.0)
        self._videos: dict[str, VideoInHand] = {}
        # Counts the changes of the videos; the last one that was written; the last start.
        self._changes = self._written = self._started = 0
        self._has_failed = self._has_ended = False
        self._is_stored = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="c3d-in-hand", daemon=True)

    @property
    def file(self) -> str:
        """The name of the file, below the dataset's folder."""
        return self._record.file

    def __enter__(self) -> InHandFile:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        # A store that is away may hold the thread for minutes.
        self._thread.join(_PAUSE_S)
        if self._thread.is_alive():
            _log.warning("%s: is not removed: it is being written", self._uri)
            return
        try:
            remove_in_hand(self._storage, self.file)
        except StorageError as error:
            _log.warning("%s", error)

    @contextlib.contextmanager
    def holding(self, row: ManifestRow) -> Iterator[None]:
        """List a video for the duration of a block, which begins when the file has the video."""
        with self._changed:
            self._videos[row.video_id] = VideoInHand(row.video_id, redact(row.uri), row.key)
            self._changes += 1
            mine = self._started = self._changes
            self._changed.notify_all()
            is_written = self._changed.wait_for(
                lambda: self._written >= mine or self._has_failed or self._has_ended, _WAIT_S
            )
            if not is_written:
                self._fail("it takes too long to write")
        try:
            yield
        finally:
            with self._changed:
                self._videos.pop(row.video_id, None)
                self._changes += 1
                self._changed.notify_all()

    @property
    def _uri(self) -> str:
        return str(self._storage.uri_of(self.file))

    def _write_all(self) -> None:
        while True:
            with self._changed:
                if self._has_ended:
                    return
                changes = self._changes
                videos = tuple(self._videos.values())
            record = replace(self._record, videos=videos, written_at=time.time())
            error: StorageError | None = None
            try:
                self._storage.write_small(
                    record.file, record.to_json(), make_folder=not self._is_stored
                )
                self._is_stored = True
            except StorageError as failure:
                error = failure
            with self._changed:
                if error is None:
                    self._written, self._has_failed = changes, False
                else:
                    self._fail(error.reason)
                self._changed.notify_all()
                self._wait(is_failed=error is not None)

    def _wait(self, *, is_failed: bool) -> None:
        """Wait until the file must be written again, or the work has ended."""

        def must_write() -> bool:
            return self._has_ended or self._started > self._written

        if is_failed:
            self._changed.wait_for(lambda: self._has_ended, _PAUSE_S)
        elif not self._changed.wait_for(
            lambda: must_write() or self._changes > self._written, _HEARTBEAT_S
        ):
            return
        else:
            self._changed.wait_for(must_write, _SETTLE_S)

    def _fail(self, reason: str) -> None:
        if not self._has_failed:
            _log.warning(
                "%s: %s; if this worker is killed, the next run does not know which videos it was "
                "processing",
                self._uri,
                reason,
            )
        self._has_failed = True


def remove_in_hand(storage: Storage, file: str) -> None:
    """Remove the file of an attempt, and on a disk its folder with the last file.

    Raises:
        StorageError: the file cannot be removed.
    """
    storage.remove(file)
    if storage.is_local:
        with contextlib.suppress(OSError):  # other files are in it
            storage.path_of(FOLDER).rmdir()
