"""Real HTTP server on this machine that serves one file, with configurable faults."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from c3d_export.assets import Fingerprint

from support.processes import LONG_S
from support.relay import end_by_reset, serving

CONTENT = b"\x89HDF\r\n\x1a\n" + random.Random(0).randbytes(299_992)
FINGERPRINT = Fingerprint(
    size=len(CONTENT),
    md5=hashlib.md5(CONTENT).hexdigest(),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: FileServer = self.server.site
        fault = site.faults.pop(0) if site.faults else site.always
        site.requests.append((self.path, dict(self.headers)))
        (fault or whole)(self, site)

    def respond(self, status: int, headers: dict[str, object], body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.write(body)
        self.close_connection = True

    def write(self, body: bytes) -> None:
        with contextlib.suppress(OSError):  # the client may close the connection
            self.wfile.write(body)
            self.server.site.sent += len(body)

    def log_message(self, *_: object) -> None:
        pass


class FileServer:
    """The state of a server that has the same file at every path.

    Attributes:
        content: the file.
        faults: the faults of the next requests, one for each.
        always: the fault of every request after those; None to send the file.
        requests: path and headers of the requests so far.
        sent: the number of bytes of bodies sent so far.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.content = b""
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.url = f"http://127.0.0.1:{server.server_port}/file"
        self.released = threading.Event()


Fault = Callable[[Handler, FileServer], None]


def whole(handler: Handler, site: FileServer) -> None:
    handler.respond(200, {"Content-Length": len(site.content)}, site.content)


def drops_after(count: int, *, reset: bool = False) -> Fault:
    """Close or reset the connection after so many bytes of the body."""

    def drop(handler: Handler, site: FileServer) -> None:
        handler.respond(200, {"Content-Length": len(site.content)}, site.content[:count])
        handler.wfile.flush()
        if reset:
            end_by_reset(handler.connection)

    return drop


def stalls_after(count: int) -> Fault:
    """Send so many bytes of the body, then nothing, and keep the connection open."""

    def stall(handler: Handler, site: FileServer) -> None:
        handler.respond(200, {"Content-Length": len(site.content)}, site.content[:count])
        handler.wfile.flush()
        site.released.wait(LONG_S)

    return stall


def never_answers(handler: Handler, site: FileServer) -> None:
    handler.close_connection = True
    site.released.wait(LONG_S)


def hangs_up(handler: Handler, site: FileServer) -> None:
    handler.close_connection = True


def answers(status: int, headers: dict[str, object] | None = None, body: bytes = b"") -> Fault:
    """Send this response to every request."""

    def answer(handler: Handler, site: FileServer) -> None:
        handler.respond(status, {"Content-Length": len(body), **(headers or {})}, body)

    return answer


def redirects(to: str, status: int = 302) -> Fault:
    return answers(status, {"Location": to})


def in_chunks(handler: Handler, site: FileServer, *, ending: bytes = b"0\r\n\r\n") -> None:
    """Send the body in chunks: no length, but an end mark."""
    handler.respond(200, {"Transfer-Encoding": "chunked"})
    for start in range(0, len(site.content), 1000):
        block = site.content[start : start + 1000]
        handler.write(b"%x\r\n%s\r\n" % (len(block), block))
    handler.write(ending)


def without_length(count: int | None = None) -> Fault:
    """Send neither a length nor an end mark: the body ends with the connection."""

    def send(handler: Handler, site: FileServer) -> None:
        handler.respond(200, {}, site.content[:count])

    return send


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: FileServer

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that a client closes early are expected


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """Serve on a free port of the loopback until the block ends."""
    server = _Server(("127.0.0.1", 0), Handler)
    server.site = site = FileServer(server)
    site.content = CONTENT
    with serving(server):
        try:
            yield site
        finally:
            site.released.set()
