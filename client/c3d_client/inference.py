"""One video on its way through decoding, cutting and the server, and what is gathered from it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import Signature
from c3d_client.core.errors import Cancelled
from c3d_client.results import RowStore, RunningMean, Timings
from c3d_client.serving.client import Answer, ServingClient
from c3d_client.video.clips import ClipBatch, ClipWindow, iter_batches, resample
from c3d_client.video.decode import Frame, decode_frames


class Walk:
    """One video, decoded and asked for once.

    Args:
        source: a path or URL.
        window: how its clips are made.
        threads: of the decoder; 0 for as many as there are cores.
        cancelled: set to make the walk end with :class:`Cancelled` at the next batch.
        on_clips: called with the number of clips of each answer.
        watch: handed the decoded frames, hands them on; to look at them on their way.

    Attributes:
        frames: decoded so far; with a window's ``fps``, those taken.
        height, width: of the last frame, as shown.
        interlaced: whether any frame was two fields woven.
        end_s: when the last frame ends.
        rows: the clips' outputs.
        mean: their mean.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        window: ClipWindow,
        *,
        threads: int = 0,
        cancelled: threading.Event | None = None,
        on_clips: Callable[[int], None] | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
    ) -> None:
        self._source = source
        self._window = window
        self._threads = threads
        self._cancelled = cancelled
        self._on_clips = on_clips
        self._watch = watch
        self._started = time.perf_counter()
        self._decode_s = 0.0
        self._latency_s = 0.0
        self._queue_s: float | None = None
        self._compute_s: float | None = None
        self._starts: list[int] = []
        self._times_s: list[tuple[float, float]] = []
        self.frames = 0
        self.height = 0
        self.width = 0
        self.interlaced = False
        self.end_s = 0.0
        self.rows = RowStore()
        self.mean = RunningMean()

    def ask(self, serving: ServingClient, signature: Signature, *, version: int) -> int:
        """Ask for every clip of the video.

        Returns:
            The version that answered: another one than was expected ends the walk at once, because
            two models' numbers must not meet in one mean.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end.
            ServingError: the server failed.
            Cancelled: nobody wants it any more.
        """
        answers = serving.stream(signature, self._batches(serving.options.batch_size))
        for answer in answers:
            if answer.version != version:
                return answer.version
            self._note_answer(answer)
        return version

    def clip_starts(self) -> npt.NDArray[np.int64]:
        """The index of each clip's first frame, int64 ``[n]``."""
        return np.array(self._starts, np.int64)

    def clip_times_s(self) -> npt.NDArray[np.float64]:
        """Start and end of each clip in seconds, float64 ``[n, 2]``."""
        return np.array(self._times_s, np.float64).reshape(-1, 2)

    def timings(self) -> Timings:
        """Where the time went since this walk began."""
        return Timings(
            wall_s=time.perf_counter() - self._started,
            decode_s=self._decode_s,
            wire_s=self._latency_s - (self._queue_s or 0.0) - (self._compute_s or 0.0),
            queue_s=self._queue_s,
            compute_s=self._compute_s,
        )

    def _batches(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        frames: Iterator[Frame] = decode_frames(self._source, threads=self._threads)
        if self._watch is not None:
            frames = self._watch(frames)
        if self._window.fps is not None:
            frames = resample(frames, fps=self._window.fps)
        batches = iter_batches(self._noted(frames), self._window, size=size)
        while (batch := self._next(batches)) is not None:
            if self._cancelled is not None and self._cancelled.is_set():
                raise Cancelled
            self._starts += batch.start_frames
            self._times_s += batch.times_s
            yield batch.pixels

    def _next(self, batches: Iterator[ClipBatch]) -> ClipBatch | None:
        started = time.perf_counter()
        batch = next(batches, None)
        self._decode_s += time.perf_counter() - started
        return batch

    def _noted(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        frame: Frame | None = None
        for frame in frames:
            if frame.picture.interlaced:
                self.interlaced = True
            yield frame
        if frame is not None:
            self.frames = frame.index + 1
            self.height, self.width = frame.picture.height, frame.picture.width
            self.end_s = frame.time_s + frame.duration_s

    def _note_answer(self, answer: Answer) -> None:
        self._latency_s += answer.latency_s
        if answer.queue_s is not None:
            self._queue_s = (self._queue_s or 0.0) + answer.queue_s
        if answer.compute_s is not None:
            self._compute_s = (self._compute_s or 0.0) + answer.compute_s
        rows: npt.NDArray[Any] = answer.output
        self.rows.add(rows)
        self.mean.add(rows)
        if self._on_clips is not None:
            self._on_clips(len(rows))
