"""The Kubernetes API: found by the kubeconfig or the pod's account; errors are one line."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from c3d_pipelines.kubeflow import kube as library
from c3d_pipelines.kubeflow.kube import KubeError, open_kube
from support.certificates import Authority
from support.fake_kube import TOKEN, fake_kube
from support.processes import LONG_S, wait_until

pytestmark = pytest.mark.usefixtures("bare")


@pytest.fixture
def kube():
    with fake_kube() as server:
        yield server


@pytest.fixture
def opened(kube, tmp_path, monkeypatch):
    """The API, by a kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "config", namespace="team")))
    with open_kube() as opened:
        yield opened


def test_without_a_kubeconfig_and_outside_of_a_pod_there_is_none(monkeypatch, tmp_path):
    assert open_kube() is None
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    assert open_kube() is None


def test_without_the_library_there_is_none(kube, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "config")))
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert open_kube() is None


def test_context_of_the_kubeconfig_is_used(kube, opened):
    kube.add("namespaces", "team", status={"phase": "Active"})
    assert (opened.name, opened.namespace) == ("context fake", "team")
    assert opened.call(opened.core.read_namespace, name="team").metadata.name == "team"
    assert opened.found(opened.core.read_namespace, name="other") is None


def test_kubeconfig_of_several_files_is_merged(kube, tmp_path, monkeypatch):
    whole = json.loads(kube.kubeconfig(tmp_path / "whole").read_text())
    users = {"apiVersion": "v1", "users": whole.pop("users")}
    (tmp_path / "one").write_text(json.dumps(whole))
    (tmp_path / "two").write_text(json.dumps(users))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/one:{tmp_path}/gone:{tmp_path}/two")
    kube.add("namespaces", "team")
    with open_kube() as opened:
        assert opened.namespace == "default"
        assert opened.found(opened.core.read_namespace, name="team")


def test_account_of_the_pod_is_used(tmp_path, monkeypatch):
    from kubernetes.config import incluster_config

    authority = Authority(tmp_path, "ca")
    for name, text in (("token", TOKEN), ("namespace", "team\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(library, "_POD_ACCOUNT", str(tmp_path))
    for name, path in (("TOKEN", tmp_path / "token"), ("CERT", authority.cert)):
        monkeypatch.setattr(incluster_config, f"SERVICE_{name}_FILENAME", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeError, match=r"^the pod's account: cannot be used \(Service host"):
        open_kube()
    with fake_kube(authority.identity("kube", hosts=("127.0.0.1",))) as kube:
        kube.add("namespaces", "team")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", kube.url.rpartition(":")[2])
        with open_kube() as opened:
            assert (opened.name, opened.namespace) == ("the pod's cluster", "team")
            assert opened.found(opened.core.read_namespace, name="team")


def test_refusals_and_silence_are_one_line_without_the_token(kube, opened, monkeypatch):
    kube.forbidden = {"/api/v1/namespaces/team"}
    monkeypatch.setattr(library, "_CONNECT_S", LONG_S)
    for answer_s, status, message in (
        (LONG_S, 403, r'answers HTTP 403: "/api/v1/namespaces/team" is forbidden: User "me"'),
        (0.1, 0, "no answer"),
    ):
        monkeypatch.setattr(library, "_ANSWER_S", answer_s)
        if not status:
            kube.hangs.set()
        with pytest.raises(KubeError) as caught:
            opened.call(opened.core.read_namespace, name="team")
        assert caught.value.status == status
        assert str(caught.value).startswith("Kubernetes (context fake): ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert TOKEN not in str(caught.value)
        assert caught.value.__cause__ is None
    wait_until(lambda: len(kube.requests) >= 2)  # the last one may not be read yet
    assert len(kube.requests) == 2  # each is sent once


def test_wrong_token_is_reported(kube, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "config", token="old")))
    with open_kube() as opened, pytest.raises(KubeError, match="HTTP 401: Unauthorized"):
        opened.call(opened.core.read_namespace, name="team")


def test_api_that_is_away_is_reported(kube, tmp_path, monkeypatch, caplog):
    kube.url = "http://127.0.0.1:1"
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "config")))
    with open_kube() as opened, pytest.raises(KubeError, match="no answer .*refused"):
        opened.call(opened.core.read_namespace, name="team")
    assert caplog.text == ""  # warnings of libraries would be on the screen


def test_unusable_kubeconfig_is_one_line(kube, tmp_path, monkeypatch):
    path = kube.kubeconfig(tmp_path / "config")
    monkeypatch.setenv("KUBECONFIG", str(path))
    whole = json.loads(path.read_text())
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-program"}
    users = [{"name": "me", "user": {"exec": {**program, "interactiveMode": "Never"}}}]
    before = list(logging.getLogger().handlers)
    for text, reason in (
        ("{", "while parsing"),
        ("", "file is empty"),
        ("[]", "list"),
        (json.dumps({**whole, "current-context": "other"}), "other"),
        (json.dumps({**whole, "clusters": []}), "fake"),
        (json.dumps({**whole, "users": users}), "no-such-program"),
    ):
        path.write_text(text)
        with pytest.raises(KubeError) as caught:
            open_kube()
        assert str(caught.value).startswith("kubeconfig: cannot be used (")
        assert reason in str(caught.value), text
        assert "\n" not in str(caught.value)
    assert logging.getLogger().handlers == before
