"""Why pods of a run on a real Kubernetes do not start or fail: each cause is named.

The pods are labelled and annotated as Argo and Kubeflow Pipelines label the pods of a run.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest
from c3d_pipelines.cli import main
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.diagnosis import Inspector, Watch, grouped, reason_in_log
from c3d_pipelines.kubeflow.kube import open_kube
from c3d_pipelines.kubeflow.run_pods import look_at_pods, pod_log
from c3d_pipelines.kubeflow.workflow import FAILED, RUNNING
from support.fake_kfp import fake_kfp
from support.kfp_workflow import WORKFLOW, place

from cluster import kube
from cluster.images import PIPELINES
from cluster.kube import DIAGNOSIS

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("permission")]

RUN = str(uuid.uuid4())
# Step: changes of the pod, those of its container, and the words that its reason must have.
CAUSES: dict[str, tuple[dict, dict, tuple[str, ...]]] = {
    "extract-0": ({}, {"image": "localhost/c3d-none:1"}, ("ImagePull", "localhost/c3d-none:1")),
    "extract-1": ({}, {"image": "No//Such"}, ("InvalidImageName", "No//Such")),
    "extract-2": (
        {},
        {"resources": {"requests": {"cpu": "1000"}}},
        ("Unschedulable: 0/1 nodes are available", "Insufficient cpu"),
    ),
    "extract-3": (
        {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "gone"}}]},
        {},
        ("Unschedulable", 'persistentvolumeclaim "gone" not found'),
    ),
    "extract-4": (
        {},
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "no-secret", "key": "a"}}}]},
        ("CreateContainerConfigError", 'secret "no-secret" not found'),
    ),
    "extract-5": (
        {"volumes": [{"name": "v", "secret": {"secretName": "no-volume"}}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        ("FailedMount", 'secret "no-volume" not found'),
    ),
    "extract-6": (
        {},
        {
            "resources": {"limits": {"memory": "32Mi"}, "requests": {"memory": "16Mi"}},
            "command": ["python", "-c", "x = b'1' * (1 << 30)"],
        },
        ("OOMKilled (exit code 137); its memory limit is 32Mi",),
    ),
    "extract-7": ({"activeDeadlineSeconds": 1}, {}, ("DeadlineExceeded",)),
    "plan": (
        {},
        {"command": ["python", "-c", "exit('c3d-pipelines: /data/in: holds no videos')"]},
        ("Error (exit code 1)",),
    ),
}


def pod(step: str, spec: dict, container: dict, *, confined: bool = True) -> dict:
    """Return the pod of a step, as Argo would create it."""
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    main = {
        "name": "main",
        "image": PIPELINES,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", "import time; time.sleep(600)"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        **({"securityContext": context} if confined else {}),
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{WORKFLOW}-system-container-impl-{step}",
            "labels": {"pipeline/runid": RUN, "workflows.argoproj.io/workflow": WORKFLOW},
            "annotations": {
                "workflows.argoproj.io/node-name": f"{WORKFLOW}.{place(step)}.executor"
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [main],
            **spec,
        },
    }


@pytest.fixture(scope="module")
def namespace(permission):
    """A namespace that enforces Pod Security restricted, with a pod for each cause."""
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": DIAGNOSIS, "labels": level}
    pods = [pod(step, spec, container) for step, (spec, container, _) in CAUSES.items()]
    try:
        kube.kubectl(
            "create",
            "-f",
            "-",
            stdin=json.dumps({"kind": "Namespace", "apiVersion": "v1", "metadata": metadata}),
        )
        listed = {"apiVersion": "v1", "kind": "List", "items": pods}
        kube.kubectl("create", "-f", "-", namespace=DIAGNOSIS, stdin=json.dumps(listed))
        yield DIAGNOSIS
    finally:
        kube.kubectl("delete", "namespace", DIAGNOSIS, "--ignore-not-found", "--wait=false")


@pytest.fixture
def api():
    """The cluster's API, as this package opens it."""
    with open_kube() as opened:
        yield opened


def test_each_cause_is_named_with_its_step(namespace, api):
    def explained() -> dict[str, str] | None:
        seen = look_at_pods(api, RUN)  # without the namespace: it is searched for
        assert seen.namespace == namespace
        reasons = {step.name: step.reason for step in seen.steps}
        complete = all(reasons.get(step) for step in CAUSES)
        return reasons if complete else None

    reasons = kube.wait_until("each pod has a reason", explained, timeout_s=50)
    for step, (_, _, words) in CAUSES.items():
        for word in words:
            assert word in reasons[step], (step, reasons[step])
        assert "\n" not in reasons[step]
        assert len(reasons[step]) <= 300
    if folder := os.environ.get("C3D_RECORD_PODS"):
        for kind in ("pods", "events"):
            text = kube.kubectl("get", kind, "-o", "json", namespace=namespace)
            (Path(folder) / f"{kind}.json").write_text(text)


def test_status_prints_each_cause_and_the_end_of_the_log(namespace, monkeypatch, capsys):
    monkeypatch.delenv("KF_PIPELINES_TOKEN", raising=False)
    with fake_kfp() as kfp:
        kfp.states = ["RUNNING"]
        experiment = kfp.create_experiment({"display_name": "c3d"}, {})["experiment_id"]
        kfp.add_run(RUN, display_name="one", experiment_id=experiment)
        with pytest.raises(SystemExit) as ended:
            main(["status", RUN, "--host", kfp.url])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert any(line.startswith("from    Kubernetes (context ") for line in lines)
    assert "why     plan failed: /data/in: holds no videos" in lines
    whys = [line for line in lines if line.startswith("why ")]
    assert len(whys) >= len(CAUSES)
    assert any("extract of shard 4 cannot start: CreateContainerConfig" in line for line in whys)


def test_causes_are_named_once_while_waiting(namespace):
    lines: list[str] = []
    with fake_kfp() as kfp, Backend(ClusterAccess(host=kfp.url)) as backend:
        kfp.states = ["RUNNING"]
        experiment = kfp.create_experiment({"display_name": "c3d"}, {})["experiment_id"]
        kfp.add_run(RUN, display_name="one", experiment_id=experiment)
        with Inspector(backend) as inspector:
            watch = Watch(inspector, lines.append, every_s=0.0)
            for _ in range(2):
                watch.look(backend.run(RUN))
    named = "\n".join(lines)
    for shard, cause in ((0, "cannot start: "), (2, "cannot start: Unsch"), (6, "failed: OOM")):
        assert named.count(f"extract of shard {shard} {cause}") == 1, named


def test_reason_of_a_step_that_ended_itself_is_in_its_log(namespace, api):
    def ended() -> str | None:
        return pod_log(api, namespace, f"{WORKFLOW}-system-container-impl-plan")

    log = kube.wait_until("the step's log", ended, timeout_s=30)
    assert reason_in_log(log) == "/data/in: holds no videos"
    assert pod_log(api, namespace, "gone") is None
    assert pod_log(api, namespace, f"{WORKFLOW}-system-container-impl-extract-0") is None


def test_pod_that_pod_security_rejects_is_named(namespace, api):
    """Argo writes the refusal into an event of the workflow: there is no pod."""
    rejected = pod("extract-9", {}, {}, confined=False)
    refused = kube.try_kubectl("create", "-f", "-", namespace=namespace, stdin=json.dumps(rejected))
    assert refused.returncode
    message = refused.stderr.partition("Error from server (Forbidden): ")[2]
    message = message.partition(": ")[2] if message.startswith("error when") else message
    node = rejected["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": "rejected",
            "annotations": {"workflows.argoproj.io/node-name": node},
        },
        "involvedObject": {
            "kind": "Workflow",
            "apiVersion": "argoproj.io/v1alpha1",
            "name": WORKFLOW,
            "namespace": namespace,
        },
        "type": "Warning",
        "reason": "WorkflowNodeError",
        "message": f"Error node {node}: {message.strip()}",
    }
    kube.kubectl("create", "-f", "-", namespace=namespace, stdin=json.dumps(event))
    steps = {step.name: step for step in look_at_pods(api, RUN, namespace).steps}
    reason = steps["extract-9"].reason
    assert reason.startswith('Forbidden: pods "')
    assert 'violates PodSecurity "restricted' in reason
    (line,) = grouped([steps["extract-9"]])
    assert line.startswith("extract of shard 9 cannot start: Forbidden")


def test_states_are_those_of_the_pods(namespace, api):
    def done() -> dict[str, str] | None:
        steps = {step.name: step.state for step in look_at_pods(api, RUN, namespace).steps}
        return steps if steps["extract-6"] == FAILED else None

    states = kube.wait_until("the pod is killed", done, timeout_s=30)
    assert RUNNING not in states.values()
    failed = {step for step, state in states.items() if state == FAILED}
    assert failed == {"plan", "extract-6", "extract-7"}


def test_run_without_pods_is_not_found(namespace, api):
    seen = look_at_pods(api, str(uuid.uuid4()), namespace)
    assert (seen.namespace, seen.steps, seen.searched) == ("", (), ())
