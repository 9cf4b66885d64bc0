"""An HTTP/2 server that answers every request with a page, as proxies do with their errors."""

from __future__ import annotations

import socket
import struct
import threading


def _frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class WebPage:
    """Listens on a free loopback port until :meth:`close`.

    Args:
        status: the HTTP status of every answer.
        on_request: called before each answer.

    Attributes:
        target: ``host:port``.
        requests: number of requests so far.
    """

    def __init__(self, status, *, on_request=lambda: None):
        self.requests = 0
        self._on_request = on_request
        self._status = status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Accept no further connection."""
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as file:
            try:
                file.read(24)  # the client's preface
                connection.sendall(_frame(4, 0, 0))  # SETTINGS
                while len(header := file.read(9)) == 9:
                    size = int.from_bytes(header[:3], "big")
                    kind, flags, stream = header[3], header[4], int.from_bytes(header[5:], "big")
                    payload = file.read(size)
                    if kind in (4, 6) and not flags & 1:  # SETTINGS and PING are acknowledged
                        connection.sendall(_frame(kind, 1, 0, payload if kind == 6 else b""))
                    if kind == 1:  # HEADERS begin a request
                        self.requests += 1
                        self._on_request()
                        connection.sendall(self._page(stream))
            except OSError:
                pass

    def _page(self, stream):
        headers = _header(b":status", str(self._status).encode())
        headers += _header(b"content-type", b"text/html")
        return (
            _frame(1, 4, stream, headers)
            + _frame(0, 1, stream, b"<html><h1>Request Entity Too Large</h1></html>")
            + _frame(3, 0, stream, struct.pack(">I", 0))  # RST_STREAM: the body is not read
        )
