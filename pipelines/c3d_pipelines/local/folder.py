"""The folder of one run on this machine, and the lease in it that ends all its processes together.

The run goes on while one file of the folder exists and is locked. The command holds the lock; the
kernel takes it back however the command ends, kill -9 included. Each process of the run waits for
that in a thread, so none outlives the command for long, whatever stands between the two.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from c3d_pipelines.storage import LOG

# What a process has, from the end of the lease, to leave things tidy.
GRACE_S = 15.0


@dataclass(frozen=True)
class LocalFolder:
    """A folder of temporary files, for one run.

    Args:
        root: an existing folder that is nobody else's.
    """

    root: Path

    @property
    def lease(self) -> Path:
        """Exists and is locked while the run shall go on."""
        return self.root / "lease"

    @property
    def at_work(self) -> Path:
        """Each step at work has it locked, together."""
        return self.root / "at-work"

    @property
    def job(self) -> Path:
        """Which pipeline to run, and its arguments: JSON."""
        return self.root / "job.json"

    @property
    def log(self) -> Path:
        """What Kubeflow and the steps print."""
        return self.root / LOG

    @property
    def progress(self) -> Path:
        """One JSON file a shard, by the workers."""
        return self.root / "progress"

    @property
    def steps(self) -> Path:
        """One JSON file a step, by the steps."""
        return self.root / "steps"

    @property
    def artifacts(self) -> Path:
        """Kubeflow's pipeline root: what steps hand to each other."""
        return self.root / "artifacts"

    @property
    def temporary(self) -> Path:
        """The TMPDIR of the run's processes."""
        return self.root / "tmp"

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Make the folders and hold the lease while the block lasts.

        Yields:
            What ends the lease early; it may be called again.
        """
        for made in (self.progress, self.steps, self.artifacts, self.temporary):
            made.mkdir()
        self.at_work.touch()
        with self.lease.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

            def end() -> None:
                self.lease.unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_UN)

            try:
                yield end
            finally:
                end()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count as a step at work while the block lasts, or the process."""
        with self.at_work.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def has_steps(self) -> bool:
        """Whether a step is at work."""
        try:
            with self.at_work.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    def is_over(self) -> bool:
        """Whether the lease has ended."""
        try:
            with self.lease.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            return True
        self.lease.unlink(missing_ok=True)  # so that those who begin now need not ask
        return True

    def when_over(self, act: Callable[[], None]) -> None:
        """Call something, in a thread of its own, when the lease ends."""

        def wait() -> None:
            with contextlib.suppress(FileNotFoundError), self.lease.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
            act()

        threading.Thread(target=wait, name="c3d-lease", daemon=True).start()


def write_whole(path: Path, text: str) -> None:
    """Write a small file that others read meanwhile: they see all of it, or what was before."""
    made = path.with_name(f".{path.name}")
    made.write_text(text, encoding="utf-8")
    os.replace(made, path)
