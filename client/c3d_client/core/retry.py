"""Retries with growing pauses, and the HTTP statuses that are retried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Answer = TypeVar("Answer")

# Timeout, too many requests, and the server-side failures that a proxy or a restart causes.
TRANSIENT_HTTP_STATUSES = frozenset((408, 429, 500, 502, 503, 504))


def pauses(first_s: float, *, longest_s: float = 30.0) -> Iterator[float]:
    """Yield the pause before each retry in seconds, without end: doubled up to the longest."""
    pause_s = first_s
    while True:
        yield min(longest_s, pause_s)
        # Never beyond the longest: a float overflows after a thousand retries.
        pause_s = min(longest_s, 2 * pause_s)


def retry(
    call: Callable[[], Answer],
    *,
    attempts: int,
    is_transient: Callable[[Exception], bool],
    first_pause_s: float,
    sleep: Callable[[float], object] = time.sleep,
) -> Answer:
    """Call a function, and retry it while it fails with a transient error.

    Args:
        call: the function.
        attempts: the highest number of calls, 1 or more.
        is_transient: whether an error may be gone at the next attempt.
        first_pause_s: the pause before the first retry; each further one is twice as long, up to
            30 s.
        sleep: the function that waits for a number of seconds.

    Raises:
        Exception: the last error, or the first that is not transient, unchanged.
    """
    waits = pauses(first_pause_s)
    for left in reversed(range(attempts)):
        try:
            return call()
        except Exception as error:
            if not left or not is_transient(error):
                raise
        sleep(next(waits))
    raise ValueError(f"attempts is {attempts}; give 1 or more")
