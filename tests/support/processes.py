"""Processes of this machine, found by their command lines."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# For a process to start or to end on a busy machine.
LONG_S = 300.0


def processes_of(*texts: object) -> set[int]:
    """Return the processes whose command lines contain all of these texts.

    In a command line ``\\0`` follows each argument. A process that has ended has none.
    """
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if all(os.fsencode(str(text)) in line for text in texts):
            found.add(int(path.parent.name))
    return found


def servers_of(path: object) -> set[int]:
    """Return the servers that clients have started for a path."""
    return processes_of("c3d_export\0serve\0", "\0--until-eof\0", f"\0{path}\0")


def kill_all(processes: Iterable[int]) -> None:
    """Kill processes, of which some may have ended meanwhile."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_until(condition: Callable[[], object], about: str = "it did not happen") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, about
        time.sleep(0.02)
