"""A real HTTP server on this machine that serves one file, and misbehaves as it is told to."""

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
        with contextlib.suppress(OSError):  # a client that has seen enough hangs up
            self.wfile.write(body)
            self.server.site.sent += len(body)

    def log_message(self, *_: object) -> None:
        pass


class FileServer:
    """One file at every path.

    `faults` are used up by one request each, then `always`, or else all is well.
    `requests` are those that came, with their headers; `sent` counts the bytes of bodies.
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
        """What was asked for in Range, request by request."""
        return [headers.get("Range", "") for _, headers in self.requests]

    def headers(self) -> dict[str, object]:
        named = {"ETag": self.etag, "Last-Modified": self.modified}
        return {name: value for name, value in named.items() if value}


Fault = Callable[[Handler, FileServer], None]


def begin(handler: Handler, site: FileServer) -> bytes:
    """Status and headers as a good server sends them; gives the body that is asked for."""
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    same = handler.headers.get("If-Range", "") in (site.etag, site.modified)
    headers, total = site.headers(), len(site.content)
    if wanted and same:
        start = int(wanted[1])
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
    """The connection ends so many bytes into the body: in good order, or not."""

    def drop(handler: Handler, site: FileServer) -> None:
        handler.write(begin(handler, site)[:count])
        handler.wfile.flush()
        if reset:
            end_by_reset(handler.connection)

    return drop


def stalls_after(count: int) -> Fault:
    """So many bytes of the body, then nothing, and no end either."""

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
    """This, whatever was asked for."""

    def answer(handler: Handler, site: FileServer) -> None:
        handler.answer(status, {"Content-Length": len(body), **(headers or {})}, body)

    return answer


def redirects(to: str, status: int = 302) -> Fault:
    return answers(status, {"Location": to})


def ignores_ranges(handler: Handler, site: FileServer) -> None:
    del handler.headers["Range"]
    whole(handler, site)


def in_chunks(handler: Handler, site: FileServer, *, ending: bytes = b"0\r\n\r\n") -> None:
    """No length, but a mark at the end."""
    handler.answer(200, {**site.headers(), "Transfer-Encoding": "chunked"})
    for at in range(0, len(site.content), 1000):
        block = site.content[at : at + 1000]
        handler.write(b"%x\r\n%s\r\n" % (len(block), block))
    handler.write(ending)


def without_length(count: int | None = None) -> Fault:
    """Neither a length nor a mark: the end of the connection is the end of the file."""

    def send(handler: Handler, site: FileServer) -> None:
        handler.answer(200, site.headers(), site.content[:count])

    return send


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: FileServer

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are the point here


@contextlib.contextmanager
def file_server(content: bytes = CONTENT) -> Iterator[FileServer]:
    """Serve on a free port of the loopback until the block ends."""
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
