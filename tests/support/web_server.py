"""A real web server with range requests, and with faults that a test can switch on."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from support.relay import serving


class WebServer(ThreadingHTTPServer):
    """A web server for files in memory.

    Attributes:
        files: path without query, with a leading `/` -> content.
        status: the HTTP status of answers, such as 403; 0 to serve the files.
        failures: how many requests are answered with `status`; -1 for all.
        ranges: whether range requests are supported.
        lengths: whether answers have a Content-Length.
        budget: bytes of bodies before it cuts the connection, or stops sending if `stalls`.
        stalls: whether it stops sending after the budget instead of cutting the connection.
        sent: the bytes of bodies sent so far.
        requests: method, path and `Range` header of the requests so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.status, self.failures = 0, -1
        self.ranges, self.lengths = True, True
        self.budget, self.stalls = 1 << 60, False
        self.sent = 0
        self.requests: list[tuple[str, str, str]] = []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # tests make clients close connections early


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # no 40 ms pause between the writes of headers and body
    server: WebServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        site, body = self.server, self._answer()
        allowed = min(len(body), max(0, site.budget - site.sent))
        with contextlib.suppress(OSError):
            for start in range(0, allowed, 1 << 16):
                part = body[start : min(start + (1 << 16), allowed)]
                site.sent += len(part)  # first, because the client may check it after the last part
                self.wfile.write(part)
        if allowed < len(body):
            self.close_connection = True
            if site.stalls:
                site.released.wait(30)

    def _answer(self) -> bytes:
        """Send status and headers, and return the body."""
        site = self.server
        requested_range = self.headers.get("Range", "")
        site.requests.append((self.command, self.path, requested_range))
        body = site.files.get(unquote(self.path.partition("?")[0]))
        status = 404 if body is None else 200
        if site.status and site.failures:
            site.failures -= 1
            status = site.status
        if status != 200:
            return self._begin(status, b"")
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", requested_range)
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
    """Serve on a free port of the loopback interface until the block ends."""
    server = WebServer()
    with serving(server):
        try:
            yield server
        finally:
            server.released.set()
