"""Videos to features and labels: what people import.

`C3DClient` sends one video, or many side by side, on their walk, and makes one answer of each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from c3d_client.aggregate import l2_normalise, top_classes
from c3d_client.clips import ClipWindow
from c3d_client.contract import CLASSIFY, FC6_FEATURES, Signature
from c3d_client.errors import ContractMismatch, UsageError, VideoTooShortError
from c3d_client.many import Outcome, share_cores, side_by_side
from c3d_client.model_info import ModelInfo
from c3d_client.options import ServingOptions
from c3d_client.results import VideoClassification, VideoFeatures
from c3d_client.served_model import ServedModel
from c3d_client.serving import ServingClient, VersionStatus
from c3d_client.sources import display, fingerprint
from c3d_client.video import Frame
from c3d_client.walk import Walk

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
        return self.model.made_by(self.model.info())

    def extract(
        self,
        source: str | os.PathLike[str],
        *,
        threads: int = 0,
        unwanted: threading.Event | None = None,
    ) -> VideoFeatures:
        """The fc6 features of a video, one row a clip, and of the video as a whole.

        Args:
            source: a path; an ``s3://``, ``gs://`` or ``https://`` address; or another URL that
                FFmpeg can open.
            threads: of the decoder; 0 for as many as there are cores.
            unwanted: set by another thread to give the video up.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end.
            VideoTooShortError: it has too few frames for one clip.
            OutputError: there is no room for its features.
            ServingError: the server failed, or the model is not what it should be.
            Cancelled: it was given up.
        """
        walk, _, provenance = self._walk(source, FC6_FEATURES, threads=threads, unwanted=unwanted)
        try:
            video_feature = l2_normalise(walk.mean.value())
        except ValueError as error:
            raise self.model.unusable(display(os.fspath(source)), error) from error
        return VideoFeatures(
            clip_starts=walk.clip_starts(),
            clip_times_s=walk.clip_times_s(),
            clip_features=walk.rows.array(),
            video_feature=video_feature,
            provenance=provenance,
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
        expected = self.provenance()

        def one(source: Path, unwanted: threading.Event) -> VideoFeatures:
            features = self.extract(source, threads=threads, unwanted=unwanted)
            self.model.require_unchanged(expected, features.provenance)
            return features

        return side_by_side(one, sources, workers=count, in_order=in_order)

    def classify(
        self,
        source: str | os.PathLike[str],
        *,
        top_k: int = 5,
        threads: int = 0,
        unwanted: threading.Event | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
    ) -> VideoClassification:
        """The class probabilities of a video: the mean over its clips, and each clip's own.

        Args:
            source: as for :meth:`extract`.
            top_k: how many classes to name, 1 or more.
            threads: as for :meth:`extract`.
            unwanted: as for :meth:`extract`.
            watch: handed the decoded frames, hands them on; to look at them on their way, as
                :meth:`c3d_client.strip.FilmStrip.watch` does.

        Raises:
            UsageError: top_k is below 1, or the model gives features only.
            VideoDecodeError, VideoTooShortError, ServingError, Cancelled: as :meth:`extract`.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; give 1 or more")
        walk, info, provenance = self._walk(
            source, CLASSIFY, threads=threads, unwanted=unwanted, watch=watch
        )
        probabilities = walk.mean.value()
        if not np.isfinite(probabilities).all():
            error = ValueError("a probability is NaN or infinity")
            raise self.model.unusable(display(os.fspath(source)), error)
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
            provenance=provenance,
            timings=walk.timings(),
        )

    def _walk(
        self,
        source: str | os.PathLike[str],
        signature: Signature,
        *,
        threads: int = 0,
        unwanted: threading.Event | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
    ) -> tuple[Walk, ModelInfo, dict[str, Any]]:
        versions = []
        for _ in range(_WALKS_PER_VIDEO):
            info = self.model.info(signature)
            known_by = fingerprint(os.fspath(source))
            walk = Walk(
                source,
                self.window,
                threads=threads,
                cancelled=unwanted,
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
                    display(os.fspath(source)),
                    f"has {walk.frames} frames; a clip needs {self.window.span}",
                )
            video = {
                "source": display(os.fspath(source)),
                "fingerprint": known_by,
                "frames": walk.frames,
                "duration_s": walk.end_s,
                "fps": walk.frames / walk.end_s if walk.end_s else None,
                "width": walk.width,
                "height": walk.height,
                "interlaced": walk.interlaced,
            }
            return walk, info, {**self.model.made_by(info), "video": video}
        raise ContractMismatch(
            self.model.target,
            f"versions {', '.join(map(str, sorted(set(versions))))} of the model answer in turn; "
            "wait until the roll-out is over, or name a version or label",
        )
