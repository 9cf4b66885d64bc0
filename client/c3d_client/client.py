"""Videos to features and class probabilities: :class:`C3DClient`, the public interface.

:mod:`c3d_client.inference` runs one video; :mod:`c3d_client.parallel` runs many at the same time.
"""

from __future__ import annotations

import importlib.metadata
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np

from c3d_client.core.arguments import require_several
from c3d_client.core.contract import CLASSIFY, CONTRACT_VERSION, FC6_FEATURES, Signature
from c3d_client.core.errors import (
    Cancelled,
    ContractMismatch,
    ServingError,
    UsageError,
    VideoDecodeError,
    VideoTooShortError,
)
from c3d_client.core.provenance import ModelCard, Provenance
from c3d_client.core.uri import Uri, UriLike
from c3d_client.inference import VideoInference
from c3d_client.parallel import Outcome, map_parallel, share_cores
from c3d_client.results import VideoClassification, VideoFeatures, l2_normalise, top_classes
from c3d_client.serving.client import ServingClient, VersionStatus
from c3d_client.serving.concurrency import CANCEL_POLL_S
from c3d_client.serving.model_info import ModelInfo
from c3d_client.serving.options import ServingOptions
from c3d_client.video.clips import ClipWindow
from c3d_client.video.decode import Frame, decoder_versions
from c3d_client.video.sources import fingerprint

# A roll-out changes the served version once, so more attempts would not help.
_ATTEMPTS_PER_VIDEO = 3

SourcePath = TypeVar("SourcePath", str, os.PathLike[str])
Fingerprint: TypeAlias = Mapping[str, "str | int"]


class C3DClient:
    """Client that computes features and class labels of videos. Threads may share it.

    Close it, or use it as a context manager.

    Example::

        with C3DClient("localhost:8500") as c3d:
            feature = c3d.extract("video.mp4").video_feature   # float32 [4096], length 1
            for outcome in c3d.extract_many(["a.mp4", "b.mp4"]):
                if outcome.result is not None:
                    print(outcome.source, outcome.result.video_feature)

    Args:
        target: the server's gRPC address; overrides the one in ``options``.
        stride: frames from one clip's start to the next; overrides the one in ``window``.
        window: how clips are cut from a video; as in the paper by default.
        options: timeout, patience, batch size, requests in flight, credentials.

    Attributes:
        window: how clips are cut from a video.
        serving: the connection.
        model: the served model.

    Raises:
        UsageError: an argument is out of its range.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        stride: int | None = None,
        window: ClipWindow | None = None,
        options: ServingOptions | None = None,
    ) -> None:
        options = options or ServingOptions()
        if target is not None:
            options = replace(options, target=target)
        self.window = window or ClipWindow()
        if stride is not None:
            self.window = replace(self.window, stride=stride)
        self.serving = ServingClient(options)
        self.model = ServedModel(self.serving, self.window)
        self._lock = threading.Lock()
        self._clips_answered = 0
        self._closed = False

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
        self._closed = True
        self.serving.close()

    def _require_open(self) -> None:
        # Checked where a call begins: one that is running when another thread closes the client
        # ends with a ServingError.
        if self._closed:
            raise UsageError(
                f"the client of {self.serving.options.target} is closed; make another C3DClient, "
                "or call it before its with block ends"
            )

    def model_info(self) -> ModelInfo:
        """Return the served model; it is checked on first use and then remembered.

        Raises:
            ContractMismatch: the model is not a C3D servable that this client can use.
            ServingError: the request failed.
        """
        self._require_open()
        return self.model.info()

    def versions(self) -> tuple[VersionStatus, ...]:
        """Return the state of each version of the model on the server, newest first.

        Raises:
            ServingError: the request failed.
        """
        self._require_open()
        return self.serving.versions()

    @property
    def clips_answered(self) -> int:
        """Number of clips for which answers arrived since this client was made."""
        return self._clips_answered

    def provenance(self) -> dict[str, Any]:
        """Return the provenance that a result would have now, without the video.

        Raises:
            ContractMismatch, ServingError: as :meth:`model_info`.
        """
        self._require_open()
        return self.model.provenance(self.model.info()).to_dict()

    def extract(
        self,
        source: str | os.PathLike[str],
        *,
        threads: int = 0,
        cancel: threading.Event | None = None,
        unwanted: threading.Event | None = None,
    ) -> VideoFeatures:
        """Return the fc6 features of a video: one row for each clip, and one for the whole video.

        Args:
            source: a path; an ``s3://``, ``gs://`` or ``https://`` address; or another URL that
                FFmpeg can open.
            threads: decoder threads; 0 for as many as there are cores.
            cancel: set by another thread to cancel the video.
            unwanted: the former name of ``cancel``; accepted until release 0.3.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end; with ``damage="skip"``, it
                ends early, or no clip is left.
            VideoTooShortError: the video has too few frames for one clip.
            OutputError: the disk is too full for the temporary file of its features.
            ServingError: the server failed, or the model is not usable.
            Cancelled: ``cancel`` was set.
            UsageError: the source is neither a str nor an os.PathLike, or the client is closed.
        """
        self._require_open()
        return self._extract(source, threads=threads, cancel=_renamed(cancel, unwanted))

    def _extract(
        self,
        source: str | os.PathLike[str],
        *,
        threads: int = 0,
        cancel: threading.Event | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> VideoFeatures:
        """Extract features as :meth:`extract` does, for callers that know the fingerprint already.

        Args:
            source: as for :meth:`extract`.
            threads: as for :meth:`extract`.
            cancel: as for :meth:`extract`.
            fingerprint: what :func:`c3d_client.video.sources.fingerprint` returned for the source
                just now. It saves a remote video one request; None to request it here.
        """
        inference, _, provenance = self._infer(
            source, FC6_FEATURES, threads=threads, cancel=cancel, known_fingerprint=fingerprint
        )
        try:
            video_feature = l2_normalise(inference.mean.value())
        except ValueError as error:
            raise self.model.unusable(source, error) from error
        return VideoFeatures(
            clip_starts=inference.clip_starts(),
            clip_times_s=inference.clip_times_s(),
            clip_features=inference.rows.array(),
            video_feature=video_feature,
            provenance=provenance.to_dict(),
            timings=inference.timings(),
        )

    def extract_many(
        self,
        sources: Iterable[SourcePath],
        *,
        workers: int | None = None,
        in_order: bool = False,
    ) -> Iterator[Outcome[SourcePath, VideoFeatures]]:
        """Yield the fc6 features of many videos, several at a time.

        Args:
            sources: as for :meth:`extract`, any number; read one by one, as workers become free.
            workers: videos at a time; by default the number of cores that this process may use.
            in_order: yield in the order of the sources; otherwise each as soon as it is done.

        Yields:
            One outcome for each source: its features, or the error of this video.

        Raises:
            UsageError: workers is below 1, ``sources`` is one path, or the client is closed.
            ContractMismatch: the model is not usable, or was replaced by another one meanwhile.
            ModelNotFound: the server does not have the model.
            ServingError: the server failed for several videos in a row.
        """
        self._require_open()
        require_several(sources, "sources", each="paths or URLs")
        count, threads = share_cores(workers)
        expected = self.model.provenance(self.model.info())

        def extract(source: SourcePath, cancel: threading.Event) -> VideoFeatures:
            features = self._extract(source, threads=threads, cancel=cancel)
            self.model.require_unchanged(expected, Provenance(features.provenance))
            return features

        return map_parallel(extract, sources, workers=count, in_order=in_order)

    def classify(
        self,
        source: str | os.PathLike[str],
        *,
        top_k: int = 5,
        threads: int = 0,
        cancel: threading.Event | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
        unwanted: threading.Event | None = None,
    ) -> VideoClassification:
        """Return the class probabilities of a video: of each clip, and the mean over its clips.

        Args:
            source: as for :meth:`extract`.
            top_k: number of classes in ``top``, 1 or more.
            threads: as for :meth:`extract`.
            cancel: as for :meth:`extract`.
            watch: a function that gets the iterator of decoded frames and returns one that yields
                the same frames; it can look at them, as
                :meth:`c3d_client.views.thumbnails.Thumbnails.watch` does.
            unwanted: the former name of ``cancel``; accepted until release 0.3.

        Raises:
            UsageError: top_k is below 1, or the model has no classes.
            VideoDecodeError, VideoTooShortError, ServingError, Cancelled: as :meth:`extract`.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; give 1 or more")
        self._require_open()
        cancel = _renamed(cancel, unwanted)
        inference, info, provenance = self._infer(
            source, CLASSIFY, threads=threads, cancel=cancel, watch=watch
        )
        probabilities = inference.mean.value()
        if not np.isfinite(probabilities).all():
            raise self.model.unusable(source, ValueError("a probability is NaN or infinity"))
        if len(info.labels) != len(probabilities):
            raise ContractMismatch(
                self.model.target,
                f"the model returns {len(probabilities)} probabilities and names "
                f"{len(info.labels)} labels; export it again",
            )
        return VideoClassification(
            top=top_classes(probabilities, info.labels, top_k=top_k),
            probabilities=probabilities,
            clip_probabilities=inference.rows.array(),
            clip_starts=inference.clip_starts(),
            clip_times_s=inference.clip_times_s(),
            labels=info.labels,
            provenance=provenance.to_dict(),
            timings=inference.timings(),
        )

    def _infer(
        self,
        source: str | os.PathLike[str],
        signature: Signature,
        *,
        threads: int = 0,
        cancel: threading.Event | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
        known_fingerprint: Fingerprint | None = None,
    ) -> tuple[VideoInference, ModelInfo, Provenance]:
        """Run a video, and run it again where another version of the model answered."""
        uri = Uri.of(source)
        versions: set[int] = set()
        for _ in range(_ATTEMPTS_PER_VIDEO):
            info = self.model.info(signature, cancel=cancel)
            if known_fingerprint is None:
                known_fingerprint = fingerprint(uri)
            size = known_fingerprint.get("size")
            inference = VideoInference(
                source,
                self.window,
                threads=threads,
                size=None if size is None else int(size),
                cancel=cancel,
                on_clips=self._count_clips,
                watch=watch,
            )
            version = inference.run(self.serving, signature, version=info.version)
            if version != info.version:
                # Another version was rolled out: the video starts again with that version's card.
                versions |= {info.version, version}
                self.model.forget(info)
                continue
            if not inference.rows.count:
                if inference.clips_left_out:
                    raise VideoDecodeError(
                        str(uri),
                        f"is damaged: {inference.accounts.summary}; "
                        f"no clip is left of {inference.clips_left_out}",
                    )
                raise VideoTooShortError(
                    str(uri), f"has {inference.frames} frames; a clip needs {self.window.span}"
                )
            video = {
                "source": str(uri),
                "fingerprint": dict(known_fingerprint),
                "frames": inference.frames,
                "duration_s": inference.end_s,
                "fps": inference.frames / inference.end_s if inference.end_s else None,
                "width": inference.width,
                "height": inference.height,
                "interlaced": inference.interlaced,
                "stream": inference.stream,
            }
            if inference.accounts.left_out:
                video["frames_left_out"] = inference.accounts.left_out
            if self.window.damage == "skip":
                video["clips_left_out"] = inference.clips_left_out
            return inference, info, self.model.provenance(info).with_video(video)
        raise ContractMismatch(
            self.model.target,
            f"versions {', '.join(map(str, sorted(versions)))} of the model answer in turn; "
            "wait until the roll-out is over, or name a version or label",
        )

    def _count_clips(self, clips: int) -> None:
        with self._lock:
            self._clips_answered += clips


class ServedModel:
    """The model that a server serves. Threads may share it.

    Args:
        serving: the connection.
        window: how clips are cut, for provenance.
    """

    def __init__(self, serving: ServingClient, window: ClipWindow) -> None:
        self._serving = serving
        self._window = window
        self._info: ModelInfo | None = None
        self._lock = threading.Lock()

    @property
    def target(self) -> str:
        """The server's address."""
        return self._serving.options.target

    def info(
        self, signature: Signature | None = None, *, cancel: threading.Event | None = None
    ) -> ModelInfo:
        """Return the model; it is checked against the contract on first use and then remembered.

        Args:
            signature: a signature that the model must have.
            cancel: set by another thread to end the wait for the server.

        Raises:
            UsageError: the model does not have the signature.
            ContractMismatch: the model is not a C3D servable that this client can use.
            ServingError: the request failed.
            Cancelled: ``cancel`` was set.
        """
        # Another thread that requests the model may wait for the server for minutes.
        while not self._lock.acquire(timeout=CANCEL_POLL_S):
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"{self.target}: the request was cancelled")
        try:
            if self._info is None:
                self._info = self._serving.model_info(cancel=cancel)
            info = self._info
        finally:
            self._lock.release()
        if signature is not None and signature.name not in info.signatures:
            raise UsageError(
                f"the model at {self.target} has no signature {signature.name!r}: "
                "its weights give features only; use extract"
            )
        return info

    def forget(self, info: ModelInfo) -> None:
        """Request the model again at the next use, unless another thread has already done so."""
        with self._lock:
            if self._info is info:
                self._info = None

    def provenance(self, info: ModelInfo) -> Provenance:
        """Return the provenance of a result of this model, without the video."""
        name = self._serving.options.model
        return Provenance(
            {
                "contract_version": CONTRACT_VERSION,
                "model": {"name": name, "version": info.version, **ModelCard(info.card).model()},
                **self._window.provenance(),
                "software": {
                    "c3d_client": importlib.metadata.version("c3d-client"),
                    "opencv": cv2.__version__,
                    **decoder_versions(),
                },
            }
        )

    def require_unchanged(self, expected: Provenance, provenance: Provenance) -> None:
        """Check that a result was made by the model with which its run began.

        Raises:
            ContractMismatch: the model was replaced by another one during the run.
        """
        changed = expected.differences(provenance)
        if changed:
            raise ContractMismatch(
                self.target,
                f"the model became another one during the run ({'; '.join(map(str, changed))}); "
                "start a separate run for the new model",
            )

    def unusable(self, source: UriLike, error: ValueError) -> ServingError:
        """Return the error for an answer that is not a feature or a probability."""
        return ServingError(
            self.target,
            f"the model's answer for {Uri.of(source)} cannot be used: {error}; "
            "check the servable with c3d-export verify",
        )


def _renamed(
    cancel: threading.Event | None, unwanted: threading.Event | None
) -> threading.Event | None:
    if unwanted is None:
        return cancel
    warnings.warn("unwanted is called cancel now", DeprecationWarning, stacklevel=3)
    return unwanted
