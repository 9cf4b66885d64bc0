"""Every error that this project raises on purpose.

    C3DError
    ├ UsageError                      what was asked for cannot be done as asked
    ├ VideoError(.source)             this video fails, the others go on
    │   ├ VideoDecodeError            cannot be opened, has no video, is damaged or cut short
    │   │   └ VideoUnreadableError    is not there, may not be read, or does not come whole
    │   └ VideoTooShortError          fewer frames than one clip
    ├ ServingError(.target, .code)
    │   ├ ServingUnavailable          nobody answers there        (retried before it is raised)
    │   ├ ServingTimeout              no answer before the deadline          (retried)
    │   ├ ServingOverloaded           the server pushes back                 (retried)
    │   ├ ModelNotFound               the server does not have this model    (never retried)
    │   ├ RequestRejected             the server refuses this request        (never retried)
    │   └ ContractMismatch            model and client disagree: stop the job
    ├ OutputError(.path)              a result cannot be written or read
    ├ ProvenanceError                 features that were made differently may not be mixed
    └ Cancelled                       the caller cancelled the work

The exporter's errors (``c3d_export.errors``) and those of bulk runs (``c3d_pipelines.errors``) are
under C3DError too.

A message says what happened, what was seen against what was expected, and what to do next, and
names the path or the target. Commands print it as one line and exit with 2.
"""

from __future__ import annotations

import os
from typing import Any


class C3DError(Exception):
    """The root: catch it to catch all that this project raises on purpose."""


class Cancelled(C3DError):
    """The work was cancelled by the caller. It says nothing of the video or the server."""


class UsageError(C3DError, ValueError):
    """An argument that cannot be used as given."""


class VideoError(C3DError):
    """One video cannot be used.

    Args:
        source: the path or URL of the video.
        reason: what is wrong with it and what to do.
    """

    def __init__(self, source: str | os.PathLike[str], reason: str) -> None:
        self.source = str(source)
        self.reason = reason
        super().__init__(f"{self.source}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their args, which is the message alone.
        return type(self), (self.source, self.reason), self.__dict__


class VideoDecodeError(VideoError):
    """The video cannot be opened, holds no video stream, is damaged, or ends early."""


class VideoUnreadableError(VideoDecodeError):
    """The video is not there, may not be read, or does not come whole from where it is kept.

    Says nothing of the video itself: where it is kept, or the way to it, is the trouble.
    """


class VideoTooShortError(VideoError):
    """The video has fewer frames than one clip needs."""


class ServingError(C3DError):
    """The server did not give an answer that can be used.

    Args:
        target: the address that was asked.
        reason: what happened and what to do.
        code: the name of the gRPC status, e.g. ``"UNAVAILABLE"``; empty where none was given.
    """

    def __init__(self, target: str, reason: str, *, code: str = "") -> None:
        self.target = target
        self.reason = reason
        self.code = code
        super().__init__(f"{target}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target, self.reason), self.__dict__


class ServingUnavailable(ServingError, ConnectionError):
    """Nothing answers at the target."""


class ServingTimeout(ServingError, TimeoutError):
    """The deadline passed before the answer came."""


class ServingOverloaded(ServingError):
    """The server is there but has no room."""


class ModelNotFound(ServingError, LookupError):
    """The server is there but does not have this model, version or label."""


class RequestRejected(ServingError):
    """The server refuses this request, and would refuse it again."""


class ContractMismatch(ServingError):
    """The served model is not the one that this client was written for."""


class OutputError(C3DError, OSError):
    """A result cannot be written where it should go, or cannot be read back.

    Args:
        path: the file or folder.
        reason: what is wrong and what to do.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason), self.__dict__


class ProvenanceError(C3DError, ValueError):
    """Features that were made differently would be averaged or merged."""
