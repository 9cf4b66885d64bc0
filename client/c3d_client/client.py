"""Videos to features and labels: what people import.

`C3DClient` sends one video, or many side by side, on their walk, and makes one answer of each.
"""

from __future__ import annotations

import importlib.metadata
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np

from c3d_client.core.contract import CLASSIFY, CONTRACT_VERSION, FC6_FEATURES, Signature
from c3d_client.core.errors import ContractMismatch, ServingError, UsageError, VideoTooShortError
from c3d_client.core.provenance import ModelCard, Provenance
from c3d_client.core.uri import redact
from c3d_client.inference import Walk
from c3d_client.parallel import Outcome, map_parallel, share_cores
from c3d_client.results import VideoClassification, VideoFeatures, l2_normalise, top_classes
from c3d_client.serving.client import ServingClient, VersionStatus
from c3d_client.serving.model_info import ModelInfo
from c3d_client.serving.options import ServingOptions
from c3d_client.video.clips import ClipWindow
from c3d_client.video.decode import Frame, decoder_versions
from c3d_client.video.sources import fingerprint

# A roll-out changes the served version once; a server that keeps changing is not to be waited for.
_WALKS_PER_VIDEO = 3

Path = TypeVar("Path", str, os.PathLike[str])


class C3DClient:
    """Videos in, features and labels out. Close it, or use it as a context manager.

    Several threads may use one client.

    Example::

        with C3DClient("localhost:8500") as c3d:
            feature = c3d.extract("video.mp4").video_feature   # float32 [4096], length 1
            for outcome in c3d.extract_many(["a.mp4", "b.mp4"]):
                print(outcome.source, outcome.error or outcome.result.video_feature)

    Args:
        target: the server's gRPC address; it wins over the one in ``options``.
        stride: frames from one clip's start to the next; it wins over the one in ``window``.
        window: how clips are made of a film; the paper's way by default.
        options: deadline, retries, batch size, requests in flight, credentials.

    Attributes:
        window: how clips are made of a film.
        serving: the connection.
        model: what is served.

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
        return self.model.info()

    def versions(self) -> tuple[VersionStatus, ...]:
        """What the server says of each version of the model, newest first.

        Raises:
            ServingError: the server cannot be asked.
        """
        return self.serving.versions()

    @property
    def clips_answered(self) -> int:
        """Clips that the server has answered for since this client was made."""
        return self._clips_answered

    def _note_clips(self, clips: int) -> None:
        with self._lock:
            self._clips_answered += clips

    def provenance(self) -> dict[str, Any]:
        """What a result of now would say of how it was made, all but the video.

        Raises:
            ContractMismatch, ServingError: as :meth:`model_info`.
        """
        return self.model.made_by(self.model.info()).to_dict()

    def extract(
        self,
        source: str | os.PathLike[str],
        *,
        threads: int = 0,
        cancel: threading.Event | None = None,
        unwanted: threading.Event | None = None,
    ) -> VideoFeatures:
        """The fc6 features of a video, one row a clip, and of the video as a whole.

        Args:
            source: a path; an ``s3://``, ``gs://`` or ``https://`` address; or another URL that
                FFmpeg can open.
            threads: of the decoder; 0 for as many as there are cores.
            cancel: set by another thread to cancel the video.
            unwanted: the former name of ``cancel``; accepted until release 0.3.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end.
            VideoTooShortError: it has too few frames for one clip.
            OutputError: there is no room for its features.
            ServingError: the server failed, or the model is not what it should be.
            Cancelled: it was given up.
        """
        cancel = _renamed(cancel, unwanted)
        walk, _, provenance = self._walk(source, FC6_FEATURES, threads=threads, cancel=cancel)
        try:
            video_feature = l2_normalise(walk.mean.value())
        except ValueError as error:
            raise self.model.unusable(redact(os.fspath(source)), error) from error
        return VideoFeatures(
            clip_starts=walk.clip_starts(),
            clip_times_s=walk.clip_times_s(),
            clip_features=walk.rows.array(),
            video_feature=video_feature,
            provenance=provenance.to_dict(),
            timings=walk.timings(),
        )

    def extract_many(
        self,
        sources: Iterable[Path],
        *,
        workers: int | None = None,
        in_order: bool = False,
    ) -> Iterator[Outcome[Path, VideoFeatures]]:
        """The fc6 features of many videos, several at a time.

        Args:
            sources: as for :meth:`extract`, any number; taken one by one as there is room.
            workers: videos at a time; as many as this process may use cores by default.
            in_order: yield in the order of the sources; otherwise each as soon as it is there.

        Yields:
            One outcome a source: its features, or the error that this video ended in.

        Raises:
            UsageError: workers is below 1.
            ContractMismatch: the model is not what it should be, or became another one on the way.
            ModelNotFound: the server does not have the model.
            ServingError: the server answered for none of several videos in a row.
        """
        count, threads = share_cores(workers)
        expected = self.model.made_by(self.model.info())

        def one(source: Path, cancel: threading.Event) -> VideoFeatures:
            features = self.extract(source, threads=threads, cancel=cancel)
            self.model.require_unchanged(expected, Provenance(features.provenance))
            return features

        return map_parallel(one, sources, workers=count, in_order=in_order)

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
        """The class probabilities of a video: the mean over its clips, and each clip's own.

        Args:
            source: as for :meth:`extract`.
            top_k: how many classes to name, 1 or more.
            threads: as for :meth:`extract`.
            cancel: as for :meth:`extract`.
            watch: handed the decoded frames, hands them on; to look at them on their way, as
                :meth:`c3d_client.views.thumbnails.FilmStrip.watch` does.

        Raises:
            UsageError: top_k is below 1, or the model gives features only.
            VideoDecodeError, VideoTooShortError, ServingError, Cancelled: as :meth:`extract`.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; give 1 or more")
        cancel = _renamed(cancel, unwanted)
        walk, info, provenance = self._walk(
            source, CLASSIFY, threads=threads, cancel=cancel, watch=watch
        )
        probabilities = walk.mean.value()
        if not np.isfinite(probabilities).all():
            error = ValueError("a probability is NaN or infinity")
            raise self.model.unusable(redact(os.fspath(source)), error)
        if len(info.labels) != len(probabilities):
            raise ContractMismatch(
                self.model.target,
                f"the model gives {len(probabilities)} probabilities and names "
                f"{len(info.labels)} labels; export it again",
            )
        return VideoClassification(
            top=top_classes(probabilities, info.labels, top_k=top_k),
            probabilities=probabilities,
            clip_probabilities=walk.rows.array(),
            clip_starts=walk.clip_starts(),
            clip_times_s=walk.clip_times_s(),
            labels=info.labels,
            provenance=provenance.to_dict(),
            timings=walk.timings(),
        )

    def _walk(
        self,
        source: str | os.PathLike[str],
        signature: Signature,
        *,
        threads: int = 0,
        cancel: threading.Event | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
    ) -> tuple[Walk, ModelInfo, Provenance]:
        versions = []
        for _ in range(_WALKS_PER_VIDEO):
            info = self.model.info(signature)
            known_by = fingerprint(os.fspath(source))
            walk = Walk(
                source,
                self.window,
                threads=threads,
                cancelled=cancel,
                on_clips=self._note_clips,
                watch=watch,
            )
            answered = walk.ask(self.serving, signature, version=info.version)
            if answered != info.version:
                # Another version was rolled out: the video starts afresh with that one's card.
                versions += [info.version, answered]
                self.model.forget(info)
                continue
            if not walk.rows.count:
                raise VideoTooShortError(
                    redact(os.fspath(source)),
                    f"has {walk.frames} frames; a clip needs {self.window.span}",
                )
            video = {
                "source": redact(os.fspath(source)),
                "fingerprint": known_by,
                "frames": walk.frames,
                "duration_s": walk.end_s,
                "fps": walk.frames / walk.end_s if walk.end_s else None,
                "width": walk.width,
                "height": walk.height,
                "interlaced": walk.interlaced,
            }
            return walk, info, self.model.made_by(info).with_video(video)
        raise ContractMismatch(
            self.model.target,
            f"versions {', '.join(map(str, sorted(set(versions))))} of the model answer in turn; "
            "wait until the roll-out is over, or name a version or label",
        )


class ServedModel:
    """What a server serves. Threads may share it.

    Args:
        serving: the connection.
        window: how clips are made, for provenance.
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

    def info(self, signature: Signature | None = None) -> ModelInfo:
        """The model, held against the contract on first use and remembered.

        Args:
            signature: one that it must have.

        Raises:
            UsageError: it does not have the signature.
            ContractMismatch: it is not the C3D servable that this client speaks to.
            ServingError: the server cannot be asked.
        """
        with self._lock:
            if self._info is None:
                self._info = self._serving.model_info()
            info = self._info
        if signature is not None and signature.name not in info.signatures:
            raise UsageError(
                f"the model at {self.target} has no signature {signature.name!r}: "
                "its weights give features only; use extract"
            )
        return info

    def forget(self, info: ModelInfo) -> None:
        """Ask anew at the next use, unless somebody did so since."""
        with self._lock:
            if self._info is info:
                self._info = None

    def made_by(self, info: ModelInfo) -> Provenance:
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
        """See that a result belongs to the run that it was made in.

        Raises:
            ContractMismatch: the model became another one since the run began.
        """
        changed = expected.differences(provenance)
        if changed:
            raise ContractMismatch(
                self.target,
                f"the model became another one during the run ({'; '.join(map(str, changed))}); "
                "start a run of its own for the new model",
            )

    def unusable(self, name: str, error: ValueError) -> ServingError:
        """The error for an answer that is no feature and no probability."""
        return ServingError(
            self.target,
            f"the model's answer for {name} cannot be used: {error}; "
            "check the servable with c3d-export verify",
        )


def _renamed(
    cancel: threading.Event | None, unwanted: threading.Event | None
) -> threading.Event | None:
    if unwanted is None:
        return cancel
    warnings.warn("unwanted is called cancel now", DeprecationWarning, stacklevel=3)
    return unwanted
