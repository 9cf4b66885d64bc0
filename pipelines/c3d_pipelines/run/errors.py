"""Failures of a step: one line in its log, and the reason in the dataset for the report."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType

from c3d_client import Cancelled
from c3d_client.core.errors import C3DError
from c3d_client.core.signals import exit_code, signal_event
from c3d_client.core.text import escape_controls

from c3d_pipelines.storage import Storage, run_file, run_folder, storage_of_run
from c3d_pipelines.text import LONGEST, shortened


@contextlib.contextmanager
def recorded_failure(step: str, *, out: str, run: str) -> Iterator[None]:
    """Write the reason of a failure into the dataset, and end the process with one line.

    An exception that is not a C3DError keeps its traceback in the log. Only the type is
    written into the dataset, because the message may hold anything.

    Args:
        step: the name of the step.
        out: the dataset's folder or bucket.
        run: the run's name.
    """
    try:
        with one_line_errors():
            yield
    except Cancelled:
        raise
    except C3DError as error:
        write_reason(step, one_line(error), out=out, run=run)
        raise
    except Exception as error:
        reason = f"stopped by an unexpected {type(error).__name__}; the step's log tells where"
        write_reason(step, reason, out=out, run=run)
        raise
    else:
        # A retry that succeeded: the reason of the failed attempt is out of date.
        write_reason(step, "", out=out, run=run)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a C3DError that ends the process as one line instead of a traceback."""
    try:
        yield
    except C3DError:
        sys.excepthook = _print_one_line
        raise


def one_line(error: BaseException) -> str:
    """Return an error's message as one line that UTF-8 can hold, without control characters."""
    return shortened(escape_controls(" ".join(str(error).split())), LONGEST)


def failure_text(error: BaseException) -> str:
    """Return why a step failed, in one line; with the type of an error that is not a C3DError."""
    text = one_line(error)
    if isinstance(error, C3DError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def write_reason(step: str, reason: str, *, out: str, run: str) -> None:
    """Write why a step failed to where the report reads it; an empty reason clears an earlier one.

    Args:
        step: the name of the step.
        reason: one line.
        out: the dataset's folder or bucket.
        run: the run's name.
    """
    # The log has the reason in any case, and storage that cannot be written may be the reason.
    with contextlib.suppress(C3DError):
        storage, name = storage_of_run(out, run), run_file(run, f"error-{step}.txt")
        if reason or storage.read(name):
            storage.write(name, reason)


def failure_reasons(storage: Storage, run: str) -> dict[str, str]:
    """Return the reasons of a run's failed steps, by the name of the step."""
    reasons = {}
    for path in storage.names(run_folder(run)):
        name = path.rpartition("/")[2]
        text = (storage.read(path) or b"").decode(errors="replace").strip()
        if name.startswith("error-") and text:
            reasons[name.removeprefix("error-").removesuffix(".txt")] = text
    return reasons


@contextlib.contextmanager
def cancelled_by_sigterm() -> Iterator[threading.Event]:
    """Turn SIGTERM, which Kubernetes sends to a pod that it removes, into a cancel event.

    Yields:
        Set when the signal arrives; the block then ends with :class:`~c3d_client.Cancelled`.

    Raises:
        SystemExit: with the exit code that shells report after SIGTERM.
    """
    with signal_event(signal.SIGTERM) as cancel:
        try:
            yield cancel
        except Cancelled:
            if not cancel.is_set():
                raise
            print("c3d-pipelines: stopped by SIGTERM; nothing half-done is left", file=sys.stderr)
            raise SystemExit(exit_code(signal.SIGTERM)) from None


def _print_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, C3DError):
        print(f"c3d-pipelines: {one_line(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
