"""Local proxy in front of a real S3 server that injects faults."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from support.relay import end_by_reset, serving

_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "content-length"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # no 40 ms pause between the writes of headers and body

    def forward(self) -> None:
        """Inject a fault, or forward the request unchanged so that its signature stays valid."""
        proxy: S3Proxy = self.server.proxy
        self.sent = self._body()
        with proxy.lock:
            proxy.requests.append(f"{self.command} {self.path}")
            fault = next((f for f in proxy.faults if f.applies_to(self.command, self.path)), None)
        if fault is not None:
            fault.inject(self)
        else:
            self.reply(*self.response_of_server())

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def response_of_server(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return the real server's response."""
        to = http.client.HTTPConnection(self.server.proxy.host, timeout=60)
        with contextlib.closing(to):
            to.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("transfer-encoding", "expect"):
                    to.putheader(name, value)
            to.endheaders(self.sent)
            answer = to.getresponse()
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
            self.length = answer.getheader("Content-Length")
            return answer.status, headers, answer.read()

    def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = self.length if self.command == "HEAD" and self.length else len(body)
        for name, value in [*headers, ("Content-Length", str(length))]:
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body if self.command != "HEAD" else b"")

    def reset(self) -> None:
        """Reset the connection, as a crashed machine does."""
        end_by_reset(self.connection)
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, *_: object) -> None:
        pass


class Fault:
    """A fault of requests whose method and path contain a text.

    Args:
        inject: injects the fault.
        on: a part of ``METHOD /path``.
        times: how often; None for always.
        after: how many such requests succeed first.
    """

    def __init__(
        self,
        inject: Callable[[Handler], None],
        on: str = "",
        *,
        times: int | None = None,
        after: int = 0,
    ) -> None:
        self.inject, self.on, self.left, self.skip = inject, on, times, after
        self.count = 0

    def applies_to(self, method: str, path: str) -> bool:
        if self.on not in f"{method} {path}" or self.left == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.left is not None:
            self.left -= 1
        self.count += 1
        return True


def answers(status: int, code: str, message: str = "as requested") -> Callable[[Handler], None]:
    """Return a fault: the server responds with an S3 error."""

    def inject(handler: Handler) -> None:
        handler.length = None
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        handler.reply(status, [("Content-Type", "application/xml")], body)

    return inject


def resets(handler: Handler) -> None:
    """Reset the connection before a response."""
    handler.reset()


def resets_after_doing(handler: Handler) -> None:
    """Forward the request and lose the response."""
    handler.response_of_server()
    handler.reset()


def cuts(handler: Handler) -> None:
    """Send half of the response's body, then reset the connection."""
    status, headers, body = handler.response_of_server()
    handler.send_response_only(status)
    for name, value in [*headers, ("Content-Length", str(len(body)))]:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.reset()


def waits(seconds: float) -> Callable[[Handler], None]:
    """Return a fault: the response is late."""

    def inject(handler: Handler) -> None:
        time.sleep(seconds)
        handler.reply(*handler.response_of_server())

    return inject


class S3Proxy:
    """The proxy, with its active `faults` and the `requests` that it received."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.endpoint = host, f"http://127.0.0.1:{port}"
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    proxy: S3Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # reset connections are expected


@contextlib.contextmanager
def s3_proxy(endpoint: str) -> Iterator[S3Proxy]:
    """Run a proxy in front of the server at an endpoint, on a free local port."""
    server = _Server(("127.0.0.1", 0), Handler)
    server.proxy = S3Proxy(urlsplit(endpoint).netloc, server.server_port)
    with serving(server):
        yield server.proxy
