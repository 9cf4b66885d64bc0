"""TLS and tokens with real servers and certificates, and the messages of failed connections."""

import shutil
from pathlib import Path

import grpc
import pytest
from c3d_client.core.contract import FC6_FEATURES
from c3d_client.core.errors import ServingError, ServingUnavailable, UsageError
from c3d_client.serving.client import ServingClient
from c3d_client.serving.options import ServingOptions
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from support.certificates import Authority, key_pem, server_credentials
from support.fake_serving import FakeServing, clips_of

TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"), "our-ca")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("theirs"), "their-ca")


@pytest.fixture(scope="module")
def client_identity(ours):
    return ours.identity("client")


def served(identity, clients=None):
    server = FakeServing(credentials=server_credentials(identity, clients))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tls_server(ours):
    """A server with a certificate for 127.0.0.1 and localhost."""
    yield from served(ours.identity("server", hosts=("127.0.0.1", "localhost")))


@pytest.fixture(scope="module")
def named_server(ours):
    """A server with a certificate for another name than its address."""
    yield from served(ours.identity("named", hosts=("c3d.example",)))


@pytest.fixture(scope="module")
def mutual_server(ours):
    """A server that accepts only clients with a certificate of our CA."""
    yield from served(ours.identity("mutual", hosts=("127.0.0.1",)), ours)


def predict(target, **changes):
    """Send one request and return a value of the answer."""
    options = ServingOptions(**{"target": target, "timeout_s": 30, **changes})
    with ServingClient(options) as client:
        return client.predict(FC6_FEATURES, clips_of(6)).output[0, 0]


class TestConnection:
    def test_with_the_right_ca(self, tls_server, ours):
        assert predict(tls_server.target, ca=ours.cert) == 7
        assert predict(f"localhost:{tls_server.port}", ca=str(ours.cert)) == 7
        assert predict(f"dns:///localhost:{tls_server.port}", ca=ours.cert) == 7

    def test_with_another_name_and_override_name(self, named_server, ours):
        assert predict(named_server.target, ca=ours.cert, override_name="c3d.example") == 7

    def test_with_a_client_certificate(self, mutual_server, ours, client_identity):
        files = {"cert": client_identity.cert, "key": client_identity.key}
        assert predict(mutual_server.target, ca=ours.cert, **files) == 7

    def test_token_and_metadata_are_sent_with_every_request(self, tls_server, ours):
        options = ServingOptions(
            tls_server.target,
            ca=ours.cert,
            token=TOKEN,
            metadata=(("X-Route", "b"), ("x-project", "7")),
        )
        with ServingClient(options) as client:
            for request in (client.versions, client.model_info):
                tls_server.metadata = {}
                request()
                sent = tls_server.metadata
                assert sent["authorization"] == f"Bearer {TOKEN}"
                assert (sent["x-route"], sent["x-project"]) == ("b", "7")

    def test_token_is_sent_without_tls_within_this_machine(self, fake_serving):
        server = fake_serving()
        predict(server.target, token=TOKEN)
        assert server.metadata["authorization"] == f"Bearer {TOKEN}"

    def test_no_proxy_is_used_within_this_machine(self, fake_serving, closed_port, monkeypatch):
        for name in ("grpc_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://{closed_port}")
        server = fake_serving()
        assert predict(f"localhost:{server.port}", token=TOKEN) == 7


# Case -> the server, the client's options, and the advice in the error.
FAILURES = {
    "plaintext to a TLS port": ("tls_server", {}, r"may speak TLS at this port \(tls, ca\)"),
    "TLS to a plaintext port": ("plain", {"tls": True}, "does not speak TLS at this port"),
    "another CA": ("tls_server", {"ca": "theirs"}, "CA that is not trusted here; give .* as ca"),
    "the CAs that gRPC contains": ("tls_server", {"tls": True}, "CA that is not trusted here"),
    "another name": ("named_server", {"ca": "ours"}, "is for another name; .* override_name"),
    "another override": (
        "tls_server",
        {"ca": "ours", "override_name": "c3d.example"},
        "is for another name",
    ),
    "an old certificate": ("expired", {"ca": "ours"}, "has expired; it needs a new one"),
    "no client certificate": (
        "mutual_server",
        {"ca": "ours"},
        r"may need a client certificate \(cert, key\)",
    ),
    "another CA's client": (
        "mutual_server",
        {"ca": "ours", "client": "theirs"},
        "may need another client certificate",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failed_connection_is_one_line_with_advice(request, fake_serving, case):
    server, options, message = FAILURES[case]
    ours = request.getfixturevalue("ours")
    changes = dict(options)
    if server == "plain":
        target = fake_serving().target
    elif server == "expired":
        old = ours.identity("expired", hosts=("127.0.0.1",), days=-1)
        target = fake_serving(credentials=server_credentials(old)).target
    else:
        target = request.getfixturevalue(server).target
    if "ca" in changes:
        changes["ca"] = request.getfixturevalue(changes["ca"]).cert
    if "client" in changes:
        stranger = request.getfixturevalue(changes.pop("client")).identity("stranger")
        changes |= {"cert": stranger.cert, "key": stranger.key}
    with pytest.raises(ServingUnavailable, match=message) as caught:
        predict(target, **changes)
    assert str(caught.value).startswith(f"{target}: ")
    assert caught.value.code == "UNAVAILABLE"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_rejected_token_is_not_retried_and_not_shown(fake_serving, code):
    def on_predict(_request, _rows, context):
        context.abort(grpc.StatusCode[code], "access denied")

    server = fake_serving(on_predict)
    with pytest.raises(ServingError, match="does not let this client in; check token") as caught:
        predict(server.target, token=TOKEN)
    assert TOKEN not in str(caught.value)
    assert len(server.requests) == 1


@pytest.fixture
def files(tmp_path, ours, client_identity):
    """Copies of valid files that a test may damage."""
    folder = Path(tmp_path)
    for name, path in (
        ("ca", ours.cert),
        ("cert", client_identity.cert),
        ("key", client_identity.key),
    ):
        shutil.copy(path, folder / f"{name}.pem")
    return {name: folder / f"{name}.pem" for name in ("ca", "cert", "key")}


class TestFiles:
    @pytest.mark.parametrize("name", ["ca", "cert", "key"])
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"no certificate\n",
            b"\x30\x82\x01\x0a\x00\xff" * 20,
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            None,
        ],
        ids=["empty", "text", "DER", "broken certificate", "broken key", "missing"],
    )
    def test_invalid_file_is_an_error_before_any_request(self, closed_port, files, name, content):
        if content is None:
            files[name].unlink()
        else:
            files[name].write_bytes(content)
        with pytest.raises(UsageError, match="give a PEM file") as caught:
            ServingClient(ServingOptions(closed_port, **files))
        assert str(caught.value).startswith(f"{files[name]}: {name} ")
        assert "\n" not in str(caught.value)

    def test_folder_is_an_error(self, closed_port, tmp_path):
        with pytest.raises(UsageError, match="ca cannot be read") as caught:
            ServingClient(ServingOptions(closed_port, ca=tmp_path))
        assert str(caught.value).startswith(f"{tmp_path}: ")

    def test_key_of_another_certificate_is_an_error(self, closed_port, files, theirs):
        files["key"] = theirs.identity("other").key
        with pytest.raises(UsageError, match=f"{files['key']}: key is not that of .*cert.pem"):
            ServingClient(ServingOptions(closed_port, **files))

    def test_key_with_a_passphrase_is_an_error(self, closed_port, files):
        key = load_pem_private_key(files["key"].read_bytes(), None)
        files["key"].write_bytes(key_pem(key, b"open sesame"))
        with pytest.raises(UsageError, match="key.pem: key has a passphrase"):
            ServingClient(ServingOptions(closed_port, **files))
