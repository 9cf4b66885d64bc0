"""Run a command in a terminal of a given width and look at the lines that it draws."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_in_terminal(
    command: Sequence[str],
    *,
    columns: int,
    on_output: Callable[[bytes], None] = lambda output: None,
    **options,
) -> tuple[int, list[str]]:
    """Run a command in a pseudo-terminal.

    Args:
        command: the command and its arguments.
        columns: the terminal's width.
        on_output: called with everything that was drawn so far, whenever there is more.
        options: arguments of :class:`subprocess.Popen`; standard output is the terminal too unless
            it is one of them.

    Returns:
        The exit code, and every line that was drawn, in order, without colours; a line that is
        drawn over an earlier one follows it.
    """
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["TERM"] = "xterm"
    options.setdefault("stdout", end)
    options.setdefault("stdin", subprocess.DEVNULL)
    with subprocess.Popen(command, stderr=end, env=environment, **options) as process:
        os.close(end)
        output = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # a terminal raises it when the other end is closed
                break
            if not part:
                break
            output += part
            on_output(output)
    os.close(terminal)
    text = _CONTROL.sub("", output.decode())
    return process.returncode, [line for line in re.split(r"[\r\n]+", text) if line.strip()]
