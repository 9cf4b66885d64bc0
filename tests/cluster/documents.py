"""The documents' blocks, as a user runs them: bash, from the first line that calls kubectl."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from k8s.render import K8S

from cluster.kube import environment

README = K8S / "README.md"
_PART = re.compile(r"^## ([^\n]+)$|^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of shell commands.

    Args:
        section: the heading that it is below.
        number: its place among the blocks of the section, from 0.
        code: its text, byte for byte.
    """

    section: str
    number: int
    code: str

    @property
    def from_kubectl(self) -> str:
        """The text from the first line that begins with kubectl; the cluster is there already."""
        lines = self.code.splitlines(keepends=True)
        first = next((n for n, line in enumerate(lines) if line.startswith("kubectl")), 0)
        return "".join(lines[first:])


def blocks(document: Path = README) -> list[Block]:
    """Return the shell blocks of a document, in its order."""
    found: list[Block] = []
    section = ""
    for heading, code in _PART.findall(document.read_text()):
        if heading:
            section = heading
        else:
            number = sum(block.section == section for block in found)
            found.append(Block(section, number, code))
    return found


def block(section: str, number: int = 0) -> Block:
    """Return a block of k8s/README.md.

    Raises:
        AssertionError: the document has no such block.
    """
    for found in blocks():
        if (found.section, found.number) == (section, number):
            return found
    raise AssertionError(f"{README} has no block {number} below {section!r}")


@contextmanager
def running(code: str, folder: Path, *, timeout_s: float) -> Iterator[str]:
    """Run commands in a folder, and end at last what they left in the background.

    Yields:
        What they printed, once they have ended; their port-forward still runs.

    Raises:
        AssertionError: a command failed, or the time was over; the message has what they printed.
    """
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    # In a thread: what runs in the background keeps the pipe open.
    reader = threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        try:
            exit_code: int | str = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            exit_code = f"none within {timeout_s:.0f} s"
        reader.join(1)
        printed = "".join(lines)
        assert exit_code == 0, f"exit code {exit_code}: {code}\n{printed}"
        yield printed
    finally:
        # The session's processes: the shell, and what it started in the background.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        reader.join()
        process.stdout.close()


def run(code: str, folder: Path, *, timeout_s: float) -> str:
    """Run commands in a folder and return what they printed, as :func:`running` does."""
    with running(code, folder, timeout_s=timeout_s) as printed:
        return printed


def _collect(stream: Iterable[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)
