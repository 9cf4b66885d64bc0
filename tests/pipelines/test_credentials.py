"""Address and credentials come from arguments and the environment; secrets are never shown."""

from __future__ import annotations

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.kubeflow.api import ClusterAccess, find_access

SECRET = "hush-hush"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """An environment without Kubeflow's variables."""
    for name in ("ENDPOINT", "UI_ENDPOINT", "TOKEN", "COOKIE", "SA_TOKEN_PATH"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    return str(path)


def test_address_may_be_typed_or_copied_from_a_browser():
    for typed, host in (
        ("http://localhost:8080", "http://localhost:8080"),
        ("https://ml.example.com/pipeline/", "https://ml.example.com/pipeline"),
        ("https://ml.example.com/pipeline/#/runs/details/1", "https://ml.example.com/pipeline"),
        (" ml.example.com ", "https://ml.example.com"),
        ("ml-pipeline.kubeflow:8888", "https://ml-pipeline.kubeflow:8888"),
    ):
        assert ClusterAccess(host=typed).host == host, typed


def test_unusable_address_is_refused():
    addresses = (
        "ftp://host",
        "https://",
        "https://me:hush-hush@host",
        "http://a b",
        "https://h?x=1",
    )
    for address in addresses:
        with pytest.raises(UsageError, match="is not the address of Kubeflow Pipelines") as caught:
            ClusterAccess(host=address)
        assert SECRET not in str(caught.value), address


def test_environment_supplies_what_arguments_lack(monkeypatch, token):
    with pytest.raises(UsageError, match="give --host URL or set KF_PIPELINES_ENDPOINT"):
        find_access()
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "https://a")
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://b/")
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "session=1")
    access = find_access(namespace="team-a")
    assert (access.host, access.ui, access.namespace) == ("https://a", "https://b", "team-a")
    assert (access.token, access.token_file, access.cookie) == (SECRET, None, "session=1")
    assert find_access(host="https://c").host == "https://c"
    by_file = find_access(token_file=token)
    assert (by_file.token, by_file.token_file) == (None, token)


def test_token_of_the_pod_is_read_from_its_usual_path(monkeypatch, token):
    with pytest.raises(UsageError, match="/var/run/secrets/kubeflow/pipelines/token: the token"):
        find_access(host="https://a", pod_token=True)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", token)
    assert find_access(host="https://a", pod_token=True).token_file == token
    with pytest.raises(UsageError, match="give one of them"):
        find_access(host="https://a", pod_token=True, token_file=token)


def test_repr_holds_no_secret():
    access = ClusterAccess(host="https://a", token=SECRET, cookie=SECRET)
    assert SECRET not in repr(access)


def test_file_without_a_token_is_refused(tmp_path):
    path = tmp_path / "token"
    for content in (b"", b" \n", b"a\nb", b"\xff\xfe", "tökén".encode()):
        path.write_bytes(content)
        message = "token: (holds no token of one line|the token cannot be read)"
        with pytest.raises(UsageError, match=message) as caught:
            ClusterAccess(host="https://a", token_file=str(path))
        assert "\n" not in str(caught.value), content


def test_unusable_value_is_refused_without_showing_a_secret(tmp_path, token):
    for given, message in (
        ({"token": f"{SECRET}\n{SECRET}"}, "the token is empty or has several lines"),
        ({"cookie": f"{SECRET}\r\nX: y"}, "the cookie is empty or has several lines"),
        ({"token": SECRET, "token_file": token}, "give one of them"),
        ({"token_file": str(tmp_path / "gone")}, "gone: the token cannot be read (No such file"),
        ({"token_file": str(tmp_path)}, "the token cannot be read (Is a directory)"),
        ({"ca": str(tmp_path / "ca.pem")}, "ca.pem: holds no CAs (No such file"),
        ({"ca": token}, "token: holds no CAs ("),
        ({"namespace": "Team A"}, "namespace is 'Team A'"),
    ):
        with pytest.raises(UsageError) as caught:
            ClusterAccess(host="https://a", **given)
        assert message in str(caught.value)
        assert SECRET not in str(caught.value), message
