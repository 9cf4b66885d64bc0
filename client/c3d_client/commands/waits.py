"""Lines about waits for a server that is away or full, from the client's log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from c3d_client.core.cli import print_error

# The logger of c3d_client.serving.patience, which is loaded with gRPC when a command runs.
_log = logging.getLogger("c3d_client.serving.patience")


class _Printer(logging.Handler):
    """Prints each message as one line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print_error("c3d", record.getMessage())


@contextlib.contextmanager
def printed_waits(*, quiet: bool = False) -> Iterator[None]:
    """Print a line when a wait has lasted 2 seconds, and one when the server answers again.

    Args:
        quiet: print nothing.
    """
    handler = logging.NullHandler() if quiet else _Printer()
    level, propagate = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate


@contextlib.contextmanager
def unprinted_waits() -> Iterator[None]:
    """Print no lines about waits, because a live display shows them."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    _log.addFilter(refuse)
    try:
        yield
    finally:
        _log.removeFilter(refuse)
