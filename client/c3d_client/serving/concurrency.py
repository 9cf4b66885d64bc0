"""How many requests are on their way at once: a window that finds what the server can take.

Additive increase, multiplicative decrease, as TCP does it, because only the server's refusals tell
how much room there is: TensorFlow Serving shares its threads and its batching queue among all
clients, and tells nobody how many are free.

- An answer that arrives while the window is full lets it grow by 1/size: by one in a round trip.
  While the client itself is the slow part the window is not full, and stays as it is.
- A push-back shrinks it to 0.7 of its size, at most once in a round trip: requests that left before
  the last decrease tell nothing about the size after it.
- The step that was refused last is tried again at an eighth of the speed, so that one request in
  many is refused and not one in each round.

Latency does not shrink the window: with a batching server it is batches being filled. An answer
that used up a quarter of its deadline does not let it grow either (the caller's to say), because a
server that computes one request at a time refuses nothing and only queues, until deadlines pass
and work is done twice. Growth does not otherwise ask whether throughput grew: the batches of a
batching server make that a staircase, and a window that stops at the first flat step would leave
such a server half idle, while one too wide costs a sound server nothing but its queue.
"""

from __future__ import annotations

import enum
import threading

_START = 4
_DECREASE = 0.7
_CAREFULLY = 1 / 8


class Outcome(enum.Enum):
    """What the end of a request tells about the server's room."""

    KEPT_UP = enum.auto()
    PUSHED_BACK = enum.auto()
    SAYS_NOTHING = enum.auto()


class InFlightWindow:
    """Slots for requests on their way, shared by all threads of one client.

    A slot is taken before a request leaves and given back when it has ended, whoever reads the
    answer and whenever: so nobody who waits for a slot waits for a reader.

    Args:
        largest: the most slots there ever are, 1 or more.
        start: how many there are at first, where ``largest`` allows it.
    """

    def __init__(self, largest: int, *, start: int = _START) -> None:
        self.largest = largest
        self._size = float(min(start, largest))
        self._in_flight = 0
        self._push_backs = 0
        self._tickets = 0
        self._tickets_before_decrease = 0
        self._refused_size = 0
        self._room = threading.Condition()

    @property
    def size(self) -> int:
        """How many requests may be on their way now, 1 to ``largest``."""
        return int(self._size)

    @property
    def in_flight(self) -> int:
        """How many are on their way now."""
        return self._in_flight

    @property
    def push_backs(self) -> int:
        """How many the server has pushed back so far."""
        return self._push_backs

    def take(self) -> int:
        """Wait for a slot and take it; gives its ticket."""
        with self._room:
            self._room.wait_for(self._has_room)
            return self._next_ticket()

    def take_if_free(self) -> int | None:
        """Take a slot where there is one now; gives its ticket, or None."""
        with self._room:
            return self._next_ticket() if self._has_room() else None

    def give_back(self, ticket: int, outcome: Outcome) -> None:
        """Give a slot back, and say how its request ended."""
        with self._room:
            was_full = not self._has_room()
            self._in_flight -= 1
            if outcome is Outcome.PUSHED_BACK:
                self._push_backs += 1
                if ticket > self._tickets_before_decrease:
                    self._tickets_before_decrease = self._tickets
                    self._refused_size = self.size
                    self._size = max(1.0, self._size * _DECREASE)
            elif outcome is Outcome.KEPT_UP and was_full:
                step = _CAREFULLY if self.size + 1 == self._refused_size else 1.0
                self._size = min(float(self.largest), self._size + step / self._size)
            self._room.notify_all()

    def _has_room(self) -> bool:
        return self._in_flight < self.size

    def _next_ticket(self) -> int:
        self._in_flight += 1
        self._tickets += 1
        return self._tickets
