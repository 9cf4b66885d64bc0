"""Checks before a run is sent: namespace, account, claims, secrets, queue, in this order."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from c3d_client.core.cli import run_command
from c3d_pipelines.commands.cluster import schedule, submit
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.checks import before_sending
from c3d_pipelines.kubeflow.cluster import ClusterSettings
from c3d_pipelines.kubeflow.compile import EXPORT, EXTRACTION, compile_pipeline, compiled_path
from c3d_pipelines.kubeflow.submit import Package, RunOptions
from support.fake_kube import TOKEN, FakeKube, fake_kube

pytestmark = pytest.mark.usefixtures("bare")

K8S = Path(__file__).parents[2] / "k8s"
UNCHECKED = "service account, claims and secrets: not checked, because"


def claim(kube: FakeKube, name: str, namespace: str, mode="ReadWriteMany", phase="Bound", **meta):
    """Add a claim."""
    spec, status = {"accessModes": [mode]}, {"phase": phase}
    plural = "persistentvolumeclaims"
    kube.add(plural, name, namespace, spec=spec, status=status, metadata=meta)


def kubeflow(kube: FakeKube, namespace: str = "kubeflow") -> None:
    """Add Kubeflow Pipelines, its account, and what the pipelines need by default."""
    kube.add("services", "ml-pipeline", namespace)
    kube.add("serviceaccounts", "pipeline-runner", namespace)
    for setup in ("pipelines-data", "pipelines-models"):
        declared = yaml.safe_load((K8S / "setup" / setup / "claim.yaml").read_text())
        claim(kube, declared["metadata"]["name"], namespace, *declared["spec"]["accessModes"])


@pytest.fixture
def kube(tmp_path, monkeypatch):
    """A Kubernetes API that the kubeconfig names, without Kubeflow."""
    with fake_kube() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        yield server


@pytest.fixture
def found(kfp, tmp_path):
    """Return the texts of the findings, with a mark before those that prevent a run."""

    def look(pipeline=EXTRACTION, *, namespace="", account=None, kubernetes=True, **settings):
        path = compiled_path(pipeline)
        if settings:
            path = tmp_path / f"{pipeline}.yaml"
            compile_pipeline(pipeline, path, ClusterSettings(**settings))
        token = next(iter(kfp.tokens), None)
        options = RunOptions(service_account=account)
        with Backend(ClusterAccess(host=kfp.url, namespace=namespace, token=token)) as backend:
            findings = before_sending(backend, Package(path), options, kubernetes=kubernetes)
        assert all("\n" not in finding.text for finding in findings)
        return [("! " if finding.prevents else "") + finding.text for finding in findings]

    return look


def test_cluster_that_has_all_is_found_without_a_word(kube, found):
    kubeflow(kube)
    assert found() == found(EXPORT) == found(namespace="kubeflow") == []
    assert found(account="pipeline-runner") == []


def test_account_and_claims_of_the_manifests_are_those_of_kubeflow_and_of_the_set_up():
    objects = [yaml.safe_load(path.read_text()) for path in (K8S / "pipelines").glob("*.yaml")]
    kinds = {found["kind"] for found in objects}
    assert kinds == {"Kustomization", "ConfigMap"}


def test_without_access_to_kubernetes_one_line_names_what_was_not_checked(
    kube, found, monkeypatch, tmp_path
):
    assert found() == [f"{UNCHECKED} context fake shows no Kubeflow Pipelines"]
    kube.kubeconfig(tmp_path / "config", token="old")
    (line,) = found()
    assert line.startswith(f"{UNCHECKED} Kubernetes (context fake): answers HTTP 401")
    (tmp_path / "config").write_text("{")
    assert found()[0].startswith(f"{UNCHECKED} kubeconfig: cannot be used")
    monkeypatch.delenv("KUBECONFIG")
    assert found() == [f"{UNCHECKED} there is no kubeconfig"]
    assert found(kubernetes=False) == []


def test_single_user_backend_that_ignores_the_namespace_is_reported(kube, found, monkeypatch):
    ignored = "namespace team: not used; this Kubeflow Pipelines has a single user and runs"
    kubeflow(kube)
    assert found(namespace="team") == [f"{ignored} everything in kubeflow"]
    monkeypatch.delenv("KUBECONFIG")
    assert found(namespace="team")[0] == f"{ignored} everything in its own namespace"


def test_kubeflow_in_another_namespace_is_found_by_the_context(kube, found, tmp_path):
    kubeflow(kube, "ml")
    kube.kubeconfig(tmp_path / "config", namespace="ml")
    assert found() == []
    kube.kubeconfig(tmp_path / "config")
    assert found(namespace="ml") == []


def test_missing_account_is_reported(kube, found):
    kubeflow(kube)
    assert found(account="runner") == [
        "! service account runner: does not exist in kubeflow; leave out --service-account to use "
        "Kubeflow's own"
    ]
    del kube.objects["/api/v1/namespaces/kubeflow/serviceaccounts/pipeline-runner"]
    assert found() == [
        "service account pipeline-runner: does not exist in kubeflow; if the run fails at once, "
        "give --service-account"
    ]


def test_account_without_a_token_is_reported(kube, found):
    kubeflow(kube)
    kube.add("serviceaccounts", "mute", "kubeflow", automountServiceAccountToken=False)
    (line,) = found(account="mute")
    assert line.startswith("! service account mute: mounts no token")
    assert line.endswith("give --service-account pipeline-runner")
    kube.add("serviceaccounts", "mute", "kubeflow", automountServiceAccountToken=True)
    assert found(account="mute") == []


def test_account_of_earlier_manifests_is_warned_of_also_without_kubernetes(
    kube, found, monkeypatch
):
    kubeflow(kube)
    kube.add("serviceaccounts", "c3d-pipelines", "kubeflow", automountServiceAccountToken=False)
    old, token = found(account="c3d-pipelines")
    assert "cannot run a pipeline" in old
    assert "pipeline-runner, or default-editor in a user's namespace" in old
    assert token.startswith("! service account c3d-pipelines: mounts no token")
    monkeypatch.delenv("KUBECONFIG")
    assert found(account="c3d-pipelines")[0] == old


def test_missing_claim_is_reported_with_the_command_that_makes_it(kube, found):
    kubeflow(kube)
    for pipeline, name, setup in (
        (EXTRACTION, "c3d-pipelines-data", "pipelines-data"),
        (EXPORT, "c3d-models", "pipelines-models"),
    ):
        del kube.objects[f"/api/v1/namespaces/kubeflow/persistentvolumeclaims/{name}"]
        assert found(pipeline) == [
            f"! claim {name}: does not exist in kubeflow; kubectl apply --namespace kubeflow -k "
            f"k8s/setup/{setup}"
        ]
        assert (K8S / "setup" / setup / "kustomization.yaml").exists()
    assert found(pvc_mounts={"mine": "/data"}) == [
        "! claim mine: does not exist in kubeflow; create it, or give --pvc"
    ]


def test_state_and_access_mode_of_a_claim_are_looked_at(kube, found):
    kubeflow(kube)
    for mode, phase, meta, part in (
        ("ReadWriteMany", "Lost", {}, "! claim c3d-pipelines-data: has lost its volume"),
        ("ReadWriteMany", "Bound", {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "being deleted"),
        ("ReadWriteMany", "Pending", {}, "has no volume yet"),
        ("ReadWriteOnce", "Bound", {}, "all pods of the run must be on one node"),
        ("ReadWriteOncePod", "Bound", {}, "wait for each other"),
        ("ReadOnlyMany", "Bound", {}, "cannot write"),
    ):
        claim(kube, "c3d-pipelines-data", "kubeflow", mode, phase, **meta)
        (line,) = found()
        assert part in line, mode
        assert line.startswith("!") == bool(phase == "Lost" or meta)


@pytest.mark.long
def test_secrets_and_queue_are_looked_up_in_a_fixed_order(kube, found):
    kubeflow(kube)
    settings = {
        "pvc_mounts": {"b": "/data", "a": "/more"},
        "secret_volumes": {"ca": "/etc/ca"},
        "secret_env": {"s3": {"key": "AWS_SECRET_ACCESS_KEY"}},
        "image_pull_secrets": ("registry",),
        "queue": "batch",
    }
    assert found(account="runner", namespace="team", **settings) == [
        "namespace team: not used; this Kubeflow Pipelines has a single user and runs everything "
        "in kubeflow",
        "! service account runner: does not exist in kubeflow; leave out --service-account to use "
        "Kubeflow's own",
        "! claim a: does not exist in kubeflow; create it, or give --pvc",
        "! claim b: does not exist in kubeflow; create it, or give --pvc",
        "! secret ca: does not exist in kubeflow",
        "secret s3: does not exist in kubeflow; its variables stay unset",
        "secret registry: does not exist in kubeflow; images are pulled without it",
        "queue batch: there is no such LocalQueue in kubeflow",
    ]
    for name in ("ca", "s3", "registry"):
        kube.add("secrets", name, "kubeflow")
    for name in ("a", "b"):
        claim(kube, name, "kubeflow")
    for version in ("v1beta1", "v1beta2"):
        kube.add("localqueues", "batch", "kubeflow", api=f"apis/kueue.x-k8s.io/{version}")
        assert found(**settings) == []
        kube.objects = {k: v for k, v in kube.objects.items() if "kueue" not in k}


def test_objects_that_the_user_may_not_read_are_named(kube, found):
    kubeflow(kube)
    folder = "/api/v1/namespaces/kubeflow"
    kube.forbidden = {
        f"{folder}/serviceaccounts/pipeline-runner",
        f"{folder}/persistentvolumeclaims/c3d-pipelines-data",
    }
    assert found() == [
        "service account pipeline-runner: not checked, because the user may not read it",
        "claim c3d-pipelines-data: not checked, because the user may not read it",
    ]


def test_namespace_of_several_users_must_exist(kube, found, kfp):
    kfp.multi_user, kfp.tokens = True, {"t": {"team"}}
    assert found(namespace="team") == [f"{UNCHECKED} context fake shows no Kubeflow Pipelines"]
    kube.add("services", "ml-pipeline", "kubeflow")
    assert found(namespace="team") == ["! namespace team: does not exist"]
    kube.forbidden = {"/api/v1/namespaces/team"}
    assert "! namespace team: does not exist" not in found(namespace="team")


def test_profile_is_known_by_its_label_or_its_account(kube, found, kfp):
    kfp.multi_user, kfp.tokens = True, {"t": {"team"}}
    claim(kube, "c3d-pipelines-data", "team")
    label = {"pipelines.kubeflow.org/enabled": "true"}
    kube.add("namespaces", "team", metadata={"labels": label})
    (line,) = found(namespace="team")
    assert line.startswith("service account default-editor: does not exist in team")
    kube.add("namespaces", "team")
    kube.add("serviceaccounts", "default-editor", "team")
    assert found(namespace="team") == []


# The commands


@pytest.fixture
def c3d_pipelines(kfp, capsys):
    """Run a command as a shell does; return its exit code, stdout and lines of stderr."""

    def run(name: str, *arguments: object) -> tuple[int, str, list[str]]:
        group = click.Group(commands={"submit": submit, "schedule": schedule})
        texts = [name, "--host", kfp.url, *(str(argument) for argument in arguments)]
        with pytest.raises(SystemExit) as ended:
            run_command(group, texts, name="c3d-pipelines", interrupted="")
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return ended.value.code, out, err.splitlines()

    return run


SENDING = (
    ("submit", "--package", compiled_path(EXTRACTION)),
    ("schedule", "--cron", "0 0 2 * * *", "--package", compiled_path(EXTRACTION)),
)


def test_commands_create_nothing_where_a_check_fails(kube, kfp, c3d_pipelines):
    kubeflow(kube)
    del kube.objects["/api/v1/namespaces/kubeflow/persistentvolumeclaims/c3d-pipelines-data"]
    for command in SENDING:
        code, out, err = c3d_pipelines(*command, "--namespace", "team")
        assert (code, out, len(err)) == (2, "", 3)
        assert err[0].startswith("c3d-pipelines: namespace team: not used")
        assert err[1].startswith("c3d-pipelines: claim c3d-pipelines-data: does not exist")
        assert err[2].startswith("c3d-pipelines: nothing was sent; if the kubeconfig is of another")
        assert (kfp.experiments, kfp.runs, kfp.schedules) == ({}, {}, {})
    for command in SENDING:
        code, out, err = c3d_pipelines(*command, "--no-check")
        assert (code, bool(out), err) == (0, True, [])


def test_commands_print_notes_and_send(kube, kfp, c3d_pipelines):
    kubeflow(kube)
    claim(kube, "c3d-pipelines-data", "kubeflow", "ReadWriteOnce")
    for command in SENDING:
        code, _, err = c3d_pipelines(*command)
        assert code == 0
        assert err == [
            "c3d-pipelines: claim c3d-pipelines-data: ReadWriteOnce, so all pods of the run must "
            "be on one node"
        ]


def test_parameters_are_checked_before_any_request(kube, kfp, c3d_pipelines):
    for command in SENDING:
        for parameter, message in (
            ("tail=dorp", "tail is 'dorp'; give one of drop, pad, loop"),
            ("stride=0", "stride is 0; give 1 or more"),
            ("max_shards=201", "max_shards is 201; give 200 or fewer"),
            ("batch_size=100000", "batch_size is 100000; give"),
            ("stirde=4", "there is no parameter 'stirde'; did you mean stride? there are stride"),
            ("nothing=4", "there is no parameter 'nothing'; there are any_file, batch_size"),
        ):
            code, out, err = c3d_pipelines(*command, "--param", parameter)
            assert (code, out, len(err)) == (2, "", 1), parameter
            assert message in err[0]
    assert (kfp.requests, kube.requests) == ([], [])
