"""A TCP relay before a server, to be cut as a machine that dies cuts: every connection is reset."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading


class Relay:
    """Listens at a free loopback port and passes bytes on, both ways.

    Args:
        target: the server's ``host:port``.

    Attributes:
        target: its own.
        is_cut: whether it was cut.
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
        """Reset every connection and take no other."""
        with self._lock:
            self.is_cut = True
            for connection in (self._listener, *self._sockets):
                _reset(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(self._server)
                with self._lock:
                    self._sockets += [here, there]
                    if self.is_cut:
                        _reset(here)
                        _reset(there)
                        return
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            sink.sendall(part)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def end_by_reset(connection: socket.socket) -> None:
    """Have a connection's end, whenever it comes, be the reset of a machine that died."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end_by_reset(connection)
        # Closing alone would leave threads in recv() or accept(), and the connection open.
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
