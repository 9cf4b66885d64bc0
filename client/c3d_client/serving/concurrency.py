"""A limit for concurrent requests that adapts to what the server accepts.

Additive increase, multiplicative decrease, as in TCP. The limit has to be found by trial, because
TensorFlow Serving shares its threads and its batching queue among all clients and does not report
how many are free.

- An answer that arrives while the limit is reached raises the limit by 1/limit: by one in a round
  trip. While the client itself is slower than the server, the limit is not reached and stays the
  same.
- A rejected request lowers the limit to 0.7 of its value, at most once in a round trip: requests
  that were sent before the last decrease show nothing about the limit after it.
- The step to the limit that was rejected last is tried at an eighth of the speed, so that one
  request in many is rejected and not one in each round trip.

Latency does not lower the limit, because a batching server delays requests until a batch is full.
But an answer that used up a quarter of its timeout does not raise it either (the caller decides
that). The reason is a server that computes one request at a time: it rejects nothing and only
queues, until timeouts pass and work is done twice. The limit grows whether throughput grows or not.
With a batching server throughput is a staircase, so a limit that stops where throughput is flat
would leave the server half idle, while a limit that is too high only fills the server's queue.
"""

from __future__ import annotations

import enum
import threading

from c3d_client.core.errors import Cancelled

# How often a wait looks whether it was cancelled.
CANCEL_POLL_S = 0.2
_START = 4
_DECREASE = 0.7
_CAREFUL_STEP = 1 / 8


class Feedback(enum.Enum):
    """What the end of a request shows about the server's capacity."""

    ACCEPTED = enum.auto()
    REJECTED = enum.auto()
    UNKNOWN = enum.auto()


class ConcurrencyLimit:
    """An adaptive limit for concurrent requests, shared by all threads of one client.

    A request acquires a slot before it is sent and releases the slot when it has ended, even if
    its answer has not been read yet. So a thread that waits for a slot never waits for a reader.

    Args:
        maximum: the highest limit, 1 or more.
        start: the limit at first, where ``maximum`` allows it.
    """

    def __init__(self, maximum: int, *, start: int = _START) -> None:
        self.maximum = maximum
        self._limit = float(min(start, maximum))
        self._in_flight = 0
        self._rejected = 0
        self._tickets = 0
        self._tickets_before_decrease = 0
        self._rejected_limit = 0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many requests may be in flight now, 1 to ``maximum``."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """How many requests are in flight now."""
        return self._in_flight

    @property
    def rejected(self) -> int:
        """How many requests the server has rejected so far."""
        return self._rejected

    def acquire(self, cancel: threading.Event | None = None) -> int:
        """Wait for a free slot, acquire it and return its ticket.

        Args:
            cancel: set by another thread to end the wait.

        Raises:
            Cancelled: ``cancel`` was set before a slot was free.
        """
        with self._changed:
            # Ctrl-C interrupts the main thread between two waits.
            while not self._changed.wait_for(self._has_free_slot, CANCEL_POLL_S):
                if cancel is not None and cancel.is_set():
                    raise Cancelled("the request was cancelled before it was sent")
            return self._next_ticket()

    def try_acquire(self) -> int | None:
        """Acquire a slot and return its ticket; return None where no slot is free."""
        with self._changed:
            return self._next_ticket() if self._has_free_slot() else None

    def release(self, ticket: int, feedback: Feedback) -> None:
        """Release a slot and adapt the limit.

        Args:
            ticket: what acquiring the slot returned.
            feedback: how the slot's request ended.
        """
        with self._changed:
            was_reached = not self._has_free_slot()
            self._in_flight -= 1
            if feedback is Feedback.REJECTED:
                self._rejected += 1
                if ticket > self._tickets_before_decrease:
                    self._tickets_before_decrease = self._tickets
                    self._rejected_limit = self.limit
                    self._limit = max(1.0, self._limit * _DECREASE)
            elif feedback is Feedback.ACCEPTED and was_reached:
                step = _CAREFUL_STEP if self.limit + 1 == self._rejected_limit else 1.0
                self._limit = min(float(self.maximum), self._limit + step / self._limit)
            self._changed.notify_all()

    def _has_free_slot(self) -> bool:
        return self._in_flight < self.limit

    def _next_ticket(self) -> int:
        self._in_flight += 1
        self._tickets += 1
        return self._tickets
