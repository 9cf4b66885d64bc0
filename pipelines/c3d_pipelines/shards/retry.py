"""Retries for minutes: of a video while the server is away, and of a file while a store is away.

The client retries a request a few times, for seconds. Here the work is a whole video or file, and
the reason is a server that restarts or a node that is replaced. The worker and the preflight check
use these retries.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from c3d_client import C3DClient, Cancelled, ModelInfo, ServingOptions
from c3d_client.core.errors import (
    ModelNotFound,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
)
from c3d_client.core.retry import pauses

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_PROBE_TIMEOUT_S = 10.0

_AWAY = (ServingUnavailable, ServingTimeout, ServingOverloaded)
# A server that shuts down aborts the requests in flight.
_ABORTED = ("CANCELLED", "ABORTED")
_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")

_Result = TypeVar("_Result")


class ServerGone(Exception):
    """The server did not come back in time, or refuses this client.

    Attributes:
        error: the last error of the server.
        refuses: whether the server refuses this client.
    """

    def __init__(self, error: ServingError) -> None:
        self.error = error
        self.refuses = error.code in _REFUSED
        super().__init__(str(error))


class ServerRetry:
    """Retries work that needs the server while the server is away.

    Threads may share it. The caller closes it.

    Args:
        options: the server's address.
        wait_s: how long to retry one piece of work, in seconds, from its first failure.
        check: called with the served model whenever the server is back; raises where that is not
            the expected model.
        restarts: whether a server without the model counts as one that is starting; otherwise it
            is an error.

    Attributes:
        retried: pieces of work that were done more than once.
    """

    def __init__(
        self,
        options: ServingOptions,
        *,
        wait_s: float,
        check: Callable[[ModelInfo], None],
        restarts: bool = True,
    ) -> None:
        self._wait_s = wait_s
        self._check = check
        self._away = (*_AWAY, ModelNotFound) if restarts else _AWAY
        # A separate connection without retries, to probe the server.
        timeout_s = min(options.timeout_s, _PROBE_TIMEOUT_S)
        self._probe = C3DClient(options=replace(options, timeout_s=timeout_s, retries=0))
        self._lock = threading.Lock()
        self._served_at = float("-inf")
        self.retried = 0

    def close(self) -> None:
        """Close the connection."""
        self._probe.close()

    def require_model(self, cancel: threading.Event) -> None:
        """Request the model's properties and check them; retry while the server is away.

        Raises:
            ContractMismatch: the model is another one.
            ServerGone: the server did not come back in time.
            Cancelled: ``cancel`` was set.
        """
        self._until_done(self._require_model, cancel, counted=False)

    def do(self, work: Callable[[], _Result], cancel: threading.Event) -> _Result:
        """Do the work, and do it again whenever the server was away and is back.

        Args:
            work: uses the server.
            cancel: set to give up.

        Raises:
            ServingError: the server has answered other requests, and does not answer this one.
            ServerGone: the server did not come back in time.
            Cancelled: ``cancel`` was set.
            C3DError: other errors of the work or the check, unchanged.
        """
        result = self._until_done(work, cancel, counted=True)
        self._served_at = time.monotonic()
        return result

    def _until_done(
        self, work: Callable[[], _Result], cancel: threading.Event, *, counted: bool
    ) -> _Result:
        began = time.monotonic()
        waits = pauses(_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
        give_up_at: float | None = None
        while True:
            try:
                return work()
            except ServingError as error:
                if cancel.is_set():
                    raise Cancelled from error
                if error.code in _REFUSED:
                    raise ServerGone(error) from error
                if not self._is_transient(error):
                    raise
                last = error
            if give_up_at is None:
                give_up_at = time.monotonic() + self._wait_s
                if counted:
                    with self._lock:
                        self.retried += 1
            while True:
                if time.monotonic() >= give_up_at:
                    raise self._final_error(began, last) from last
                pause(next(waits), cancel, at_most_s=give_up_at - time.monotonic())
                if self._is_back():
                    break

    def _final_error(self, began: float, error: ServingError) -> Exception:
        # A server that answered other requests meanwhile, and answers now, is not gone.
        served_others = self._served_at > began and self._is_back()
        return error if served_others else ServerGone(error)

    def _require_model(self) -> None:
        self._check(self._probe.serving.model_info())

    def _is_back(self) -> bool:
        try:
            self._require_model()
        except ServingError as error:
            if self._is_transient(error):
                return False
            raise
        return True

    def _is_transient(self, error: ServingError) -> bool:
        return isinstance(error, self._away) or error.code in _ABORTED


class StoreRetry:
    """Decides whether to upload a file again, after a pause.

    Args:
        wait_s: how long to retry, in seconds, from the first error.
        cancel: set to give up.
    """

    def __init__(self, *, wait_s: float, cancel: threading.Event) -> None:
        self._wait_s = wait_s
        self._give_up_at: float | None = None
        self._cancel = cancel
        self._waits = pauses(_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)

    def __call__(self, error: Exception) -> bool:
        """Return whether to retry after this error; False at once where a retry cannot help.

        Raises:
            Cancelled: ``cancel`` was set.
        """
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + self._wait_s
        left_s = self._give_up_at - time.monotonic()
        is_permanent = (
            isinstance(error, FileNotFoundError | PermissionError)
            or type(error).__name__ == "NoCredentialsError"
        )
        if is_permanent or left_s <= 0:
            return False
        pause(next(self._waits), self._cancel, at_most_s=left_s)
        return True


def pause(longest_s: float, cancel: threading.Event, *, at_most_s: float) -> None:
    """Wait for a random time, so that workers do not come back at the same moment.

    Args:
        longest_s: the pause is half of this to all of it, in seconds.
        cancel: ends the pause.
        at_most_s: upper limit of the pause, in seconds.

    Raises:
        Cancelled: ``cancel`` was set.
    """
    if cancel.wait(min(random.uniform(0.5, 1.0) * longest_s, max(0.0, at_most_s))):
        raise Cancelled
