"""gRPC addresses of a server: checked, and completed with the default port.

gRPC itself takes nearly any text: of the port 99999 it uses 34463 (its lowest 16 bits), and of a
host without a port it uses 443.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from c3d_client.core.contract import DEFAULT_TARGET
from c3d_client.core.errors import UsageError

_DEFAULT_PORT = int(DEFAULT_TARGET.rpartition(":")[2])
_EXPECTED = f"give HOST:PORT, such as {DEFAULT_TARGET}"
# Name resolvers of gRPC whose addresses are names and not host and port:
# https://github.com/grpc/grpc/blob/master/doc/naming.md
_OTHER_RESOLVERS = ("unix", "unix-abstract", "vsock", "xds", "google-c2p")
# Not an address of gRPC: the path of a model, for which this process starts a server.
_LOCAL = "local"
_HOST = re.compile(r"[^\s/@:,\[\]?#%\\]+")
_PORT = re.compile(r"[0-9]{1,9}")


def checked_address(address: Any) -> str:
    """Return an address for gRPC, with the port 8500 where it names none.

    Args:
        address: ``host``, ``host:port``, an IPv6 address (in brackets where a port follows),
            ``dns:///host:port``, ``dns://DNS-SERVER/host:port``, ``ipv4:address:port,…``,
            ``ipv6:[address]:port,…``, ``unix:path``, or an address of one of gRPC's other
            resolvers, which is returned unchanged. So is ``local:PATH``.

    Raises:
        UsageError: it is none of these, or its port is not 1 to 65535.
    """
    if not isinstance(address, str):
        raise UsageError(f"server is {address!r}; {_EXPECTED}")
    text = address.strip()
    try:
        return _checked(text)
    except ValueError as error:
        problem = f": {error}" if str(error) else ""
        shown = re.sub(r".*@", "***@", address, flags=re.DOTALL)  # perhaps a password
        raise UsageError(f"server is {shown!r}{problem}; {_EXPECTED}") from None


def local_path(address: str) -> str | None:
    """Return the path in ``local:PATH``; None for other addresses.

    ``local:8500`` is a port of a host with the name ``local``; a folder is ``local:./8500``.
    """
    scheme, colon, rest = address.partition(":")
    return rest if colon and scheme == _LOCAL and not rest.isdecimal() else None


def _checked(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    if scheme in ("http", "https") and rest.startswith("//"):
        raise ValueError("this is the address of a web server; gRPC has another port")
    if (path := local_path(text)) is not None:
        if not path:
            raise ValueError("no path of a model follows local: (local:models/c3d has one)")
        return text
    if colon and scheme in _OTHER_RESOLVERS:
        if not rest.strip("/"):
            raise ValueError(f"nothing follows {scheme}:")
        return text
    if "@" in text:
        raise ValueError("an address of gRPC has no user and no password")
    if colon and scheme in ("ipv4", "ipv6"):
        kind: Any = ipaddress.IPv4Address if scheme == "ipv4" else ipaddress.IPv6Address
        addresses = rest.removeprefix("///").split(",")
        return f"{scheme}:{','.join(_host_and_port(each, kind) for each in addresses)}"
    if colon and scheme == "dns":
        server, name = "", rest
        if rest.startswith("//"):
            server, slash, name = rest[2:].partition("/")
            if not slash:
                raise ValueError("no name to resolve follows the DNS server")
            server = f"//{server}/"
        return f"dns:{server}{_host_and_port(name)}"
    if "://" in text:
        raise ValueError(f"gRPC has no addresses with {scheme}://")
    return _host_and_port(text)


def _host_and_port(text: str, kind: Callable[[str], Any] | None = None) -> str:
    """Return ``host:port``; ``kind`` makes an IP address of the host, which is a name without it.

    Raises:
        ValueError: it is not a host, or its port is out of range.
    """
    bracket, closing, port = text.removeprefix("[").partition("]")
    if text.startswith("["):
        if not closing or (port and not port.startswith(":")):
            raise ValueError("only a port follows an IPv6 address in brackets")
        return f"[{_ip(bracket, kind or ipaddress.IPv6Address)}]:{_port(port[1:] if port else '')}"
    if text.count(":") > 1:
        host, _, last = text.rpartition(":")
        if _PORT.fullmatch(last) and _is_ipv6(host) and _is_ipv6(text):
            raise ValueError(f"this is [{host}]:{last} or [{text}]:{_DEFAULT_PORT}; give brackets")
        return f"[{_ip(text, kind or ipaddress.IPv6Address)}]:{_DEFAULT_PORT}"
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError("it names no host" if colon else "")
    if kind is not None:
        _ip(host, kind)
    elif not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not the name of a host")
    elif host.isdecimal():
        raise ValueError("this is a number and no host")
    if colon and not port:
        raise ValueError("no port follows the colon")
    return f"{host}:{_port(port)}"


def _port(text: str) -> int:
    if not text:
        return _DEFAULT_PORT
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"its port is {text!r}, not 1 to 65535")
    return int(text)


def _ip(text: str, kind: Callable[[str], Any]) -> str:
    name = "IPv4" if kind is ipaddress.IPv4Address else "IPv6"
    try:
        kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an {name} address") from None
    return text


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
