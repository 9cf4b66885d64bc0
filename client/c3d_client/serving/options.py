"""Options of the connection to the server, checked when they are made."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import ssl
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from c3d_client.core.contract import DEFAULT_TARGET, MAX_BATCH_SIZE, MODEL_NAME
from c3d_client.core.errors import UsageError
from c3d_client.serving.address import checked_address, local_path

# Longer than a full queue of the server holds work, and than a server takes to restart and load.
PATIENCE_S = 300.0
# Long enough for a server that is starting, and short enough for a mistyped address.
FIRST_PATIENCE_S = 20.0

_PLAIN_ADDRESS = re.compile(r"\[(?P<six>[^]]+)](:\d+)?|(?P<host>[^:\[\]]+)(:\d+)?")
# Metadata that gRPC sends unchanged, from
# https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class ServingOptions:
    """Options of the connection to the server.

    Args:
        target: gRPC address: ``host:port``, ``dns:///host:port``,
            ``ipv4:address:port,address:port``, ``ipv6:[address]:port`` or ``unix:path``; calls are
            spread over all addresses. Without a port it is 8500. Or ``local:PATH``, for a server
            that this process starts and stops (see :meth:`c3d_client.C3DClient.local`).
        model: the served model's name.
        version: a numeric version; None for the newest.
        timeout_s: the timeout of one attempt, in seconds.
        retries: the former option for attempts; 0 is ``patience_s=0``, and other numbers have no
            effect. Ignored where ``patience_s`` is given.
        batch_size: clips in a request, 1 to 32; or, with the same bytes, up to twice as many halves
            of clips, where the model takes halves.
        max_in_flight: the most requests in flight, of all threads together; the concurrency limit
            starts at 4 and adapts up to this (see :mod:`c3d_client.serving.concurrency`).
        label: a version by its label, e.g. ``"stable"``; it excludes ``version``.
        tls: use TLS. The files below and ``override_name`` imply it.
        ca: PEM file of the CAs to trust; None for those that gRPC contains.
        cert: PEM file of the client's certificate chain; requires ``key``.
        key: PEM file of the certificate's private key, without a passphrase.
        override_name: the name in the server's certificate, where the target has another name.
        token: sent as ``authorization: Bearer TOKEN``, only over TLS or within this machine.
        metadata: further pairs that are sent with every request; keys are lower-cased.
        patience_s: how long a request is sent again, in seconds from its first failure, while the
            server is away or full: after UNAVAILABLE, RESOURCE_EXHAUSTED, CANCELLED and
            DEADLINE_EXCEEDED, and after NOT_FOUND once the model has answered. 0 for one attempt;
            None for 20 s until the server has answered, and 300 s from then on.

    Raises:
        UsageError: a value is out of its range, or two values contradict each other.
    """

    target: str = DEFAULT_TARGET
    model: str = MODEL_NAME
    version: int | None = None
    timeout_s: float = 60.0
    retries: int | None = None
    batch_size: int = 8
    max_in_flight: int = 16
    label: str | None = None
    tls: bool = False
    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    override_name: str | None = None
    token: str | None = field(default=None, repr=False)
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    patience_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", checked_address(self.target))
        if self.version is not None and not 0 <= self.version < 2**63:
            raise UsageError(f"version is {self.version}; give 0 or more, below 2**63")
        if self.label is not None and (not self.label or self.version is not None):
            raise UsageError(
                f"label is {self.label!r} and version is {self.version}; give one of the two"
            )
        if not 0 < self.timeout_s < math.inf:
            raise UsageError(f"timeout_s is {self.timeout_s}; give more than 0 seconds, and an end")
        self._check_patience()
        if not 1 <= self.batch_size <= MAX_BATCH_SIZE:
            raise UsageError(f"batch_size is {self.batch_size}; give 1 to {MAX_BATCH_SIZE} clips")
        if self.max_in_flight < 1:
            raise UsageError(f"max_in_flight is {self.max_in_flight}; give 1 or more")
        self._check_security()
        self._check_metadata()

    def _check_patience(self) -> None:
        if self.retries is not None and self.retries < 0:
            raise UsageError(f"retries is {self.retries}; give 0 or more")
        if self.patience_s is None and self.retries == 0:
            object.__setattr__(self, "patience_s", 0.0)
        elif self.retries:
            warnings.warn(
                "retries has no effect now; patience_s says how long to retry",
                DeprecationWarning,
                stacklevel=4,
            )
        if self.patience_s is not None and not 0 <= self.patience_s < math.inf:
            raise UsageError(f"patience_s is {self.patience_s}; give 0 seconds or more, and an end")

    def patience(self, *, answered: bool) -> float:
        """Return how long a request is sent again, in seconds.

        Args:
            answered: whether the server has answered before.
        """
        if self.patience_s is not None:
            return self.patience_s
        return PATIENCE_S if answered else FIRST_PATIENCE_S

    def _check_security(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise UsageError("cert and key are one client's certificate; give both, or neither")
        implied = (self.ca, self.cert, self.override_name)
        object.__setattr__(self, "tls", self.tls or any(value is not None for value in implied))
        if self.local_path is not None and (self.tls or self.token is not None):
            raise UsageError(
                f"server is {self.target!r}, which this process starts for itself: it takes no "
                f"{'TLS (tls, ca, cert, key, override_name)' if self.tls else 'token'}; leave it "
                "out, or give the address of a server that runs"
            )
        if self.token is None:
            return
        # Neither message contains the token.
        if not _TOKEN.fullmatch(self.token):
            raise UsageError(
                "token is empty or has spaces, line ends or characters beyond ASCII; "
                "give the bare token"
            )
        if not self.tls and not self.is_local:
            raise UsageError(
                f"token would be sent to {self.target} unencrypted; "
                "turn TLS on (tls, or ca for a CA of your own)"
            )

    def _check_metadata(self) -> None:
        pairs = tuple((key.lower(), value) for key, value in self.metadata)
        for key, value in pairs:
            if not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-") or key.endswith("-bin"):
                raise UsageError(
                    f"metadata has the key {key!r}; give letters, digits, '_', '-' and '.', "
                    "without gRPC's prefix grpc- and suffix -bin"
                )
            if key == "authorization":
                raise UsageError("metadata has the key 'authorization'; give the token as token")
            if not _METADATA_VALUE.fullmatch(value):
                raise UsageError(f"metadata {key!r} has a value that is not printable ASCII")
        object.__setattr__(self, "metadata", pairs)

    @property
    def local_path(self) -> str | None:
        """The path in a target ``local:PATH``; None for other targets."""
        return local_path(self.target)

    @property
    def is_local(self) -> bool:
        """Whether data that is sent to the target stays within this machine."""
        if self.local_path is not None:
            return True
        scheme, _, rest = self.target.partition(":")
        if scheme in ("unix", "unix-abstract"):
            return True
        if scheme not in ("dns", "ipv4", "ipv6"):
            rest = self.target
        # The rest of dns://SERVER/name contains a slash and is never local: that DNS server may
        # return any address.
        return all(map(_is_loopback, rest.removeprefix("///").split(",")))


def _is_loopback(address: str) -> bool:
    parts = _PLAIN_ADDRESS.fullmatch(address)
    host = parts and (parts["six"] or parts["host"])
    if not host:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class TlsFiles:
    """The content of the PEM files; None where the options name no file."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


def read_tls_files(options: ServingOptions) -> TlsFiles:
    """Read the certificates and the key that the options name.

    Raises:
        UsageError: a file cannot be read or is not valid, or the key does not belong to the
            certificate.
    """
    ca = cert = key = None
    if options.ca is not None:
        ca = _read_certificates("ca", options.ca)
    if options.cert is not None and options.key is not None:
        cert = _read_certificates("cert", options.cert)
        key = _read("key", options.key)
        _check_key(options.cert, options.key, encrypted=b"ENCRYPTED" in key)
    return TlsFiles(ca, cert, key)


def _read(name: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{os.fspath(path)}: {name} cannot be read ({error.strerror}); give a PEM file"
        ) from error


def _read_certificates(name: str, path: str | os.PathLike[str]) -> bytes:
    content = _read(name, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise UsageError(
            f"{os.fspath(path)}: {name} holds no certificate that can be read "
            f"({_reason(error)}); give a PEM file"
        ) from error
    return content


def _check_key(
    cert: str | os.PathLike[str], key: str | os.PathLike[str], *, encrypted: bool
) -> None:
    if encrypted:
        raise UsageError(f"{os.fspath(key)}: key has a passphrase; give it without one")
    try:
        # Without a passphrase OpenSSL would prompt for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        what = (
            f"key is not that of {os.fspath(cert)}"
            if error.reason == "KEY_VALUES_MISMATCH"
            else f"key is not a private key that can be read ({_reason(error)}); give a PEM file"
        )
        raise UsageError(f"{os.fspath(key)}: {what}") from error


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").replace("_", " ").lower()
