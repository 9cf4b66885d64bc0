"""The TLS component's script turns a Secret into the SSLConfig that TensorFlow Serving reads."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest
from support.certificates import Authority

from k8s.render import K8S
from k8s.server import parse_config

SCRIPT = K8S / "components" / "tls" / "ssl-config.sh"


@pytest.fixture(params=["\n", "\r\n"], ids=["LF", "CRLF"])
def secret(tmp_path, request):
    """The files of a Secret of cert-manager; `plain-*` are the files with LF."""
    authority = Authority(tmp_path, "ca")
    server = authority.identity("server", hosts=("localhost",))
    folder = tmp_path / "secret"
    folder.mkdir()
    files = {"tls.crt": server.cert, "tls.key": server.key, "ca.crt": authority.cert}
    for name, source in files.items():
        content = source.read_bytes().replace(b"\n", request.param.encode())
        folder.joinpath(name).write_bytes(content)
        shutil.copy(source, folder / f"plain-{name}")
    return folder


def run(secret, target, **environment):
    subprocess.run(
        ["/bin/sh", str(SCRIPT), str(secret), str(target)],
        env={"PATH": os.environ["PATH"], **environment},
        check=True,
        capture_output=True,
    )
    return parse_config("SSLConfig", target.read_text())


def test_the_config_holds_the_key_and_the_certificate(secret, tmp_path):
    config = run(secret, tmp_path / "ssl.config")
    assert config.server_key == (secret / "plain-tls.key").read_text()
    assert config.server_cert == (secret / "plain-tls.crt").read_text()
    assert (config.custom_ca, config.client_verify) == ("", False)


def test_mutual_tls_requires_certificates_of_the_authority(secret, tmp_path):
    config = run(secret, tmp_path / "ssl.config", C3D_TLS_CLIENT_VERIFY="true")
    assert config.custom_ca == (secret / "plain-ca.crt").read_text()
    assert config.client_verify


def test_only_the_owner_can_read_the_config(secret, tmp_path):
    run(secret, tmp_path / "ssl.config")
    assert stat.S_IMODE((tmp_path / "ssl.config").stat().st_mode) == 0o600


def test_no_config_is_written_without_a_key(secret, tmp_path):
    (secret / "tls.key").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        run(secret, tmp_path / "ssl.config")
    assert not (tmp_path / "ssl.config").exists()
