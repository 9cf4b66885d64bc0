"""k8s/README.md as a user follows it: first deployment, new versions, removal and again.

The tests follow one another in one namespace, as the document does.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import kube, serving, tree
from cluster.documents import README, block, blocks, run, running
from cluster.kube import DOCUMENTS as NAMESPACE
from cluster.kube import kubectl, wait_until

# The blocks that are run here, by section and number.
_QUICK_START, _LOG = ("First deployment", 0), ("First deployment", 1)
_AGAIN, _COMPARE = ("A new version", 0), ("A new version", 1)
_BENCH = ("How many pods", 0)
_NOT_RUN = {
    ("First deployment", 2): "needs a registry",
    ("First deployment", 3): "needs a GPU; test_apply.py has the bundles",
    ("First deployment", 4): "needs nodes with 4 free cores; test_apply.py has the bundles",
    ("First deployment", 5): "needs KServe; test_apply.py has the bundles",
    ("First deployment", 6): "needs Docker and no cluster; tests/images has it",
    ("A new version", 2): "needs a registry; tests/images has it",
    ("Kubeflow Pipelines", 0): "needs Kubeflow's namespace; test_apply.py has its bundles",
}
_OVERLAY = "k8s/overlays/cpu-dev"
_JOB = "k8s/jobs/export-model"
_PORT_FORWARD = "kubectl --namespace c3d port-forward deployment/c3d-serving 8500 & sleep 2; "
# A first export takes one to two minutes on two idle cores; 15 minutes are the document's.
_FIRST_S, _ROLL_OUT_S, _JOB_S = 900, 240, 300


def test_every_block_of_the_document_is_run_or_has_a_reason_why_not():
    run_here = {_QUICK_START, _LOG, _AGAIN, _COMPARE, _BENCH}
    assert not run_here & _NOT_RUN.keys()
    assert {(found.section, found.number) for found in blocks()} == run_here | _NOT_RUN.keys()


@pytest.fixture(scope="module")
def place(permission, tmp_path_factory) -> Path:
    """A copy of the repository's manifests, with a video and nothing else changed but the image."""
    folder = tree.copy(tmp_path_factory.mktemp("documents"), "cpu-dev")
    serving.demo_video(folder / "video.mp4")
    return folder


class InTheBackground:
    """Commands that run while a test does something else."""

    def __init__(self, code: str, folder: Path, *, timeout_s: float) -> None:
        self._printed, self._error = "", None
        self._thread = threading.Thread(
            target=self._run, args=(code, folder, timeout_s), daemon=True
        )
        self._thread.start()

    def _run(self, code: str, folder: Path, timeout_s: float) -> None:
        try:
            self._printed = run(code, folder, timeout_s=timeout_s)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            self._error = error

    def printed(self) -> str:
        """Return what they printed, once they have ended.

        Raises:
            AssertionError: they failed.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._printed


def served() -> dict[str, str]:
    """Return the state of each version that the only ready server has, from its REST API."""
    ready = kube.ready_pods(NAMESPACE)
    if len(ready) != 1:
        return {}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{ready[0]}:8501/proxy/v1/models/c3d"
    versions = json.loads(kubectl("get", "--raw", path))["model_version_status"]
    return {v["version"]: v["state"] for v in versions if v["state"] != "END"}


def wait_for_version(*numbers: str) -> None:
    """Wait until one server is ready and serves these versions and no others."""
    wanted = dict.fromkeys(numbers, "AVAILABLE")
    wait_until(f"versions {numbers}", lambda: served() == wanted, timeout_s=_ROLL_OUT_S)


def rolled_out(code: str, folder: Path) -> None:
    """Run commands that change the servers, and wait as the first block does."""
    wait = "kubectl --namespace c3d rollout status deployment/c3d-serving --timeout 15m"
    run(f"{code}\n{wait}\n", folder, timeout_s=_ROLL_OUT_S)


def log_of_the_job(folder: Path) -> str:
    """Return what the document's block prints: which pod, and its log."""
    return run(block(*_LOG).code, folder, timeout_s=_JOB_S)


def job_ended(kind: str) -> kube.Object | None:
    return kube.condition(kube.get("job", "c3d-export-model", namespace=NAMESPACE), kind)


@contextmanager
def settings(place: Path, **values: str) -> Iterator[None]:
    """Set values in the Job's settings.env until the block ends."""
    path = place / _JOB / "settings.env"
    before = path.read_text()
    text = before
    for name, value in values.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, f"settings.env has {count} lines of {name}"
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


on_cluster = pytest.mark.cluster


@on_cluster
def test_first_deployment_classifies_a_video(place):
    # A second terminal, from the beginning: the block waits for the pod.
    log = InTheBackground(block(*_LOG).code, place, timeout_s=_FIRST_S)
    printed = run(block(*_QUICK_START).from_kubectl, place, timeout_s=_FIRST_S)
    assert "moving left" in printed, printed
    assert "/models/c3d/1: C3D demo" in log.printed(), log.printed()


@on_cluster
def test_applying_again_changes_nothing(place):
    for bundle in ("k8s/setup/one-node", _OVERLAY, _JOB):
        printed = run(f"kubectl apply -k {bundle}", place, timeout_s=60)
        changed = [line for line in printed.splitlines() if not line.endswith(" unchanged")]
        # kubectl sends the selector every time, which changes nothing, as `diff` shows.
        assert not [line for line in changed if "poddisruptionbudget" not in line], printed
        run(f"kubectl diff -k {bundle}", place, timeout_s=60)


@on_cluster
def test_new_version_from_a_file_of_the_user(place, tmp_path):
    serving.claim(NAMESPACE, "c3d-weights")
    serving.start_toolbox(NAMESPACE, "c3d-models", "c3d-weights")
    weights = serving.narrow_weights(tmp_path / "trained.npz", seed=0, trained=True)
    serving.upload(NAMESPACE, weights, f"{serving.WEIGHTS}/trained.npz")
    kustomization = place / _JOB / "kustomization.yaml"
    before = kustomization.read_text()
    kustomization.write_text(f"{before}components:\n  - given-weights\n")
    with settings(place, WEIGHTS="/weights/trained.npz"):
        run(block(*_AGAIN).code, place, timeout_s=60)
        assert "/models/c3d/2: C3D trained" in log_of_the_job(place)
    kustomization.write_text(before)
    wait_for_version("2")


@on_cluster
def test_running_the_job_of_the_first_deployment_again_keeps_the_users_model(place):
    # From here on version 1 is a narrow network too, which loads in a second, and no demo, whose
    # second build would end because it has the same inputs.
    store = f"{serving.MODELS}/c3d"
    serving.shell(NAMESPACE, f"cd {store}; rm -r 1; cp -r 2 .1; mv .1 1")
    run(block(*_AGAIN).code, place, timeout_s=60)
    log = log_of_the_job(place)
    assert "has trained weights" in log.splitlines()[-1], log
    wait_until("the end of the Job", lambda: job_ended("Complete"), timeout_s=_JOB_S)
    assert serving.shell(NAMESPACE, f"ls {store}").split() == ["1", "2"]


@on_cluster
def test_roll_back_to_a_version_and_forth(place):
    models = place / "k8s" / "base" / "config" / "models.config"
    before = models.read_text()
    tree.change(models, "latest { num_versions: 1 }", "specific { versions: 1 }")
    rolled_out(f"kubectl apply -k {_OVERLAY}", place)
    models.write_text(before)
    wait_for_version("1")
    rolled_out("kubectl --namespace c3d rollout undo deployment/c3d-serving", place)
    wait_for_version("2")


@on_cluster
def test_canary_is_compared_and_rolled_back(place):
    kustomization = place / _OVERLAY / "kustomization.yaml"
    before = kustomization.read_text()
    kustomization.write_text(f"{before}components:\n  - ../../components/canary\n")
    rolled_out(f"kubectl apply -k {_OVERLAY}", place)
    kustomization.write_text(before)
    wait_for_version("1", "2")
    printed = run(_PORT_FORWARD + block(*_COMPARE).code, place, timeout_s=120)
    assert re.search(r"version 2|2 +AVAILABLE", printed), printed
    rolled_out("kubectl --namespace c3d rollout undo deployment/c3d-serving", place)
    wait_for_version("2")
    measured = run(_PORT_FORWARD + block(*_BENCH).code, place, timeout_s=120)
    # The port-forward in the background prints before it, and also after it.
    result, _ = json.JSONDecoder().raw_decode(measured, measured.index("{"))
    assert result["clips_per_s"] > 0


@on_cluster
def test_log_of_a_job_that_fails_and_is_retried(place):
    # On any cluster, also one with a network: a proxy that is not there.
    path, nowhere = "/spec/template/spec/containers/0/env/-", "http://127.0.0.1:9"
    proxies = [{"name": name, "value": nowhere} for name in ("HTTPS_PROXY", "HTTP_PROXY")]
    proxy = [{"op": "add", "path": path, "value": value} for value in proxies]
    kustomization = place / _JOB / "kustomization.yaml"
    before = kustomization.read_text()
    patch = json.dumps(json.dumps(proxy))
    kustomization.write_text(f"{before}patches:\n  - target: {{kind: Job}}\n    patch: {patch}\n")
    with settings(place, WEIGHTS="/weights/conv3d_deepnetA_sport1m_iter_1900000"):
        run(block(*_AGAIN).code, place, timeout_s=60)
    kustomization.write_text(before)
    first = log_of_the_job(place)
    assert "conv3d_deepnetA_sport1m_iter_1900000" in first, first
    labels = "job-name=c3d-export-model"
    (pod, *_) = kube.pods(NAMESPACE, labels)
    assert pod["metadata"]["name"] in first, first
    wait_until("a retry", lambda: len(kube.pods(NAMESPACE, labels)) > 1, timeout_s=_JOB_S)
    second = log_of_the_job(place)
    newest = kube.pods(NAMESPACE, labels)[-1]["metadata"]["name"]
    assert newest in second, second
    assert "conv3d_deepnetA_sport1m_iter_1900000" in second, second


@on_cluster
def test_removal_keeps_what_the_document_promises_and_the_rest_goes_last(place):
    section = README.read_text().partition("\n## Removing it\n")[2]
    remove = re.findall(r"^\| `(kubectl delete -k [^`]+)`", section, re.MULTILINE)
    job, servers, everything = remove
    claim = uid("persistentvolumeclaim/c3d-models")
    run(job, place, timeout_s=120)
    assert not kube.try_kubectl("get", "job/c3d-export-model", namespace=NAMESPACE).stdout
    wait_for_version("2")
    run(servers, place, timeout_s=120)
    assert not kube.try_kubectl("get", "deployment/c3d-serving", namespace=NAMESPACE).stdout
    assert uid("persistentvolumeclaim/c3d-models") == claim
    # Again, and without the Job: the model is there.
    rolled_out(f"kubectl apply -k {_OVERLAY}", place)
    wait_for_version("2")
    with running(_PORT_FORWARD + "c3d classify video.mp4", place, timeout_s=120) as printed:
        assert printed
    run(servers, place, timeout_s=120)
    run(everything, place, timeout_s=240)
    assert NAMESPACE not in kube.existing_namespaces()


def uid(name: str) -> str:
    return kubectl("get", name, "-o", "jsonpath={.metadata.uid}", namespace=NAMESPACE)
