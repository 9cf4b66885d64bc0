"""How a step of a bulk run ends when it cannot go on: one line, left where the report finds it."""

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

from c3d_pipelines.storage import Storage, run_file, run_folder


@contextlib.contextmanager
def failing_in_one_line(step: str, *, out: str, run: str) -> Iterator[None]:
    """Have an error of ours end the process with one line, and leave the reason in the dataset.

    Other exceptions keep their traceback in the log; the dataset then only says that there is one,
    for what they say may hold anything.

    Args:
        step: whose error it is.
        out: the dataset's folder or bucket.
        run: the run's name.
    """
    try:
        with in_one_line():
            yield
    except C3DError as error:
        _leave(step, " ".join(str(error).split()), out=out, run=run)
        raise
    except Exception as error:
        reason = f"stopped by an unexpected {type(error).__name__}; the step's log tells where"
        _leave(step, reason, out=out, run=run)
        raise
    else:
        # Tried again, and well this time.
        _leave(step, "", out=out, run=run)


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Have an error of ours, where nobody catches it, end the process with one line."""
    try:
        yield
    except C3DError:
        sys.excepthook = _say_in_one_line
        raise


def reasons(storage: Storage, run: str) -> str:
    """What the steps of a run left when they ended badly; empty where none did."""
    found = []
    for name in storage.names(run_folder(run)):
        step = name.rpartition("/")[2]
        text = (storage.read(name) or b"").decode(errors="replace").strip()
        if step.startswith("error-") and text:
            found.append(f"{step.removeprefix('error-').removesuffix('.txt')}: {text}")
    return "; ".join(found)


@contextlib.contextmanager
def halted_by_sigterm() -> Iterator[threading.Event]:
    """Hear SIGTERM, which Kubernetes sends to a pod that must go, and end the process tidily.

    Yields:
        Set when the signal came; the block ends with :class:`~c3d_client.Cancelled` then.

    Raises:
        SystemExit: with the code that shells give what SIGTERM ended.
    """
    with signal_event(signal.SIGTERM) as halt:
        try:
            yield halt
        except Cancelled:
            if not halt.is_set():
                raise
            print("c3d-pipelines: told to go (SIGTERM); nothing half-done is left", file=sys.stderr)
            raise SystemExit(exit_code(signal.SIGTERM)) from None


def _leave(step: str, reason: str, *, out: str, run: str) -> None:
    # The reason is in the log in any case, and a place that cannot be written to may be the reason.
    with contextlib.suppress(C3DError):
        storage, name = Storage(out), run_file(run, f"error-{step}.txt")
        if reason or storage.read(name):
            storage.write(name, reason)


def _say_in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, C3DError):
        print(f"c3d-pipelines: {' '.join(str(error).split())}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
