"""How long and at what pace requests are sent again while the server is away or full."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from dataclasses import dataclass

from c3d_client.serving.options import ServingOptions

# Pauses double from the first to the longest, which is short enough to find a server soon after its
# return.
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
# A wait is reported when it has lasted this long.
NOTICE_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """A wait for a server that is away or full.

    Args:
        target: the server's address.
        elapsed_s: how long no request has been answered, in seconds.
        patience_s: when requests are no longer sent again, in the same seconds.
    """

    target: str
    elapsed_s: float
    patience_s: float

    def __str__(self) -> str:
        return f"waiting for {self.target} ({self.elapsed_s:.0f} s of {self.patience_s:g})"


class Patience:
    """What all requests of one connection know about a server that is away or full.

    Requests of several threads wait for the same server, so they share the time since which no
    request was answered, and the pause until one is sent again. An answer ends both.

    A wait of 2 seconds is logged as a warning, and its end as information.

    Args:
        options: target and patience.

    Attributes:
        has_answered: whether the server has answered a request.
        has_model: whether the server has answered a request about the model.
    """

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self.has_answered = False
        self.has_model = False
        self._away_since: float | None = None
        self._failed_at = -math.inf
        self._patience_s = 0.0
        self._reason = ""
        self._failures = 0
        self._pause_began = -math.inf
        self._pause_ends = -math.inf
        self._is_noticed = False

    def assume_model(self) -> None:
        """Expect a server that has answered about the model before, to another connection."""
        self.has_answered = self.has_model = True

    def answered(self, *, model: bool) -> None:
        """Record an answer.

        Args:
            model: whether the answer shows that the server has the model.
        """
        with self._lock:
            self.has_answered = True
            self.has_model = self.has_model or model
            since, was_noticed = self._away_since, self._is_noticed
            self._away_since, self._is_noticed = None, False
            self._failures, self._pause_ends = 0, -math.inf
        if since is not None and was_noticed:
            away_s = time.perf_counter() - since
            _log.info("%s answers again after %.0f s", self._options.target, away_s)

    def failed(self, *, sent_at: float, done_at: float, patience_s: float, reason: str) -> float:
        """Record a failed attempt that may be followed by another one.

        Args:
            sent_at: when the attempt was sent, of `time.perf_counter`.
            done_at: when it failed.
            patience_s: how long to wait after such a failure, in seconds.
            reason: why it failed.

        Returns:
            How long no request has been answered, in seconds.
        """
        with self._lock:
            # Without attempts nothing is known about the time between two failures; the pause
            # between them may be as long as the patience.
            known_until = max(self._failed_at, self._pause_ends)
            if self._away_since is None or sent_at - known_until > patience_s:
                self._is_noticed = False
                # Before the first answer, the time of an attempt to connect is a wait too.
                self._away_since = done_at if self.has_answered else sent_at
            away_s = done_at - self._away_since
            self._failed_at, self._patience_s, self._reason = done_at, patience_s, reason
            # Attempts that were sent before the last pause show nothing about the time after it.
            if sent_at >= self._pause_began:
                self._failures += 1
                self._pause_began = done_at
                left_s = max(0.0, patience_s - away_s)
                self._pause_ends = done_at + min(pause_s(self._failures), left_s)
            return away_s

    @property
    def pause_ends(self) -> float:
        """When the next request may be sent, of `time.perf_counter`."""
        return self._pause_ends

    @property
    def is_over(self) -> bool:
        """Whether no request has been answered for the whole patience, or never at all."""
        since = self._away_since
        if since is None:
            return not self.has_answered
        return self._failed_at - since >= self._patience_s

    @property
    def waiting(self) -> Waiting | None:
        """The wait of at least 2 seconds that lasts now, or None."""
        since = self._away_since
        if since is None:
            return None
        elapsed_s = time.perf_counter() - since
        if not NOTICE_S <= elapsed_s <= self._patience_s:
            return None
        return Waiting(self._options.target, elapsed_s, self._patience_s)

    def notice(self) -> None:
        """Log a wait, once, as soon as it has lasted 2 seconds."""
        if self._is_noticed or self.waiting is None:
            return
        with self._lock:
            waiting = self.waiting
            if self._is_noticed or waiting is None:
                return
            self._is_noticed = True
        _log.warning("%s: %s", waiting, self._reason)


def pause_s(failures: int) -> float:
    """Return a random pause in seconds after a number of failures in a row, 1 or more.

    Clients that were refused together do not come back together.
    """
    # Never a power beyond the longest pause: a float overflows after a thousand failures.
    doubled = math.ldexp(_FIRST_PAUSE_S, min(failures - 1, 30))
    return min(doubled, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
