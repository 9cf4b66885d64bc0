"""A real HTTP server that serves one file, with faults that a test can switch on."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from c3d_export.fingerprint import Fingerprint

from support.relay import end_by_reset

CONTENT = b"\x89HDF\r\n\x1a\n" + random.Random(0).randbytes(299_992)
KNOWN = Fingerprint(
    size=len(CONTENT),
    md5=hashlib.md5(CONTENT).hexdigest(),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: FileServer = self.server.site
        site.requests.append((self.path, dict(self.headers)))
        fault = site.faults.pop(0) if site.faults else site.always
        (fault or whole)(self, site)

    def answer(self, status: int, headers: dict[str, object], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.write(body)
        self.close_connection = True

    def write(self, body: bytes) -> None:
        with contextlib.suppress(OSError):  # the client may close the connection early
            self.wfile.write(body)
            self.server.site.sent += len(body)

    def log_message(self, *_: object) -> None:
        pass


class FileServer:
    """The state of a server that has the same file at every path.

    Attributes:
        content, etag, modified: the file and its headers.
        faults: the faults of the next requests, one for each.
        always: the fault of every request after those, or None.
        requests: path and headers of the requests so far.
        sent: the bytes of bodies sent so far.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.content = b""
        self.etag, self.modified = '"one"', ""
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.url = f"http://127.0.0.1:{server.server_port}/file"
        self.released = threading.Event()

    @property
    def ranges(self) -> list[str]:
        """The Range header of each request."""
        return [headers.get("Range", "") for _, headers in self.requests]

    def headers(self) -> dict[str, object]:
        named = {"ETag": self.etag, "Last-Modified": self.modified}
        return {name: value for name, value in named.items() if value}


Fault = Callable[[Handler, FileServer], None]


def begin(handler: Handler, site: FileServer) -> bytes:
    """Send the correct status and headers, and return the requested body."""
    requested_range = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    is_same = handler.headers.get("If-Range", "") in (site.etag, site.modified)
    headers, total = site.headers(), len(site.content)
    if requested_range and is_same:
        start = int(requested_range[1])
        if start >= total:
            handler.answer(416, {"Content-Range": f"bytes */{total}", "Content-Length": 0})
            return b""
        headers |= {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        body, status = site.content[start:], 206
    else:
        body, status = site.content, 200
    handler.answer(status, {**headers, "Content-Length": len(body)})
    return body


def whole(handler: Handler, site: FileServer) -> None:
    handler.write(begin(handler, site))


def drops_after(count: int, *, reset: bool = False) -> Fault:
    """Close the connection after some bytes of the body, or reset it."""

    def drop(handler: Handler, site: FileServer) -> None:
        handler.write(begin(handler, site)[:count])
        handler.wfile.flush()
        if reset:
            end_by_reset(handler.connection)

    return drop


def stalls_after(count: int) -> Fault:
    """Send some bytes of the body, then nothing more, without closing the connection."""

    def stall(handler: Handler, site: FileServer) -> None:
        handler.write(begin(handler, site)[:count])
        handler.wfile.flush()
        site.released.wait(5)

    return stall


def never_answers(handler: Handler, site: FileServer) -> None:
    handler.close_connection = True
    site.released.wait(5)


def hangs_up(handler: Handler, site: FileServer) -> None:
    handler.close_connection = True


def answers(status: int, headers: dict[str, object] | None = None, body: bytes = b"") -> Fault:
    """Send this answer to every request."""

    def answer(handler: Handler, site: FileServer) -> None:
        handler.answer(status, {"Content-Length": len(body), **(headers or {})}, body)

    return answer


def redirects(to: str, status: int = 302) -> Fault:
    return answers(status, {"Location": to})


def ignores_ranges(handler: Handler, site: FileServer) -> None:
    del handler.headers["Range"]
    whole(handler, site)


def in_chunks(handler: Handler, site: FileServer, *, ending: bytes = b"0\r\n\r\n") -> None:
    """Send the body in chunks, without a length."""
    handler.answer(200, {**site.headers(), "Transfer-Encoding": "chunked"})
    for start in range(0, len(site.content), 1000):
        block = site.content[start : start + 1000]
        handler.write(b"%x\r\n%s\r\n" % (len(block), block))
    handler.write(ending)


def without_length(count: int | None = None) -> Fault:
    """Send the body without a length; the file ends where the connection ends."""

    def send(handler: Handler, site: FileServer) -> None:
        handler.answer(200, site.headers(), site.content[:count])

    return send


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: FileServer

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # tests make clients close connections early


@contextlib.contextmanager
def file_server(content: bytes = CONTENT) -> Iterator[FileServer]:
    """Serve on a free port of the loopback interface until the block ends."""
    server = _Server(("127.0.0.1", 0), Handler)
    server.site = site = FileServer(server)
    site.content = content
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
