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
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def heard(*numbers: signal.Signals) -> Iterator[threading.Event]:
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
    before_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
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

    def interrupt(number: int, frame: FrameType | None) -> None:
        told.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
