"""Signals that ask a process to end, heard without fail.

A Python handler runs in the main thread between two of its instructions. Where another thread
got the signal, or it came just before the main thread began to wait for a lock, the main thread
sleeps on and no handler runs; and a handler that sets an event which the main thread is about to
wait for stops it for good. What the interpreter's C handler writes to a file descriptor has
neither trouble, whichever thread it runs in.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType


def exit_code(number: int) -> int:
    """What a shell says of a command that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


@contextlib.contextmanager
def handled(
    handler: Callable[[int], None], *numbers: signal.Signals, once: bool = False
) -> Iterator[None]:
    """Have a function called for signals within the block; afterwards all is as it was before.

    Outside the main thread, where Python sets no handlers, it is never called.

    Args:
        handler: called in the main thread with the signal's number.
        numbers: the signals.
        once: whether all is as it was from the first of them on, before the function is called.
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
    """An event that is set soon after the process gets one of the signals.

    The signals do nothing else within the block; afterwards they do again what they did before.
    Outside the main thread, where Python sets no handlers, the event is never set.

    Args:
        numbers: the signals.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        # A byte for each signal that has a Python handler; nothing when the other end is closed.
        while number := reader.recv(1):
            if number[0] in numbers:
                event.set()

    listener = threading.Thread(target=listen, name="c3d-signals", daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        with handled(lambda number: None, *numbers):
            yield event
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        listener.join()
        reader.close()


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Have SIGTERM raise KeyboardInterrupt, for a main thread that looks up every moment.

    Yields:
        Empty; SIGTERM is in it once it came.
    """
    told: list[int] = []

    def interrupt(number: int) -> None:
        told.append(number)
        raise KeyboardInterrupt

    with handled(interrupt, signal.SIGTERM):
        yield told
