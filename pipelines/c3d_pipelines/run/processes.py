"""The processes of a run on this machine, and the folder of temporary files that they share.

A process that a run starts has a pipe on its standard input. The pipe closes when the run stops the
process and when the run itself is gone, kill -9 included; the process then ends by itself. The
folder has a lock that the run and its processes share. After a kill -9 of the run, the last of its
processes removes the folder; a folder without any process is removed by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3d_client.core.signals import exit_code

from c3d_pipelines.errors import RunError
from c3d_pipelines.shards.progress import FOLDER_VARIABLE
from c3d_pipelines.storage import LOG

STOPPED = exit_code(signal.SIGTERM)
# How long a process may take to end tidily before it is killed.
GRACE_S = 15.0
_PREFIX = "c3d-run-"
_CHECK_PARENT_S = 1.0


@dataclass(frozen=True)
class RunFolder:
    """The folder of temporary files of one run.

    Args:
        root: the folder; use :meth:`create` to make one.
    """

    root: Path

    @property
    def log(self) -> Path:
        """The log: what the run's processes and libraries print."""
        return self.root / LOG

    @property
    def progress(self) -> Path:
        """One JSON file per shard, written by its process."""
        return self.root / "progress"

    @property
    def artifacts(self) -> Path:
        """Files that steps pass to each other."""
        return self.root / "artifacts"

    @property
    def temporary(self) -> Path:
        """TMPDIR of the run's processes."""
        return self.root / "tmp"

    @property
    def running(self) -> Path:
        """This file exists while the run may start further steps of a compiled pipeline."""
        return self.root / "running"

    @property
    def _lock(self) -> Path:
        return self.root / "lock"

    def reason_file(self, shard: int) -> Path:
        """The file with the reason why a shard's process failed."""
        return self.artifacts / f"error-{shard}.txt"

    @classmethod
    @contextlib.contextmanager
    def create(cls) -> Iterator[RunFolder]:
        """Make a folder and hold its lock within the block; remove folders of runs that are gone.

        The folder itself stays. Without its lock file, no later run removes it.
        """
        _remove_abandoned()
        folder = cls(Path(tempfile.mkdtemp(prefix=_PREFIX)))
        for path in (folder.progress, folder.artifacts, folder.temporary):
            path.mkdir()
        unlocked = folder.root / ".lock"
        with unlocked.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            unlocked.rename(folder._lock)  # no other run sees the lock file without a lock on it
            try:
                yield folder
            finally:
                folder._lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Share the lock within the block; afterwards remove the folder if the run is gone.

        Raises:
            FileNotFoundError: the run is gone, and so is its folder.
        """
        parent = os.getppid()
        with self._lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
                if os.getppid() != parent:
                    _remove_if_unlocked(self)


def _remove_abandoned() -> None:
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's
            _remove_if_unlocked(RunFolder(root))


def _remove_if_unlocked(folder: RunFolder) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError), folder._lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder.root, ignore_errors=True)


def start_process(
    module: str,
    arguments: Sequence[str],
    folder: RunFolder,
    *,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``python -m MODULE FOLDER ARGUMENTS`` with its output in the run's log.

    Args:
        module: the module.
        arguments: in addition to the folder.
        folder: of the run.
        variables: environment variables, in addition to those of this process.

    Raises:
        RunError: the process cannot be started.
    """
    environment = {
        **os.environ,
        **(variables or {}),
        FOLDER_VARIABLE: str(folder.progress),
        "TMPDIR": str(folder.temporary),
        "PYTHONSAFEPATH": "1",  # modules in the current folder are not the program's
    }
    try:
        with folder.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, str(folder.root), *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C reaches the run alone
            )
    except OSError as error:
        raise RunError(f"the run cannot be started ({error})") from error


def stop_processes(
    processes: Sequence[subprocess.Popen[bytes]], *, notify: Callable[[], None] | None = None
) -> None:
    """Have processes end tidily; kill those that take too long, and all at a further Ctrl-C.

    Args:
        processes: that :func:`start_process` started.
        notify: called first; a Ctrl-C during this call kills the processes too.
    """
    end = time.monotonic() + GRACE_S + 5
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        if notify is not None:
            notify()
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that the process started
        process.wait()


def stop_with_parent(stop: Callable[[], None]) -> None:
    """Call a function, in a thread, when the run stops this process or is gone.

    Args:
        stop: ends this process; after :data:`GRACE_S` seconds the process ends anyway.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], _CHECK_PARENT_S)
            if readable and not os.read(0, 1):
                break
        stop()
        time.sleep(GRACE_S)
        os._exit(STOPPED)

    threading.Thread(target=watch, name="c3d-parent", daemon=True).start()
