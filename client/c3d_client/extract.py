"""The walk of one video: decode, cut, ask, average.

`C3DClient` is what people import. Decoding goes on while earlier clips are being computed: the
next batch is made as soon as the window has room for it.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from c3d_client.aggregate import ClassScore, RunningMean, l2_normalise, top_classes
from c3d_client.channel import ServingOptions
from c3d_client.clips import Clip, ClipWindow, iter_clips
from c3d_client.contract import (
    CLASSIFY,
    CLIP_FRAMES,
    CONTRACT_VERSION,
    FC6_FEATURES,
    PREPROCESSING,
    Signature,
)
from c3d_client.errors import ContractMismatch, UsageError, VideoTooShortError
from c3d_client.model_info import ModelInfo
from c3d_client.provenance import model_provenance
from c3d_client.serving import Answer, ServingClient, VersionStatus
from c3d_client.video import Frame, decode_frames, decoder_versions


@dataclass(frozen=True)
class Timings:
    """Where the time of one video went, in seconds. The parts overlap: they add up to more.

    Args:
        wall_s: from start to end.
        decode_s: decoding, resizing and cropping.
        wire_s: from sending requests to their answers' arrival, less queue and compute; with a
            server that does not tell those, all of it.
        queue_s: requests waiting in the server for their turn; None where it does not tell.
        compute_s: the server computing; None where it does not tell.
    """

    wall_s: float
    decode_s: float
    wire_s: float
    queue_s: float | None
    compute_s: float | None


@dataclass(frozen=True)
class VideoFeatures:
    """The fc6 features of one video of n clips.

    Args:
        clip_starts: int64 ``[n]``, the index of each clip's first frame.
        clip_times_s: float64 ``[n, 2]``, start and end of each clip in seconds.
        clip_features: float32 ``[n, 4096]``, fc6 after ReLU.
        video_feature: float32 ``[4096]``, the clips' mean, L2-normalised.
        provenance: what made the numbers: contract, model, weights and mean, decoder, resize.
        timings: where the time went.
    """

    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    clip_features: npt.NDArray[np.float32]
    video_feature: npt.NDArray[np.float32]
    provenance: dict[str, Any]
    timings: Timings


@dataclass(frozen=True)
class VideoClassification:
    """The class probabilities of one video of n clips.

    Args:
        top: the best classes of the whole video, best first.
        probabilities: float64 ``[classes]``, the mean over the clips.
        clip_probabilities: float32 ``[n, classes]``.
        clip_starts: int64 ``[n]``.
        clip_times_s: float64 ``[n, 2]``, seconds.
        labels: one for each class.
        provenance: as in :class:`VideoFeatures`.
        timings: where the time went.
    """

    top: tuple[ClassScore, ...]
    probabilities: npt.NDArray[np.float64]
    clip_probabilities: npt.NDArray[np.float32]
    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    labels: tuple[str, ...]
    provenance: dict[str, Any]
    timings: Timings


@dataclass
class _Walk:
    """What is gathered on the way through one video."""

    frames: int = 0
    height: int = 0
    width: int = 0
    decode_s: float = 0.0
    latency_s: float = 0.0
    queue_s: float | None = None
    compute_s: float | None = None
    clip_starts: list[int] = field(default_factory=list)
    clip_times_s: list[tuple[float, float]] = field(default_factory=list)
    outputs: list[npt.NDArray[np.float32]] = field(default_factory=list)
    mean: RunningMean = field(default_factory=RunningMean)

    def note_frames(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.frames += 1
            self.height, self.width = frame.pixels.shape[:2]
            yield frame

    def batches(self, clips: Iterator[Clip], size: int) -> Iterator[npt.NDArray[np.uint8]]:
        exhausted = False
        while not exhausted:
            started = time.perf_counter()
            batch: list[Clip] = []
            while len(batch) < size and not exhausted:
                clip = next(clips, None)
                if clip is None:
                    exhausted = True
                else:
                    batch.append(clip)
            self.clip_starts += [clip.start_frame for clip in batch]
            self.clip_times_s += [(clip.start_s, clip.end_s) for clip in batch]
            rows = np.stack([clip.pixels for clip in batch]) if batch else None
            self.decode_s += time.perf_counter() - started
            if rows is not None:
                yield rows

    def note_answer(self, answer: Answer) -> None:
        self.latency_s += answer.latency_s
        if answer.queue_s is not None:
            self.queue_s = (self.queue_s or 0.0) + answer.queue_s
        if answer.compute_s is not None:
            self.compute_s = (self.compute_s or 0.0) + answer.compute_s
        self.outputs.append(answer.output)
        self.mean.add(answer.output)

    def timings(self, wall_s: float) -> Timings:
        return Timings(
            wall_s=wall_s,
            decode_s=self.decode_s,
            wire_s=self.latency_s - (self.queue_s or 0.0) - (self.compute_s or 0.0),
            queue_s=self.queue_s,
            compute_s=self.compute_s,
        )


class C3DClient:
    """Videos in, features and labels out. Close it, or use it as a context manager.

    Example::

        with C3DClient("localhost:8500") as c3d:
            feature = c3d.extract("video.mp4").video_feature   # float32 [4096], length 1

    Args:
        target: the server's gRPC address; it wins over the one in ``options``.
        stride: frames from one clip's start to the next; 8 in the paper.
        options: deadline, retries, batch size, requests in flight.

    Raises:
        UsageError: an argument is out of its range.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        stride: int | None = None,
        options: ServingOptions | None = None,
    ) -> None:
        options = options or ServingOptions()
        if target is not None:
            options = replace(options, target=target)
        self.window = ClipWindow() if stride is None else ClipWindow(stride)
        self.serving = ServingClient(options)
        self._info: ModelInfo | None = None

    def __enter__(self) -> C3DClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.serving.close()

    def model_info(self) -> ModelInfo:
        """The served model, held against the contract on first use and remembered.

        Raises:
            ContractMismatch: it is not the C3D servable that this client speaks to.
            ServingError: the server cannot be asked.
        """
        if self._info is None:
            self._info = self.serving.model_info()
        return self._info

    def versions(self) -> tuple[VersionStatus, ...]:
        """What the server says of each version of the model, newest first.

        Raises:
            ServingError: the server cannot be asked.
        """
        return self.serving.versions()

    def extract(self, source: str | os.PathLike[str]) -> VideoFeatures:
        """The fc6 features of a video, one row a clip, and of the video as a whole.

        Args:
            source: a path, or a URL that FFmpeg can open.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end.
            VideoTooShortError: it has fewer than 16 frames.
            ServingError: the server failed, or the model is not what it should be.
        """
        started = time.perf_counter()
        walk, info = self._walk(source, FC6_FEATURES)
        try:
            video_feature = l2_normalise(walk.mean.value())
        except ValueError as error:
            raise self._broken_model(source, error) from error
        return VideoFeatures(
            clip_starts=np.array(walk.clip_starts, np.int64),
            clip_times_s=np.array(walk.clip_times_s, np.float64),
            clip_features=np.concatenate(walk.outputs),
            video_feature=video_feature,
            provenance=self._provenance(source, walk, info),
            timings=walk.timings(time.perf_counter() - started),
        )

    def classify(self, source: str | os.PathLike[str], *, top_k: int = 5) -> VideoClassification:
        """The class probabilities of a video: the mean over its clips, and each clip's own.

        Args:
            source: a path, or a URL that FFmpeg can open.
            top_k: how many classes to name, 1 or more.

        Raises:
            UsageError: top_k is below 1, or the model gives features only.
            VideoDecodeError: the video cannot be decoded to its end.
            VideoTooShortError: it has fewer than 16 frames.
            ServingError: the server failed, or the model is not what it should be.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; give 1 or more")
        started = time.perf_counter()
        walk, info = self._walk(source, CLASSIFY)
        probabilities = walk.mean.value()
        if not np.isfinite(probabilities).all():
            raise self._broken_model(source, ValueError("a probability is NaN or infinity"))
        if len(info.labels) != len(probabilities):
            raise ContractMismatch(
                self.serving.options.target,
                f"the model gives {len(probabilities)} probabilities and names "
                f"{len(info.labels)} labels; export it again",
            )
        return VideoClassification(
            top=top_classes(probabilities, info.labels, top_k=top_k),
            probabilities=probabilities,
            clip_probabilities=np.concatenate(walk.outputs),
            clip_starts=np.array(walk.clip_starts, np.int64),
            clip_times_s=np.array(walk.clip_times_s, np.float64),
            labels=info.labels,
            provenance=self._provenance(source, walk, info),
            timings=walk.timings(time.perf_counter() - started),
        )

    def _walk(
        self, source: str | os.PathLike[str], signature: Signature
    ) -> tuple[_Walk, ModelInfo]:
        info = self.model_info()
        if signature.name not in info.signatures:
            raise UsageError(
                f"the model at {self.serving.options.target} has no signature {signature.name!r}: "
                "its weights give features only; use extract"
            )
        walk = _Walk()
        clips = iter_clips(walk.note_frames(decode_frames(source)), self.window)
        batches = walk.batches(clips, self.serving.options.batch_size)
        for answer in self.serving.stream(signature, batches):
            if answer.version != info.version:
                # Two models' numbers must not meet in one mean. The next video starts afresh.
                self._info = None
                raise ContractMismatch(
                    self.serving.options.target,
                    f"the model changed from version {info.version} to {answer.version} during "
                    f"{os.fspath(source)}; run this video again",
                )
            walk.note_answer(answer)
        if not walk.outputs:
            raise VideoTooShortError(
                os.fspath(source), f"has {walk.frames} frames; a clip needs {CLIP_FRAMES}"
            )
        return walk, info

    def _broken_model(self, source: str | os.PathLike[str], error: ValueError) -> ContractMismatch:
        return ContractMismatch(
            self.serving.options.target,
            f"the model's answer for {os.fspath(source)} cannot be used: {error}; "
            "check the servable with c3d-export verify",
        )

    def _provenance(
        self, source: str | os.PathLike[str], walk: _Walk, info: ModelInfo
    ) -> dict[str, Any]:
        return {
            "contract_version": CONTRACT_VERSION,
            "model": {
                "name": self.serving.options.model,
                "version": info.version,
                **model_provenance(info.card),
            },
            "preprocessing": dict(PREPROCESSING),
            "clips": {"frames": CLIP_FRAMES, "stride": self.window.stride, "tail": "drop"},
            "software": {
                "c3d_client": importlib.metadata.version("c3d-client"),
                "opencv": cv2.__version__,
                **decoder_versions(),
            },
            "video": {
                "source": os.fspath(source),
                "frames": walk.frames,
                "width": walk.width,
                "height": walk.height,
            },
        }
