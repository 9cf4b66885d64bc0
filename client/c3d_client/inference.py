"""One video through decoder and server: its batches are sent, its answers are collected."""

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
from c3d_client.core.uri import Uri
from c3d_client.results import RowStore, RunningMean, Timings
from c3d_client.serving.client import Answer, ServingClient
from c3d_client.video.clips import ClipBatch, ClipWindow, iter_batches, resample
from c3d_client.video.damage import Accounts
from c3d_client.video.decode import Frame, decode_source


class VideoInference:
    """The inference of one video, which can be run once.

    Args:
        source: a path or URL.
        window: how its clips are cut.
        threads: decoder threads; 0 for as many as there are cores.
        size: the video's size in bytes, from its fingerprint; saves a web server one request.
        cancel: set by another thread to cancel the inference and its requests.
        on_clips: called with the number of clips of each answer.
        watch: a function that gets the iterator of decoded frames and returns one that yields the
            same frames; it can look at them.

    Attributes:
        frames: number of decoded frames; with a window's ``fps``, of resampled frames.
        height, width: of the last frame, as shown.
        interlaced: whether any frame consists of two interlaced fields.
        end_s: when the last frame ends.
        stream: the index of the decoded stream among all streams of the file.
        clips_left_out: number of clips that touch a damaged stretch of the video.
        accounts: the packets of the video and the pictures that came from them.
        rows: the outputs of the clips.
        mean: the mean of the outputs.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        window: ClipWindow,
        *,
        threads: int = 0,
        size: int | None = None,
        cancel: threading.Event | None = None,
        on_clips: Callable[[int], None] | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
    ) -> None:
        self._source = source
        self._window = window
        self._threads = threads
        self._size = size
        self._cancel = cancel
        self._on_clips = on_clips
        self._watch = watch
        self._started = time.perf_counter()
        self._decode_s = 0.0
        self._latency_s = 0.0
        self._queue_s: float | None = None
        self._compute_s: float | None = None
        self._retries = 0
        self._starts: list[int] = []
        self._times_s: list[tuple[float, float]] = []
        self.frames = 0
        self.height = 0
        self.width = 0
        self.interlaced = False
        self.end_s = 0.0
        self.stream = 0
        self.clips_left_out = 0
        self.accounts = Accounts()
        self.rows = RowStore()
        self.mean = RunningMean()

    def run(self, serving: ServingClient, signature: Signature, *, version: int) -> int:
        """Send every clip of the video and collect the answers.

        Args:
            serving: the connection.
            signature: the signature that is called.
            version: the expected version of the model.

        Returns:
            The version that answered. The inference ends at once where it is not the expected one,
            because outputs of two models must not be averaged.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end.
            ServingError: the server failed.
            Cancelled: ``cancel`` was set.
        """
        batches = self._batches(serving.options.batch_size)
        answers = serving.stream(signature, batches, cancel=self._cancel)
        for answer in answers:
            if answer.version != version:
                return answer.version
            self._add(answer)
        return version

    def clip_starts(self) -> npt.NDArray[np.int64]:
        """Return the index of each clip's first frame, int64 ``[n]``."""
        return np.array(self._starts, np.int64)

    def clip_times_s(self) -> npt.NDArray[np.float64]:
        """Return start and end of each clip in seconds, float64 ``[n, 2]``."""
        return np.array(self._times_s, np.float64).reshape(-1, 2)

    def timings(self) -> Timings:
        """Return how long the parts took since this object was made."""
        return Timings(
            wall_s=time.perf_counter() - self._started,
            decode_s=self._decode_s,
            wire_s=self._latency_s - (self._queue_s or 0.0) - (self._compute_s or 0.0),
            queue_s=self._queue_s,
            compute_s=self._compute_s,
            retries=self._retries,
        )

    def _batches(self, batch_size: int) -> Iterator[npt.NDArray[np.uint8]]:
        frames = decode_source(
            self._source,
            threads=self._threads,
            size=self._size,
            stream=self._window.stream,
            on_stream=self._set_stream,
            damage=self._window.damage,
            accounts=self.accounts,
        )
        if self._watch is not None:
            frames = self._watch(frames)
        if self._window.fps is not None:
            frames = resample(frames, fps=self._window.fps)
        batches = iter_batches(
            self._recorded(frames),
            self._window,
            size=batch_size,
            on_left_out=self._count_left_out,
        )
        while (batch := self._next(batches)) is not None:
            if self._cancel is not None and self._cancel.is_set():
                raise Cancelled(f"{Uri.of(self._source)}: was cancelled")
            self._starts += batch.start_frames
            self._times_s += batch.times_s
            yield batch.pixels

    def _set_stream(self, index: int) -> None:
        self.stream = index

    def _count_left_out(self) -> None:
        self.clips_left_out += 1

    def _next(self, batches: Iterator[ClipBatch]) -> ClipBatch | None:
        started = time.perf_counter()
        batch = next(batches, None)
        self._decode_s += time.perf_counter() - started
        return batch

    def _recorded(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield the frames and record their number, size and end."""
        frame: Frame | None = None
        for frame in frames:
            if frame.picture.interlaced:
                self.interlaced = True
            yield frame
        if frame is not None:
            self.frames = frame.index + 1
            self.height, self.width = frame.picture.height, frame.picture.width
            self.end_s = frame.time_s + frame.duration_s

    def _add(self, answer: Answer) -> None:
        self._latency_s += answer.latency_s
        self._retries += answer.retries
        if answer.queue_s is not None:
            self._queue_s = (self._queue_s or 0.0) + answer.queue_s
        if answer.compute_s is not None:
            self._compute_s = (self._compute_s or 0.0) + answer.compute_s
        rows: npt.NDArray[Any] = answer.output
        self.rows.add(rows)
        self.mean.add(rows)
        if self._on_clips is not None:
            self._on_clips(len(rows))
