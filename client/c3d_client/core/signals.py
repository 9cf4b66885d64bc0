"""Handling of SIGINT and SIGTERM that misses no signal.

Python runs a signal handler in the main thread, between two instructions. The handler does not run
while the main thread waits for a lock, if another thread received the signal or the signal came
just before the wait; and a handler that sets an event can deadlock with a main thread that is about
to wait for that event. The interpreter's C handler can write to a file descriptor, in any thread,
and has neither problem.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType


def exit_code(number: int) -> int:
    """Return the exit code of a command that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


@contextlib.contextmanager
def handled(
    handler: Callable[[int], None], *numbers: signal.Signals, once: bool = False
) -> Iterator[None]:
    """Install a signal handler for a block, and the former handlers again after it.

    Outside the main thread, where Python cannot set handlers, the function is never called.

    Args:
        handler: called in the main thread with the signal's number.
        numbers: the signals.
        once: install the former handlers at the first signal, before the function is called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, former in before.items():
            signal.signal(number, former)

    def on_signal(number: int, frame: FrameType | None) -> None:
        if once:
            restore()
        handler(number)

    try:
        for number in numbers:
            signal.signal(number, on_signal)
        yield
    finally:
        restore()


@contextlib.contextmanager
def signal_event(*numbers: signal.Signals) -> Iterator[threading.Event]:
    """Return an event that is set soon after the process receives one of the signals.

    The signals have no other effect within the block; after it they have their former effect.
    Outside the main thread, where Python cannot set handlers, the event is never set.

    Args:
        numbers: the signals.
    """
    event = threading.Event()
    with _listener(lambda number: event.set(), *numbers), handled(lambda number: None, *numbers):
        yield event


@contextlib.contextmanager
def interrupted_by(
    *numbers: signal.Signals, grace_s: float, late: Callable[[int], None]
) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at the first of these signals, and ignore those that follow.

    The exception comes late, or never, where the main thread runs C++ code for minutes, or where it
    interrupts code that ignores all exceptions, such as a destructor. For these cases a function is
    called in another thread.

    Args:
        numbers: the signals.
        grace_s: the seconds from a signal until the function is called, unless the block ends.
        late: called with the signal's number; it should end the process.

    Yields:
        The list of received signals, in which a signal appears when the main thread runs Python.
    """
    received: list[int] = []
    ended = threading.Event()

    def interrupt(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    def wait(number: int) -> None:
        if not ended.wait(grace_s):
            late(number)

    with _listener(wait, *numbers), handled(interrupt, *numbers):
        try:
            yield received
        finally:
            ended.set()


@contextlib.contextmanager
def _listener(call: Callable[[int], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call a function in another thread, with the number of each signal that has a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        # One byte for each signal that has a Python handler; none when the other end is closed.
        while number := reader.recv(1):
            if number[0] in numbers:
                call(number[0])

    listener = threading.Thread(target=listen, name="c3d-signals", daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        listener.join()
        reader.close()


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt for SIGTERM, in a main thread that never waits without a timeout.

    Yields:
        The list of received signals: empty, and SIGTERM once it was received.
    """
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        raise KeyboardInterrupt

    with handled(interrupt, signal.SIGTERM):
        yield received
