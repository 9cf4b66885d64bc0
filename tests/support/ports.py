"""Ports for servers that are told their port, and cannot be asked which free one they chose."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

# Of these the kernel chooses the ports of other servers and of clients from a range.
_PORTS = range(10_000, 1 << 16)
_CHOSEN_BY_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_reserved: list[socket.socket] = []


def reserved_port() -> int:
    """Return a port that no other process of tests gets, and that the kernel gives to none.

    A port that was bound to port 0 and closed may be another process's before a server binds it.
    """
    first, last = map(int, _CHOSEN_BY_KERNEL.read_text().split())
    ports = [port for port in _PORTS if not first <= port <= last]
    assert ports, f"{_CHOSEN_BY_KERNEL} leaves none of {_PORTS}"
    for port in random.SystemRandom().sample(ports, len(ports)):
        if _is_free(port) and _reserve(port):
            return port
    raise AssertionError(f"none of {len(ports)} ports is free")


def _reserve(port: int) -> bool:
    """Reserve a port among the tests of this machine until this process ends."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0c3d-test-port-{port}")
    except OSError as error:
        mark.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    _reserved.append(mark)
    return True


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True
