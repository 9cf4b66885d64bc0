"""Servers that this process starts for itself: the targets ``local:PATH``.

A server is ``c3d-export serve`` in a process of its own, at a free port of 127.0.0.1. The clients
of one path share it, and the last one that is closed stops it. It also ends with this process,
kill -9 included, because then its standard input ends. A terminal's Ctrl-C does not reach it, so
that a client can finish its videos.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

from c3d_client.core.errors import Cancelled, ServingUnavailable, UsageError
from c3d_client.serving.concurrency import CANCEL_POLL_S
from c3d_client.serving.options import ServingOptions
from c3d_client.serving.patience import NOTICE_S

_MODULE = "c3d_export"
# A weight file's name follows the address, and may have any text in it.
_READY = re.compile(rb"ready: .*? at (127\.0\.0\.1:\d+),")
# A server whose standard input ends ends at once; one that does not is killed.
_STOP_S = 5.0
# How long a failed request waits for the end of a server that is about to end.
_END_S = 0.5
# The last line of the log is the server's own message; of a crash, more lines are shown.
_OWN_MESSAGE = "c3d-export: "
_CRASH_LINES = 3
_LOG_BYTES = 4096
# Addresses of the servers of a run, as JSON, in the environment of the processes that it starts.
_SHARED = "C3D_LOCAL_SERVERS"

_log = logging.getLogger(__name__)


class LocalServer:
    """A server that this process starts, shared by the clients of one path and model name.

    The first request of any client starts it.

    Args:
        target: of the first client, such as ``local:models/c3d``.
        path: the path in it, made absolute: the model's folder, or the folder of one version.
        model: the name of the served model.
    """

    def __init__(self, target: str, path: str, model: str) -> None:
        self.target = target
        self._path = path
        self._model = model
        self._clients = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._input = -1
        self._started_at = 0.0
        self._is_noticed = False
        # Set when the address is known, or will never be.
        self._answered = threading.Event()
        self._ended = threading.Event()
        self._problem = ""
        self._address = _shared_addresses().get(self._key)
        if self._address is not None:
            self._answered.set()

    @classmethod
    def join(cls, options: ServingOptions) -> LocalServer:
        """Return the server of a target, with one client more, which calls :meth:`leave` once.

        Args:
            options: with a target ``local:PATH``.

        Raises:
            UsageError: the path is no folder, or c3d-export is not installed.
        """
        folder = os.path.expanduser(options.local_path or "")
        if not os.path.isdir(folder):
            raise UsageError(
                f"{options.target}: no folder of a model there; make one with c3d-export build"
            )
        if not sys.executable or importlib.util.find_spec(_MODULE) is None:
            raise UsageError(
                f"{options.target}: c3d-export is not installed for "
                f"{sys.executable or 'this program'}; install it (pip install c3d-export, or "
                "./model_export of the repository), or give the address of a server that runs"
            )
        new = cls(options.target, os.path.realpath(folder), options.model)
        with _lock:
            server = _servers.get(new._key)
            if server is None or server._ended.is_set():
                server = _servers[new._key] = new
            server._clients += 1
        return server

    def leave(self) -> None:
        """Count one client less; a server without clients is stopped."""
        with _lock:
            self._clients -= 1
            if self._clients > 0:
                return
            if _servers.get(self._key) is self:
                del _servers[self._key]
        self._stop()

    def address(
        self, target: str, *, cancel: threading.Event | None, closing: threading.Event
    ) -> str | None:
        """Return ``host:port``, once the server is started and its model loaded.

        Args:
            target: the client's, for messages; another client may have written the path otherwise.
            cancel: set by another thread to end the wait.
            closing: set by another thread that closes the client.

        Returns:
            The address; None where the client was closed first.

        Raises:
            ServingUnavailable: the server has ended; the message has the reason.
            Cancelled: ``cancel`` was set.
        """
        with self._lock:
            if not self._started_at and not self._answered.is_set() and self._clients > 0:
                self._start()
        while not self._answered.wait(CANCEL_POLL_S):
            if closing.is_set():
                return None
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"{target}: the request was cancelled")
            self._notice()
        if closing.is_set():  # the server may have ended because of it, before the next look
            return None
        if self._address is None:
            raise ServingUnavailable(target, self._problem, code="UNAVAILABLE")
        return self._address

    def problem(self) -> str:
        """Return, after a failed request, why the server has ended; empty where it runs."""
        # The connections of a process that is killed end before the process does.
        return self._problem if self._ended.wait(_END_S) else ""

    def environment(self) -> dict[str, str]:
        """Return variables with which a process that this one starts uses this server too.

        They are empty before :meth:`address` has returned. The server still ends with this process.
        """
        if self._address is None:
            return {}
        return {_SHARED: json.dumps({**_shared_addresses(), self._key: self._address})}

    @property
    def _key(self) -> str:
        return f"{self._model}:{self._path}"

    def _start(self) -> None:
        self._started_at = time.monotonic()
        # A path as it was typed is shorter in messages; the current folder may have changed since.
        path = os.path.expanduser(self.target.partition(":")[2])
        path = path if os.path.realpath(path) == self._path else self._path
        command = [sys.executable, "-m", _MODULE, "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--model", self._model, "--until-eof", "--", path]
        descriptors: list[int] = []
        _started.add(self)
        try:
            with tempfile.TemporaryFile(prefix="c3d-server-") as file:
                log = os.dup(file.fileno())
                descriptors.append(log)
            descriptors += (*os.pipe(), *os.pipe())
            _, input_end, self._input, output, output_end = descriptors
            self._process = subprocess.Popen(
                command,
                stdin=input_end,
                stdout=output_end,
                stderr=log,
                # Modules in the current folder are not the server's.
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                # A terminal's Ctrl-C reaches the client alone.
                start_new_session=True,
            )
        except OSError as error:
            self._input = -1
            for descriptor in descriptors:
                os.close(descriptor)
            self._end(f"its server cannot be started ({error})")
            return
        os.close(input_end)
        os.close(output_end)
        arguments = (self._process, output, log, path)
        threading.Thread(
            target=self._read, args=arguments, name="c3d-local-server", daemon=True
        ).start()

    def _read(self, process: subprocess.Popen[bytes], output: int, log: int, path: str) -> None:
        """Read the address of the server, wait for its end, and read why it ended."""
        # Unbuffered: a buffer's lock would stay locked in a process that is forked meanwhile.
        with open(output, "rb", buffering=0) as lines:
            for line in lines:
                ready = _READY.match(line)
                if ready and not self._answered.is_set():
                    if self._is_noticed:
                        waited_s = time.monotonic() - self._started_at
                        _log.info("%s is ready after %.0f s", self.target, waited_s)
                    self._address = ready[1].decode()
                    self._answered.set()
        code = process.wait()
        size = os.fstat(log).st_size
        text = os.pread(log, _LOG_BYTES, max(0, size - _LOG_BYTES)).decode(errors="replace")
        os.close(log)
        self._end(_end_text(code, text.strip().splitlines(), path))

    def _end(self, problem: str) -> None:
        self._problem = problem
        _started.discard(self)
        self._ended.set()
        self._answered.set()

    def _notice(self) -> None:
        """Log a wait, once, as soon as it has lasted 2 seconds."""
        if self._is_noticed or time.monotonic() - self._started_at < NOTICE_S:
            return
        with self._lock:
            if self._is_noticed:
                return
            self._is_noticed = True
        _log.info("waiting for %s: its server starts and loads the model", self.target)

    def _close_input(self) -> None:
        """Close the pipe to the server's standard input, at whose end it ends."""
        descriptor, self._input = self._input, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _stop(self) -> None:
        with self._lock:
            self._close_input()
            process = self._process
        if process is None:
            return
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _abandon(self) -> None:
        """Leave the server to the process from which this one was forked."""
        self._close_input()
        if self._process is not None:
            self._process.returncode = 0  # it is no child of this process, which cannot wait for it


def _end_text(code: int, lines: list[str], path: str) -> str:
    """Return why a server ended, from its exit code and the last lines of its log."""
    if code == 2 and lines and lines[-1].startswith(_OWN_MESSAGE):
        return lines[-1].removeprefix(_OWN_MESSAGE).removeprefix(f"{path}: ")
    if code == -signal.SIGKILL:
        text = "its server was killed (SIGKILL); there may be too little memory"
    elif code < 0:
        text = f"its server was killed ({signal.Signals(-code).name})"
    else:
        text = f"its server ended with exit code {code}"
    last = " | ".join(line.strip() for line in lines[-_CRASH_LINES:])
    return f"{text}; the last lines of its log: {last}" if last else text


def _shared_addresses() -> dict[str, str]:
    with contextlib.suppress(ValueError):
        addresses: dict[str, str] = json.loads(os.environ.get(_SHARED, ""))
        return addresses
    return {}


# Those that a new client may share, by model name and path; and all whose process runs.
_servers: dict[str, LocalServer] = {}
_started: set[LocalServer] = set()
_lock = threading.Lock()


def _stop_all() -> None:
    for server in list(_started):
        server._stop()


def _forget() -> None:
    """Forget, in a forked process, the servers of the process from which it was forked.

    Their pipes are closed here, or they would not end with that process.
    """
    global _lock
    _lock = threading.Lock()
    for server in list(_started):
        server._abandon()
    _started.clear()
    _servers.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget)
