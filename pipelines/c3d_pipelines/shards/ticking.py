"""Something done again and again beside the work, in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ticking(action: Callable[[], object], *, every_s: float, name: str) -> Iterator[None]:
    """Call something from time to time while the block lasts; never after it.

    Args:
        action: what to call, in another thread; it must not raise.
        every_s: the pause before each call, in seconds.
        name: of the thread.
    """
    over = threading.Event()

    def loop() -> None:
        while not over.wait(every_s):
            action()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
