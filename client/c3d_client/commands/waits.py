"""Lines about waits for a server that is away, full or starting, from the client's log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from c3d_client.core.cli import print_error

# The logger of c3d_client.serving.patience, which is loaded with gRPC when a command runs.
_log = logging.getLogger("c3d_client.serving.patience")
# Of servers that the command starts for itself.
_local_log = logging.getLogger("c3d_client.serving.local")


class _Printer(logging.Handler):
    """Prints each message as one line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print_error("c3d", record.getMessage())


@contextlib.contextmanager
def printed_waits(*, quiet: bool = False) -> Iterator[None]:
    """Print a line when a wait has lasted 2 seconds, and one when the server answers.

    Args:
        quiet: print nothing.
    """
    handler = logging.NullHandler() if quiet else _Printer()
    loggers = (_log, _local_log)
    former = [(log.level, log.propagate) for log in loggers]
    for log in loggers:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    try:
        yield
    finally:
        for log, (level, propagate) in zip(loggers, former, strict=True):
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate


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
