"""Connections that tests break: a relay that resets every connection, and local servers."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator


class Relay:
    """Listens on a free loopback port and forwards bytes in both directions.

    Args:
        target: the server's ``host:port``.

    Attributes:
        target: the relay's ``host:port``.
        is_cut: whether :meth:`cut` was called.
    """

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self.is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection and accept no other."""
        with self._lock:
            self.is_cut = True
            for connection in (self._listener, *self._sockets):
                _reset(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._sockets += [client, server]
                    if self.is_cut:
                        _reset(client)
                        _reset(server)
                        return
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=ends, daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            sink.sendall(part)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def end_by_reset(connection: socket.socket) -> None:
    """Make a connection end with a reset, as if the machine had died."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end_by_reset(connection)
        # close() alone would not wake threads in recv() or accept(), nor end the connection.
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Answer a server's requests in another thread until the block ends, then close the server."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
