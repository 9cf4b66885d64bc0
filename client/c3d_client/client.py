"""Videos to features and class probabilities: :class:`C3DClient`, the public interface.

:mod:`c3d_client.inference` runs one video; :mod:`c3d_client.parallel` runs many at the same time.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np

from c3d_client.core.arguments import layer_names, path_text, require_several
from c3d_client.core.contract import (
    CLASSIFY,
    CONTRACT_VERSION,
    DEFAULT_LAYER,
    FC6_FEATURES,
    FC7_FEATURES,
    LAYERS_SIGNATURE,
    Signature,
)
from c3d_client.core.errors import (
    Cancelled,
    ContractMismatch,
    ProvenanceError,
    RequestRejected,
    ServingError,
    UsageError,
    VideoDecodeError,
    VideoError,
    VideoTooShortError,
)
from c3d_client.core.provenance import ModelCard, Provenance
from c3d_client.inference import VideoInference, halves_sizes
from c3d_client.parallel import Outcome, map_parallel, share_cores
from c3d_client.partial import PartialMismatch, PartialRows
from c3d_client.pca import PCA
from c3d_client.results import VideoClassification, VideoFeatures, l2_normalise, top_classes
from c3d_client.serving.client import ServingClient, VersionStatus
from c3d_client.serving.concurrency import CANCEL_POLL_S
from c3d_client.serving.model_info import ModelInfo
from c3d_client.serving.options import ServingOptions
from c3d_client.video.clips import ClipWindow
from c3d_client.video.decode import Frame, decoder_versions
from c3d_client.video.frames import Fingerprint, VideoInput, VideoSource, open_input

_log = logging.getLogger(__name__)

# A roll-out changes the served version once, so more attempts would not help.
_ATTEMPTS_PER_VIDEO = 3

SourceT = TypeVar("SourceT", bound=VideoSource)


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
        target: the server's gRPC address, or ``local:PATH`` (see :meth:`local`); overrides the one
            in ``options``.
        stride: frames from one clip's start to the next; overrides the one in ``window``.
        window: how clips are cut from a video; as in the paper by default.
        options: timeout, patience, batch size, requests in flight, credentials.
        layers: the layers that :meth:`extract` returns, of ``conv5b``, ``pool5``, ``fc6``, ``fc7``
            and ``fc8``. The first is that of ``clip_features`` and ``video_feature``. A servable of
            release 0.1.0 has fc6 and fc7, one at a time.
        pca: reduces the features of clips; a fitted PCA, or the path or address of its file. It
            must have been fitted on features of the served model, of the first layer.

    Attributes:
        window: how clips are cut from a video.
        layers: the layers that :meth:`extract` returns.
        pca: reduces the features of clips; None for features as the model returns them.
        serving: the connection.
        model: the served model.

    Raises:
        UsageError: an argument is out of its range, or a file or folder in it cannot be used.
        OutputError: the PCA's file cannot be read, or is something else.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        stride: int | None = None,
        window: ClipWindow | None = None,
        options: ServingOptions | None = None,
        layers: Sequence[str] = (DEFAULT_LAYER,),
        pca: str | os.PathLike[str] | PCA | None = None,
    ) -> None:
        self.layers = layer_names(layers)
        options = options or ServingOptions()
        if target is not None:
            options = replace(options, target=target)
        self.window = window or ClipWindow()
        if stride is not None:
            self.window = replace(self.window, stride=stride)
        self.pca = pca if pca is None or isinstance(pca, PCA) else PCA.load(pca)
        self.serving = ServingClient(options)
        self.model = ServedModel(self.serving, self.window, layers=self.layers, pca=self.pca)
        self._lock = threading.Lock()
        self._clips_answered = 0
        self._closed = False

    @classmethod
    def local(cls, path: str | os.PathLike[str], **arguments: Any) -> C3DClient:
        """Return a client with a server of its own, on this machine: ``c3d-export serve``.

        The first request starts the server, and waits until the model is loaded. The clients of
        the same path in this process share it, and the last one that is closed stops it; it also
        ends with this process. ``C3DClient("local:models/c3d")`` is the same.

        Example::

            with C3DClient.local("models/c3d") as c3d:
                feature = c3d.extract("video.mp4").video_feature   # float32 [4096], length 1

        Args:
            path: the model's folder, whose newest version is served, or the folder of one version.
            arguments: the other arguments of :class:`C3DClient`.

        Raises:
            UsageError: there is no such folder, c3d-export is not installed, or the options are
                for TLS or have a token.
        """
        path = path_text(path, "path")
        # local:8500 would be a port of a host.
        return cls(f"local:{os.path.join('.', path) if path.isdecimal() else path}", **arguments)

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
        """Close the connection; a local server without other clients is stopped."""
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
        """Return the provenance that features would have now, without the video.

        Raises:
            UsageError: the model does not have the layers.
            ContractMismatch, ServingError: as :meth:`model_info`; ContractMismatch also where the
                PCA was fitted on features of another kind.
        """
        self._require_open()
        info = self.model.info()
        self.model.features_signature(info)
        return self.model.provenance(info).to_dict()

    def extract(
        self,
        source: VideoSource,
        *,
        channel_order: str = "rgb",
        frames_fps: float | Fraction | None = None,
        threads: int = 0,
        cancel: threading.Event | None = None,
        unwanted: threading.Event | None = None,
    ) -> VideoFeatures:
        """Return the features of a video: one row for each clip, and one for the whole video.

        The features are fc6, or those of :attr:`layers`.

        Args:
            source: the video, in one of these forms:

                - a path; an ``s3://``, ``gs://`` or ``https://`` address; or another URL that
                  FFmpeg can open;
                - a folder of images, or a pattern of images: ``frames/%06d.jpg``,
                  ``frames/*.png``;
                - frames, uint8 ``[n, height, width, 3]``, as a NumPy array, a torch tensor or
                  another array;
                - an iterable of frames, uint8 ``[height, width, 3]``, of which few are in memory at
                  a time. The frames of an iterator, such as a generator, are read once;
                - the content of a video, as bytes or as a binary file open for reading, which is
                  read from its start and stays open.
            channel_order: ``rgb`` or ``bgr``, of an array or an iterable of frames.
            frames_fps: the rate of images, an array or an iterable of frames in frames a second,
                0.01 to 1000. Without it times are NaN.
            threads: decoder threads; 0 for as many as there are cores.
            cancel: set by another thread to cancel the video.
            unwanted: the former name of ``cancel``; accepted until release 0.3.

        Raises:
            VideoDecodeError: the video cannot be decoded to its end; with ``damage="skip"``, it
                ends early, or no clip is left.
            VideoError: a PCA leaves the video without a feature, because it was fitted on this
                video alone.
            VideoTooShortError: the video has too few frames for one clip.
            VideoTooLarge: decoding needs more memory than this process may use.
            OutputError: the disk is too full for the temporary file of its features.
            ServingError: the server failed, or the model is not usable.
            Cancelled: ``cancel`` was set.
            UsageError: the source has none of these forms, frames are not uint8 or have another
                shape, an argument does not apply to the source, the client is closed, or the model
                does not have the layers.
        """
        self._require_open()
        return self._extract(
            source,
            channel_order=channel_order,
            frames_fps=frames_fps,
            threads=threads,
            cancel=_renamed(cancel, unwanted),
        )

    def _extract(
        self,
        source: VideoSource,
        *,
        channel_order: str = "rgb",
        frames_fps: float | Fraction | None = None,
        threads: int = 0,
        cancel: threading.Event | None = None,
        fingerprint: Fingerprint | None = None,
        partial: PartialRows | None = None,
    ) -> VideoFeatures:
        """Extract features as :meth:`extract` does, for callers that know the fingerprint already.

        Args:
            source: as for :meth:`extract`.
            channel_order: as for :meth:`extract`.
            frames_fps: as for :meth:`extract`.
            threads: as for :meth:`extract`.
            cancel: as for :meth:`extract`.
            fingerprint: what :func:`c3d_client.video.sources.fingerprint` returned for the source
                just now. It saves a remote video one request; None to request it here.
            partial: keeps the rows of a long video that ends early, and has those of an earlier
                run; None to keep none.
        """
        given = open_input(
            source,
            window=self.window,
            channel_order=channel_order,
            frames_fps=frames_fps,
            known=fingerprint,
        )
        inference, _, provenance = self._infer(
            given, FC6_FEATURES, threads=threads, cancel=cancel, partial=partial
        )
        clip_features = inference.rows.array()
        try:
            for name, mean in inference.further_means.items():
                if not np.isfinite(mean.value()).all():
                    raise ValueError(f"{name} holds NaN or infinity")
            if self.pca is None:
                video_feature = l2_normalise(inference.mean.value().reshape(-1))
            else:
                clip_features, video_feature = self.pca.reduce(clip_features)
        except UsageError as error:
            raise VideoError(given.name, str(error)) from error
        except ValueError as error:
            if partial is not None:  # the next run would read the same rows
                partial.remove()
            raise self.model.unusable(given.name, error) from error
        return VideoFeatures(
            clip_starts=inference.clip_starts(),
            clip_times_s=inference.clip_times_s(),
            clip_features=clip_features,
            video_feature=video_feature,
            provenance=provenance.to_dict(),
            timings=inference.timings(),
            layers={name: rows.array() for name, rows in inference.further.items()},
        )

    def extract_many(
        self,
        sources: Iterable[SourceT],
        *,
        channel_order: str = "rgb",
        frames_fps: float | Fraction | None = None,
        workers: int | None = None,
        in_order: bool = False,
    ) -> Iterator[Outcome[SourceT, VideoFeatures]]:
        """Yield the features of many videos, several at a time; see :meth:`extract`.

        Args:
            sources: as for :meth:`extract`, any number; read one by one, as workers become free.
            channel_order: as for :meth:`extract`, of all sources.
            frames_fps: as for :meth:`extract`, of all sources.
            workers: videos at a time; by default the number of cores that this process may use.
            in_order: yield in the order of the sources; otherwise each as soon as it is done.

        Yields:
            One outcome for each source: its features, or the error of this video.

        Raises:
            UsageError: workers is below 1, ``sources`` is one video, the client is closed, or a
                source is one that :meth:`extract` refuses.
            ContractMismatch: the model is not usable, or was replaced by another one meanwhile.
            ModelNotFound: the server does not have the model.
            ServingError: the server failed for several videos in a row.
        """
        self._require_open()
        require_several(sources, "sources", each="paths or URLs, or of what extract takes")
        count, threads = share_cores(workers)
        expected = Provenance(self.provenance())

        def extract(source: SourceT, cancel: threading.Event) -> VideoFeatures:
            features = self._extract(
                source,
                channel_order=channel_order,
                frames_fps=frames_fps,
                threads=threads,
                cancel=cancel,
            )
            self.model.require_unchanged(expected, Provenance(features.provenance))
            return features

        return map_parallel(extract, sources, workers=count, in_order=in_order)

    def classify(
        self,
        source: VideoSource,
        *,
        top_k: int = 5,
        channel_order: str = "rgb",
        frames_fps: float | Fraction | None = None,
        threads: int = 0,
        cancel: threading.Event | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
        unwanted: threading.Event | None = None,
    ) -> VideoClassification:
        """Return the class probabilities of a video: of each clip, and the mean over its clips.

        Args:
            source: as for :meth:`extract`.
            top_k: number of classes in ``top``, 1 or more.
            channel_order: as for :meth:`extract`.
            frames_fps: as for :meth:`extract`.
            threads: as for :meth:`extract`.
            cancel: as for :meth:`extract`.
            watch: a function that gets the iterator of decoded frames and returns one that yields
                the same frames; it can look at them, as
                :meth:`c3d_client.views.thumbnails.Thumbnails.watch` does.
            unwanted: the former name of ``cancel``; accepted until release 0.3.

        Raises:
            UsageError: top_k is below 1, or the model has no classes.
            VideoDecodeError, VideoTooShortError, VideoTooLarge, ServingError, Cancelled: as
                :meth:`extract`.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; give 1 or more")
        self._require_open()
        cancel = _renamed(cancel, unwanted)
        given = open_input(
            source, window=self.window, channel_order=channel_order, frames_fps=frames_fps
        )
        inference, info, provenance = self._infer(
            given, CLASSIFY, threads=threads, cancel=cancel, watch=watch
        )
        probabilities = inference.mean.value()
        if not np.isfinite(probabilities).all():
            raise self.model.unusable(given.name, ValueError("a probability is NaN or infinity"))
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
        source: VideoInput,
        signature: Signature,
        *,
        threads: int = 0,
        cancel: threading.Event | None = None,
        watch: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None,
        partial: PartialRows | None = None,
    ) -> tuple[VideoInference, ModelInfo, Provenance]:
        """Run a video, and run it again where another version of the model answered.

        The frames of an iterator cannot be read again. The model is requested again before them,
        so that only a roll-out during the video is an error.
        """
        versions: set[int] = set()
        attempts, was_refused = 0, False
        while attempts < _ATTEMPTS_PER_VIDEO:
            info = self.model.info(signature, cancel=cancel, is_new=source.is_once)
            is_features = signature is FC6_FEATURES
            requested = self.model.features_signature(info) if is_features else signature
            provenance = self.model.provenance(info, of_features=is_features)
            source.prepare()
            inference = VideoInference(
                source,
                self.window,
                threads=threads,
                cancel=cancel,
                on_clips=self._count_clips,
                watch=watch,
                partial=partial,
            )
            if partial is not None:
                partial.begin(provenance)
            sizes: tuple[int, ...] = ()
            if not was_refused:
                batch_size = self.serving.options.batch_size
                sizes = halves_sizes(info, requested, self.window, batch_size=batch_size)
            try:
                version = inference.run(
                    self.serving, requested, version=info.version, halves_sizes=sizes
                )
            except RequestRejected as error:
                is_optional = bool(sizes) or requested.name == LAYERS_SIGNATURE.name
                if was_refused or source.is_once or not is_optional:
                    raise
                # During a roll-out another version may answer, without the optional signature.
                _log.info("%s: starts again without optional signatures: %s", source.name, error)
                was_refused = True
                self.model.forget(info)
                continue
            except PartialMismatch:
                assert partial is not None
                partial.discard("has the rows of other clips")
                continue
            attempts += 1
            if version != info.version:
                # Another version was rolled out: the video starts again with that version's card.
                versions |= {info.version, version}
                self.model.forget(info)
                if source.is_once:
                    raise ServingError(
                        self.model.target,
                        f"version {version} of the model answered after version {info.version}, "
                        "and the frames of an iterator cannot be read again; call again with a new "
                        "iterator, or with a list or an array",
                    )
                continue
            if not inference.rows.count:
                if inference.clips_left_out:
                    raise VideoDecodeError(
                        source.name,
                        f"is damaged: {inference.accounts.summary}; "
                        f"no clip is left of {inference.clips_left_out}",
                    )
                is_used = source.is_once and not inference.frames
                raise VideoTooShortError(
                    source.name,
                    f"has {inference.frames} frames; a clip needs {self.window.span}"
                    + "; an iterator can be read once" * is_used,
                )
            end_s = inference.end_s if source.has_times else None
            video = {
                "source": source.name,
                "fingerprint": dict(source.fingerprint()),
                "frames": inference.frames,
                "duration_s": end_s,
                "fps": inference.frames / end_s if end_s else None,
                "width": inference.width,
                "height": inference.height,
                "interlaced": inference.interlaced if source.is_encoded else None,
                "stream": inference.stream if source.is_encoded else None,
                **source.provenance(),
            }
            if inference.accounts.left_out:
                video["frames_left_out"] = inference.accounts.left_out
            if self.window.damage == "skip":
                video["clips_left_out"] = inference.clips_left_out
            return inference, info, provenance.with_video(video)
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
        layers: the layers of features.
        pca: reduces the features; None without one.
    """

    def __init__(
        self,
        serving: ServingClient,
        window: ClipWindow,
        *,
        layers: Sequence[str] = (DEFAULT_LAYER,),
        pca: PCA | None = None,
    ) -> None:
        self._serving = serving
        self._window = window
        self._layers = tuple(layers)
        self._pca = pca
        self._info: ModelInfo | None = None
        self._lock = threading.Lock()

    @property
    def target(self) -> str:
        """The server's address."""
        return self._serving.options.target

    def info(
        self,
        signature: Signature | None = None,
        *,
        cancel: threading.Event | None = None,
        is_new: bool = False,
    ) -> ModelInfo:
        """Return the model; it is checked against the contract on first use and then remembered.

        Args:
            signature: a signature that the model must have.
            cancel: set by another thread to end the wait for the server.
            is_new: request the model even where it is remembered.

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
            if self._info is None or is_new:
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

    def features_signature(self, info: ModelInfo) -> Signature:
        """Return the signature of the layers, as it is requested.

        fc6 alone has signatures of its own, which every servable has. A servable of release 0.1.0
        has one for fc7 too, and no other layer.

        Raises:
            UsageError: the model does not have the layers.
        """
        if self._layers == (DEFAULT_LAYER,):
            return FC6_FEATURES
        has_signature = LAYERS_SIGNATURE.name in info.signatures
        missing = [layer for layer in self._layers if layer not in info.layers]
        if not missing and (has_signature or len(self._layers) == 1):
            return LAYERS_SIGNATURE.reading(*self._layers) if has_signature else FC7_FEATURES
        available = ", ".join(info.layers)
        problem = (
            f"has no layer {', '.join(missing)} (it has: {available})"
            if missing
            else f"gives one of {available} at a time, not several"
        )
        advice = (
            "its weights end at fc7"
            if has_signature and missing == ["fc8"]
            else "export it again with this release's c3d-export build"
        )
        raise UsageError(
            f"the model {self._serving.options.model!r} at {self.target} {problem}: {advice}"
        )

    def provenance(self, info: ModelInfo, *, of_features: bool = True) -> Provenance:
        """Return the provenance of a result of this model, without the video.

        Args:
            info: the model.
            of_features: whether the result is features; class probabilities have no layer and no
                PCA.

        Raises:
            ContractMismatch: the PCA was fitted on features of another kind.
        """
        name = self._serving.options.model
        is_default = self._layers == (DEFAULT_LAYER,)
        layer = {} if is_default or not of_features else {"layer": ",".join(self._layers)}
        provenance = Provenance(
            {
                "contract_version": CONTRACT_VERSION,
                "model": {"name": name, "version": info.version, **ModelCard(info.card).model()},
                **self._window.provenance(),
                **layer,
                "software": {
                    "c3d_client": importlib.metadata.version("c3d-client"),
                    "opencv": cv2.__version__,
                    **decoder_versions(),
                },
            }
        )
        if self._pca is None or not of_features:
            return provenance
        try:
            self._pca.require_fits(provenance)
        except ProvenanceError as error:
            raise ContractMismatch(self.target, str(error)) from error
        return Provenance({**provenance, "pca": self._pca.identity})

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

    def unusable(self, name: str, error: ValueError) -> ServingError:
        """Return the error for an answer for a video that is not a feature or a probability."""
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
