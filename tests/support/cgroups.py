"""Real control groups (cgroups) with limits, for child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_PERIOD_US = 100_000
_CGROUPS = Path("/sys/fs/cgroup")


class Group:
    """A group of its own for a child process.

    Args:
        folders: its folder in each hierarchy.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders

    def command(self, arguments: Sequence[object]) -> list[str]:
        """Return a command that enters the group and then runs another command."""
        enter = "".join(f"echo $$ > '{folder}/cgroup.procs' && " for folder in self.folders)
        return ["sh", "-c", f'{enter} exec "$@"', "sh", *map(str, arguments)]

    def run(self, code: str, *arguments: object) -> str:
        """Run Python code with the tests' modules in the group and return what it prints.

        Raises:
            AssertionError: the process failed, or the kernel killed it.
        """
        done = subprocess.run(
            self.command([sys.executable, "-c", code, *arguments]),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
        return done.stdout


@contextmanager
def limited(*, cpus: float | None = None, memory: int | None = None) -> Iterator[Group]:
    """Make a group with a CPU limit in cores and a memory limit in bytes, or skip the test.

    The group is made in the hierarchies of version 1, or in that of version 2.
    """
    name = f"c3d-test-{uuid.uuid4().hex[:8]}"
    folders: list[Path] = []
    try:
        try:
            if (_CGROUPS / "cgroup.controllers").exists():
                folders.append(_version_2(_CGROUPS / name, cpus, memory))
            else:
                folders += _version_1(name, cpus, memory)
        except OSError as error:
            pytest.skip(f"no cgroup of its own for a process: needs root and cgroups ({error})")
        yield Group(folders)
    finally:
        for folder in folders or [_CGROUPS / name]:
            _remove(folder)


def _version_1(name: str, cpus: float | None, memory: int | None) -> Iterator[Path]:
    if cpus is not None:
        folder = _CGROUPS / "cpu" / name
        folder.mkdir()
        yield folder
        (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(round(cpus * _PERIOD_US)))
    if memory is not None:
        folder = _CGROUPS / "memory" / name
        folder.mkdir()
        yield folder
        (folder / "memory.limit_in_bytes").write_text(str(memory))


def _version_2(folder: Path, cpus: float | None, memory: int | None) -> Path:
    (_CGROUPS / "cgroup.subtree_control").write_text("+cpu +memory")
    folder.mkdir()
    if cpus is not None:
        (folder / "cpu.max").write_text(f"{round(cpus * _PERIOD_US)} {_PERIOD_US}")
    if memory is not None:
        (folder / "memory.max").write_text(str(memory))
        with suppress(OSError):  # without swap, where there is any
            (folder / "memory.swap.max").write_text("0")
    return folder


def _remove(folder: Path) -> None:
    for _ in range(50):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)  # the kernel frees a process's group a moment after its end
        else:
            return
