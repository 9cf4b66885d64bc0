"""What `submit` looks up before it sends, on a real Kubernetes: found, missing and forbidden.

The API of Kubeflow Pipelines is the tests' own; its Service and account are in the namespace.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.checks import before_sending
from c3d_pipelines.kubeflow.cluster import ClusterSettings
from c3d_pipelines.kubeflow.compile import EXPORT, EXTRACTION, compile_pipeline
from c3d_pipelines.kubeflow.submit import Package, RunOptions
from support.fake_kfp import fake_kfp

from cluster import kube, tree
from cluster.kube import CHECKS, kubectl, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("permission")]

SERVICE = {"clusterIP": "None", "ports": [{"port": 8888}]}
READER = [
    {"apiGroups": [""], "resources": ["services"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get"]},
]


def create(kind: str, name: str, api: str = "v1", **parts) -> None:
    """Create an object in the namespace."""
    manifest = {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **parts}
    kubectl("create", "-f", "-", namespace=CHECKS, stdin=json.dumps(manifest))


@pytest.fixture(scope="module")
def kubeflow(permission) -> Iterator[None]:
    """A namespace with what Kubeflow brings and with what k8s/ has for it."""
    kubectl("create", "namespace", CHECKS)
    try:
        create("Service", "ml-pipeline", spec=SERVICE)
        create("ServiceAccount", "pipeline-runner")
        # Of k8s/pipelines in release 0.1.0.
        create("ServiceAccount", "c3d-pipelines", automountServiceAccountToken=False)
        for bundle in ("setup/pipelines-data", "setup/pipelines-models", "pipelines"):
            kubectl("apply", "-k", str(tree.K8S / bundle), namespace=CHECKS)
        yield
    finally:
        kube.remove([CHECKS])


@pytest.fixture
def found(kubeflow, tmp_path):
    """Return the texts of the findings, with a mark before those that prevent a run."""

    def look(pipeline=EXTRACTION, *, namespace=CHECKS, account=None, **settings) -> list[str]:
        path = tmp_path / f"{pipeline}.yaml"
        compile_pipeline(pipeline, path, ClusterSettings(**settings))
        options = RunOptions(service_account=account)
        with (
            fake_kfp() as kfp,
            Backend(ClusterAccess(host=kfp.url, namespace=namespace)) as backend,
        ):
            findings = before_sending(backend, Package(path), options)
        return [("! " if finding.prevents else "") + finding.text for finding in findings]

    return look


def prevented(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("!")]


def test_what_the_manifests_and_kubeflow_bring_is_found(found):
    for pipeline, claim in ((EXTRACTION, "c3d-pipelines-data"), (EXPORT, "c3d-models")):
        lines = found(pipeline)
        assert prevented(lines) == []
        # A cluster without such a storage class leaves the claim without a volume.
        assert set(lines) <= {f"claim {claim}: has no volume yet; the pods wait until it has one"}


def test_what_is_missing_is_named_in_order(found):
    settings = {
        "pvc_mounts": {"gone": "/data"},
        "secret_volumes": {"ca": "/etc/ca"},
        "secret_env": {"s3": {"key": "AWS_SECRET_ACCESS_KEY"}},
        "image_pull_secrets": ("registry",),
        "queue": "batch",
    }
    assert found(account="runner", **settings) == [
        f"! service account runner: does not exist in {CHECKS}; leave out --service-account to "
        "use Kubeflow's own",
        f"! claim gone: does not exist in {CHECKS}; create it, or give --pvc",
        f"! secret ca: does not exist in {CHECKS}",
        f"secret s3: does not exist in {CHECKS}; its variables stay unset",
        f"secret registry: does not exist in {CHECKS}; images are pulled without it",
        f"queue batch: there is no such LocalQueue in {CHECKS}",
    ]
    create("Secret", "ca", stringData={"ca.crt": "x"})
    create(
        "PersistentVolumeClaim",
        "gone",
        spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    )
    assert prevented(found(**settings)) == []


def test_account_of_release_0_1_0_is_refused(found):
    warned, refused = (line for line in found(account="c3d-pipelines") if "account" in line)
    assert "cannot run a pipeline" in warned
    assert refused.startswith("! service account c3d-pipelines: mounts no token")


def test_claim_that_is_being_deleted_is_refused(found):
    """A pod that uses a claim keeps it; here a finalizer does."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    create("PersistentVolumeClaim", "ending", spec=spec)
    patch = ("patch", "pvc", "ending", "--type=merge", "-p")
    kubectl(*patch, '{"metadata": {"finalizers": ["c3d.dev/test"]}}', namespace=CHECKS)
    kubectl("delete", "pvc", "ending", "--wait=false", namespace=CHECKS)
    try:
        lines = found(pvc_mounts={"ending": "/data"})
        assert lines == ["! claim ending: is being deleted; create it again"]
    finally:
        kubectl(*patch, '{"metadata": {"finalizers": null}}', namespace=CHECKS)


def test_cluster_without_kubeflow_is_not_taken_for_its_own(found):
    (ignored, unchecked) = found(namespace="default")
    assert ignored.startswith("namespace default: not used")
    assert unchecked.startswith("service account, claims and secrets: not checked, because context")
    assert unchecked.endswith("shows no Kubeflow Pipelines")


def test_user_with_few_rights_gets_the_checks_that_they_allow(found, tmp_path, monkeypatch):
    create("ServiceAccount", "reader")
    create("Role", "reader", "rbac.authorization.k8s.io/v1", rules=READER)
    role = ("--role=reader", f"--serviceaccount={CHECKS}:reader")
    kubectl("create", "rolebinding", "reader", *role, namespace=CHECKS)
    token = kubectl("create", "token", "reader", namespace=CHECKS).strip()
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    lines = wait_until(
        "the rights", lambda: [x for x in found() if "shows no" not in x], timeout_s=30
    )
    assert lines[0] == (
        "service account pipeline-runner: not checked, because the user may not read it"
    )
    assert prevented(found(pvc_mounts={"absent": "/data"})) == [
        f"! claim absent: does not exist in {CHECKS}; create it, or give --pvc"
    ]
    config["users"][0]["user"] = {"token": "x"}
    (tmp_path / "config").write_text(json.dumps(config))
    (line,) = found(namespace="")
    assert "answers HTTP 401: Unauthorized" in line
    assert os.environ["KUBECONFIG"] not in line
