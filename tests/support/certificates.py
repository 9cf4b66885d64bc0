"""A certificate authority, and its certificates for servers and clients."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_NOW = datetime.datetime.now(datetime.timezone.utc)


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority; ``self.cert`` is the path of its own certificate.

    Args:
        folder: the folder of the PEM files.
        name: the CA's name, and the start of the files' names.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(_pem(_signed(name, self._key, name, self._key, ca=True)))

    def identity(self, name: str, *, hosts: tuple[str, ...] = (), days: int = 2) -> Identity:
        """Make a certificate for hosts (names or addresses) or a client, valid for some days."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _signed(name, key, self._name, self._key, hosts=hosts, days=days)
        identity = Identity(
            self._folder / f"{self._name}-{name}.pem", self._folder / f"{self._name}-{name}.key"
        )
        identity.cert.write_bytes(_pem(cert))
        identity.key.write_bytes(key_pem(key))
        return identity


def key_pem(key, passphrase: bytes | None = None) -> bytes:
    """Return a private key as PEM, encrypted if there is a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )


def server_credentials(identity: Identity, clients: Authority | None = None):
    """Return a gRPC server's TLS credentials, which may require certificates of clients."""
    return grpc.ssl_server_credentials(
        [(identity.key.read_bytes(), identity.cert.read_bytes())],
        root_certificates=clients and clients.cert.read_bytes(),
        require_client_auth=clients is not None,
    )


def _signed(name, key, issuer, issuer_key, *, ca=False, hosts=(), days=2):
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - datetime.timedelta(days=9))
        .not_valid_after(_NOW + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _host(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM)
