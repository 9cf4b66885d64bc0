"""Who asks, and where, comes from arguments and the environment, and is never shown."""

from __future__ import annotations

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.kubeflow.api import ClusterAccess, find_access

HUSH = "hush-hush"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """An environment that says nothing of Kubeflow."""
    for name in ("ENDPOINT", "UI_ENDPOINT", "TOKEN", "COOKIE", "SA_TOKEN_PATH"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{HUSH}\n")
    return str(path)


@pytest.mark.parametrize(
    ("typed", "host"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        ("https://ml.example.com/pipeline/", "https://ml.example.com/pipeline"),
        ("https://ml.example.com/pipeline/#/runs/details/1", "https://ml.example.com/pipeline"),
        (" ml.example.com ", "https://ml.example.com"),
        ("ml-pipeline.kubeflow:8888", "https://ml-pipeline.kubeflow:8888"),
    ],
)
def test_an_address_is_taken_as_it_is_typed_or_copied(typed, host):
    assert ClusterAccess(host=typed).host == host


@pytest.mark.parametrize(
    "typed", ["ftp://host", "https://", "https://me:hush-hush@host", "http://a b", "https://h?x=1"]
)
def test_what_is_no_address_is_refused(typed):
    with pytest.raises(UsageError, match="is not the address of Kubeflow Pipelines") as failed:
        ClusterAccess(host=typed)
    assert HUSH not in str(failed.value)


def test_the_environment_says_what_arguments_do_not(monkeypatch, token):
    with pytest.raises(UsageError, match="give --host URL or set KF_PIPELINES_ENDPOINT"):
        find_access()
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "https://a")
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://b/")
    monkeypatch.setenv("KF_PIPELINES_TOKEN", HUSH)
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "session=1")
    found = find_access(namespace="team-a")
    assert (found.host, found.ui, found.namespace) == ("https://a", "https://b", "team-a")
    assert (found.token, found.token_file, found.cookie) == (HUSH, None, "session=1")
    assert find_access(host="https://c").host == "https://c"
    by_file = find_access(token_file=token)
    assert (by_file.token, by_file.token_file) == (None, token)


def test_the_pods_own_token_is_taken_where_it_is(monkeypatch, token):
    with pytest.raises(UsageError, match="/var/run/secrets/kubeflow/pipelines/token: the token"):
        find_access(host="https://a", pod_token=True)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", token)
    assert find_access(host="https://a", pod_token=True).token_file == token
    with pytest.raises(UsageError, match="give one of them"):
        find_access(host="https://a", pod_token=True, token_file=token)


def test_nothing_secret_is_shown():
    access = ClusterAccess(host="https://a", token=HUSH, cookie=HUSH)
    assert HUSH not in repr(access)


@pytest.mark.parametrize("content", [b"", b" \n", b"a\nb", b"\xff\xfe", "tökén".encode()])
def test_a_file_that_holds_no_token_is_refused(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="token: holds no token of one line"):
        ClusterAccess(host="https://a", token_file=str(path))


def test_what_cannot_be_used_is_said_without_it(tmp_path, token):
    for given, said in (
        ({"token": f"{HUSH}\n{HUSH}"}, "the token is empty or of several lines"),
        ({"cookie": f"{HUSH}\r\nX: y"}, "the cookie is empty or of several lines"),
        ({"token": HUSH, "token_file": token}, "give one of them"),
        ({"token_file": str(tmp_path / "gone")}, "gone: the token cannot be read (No such file"),
        ({"token_file": str(tmp_path)}, "the token cannot be read (Is a directory)"),
        ({"ca": str(tmp_path / "ca.pem")}, "ca.pem: holds no CAs (No such file"),
        ({"ca": token}, "token: holds no CAs ("),
        ({"namespace": "Team A"}, "namespace is 'Team A'"),
    ):
        with pytest.raises(UsageError) as failed:
            ClusterAccess(host="https://a", **given)
        assert said in str(failed.value)
        assert HUSH not in str(failed.value)
