"""Long-lived child processes that run one repetition for each line they get.

Every competitor has its own process, so that libraries with thread pools of their own never compute
at the same time, and repetitions of all competitors can alternate. Only the standard library is
used: the peers run in another virtual environment.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# A repetition takes seconds, and loading a network up to a minute.
TIMEOUT_S = 300.0


class ChildError(Exception):
    """A child process failed; the message is one line."""


class Child:
    """A process that answers requests one by one, each a line of JSON. Close it.

    Args:
        command: program and arguments; the program calls :func:`answer_requests`.
        log: file for its standard error.
        environment: variables that differ from this process's; None removes one.

    Raises:
        ChildError: see :meth:`ask`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        variables = {**os.environ, **(environment or {})}
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={name: value for name, value in variables.items() if value is not None},
            )
        try:
            self.about = self._read()
        except ChildError:
            self.close()
            raise

    def ask(self, request: str, **arguments: Any) -> Any:
        """Return the answer to a request.

        Raises:
            ChildError: the child has ended, reports an error, or takes longer than TIMEOUT_S.
        """
        line = json.dumps({"request": request, **arguments}) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError:
            raise ChildError(self._last_words()) from None
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
        if not ready:
            self._process.kill()
            raise ChildError(f"no answer within {TIMEOUT_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise ChildError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer["result"]

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        code = self._process.wait()
        return f"ended with code {code}: {lines[-1] if lines else 'no message'}"

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def answer_requests(start: Callable[[], tuple[Any, Mapping[str, Callable[..., Any]]]]) -> None:
    """Answer the requests on standard input until it ends.

    Standard output is for answers alone: what libraries print goes to standard error.

    Args:
        start: returns the first answer, and a function for each request.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(function: Callable[..., Any], **arguments: Any) -> bool:
        try:
            answer = {"result": function(**arguments)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)
        return "result" in answer

    functions: Mapping[str, Callable[..., Any]] = {}

    def first() -> Any:
        nonlocal functions
        about, functions = start()
        return about

    if reply(first):
        for line in sys.stdin:
            arguments = json.loads(line)
            reply(functions[arguments.pop("request")], **arguments)
    sys.stderr.flush()
    os._exit(0)  # threads of a library or of a server would keep the process
