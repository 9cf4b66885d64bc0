"""One video through decoder and server: its batches are sent, its answers are collected."""

from __future__ import annotations

import threading
import time
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import (
    CLIP_STRIDE,
    FC6_FEATURES,
    FC6_FEATURES_HALVES,
    MAX_BATCH_SIZE,
    Signature,
)
from c3d_client.core.errors import Cancelled
from c3d_client.partial import PartialRows, Rows
from c3d_client.results import RowStore, RunningMean, Timings
from c3d_client.serving.client import Answer, ServingClient
from c3d_client.serving.model_info import ModelInfo
from c3d_client.video.clips import ClipBatch, ClipWindow, iter_batches, iter_halves, resample
from c3d_client.video.damage import Accounts
from c3d_client.video.decode import Frame
from c3d_client.video.frames import VideoInput
from c3d_client.video.memory import Share, sharing

_FIRST = "first"  # the first output, in the rows of a partial video


def halves_sizes(
    info: ModelInfo, signature: Signature, window: ClipWindow, *, batch_size: int
) -> tuple[int, ...]:
    """Return the batch sizes of a model whose clips are sent as halves; empty if they are not.

    Halves are sent for fc6 features of clips that share them, where the model has the signature and
    a batch size of 8 rows or more that a request may have.

    Args:
        info: the model.
        signature: the signature whose outputs are wanted.
        window: how clips are cut.
        batch_size: clips in a request that has no halves. Halves have half the bytes, so a request
            of twice as many halves is no larger.

    Returns:
        The sizes for which the model was made, ascending. A request has as many halves as the last
        one.
    """
    if (
        signature is not FC6_FEATURES
        or FC6_FEATURES_HALVES.name not in info.signatures
        or not window.has_halves
    ):
        return ()
    largest = min(2 * batch_size, MAX_BATCH_SIZE)
    sizes = [size for size in info.batch_sizes if size <= largest]
    return tuple(sizes) if max(sizes, default=0) >= CLIP_STRIDE else ()


class VideoInference:
    """The inference of one video, which can be run once.

    Args:
        source: the video, from :func:`c3d_client.video.frames.open_input`, prepared.
        window: how its clips are cut.
        threads: decoder threads; 0 for as many as there are cores.
        cancel: set by another thread to cancel the inference and its requests.
        on_clips: called with the number of clips of each answer.
        watch: a function that gets the iterator of decoded frames and returns one that yields the
            same frames; it can look at them.
        partial: the rows of an earlier run, which are not requested again; rows are added to it.

    Attributes:
        frames: number of decoded frames; with a window's ``fps``, of resampled frames.
        height, width: of the last frame, as shown.
        interlaced: whether any frame consists of two interlaced fields.
        end_s: when the last frame ends; NaN where frames have no times.
        stream: the index of the decoded stream among all streams of the file.
        clips_left_out: number of clips that touch a damaged stretch of the video.
        accounts: the packets of the video and the pictures that came from them.
        rows: the outputs of the clips; of several outputs the first.
        mean: the mean of the outputs.
        further: the rows of the other outputs, by name.
        further_means: their means, by name.
    """

    def __init__(
        self,
        source: VideoInput,
        window: ClipWindow,
        *,
        threads: int = 0,
        cancel: threading.Event | None = None,
        on_clips: Callable[[int], None] | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
        partial: PartialRows | None = None,
    ) -> None:
        self._source = source
        self._window = window
        self._threads = threads
        self._cancel = cancel
        self._on_clips = on_clips
        self._watch = watch
        self._partial = partial
        self._started = time.perf_counter()
        self._decode_s = 0.0
        self._latency_s = 0.0
        self._queue_s: float | None = None
        self._compute_s: float | None = None
        self._retries = 0
        self._sent: deque[int] = deque()  # clips of the requests whose answers are not added yet
        # Of every clip of the video: an array needs 24 bytes a clip, where lists need 150.
        self._starts = array("q")
        self._times_s = array("d")
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
        self.further: defaultdict[str, RowStore] = defaultdict(RowStore)
        self.further_means: defaultdict[str, RunningMean] = defaultdict(RunningMean)

    def run(
        self,
        serving: ServingClient,
        signature: Signature,
        *,
        version: int,
        halves_sizes: Sequence[int] = (),
    ) -> int:
        """Send every clip of the video and collect the answers.

        Args:
            serving: the connection.
            signature: the signature that is called.
            version: the expected version of the model.
            halves_sizes: what :func:`halves_sizes` returned for the model and the signature.

        Returns:
            The version that answered. The inference ends at once where it is not the expected one,
            because outputs of two models must not be averaged.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end.
            VideoTooLarge: decoding needs more memory than this process may use.
            ServingError: the server failed.
            Cancelled: ``cancel`` was set.
            PartialMismatch: the rows of the earlier run are of other clips.
        """
        try:
            with sharing(self._cancel) as share:
                requests = (
                    (FC6_FEATURES_HALVES if batch.has_halves else signature, batch.pixels)
                    for batch in self._batches(serving.options.batch_size, halves_sizes, share)
                )
                for answer in serving.stream_requests(requests, cancel=self._cancel):
                    if answer.version != version:
                        return answer.version
                    self._add(answer)
        except Cancelled as error:
            # It is raised where it is noticed first: by a request, or between two batches.
            raise Cancelled(f"{self._source.name}: was cancelled") from error
        if self._partial is not None:
            self._partial.require_all_taken()
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

    def _batches(
        self, batch_size: int, halves_sizes: Sequence[int], share: Share
    ) -> Iterator[ClipBatch]:
        frames = self._source.frames(
            threads=self._threads,
            on_stream=self._set_stream,
            accounts=self.accounts,
            share=share,
        )
        if self._watch is not None:
            frames = self._watch(frames)
        if self._window.fps is not None:
            frames = resample(frames, fps=self._window.fps)
        frames = self._recorded(frames)
        if halves_sizes:
            batches = iter_halves(
                frames,
                self._window,
                size=halves_sizes[-1],
                exact_sizes=halves_sizes,
                on_left_out=self._count_left_out,
            )
        else:
            batches = iter_batches(
                frames, self._window, size=batch_size, on_left_out=self._count_left_out
            )
        while (batch := self._next(batches)) is not None:
            if self._cancel is not None and self._cancel.is_set():
                raise Cancelled
            self._starts.extend(batch.start_frames)
            self._times_s.extend(chain.from_iterable(batch.times_s))
            # The rows of an earlier run come before all that are requested, so the order is kept.
            if self._partial is not None:
                kept = self._partial.take(batch.start_frames)
                if kept is not None:
                    self._add_rows(kept)
                    continue
            self._sent.append(len(batch.start_frames))
            yield batch

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
        # The last row of halves belongs to no clip.
        clips = self._sent.popleft()
        further = {name: output[:clips] for name, output in answer.further.items()}
        outputs = {_FIRST: answer.output[:clips], **further}
        self._add_rows(outputs)
        if self._partial is not None:
            self._partial.add(self._starts, outputs, count=self.rows.count, earlier=self._all_rows)
        if self._on_clips is not None:
            self._on_clips(clips)

    def _add_rows(self, outputs: Rows) -> None:
        for name, rows in outputs.items():
            is_first = name == _FIRST
            (self.rows if is_first else self.further[name]).add(rows)
            (self.mean if is_first else self.further_means[name]).add(rows)

    def _all_rows(self) -> Rows:
        further = {name: rows.array() for name, rows in self.further.items()}
        return {_FIRST: self.rows.array(), **further}
