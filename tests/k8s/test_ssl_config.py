"""The TLS component's script makes of a Secret what TensorFlow Serving reads."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest
from support.certificates import Authority

from k8s.bundle import K8S
from k8s.protos import parse

SCRIPT = K8S / "components" / "tls" / "ssl-config.sh"


@pytest.fixture(params=["\n", "\r\n"], ids=["lines as written", "carriage returns"])
def secret(tmp_path, request):
    """A Secret's files as cert-manager writes them."""
    authority = Authority(tmp_path, "ca")
    server = authority.identity("server", hosts=("localhost",))
    folder = tmp_path / "secret"
    folder.mkdir()
    for source, name in (
        (server.cert, "tls.crt"),
        (server.key, "tls.key"),
        (authority.cert, "ca.crt"),
    ):
        folder.joinpath(name).write_bytes(
            source.read_bytes().replace(b"\n", request.param.encode())
        )
        shutil.copy(source, folder / f"plain-{name}")
    return folder


def run(secret, target, **environment):
    subprocess.run(
        ["/bin/sh", str(SCRIPT), str(secret), str(target)],
        env={"PATH": os.environ["PATH"], **environment},
        check=True,
        capture_output=True,
    )
    return parse("SSLConfig", target.read_text())


def test_the_pem_files_arrive_whole(secret, tmp_path):
    config = run(secret, tmp_path / "ssl.config")
    assert config.server_key == (secret / "plain-tls.key").read_text()
    assert config.server_cert == (secret / "plain-tls.crt").read_text()
    assert (config.custom_ca, config.client_verify) == ("", False)


def test_mutual_tls_asks_for_certificates_of_the_authority(secret, tmp_path):
    config = run(secret, tmp_path / "ssl.config", C3D_TLS_CLIENT_VERIFY="true")
    assert config.custom_ca == (secret / "plain-ca.crt").read_text()
    assert config.client_verify


def test_the_private_key_is_for_its_owner_alone(secret, tmp_path):
    run(secret, tmp_path / "ssl.config")
    assert stat.S_IMODE((tmp_path / "ssl.config").stat().st_mode) == 0o600


def test_without_a_key_nothing_is_left(secret, tmp_path):
    (secret / "tls.key").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        run(secret, tmp_path / "ssl.config")
    assert not (tmp_path / "ssl.config").exists()
