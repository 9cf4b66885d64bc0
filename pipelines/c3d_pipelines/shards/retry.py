"""What a worker does while the server or a store is away.

The client waits for the server, for as long as the run's patience. Here is what follows when that
is over, and the retries of files. The worker and the preflight check use them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from c3d_client import C3DClient, Cancelled
from c3d_client.core.errors import (
    C3DError,
    ModelNotFound,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
)
from c3d_client.core.retry import pauses

from c3d_pipelines.errors import StorageError
from c3d_pipelines.storage import is_permanent

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0

_AWAY = (ServingUnavailable, ServingTimeout, ServingOverloaded, ModelNotFound)
_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")

_log = logging.getLogger(__name__)
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


def ask_server(c3d: C3DClient, work: Callable[[], _Result], cancel: threading.Event) -> _Result:
    """Do work that needs the server, and tell a server that is gone from one that fails the work.

    Args:
        c3d: the client of the work, which waits for the server.
        work: uses the server.
        cancel: set to give up.

    Raises:
        ServingError: the server answers other requests, and does not answer this one.
        ServerGone: the server did not come back in time, or refuses this client.
        Cancelled: ``cancel`` was set.
        C3DError: other errors of the work, unchanged.
    """
    try:
        return work()
    except ServingError as error:
        if cancel.is_set():
            raise Cancelled from error
        if error.code in _REFUSED or (was_retried(error) and c3d.serving.patience.is_over):
            raise ServerGone(error) from error
        raise


def was_retried(error: C3DError) -> bool:
    """Return whether an error is one after which the client sends a request again."""
    # A server that shuts down cancels the requests in flight.
    return isinstance(error, _AWAY) or getattr(error, "code", "") == "CANCELLED"


def wait_for_store(work: Callable[[], _Result], *, wait_s: float) -> _Result:
    """Do work that can be repeated, and repeat it while a bucket's store is away.

    Kubeflow does not retry a step that fails, in its usual configuration.

    Args:
        work: reads and writes files.
        wait_s: how long to retry, in seconds, from the first error.

    Raises:
        StorageError: the store is still away, or fails in a way that does not pass.
    """
    retry = StoreRetry(wait_s=wait_s, cancel=threading.Event())
    while True:
        try:
            return work()
        except StorageError as error:
            if not error.may_pass:
                raise
            _log.warning("%s; tried again for up to %g s", error, wait_s)
            if not retry(error):
                raise


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
        if is_permanent(error) or left_s <= 0:
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
