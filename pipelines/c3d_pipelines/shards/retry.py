"""Waiting for a server or a store that went away, and doing what it broke off again.

The client tries a request again a few times, for seconds; here it is a video or a file, and
minutes: a server that restarts, a node that is replaced. The worker and the preflight ask through
this.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from c3d_client import Cancelled, ModelInfo, ServingOptions
from c3d_client.core.errors import (
    ModelNotFound,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
)
from c3d_client.serving.client import ServingClient

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_LOOK_EVERY_S = 0.1
_PROBE_TIMEOUT_S = 10.0

_AWAY = (ServingUnavailable, ServingTimeout, ServingOverloaded)
# A server that stops breaks off what is on its way.
_BROKEN_OFF = ("CANCELLED", "ABORTED")
_WHO_ASKS = ("UNAUTHENTICATED", "PERMISSION_DENIED")

_Result = TypeVar("_Result")


class ServerGone(Exception):
    """The server did not come back in time, or `refuses` this client; `error` is its last word."""

    def __init__(self, error: ServingError) -> None:
        self.error = error
        self.refuses = error.code in _WHO_ASKS
        super().__init__(str(error))


class Patience:
    """Does work that needs the server, again and again while the server is away.

    Threads may share it. Close it.

    Args:
        options: where the server is.
        patience_s: how long one piece of work waits, in seconds, from when it first failed.
        check: called with what the server says of its model whenever it is back; raises where
            that is another model than before.
        restarts: whether a server without the model counts as one that is starting again; without
            that, it does not have the model.

    Attributes:
        retried: pieces of work that were done more than once.
    """

    def __init__(
        self,
        options: ServingOptions,
        *,
        patience_s: float,
        check: Callable[[ModelInfo], None],
        restarts: bool = True,
    ) -> None:
        self._patience_s = patience_s
        self._check = check
        self._away = (*_AWAY, ModelNotFound) if restarts else _AWAY
        # On a connection of its own, and without tries of its own.
        timeout_s = min(options.timeout_s, _PROBE_TIMEOUT_S)
        self._probe = ServingClient(replace(options, timeout_s=timeout_s, retries=0))
        self._lock = threading.Lock()
        self._served_at = float("-inf")
        self.retried = 0

    def close(self) -> None:
        """Close its connection."""
        self._probe.close()

    def require_model(self, stop: threading.Event) -> None:
        """Ask for the model anew, and see that it is the right one; wait for a server that is away.

        Raises:
            ContractMismatch: it is another one.
            ServerGone: it did not come back in time.
            Cancelled: stop was set.
        """
        self._until_done(self._ask, stop, counted=False)

    def do(self, work: Callable[[], _Result], stop: threading.Event) -> _Result:
        """Do the work; where the server went away, wait until it is back, and do it again.

        Args:
            work: asks the server for something.
            stop: set to give it up.

        Raises:
            ServingError: the server is there and has answered others, and does not answer for this.
            ServerGone: it did not come back in time.
            Cancelled: stop was set.
            C3DError: whatever else the work or the check raises.
        """
        result = self._until_done(work, stop, counted=True)
        self._served_at = time.monotonic()
        return result

    def _until_done(
        self, work: Callable[[], _Result], stop: threading.Event, *, counted: bool
    ) -> _Result:
        began, pauses = time.monotonic(), 0
        first: float | None = None
        while True:
            try:
                return work()
            except ServingError as error:
                if stop.is_set():
                    raise Cancelled from error
                if error.code in _WHO_ASKS:
                    raise ServerGone(error) from error
                if not self._may_pass(error):
                    raise
                last = error
            if first is None:
                first = time.monotonic()
                if counted:
                    with self._lock:
                        self.retried += 1
            while True:
                if time.monotonic() - first >= self._patience_s:
                    raise self._over(began, last) from last
                rest(pauses, stop, at_most_s=first + self._patience_s - time.monotonic())
                pauses += 1
                if self._is_back():
                    break

    def _over(self, began: float, error: ServingError) -> Exception:
        """What it means that patience is at its end."""
        # A server that answered for others since this began, and is there now, is not gone.
        served_others = self._served_at > began and self._is_back()
        return error if served_others else ServerGone(error)

    def _ask(self) -> None:
        self._check(self._probe.model_info())

    def _is_back(self) -> bool:
        try:
            self._ask()
        except ServingError as error:
            if self._may_pass(error):
                return False
            raise
        return True

    def _may_pass(self, error: ServingError) -> bool:
        return isinstance(error, self._away) or error.code in _BROKEN_OFF


class StoreTries:
    """Whether a store is to be sent something once more, after a pause.

    Args:
        patience_s: how long in all, in seconds, from the first error.
        stop: set to give it up.
    """

    def __init__(self, *, patience_s: float, stop: threading.Event) -> None:
        self._patience_s = patience_s
        self._first: float | None = None
        self._stop = stop
        self._pauses = 0

    def __call__(self, error: Exception) -> bool:
        """Whether to try again after this error; False at once where that cannot help.

        Raises:
            Cancelled: stop was set.
        """
        # No such bucket, or not for us.
        lasting = isinstance(error, FileNotFoundError | PermissionError)
        if self._first is None:
            self._first = time.monotonic()
        left_s = self._first + self._patience_s - time.monotonic()
        if lasting or type(error).__name__ == "NoCredentialsError" or left_s <= 0:
            return False
        rest(self._pauses, self._stop, at_most_s=left_s)
        self._pauses += 1
        return True


def rest(pauses: int, stop: threading.Event, *, at_most_s: float) -> None:
    """A pause that is longer each time, and differs, so that workers do not come back together.

    Args:
        pauses: how many there were before.
        stop: ends it.
        at_most_s: seconds.

    Raises:
        Cancelled: stop was set.
    """
    longest = min(_FIRST_PAUSE_S * 2 ** min(pauses, 16), _LONGEST_PAUSE_S)
    until = time.monotonic() + min(random.uniform(0.5, 1.0) * longest, max(0.0, at_most_s))
    while (left := until - time.monotonic()) > 0 and not stop.is_set():
        time.sleep(min(left, _LOOK_EVERY_S))
    if stop.is_set():
        raise Cancelled
