"""Every error that this project raises on purpose.

    C3DError
    ├ UsageError                      an argument cannot be used as given
    ├ VideoError(.source)             this video fails, the others go on
    │   ├ VideoDecodeError            cannot be opened, has no video, is damaged or cut short
    │   │   └ VideoUnreadableError    does not exist, or cannot be read to its end
    │   ├ VideoTooShortError          fewer frames than one clip
    │   └ VideoTooLarge               needs more memory than this process may use
    ├ ServingError(.target, .code)
    │   ├ ServingUnavailable          no server answers           (retried before it is raised)
    │   ├ ServingTimeout              no answer within the timeout           (retried)
    │   ├ ServingOverloaded           the server is overloaded               (retried)
    │   ├ ModelNotFound               the server does not have this model    (retried if it had it)
    │   ├ RequestRejected             the server rejects this request        (never retried)
    │   └ ContractMismatch            model and client disagree: stop the job
    ├ OutputError(.path)              a result cannot be written or read
    ├ ProvenanceError                 features that were made differently cannot be mixed
    └ Cancelled                       the caller cancelled the work

The errors of the exporter (``c3d_export.errors``) and of bulk runs (``c3d_pipelines.errors``) are
subclasses of C3DError too.

A message contains what happened, the observed and the expected value, what to do next, and the path
or target, in which bytes that are not UTF-8 and control characters are escaped. Commands print it
as one line and exit with the class's `exit_code`: 2, unless a class declares another.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from c3d_client.core.text import escape_controls


class C3DError(Exception):
    """Base class of every error that this project raises on purpose.

    Attributes:
        exit_code: the exit code of a command that the error ends.
    """

    exit_code: ClassVar[int] = 2


class Cancelled(C3DError):
    """The caller cancelled the work. Neither the video nor the server failed."""


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
        super().__init__(f"{escape_controls(self.source)}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle rebuilds an exception from its args, which are only the message.
        return type(self), (self.source, self.reason), self.__dict__


def reason_of(error: C3DError) -> str:
    """Return an error's message for a line that names the video already, as one line."""
    return " ".join((error.reason if isinstance(error, VideoError) else str(error)).split())


class VideoDecodeError(VideoError):
    """The video cannot be opened, holds no video stream, is damaged, or ends early."""


class VideoUnreadableError(VideoDecodeError):
    """The video does not exist, or its storage or the network fails before its end.

    The video itself may be intact.
    """


class VideoTooShortError(VideoError):
    """The video has fewer frames than one clip needs."""


class VideoTooLarge(VideoError):
    """Decoding the video needs more memory than this process may use.

    The video itself may be intact: with a larger memory limit it can be decoded.
    """


class ServingError(C3DError):
    """A request failed, or its answer cannot be used.

    Args:
        target: the server's address.
        reason: what happened and what to do.
        code: the name of the gRPC status, e.g. ``"UNAVAILABLE"``; empty where there is none.
    """

    def __init__(self, target: str, reason: str, *, code: str = "") -> None:
        self.target = target
        self.reason = reason
        self.code = code
        super().__init__(f"{escape_controls(target)}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target, self.reason), self.__dict__


class ServingUnavailable(ServingError, ConnectionError):
    """No server answers at the target."""


class ServingTimeout(ServingError, TimeoutError):
    """The timeout passed before the answer arrived."""


class ServingOverloaded(ServingError):
    """The server answers but is overloaded."""


class ModelNotFound(ServingError, LookupError):
    """The server answers but does not have this model, version or label."""


class RequestRejected(ServingError):
    """The server rejects this request, and would reject it again."""


class ContractMismatch(ServingError):
    """The served model is not one that this client can use."""


class OutputError(C3DError, OSError):
    """A result cannot be written to its path, or cannot be read back.

    Args:
        path: the file or folder.
        reason: what is wrong and what to do.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{escape_controls(self.path)}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason), self.__dict__


class ProvenanceError(C3DError, ValueError):
    """Features that were made differently would be averaged or merged."""
