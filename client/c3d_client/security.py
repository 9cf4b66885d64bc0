"""The files behind TLS: read and checked before anything is sent.

gRPC takes PEM bytes unseen and fails later, at every connection, without naming a file; Python's
own TLS library says at once what is wrong.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from c3d_client.errors import UsageError
from c3d_client.options import ServingOptions


@dataclass(frozen=True)
class TlsFiles:
    """PEM bytes as gRPC takes them; None where nothing was named."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


def read_tls_files(options: ServingOptions) -> TlsFiles:
    """Read the certificates and the key that the options name.

    Raises:
        UsageError: a file cannot be read, is not what it should be, or the key is another
            certificate's.
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
        # An empty passphrase, or OpenSSL would ask for one on the terminal.
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
