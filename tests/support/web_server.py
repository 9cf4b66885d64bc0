"""A real web server on this machine that serves parts of files, and misbehaves as it is told to."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class WebServer(ThreadingHTTPServer):
    """Files by their path, from memory.

    Attributes:
        files: what is there, by path without query, `/` first.
        status: an answer to all instead, such as 403; 0 for none.
        failures: so many requests are answered with `status`, the others properly; -1 for all.
        ranges: whether parts can be asked for.
        lengths: whether it says how long a file is.
        budget: bytes of bodies until it cuts the connection, or falls silent where `stalls`.
        sent, asked: the bytes of bodies sent so far, and the requests with their `Range`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.status, self.failures = 0, -1
        self.ranges, self.lengths = True, True
        self.budget, self.stalls = 1 << 60, False
        self.sent, self.asked = 0, []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are no news here


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, and no 40 ms between them
    server: WebServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        site, body = self.server, self._answer()
        allowed = min(len(body), max(0, site.budget - site.sent))
        with contextlib.suppress(OSError):
            for at in range(0, allowed, 1 << 16):
                part = body[at : min(at + (1 << 16), allowed)]
                site.sent += len(part)  # before: whoever has the last part may look at once
                self.wfile.write(part)
        if allowed < len(body):
            self.close_connection = True
            if site.stalls:
                site.released.wait(30)

    def _answer(self) -> bytes:
        """Status and headers; gives the body."""
        site = self.server
        wanted = self.headers.get("Range", "")
        site.asked.append((self.command, self.path, wanted))
        body = site.files.get(unquote(self.path.partition("?")[0]))
        status = 404 if body is None else 200
        if site.status and site.failures:
            site.failures -= 1
            status = site.status
        if status != 200:
            return self._begin(status, b"")
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        if not part or not site.ranges:
            return self._begin(200, body)
        start, end = int(part[1]), min(int(part[2] or 1 << 60) + 1, len(body))
        return self._begin(206, body[start:end], f"bytes {start}-{end - 1}/{len(body)}")

    def _begin(self, status: int, body: bytes, content_range: str = "") -> bytes:
        self.send_response(status)
        self.send_header("ETag", '"one"')
        if content_range:
            self.send_header("Content-Range", content_range)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        return body

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    """Serve on a free port of the loopback until the block ends."""
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
