"""Progress of a shard: lines in the log, and a small file for the process that watches the run.

The worker records each video here. A failure to report progress does not stop the worker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from c3d_client.core.files import atomic_file

from c3d_pipelines.shards.schema import OK, STATUSES

# Environment variable: the folder in which a run on one machine finds the shards' progress.
FOLDER_VARIABLE = "C3D_PROGRESS_FOLDER"
RUNNING, DONE, FAILED = "running", "done", "failed"

_FILE_EVERY_S = 0.5
_LINE_EVERY_S = 10.0
_LINES_PER_SHARD = 20  # at least: one for each 5 % of its videos

_log = logging.getLogger("c3d_pipelines.shards.worker")


@dataclass(frozen=True)
class Progress:
    """The progress of a shard.

    Args:
        shard: the shard's number in the run's plan.
        videos: its videos.
        done: videos that have their row, ``ok`` and ``failed`` together.
        ok: videos with status ok.
        failed: videos with another status.
        clips: clips that the server has answered.
        state: ``running``, ``done`` or ``failed``.
    """

    shard: int
    videos: int
    done: int
    ok: int
    failed: int
    clips: int
    state: str


class ShardProgress:
    """Context manager that counts a shard's videos and reports the progress.

    The logger ``c3d_pipelines.shards.worker`` writes a line every ten seconds and for each 5 % of
    the videos. Where the environment has ``C3D_PROGRESS_FOLDER``, the file ``<run>-<shard>.json``
    in that folder holds the latest :class:`Progress`. The file is replaced as a whole, at most
    twice a second.

    Args:
        run: the run's name.
        shard: the shard's number.
        videos: the number of its videos.
        clips: returns how many clips the server has answered.
        on_progress: called with a :class:`Progress` after each video and at the end, in the thread
            that records the video.
    """

    def __init__(
        self,
        run: str,
        shard: int,
        *,
        videos: int,
        clips: Callable[[], int],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        folder = os.environ.get(FOLDER_VARIABLE)
        self._path = Path(folder) / f"{run}-{shard}.json" if folder else None
        self._shard = shard
        self._videos = videos
        self._clips = clips
        self._on_progress = on_progress
        self._counts: Counter[str] = Counter()
        self._state = RUNNING
        self._began = self._last_line = time.monotonic()
        self._lines = 0
        self._done_before = False
        self._written: Progress | None = None
        self._lock = threading.Lock()
        self._ticking = ticking(self._tick, every_s=_FILE_EVERY_S, name="c3d-progress")

    def __enter__(self) -> ShardProgress:
        self._write()
        self._ticking.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ticking.__exit__(exc_type, exc, traceback)
        self._state = DONE if exc_type is None else FAILED
        self._write()
        if exc_type is None:
            self._line()
            self._notify()

    def done_before(self, counts: Mapping[str, int]) -> None:
        """Record videos of the shard that were done before, by status."""
        with self._lock:
            self._counts.update(counts)
        self._done_before = self.now().done == self._videos

    def note(self, status: str) -> None:
        """Record one video that has its row."""
        with self._lock:
            self._counts[status] += 1
        self._notify()
        done = self.now().done
        if done * _LINES_PER_SHARD // self._videos > self._lines and done < self._videos:
            self._lines = done * _LINES_PER_SHARD // self._videos
            self._line()

    def now(self) -> Progress:
        """Return the current progress."""
        with self._lock:
            done, ok = sum(self._counts.values()), self._counts[OK]
        return Progress(self._shard, self._videos, done, ok, done - ok, self._clips(), self._state)

    def _notify(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.now())

    def _tick(self) -> None:
        self._write()
        if time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        now = self.now()
        with self._lock:
            parts = [
                f"{self._counts[status]} {status}" for status in STATUSES if self._counts[status]
            ]
        rate = now.clips / max(self._last_line - self._began, 1e-3)
        _log.info(
            "shard %d: %d of %d videos%s, %s",
            now.shard,
            now.done,
            now.videos,
            f" ({', '.join(parts)})" if parts else "",
            "done before" if self._done_before else f"{rate:.0f} clips/s",
        )

    def _write(self) -> None:
        now = self.now()
        if self._path is None or now == self._written:
            return
        with contextlib.suppress(OSError), atomic_file(self._path, text=True) as file:
            file.write(json.dumps(asdict(now)))
        self._written = now


@contextlib.contextmanager
def ticking(action: Callable[[], object], *, every_s: float, name: str) -> Iterator[None]:
    """Call a function at intervals, in another thread, until the block ends.

    Args:
        action: the function; it must not raise.
        every_s: the pause before each call, in seconds.
        name: the thread's name.
    """
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(every_s):
            action()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
