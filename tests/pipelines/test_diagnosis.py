"""Why a run failed or does not go on: from the data set, Kubeflow's API, or Kubernetes' API."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow import diagnosis as library
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.diagnosis import Inspector, Watch, grouped, reason_in_log
from c3d_pipelines.kubeflow.run_pods import look_at_pods
from c3d_pipelines.kubeflow.submit import submit, wait
from c3d_pipelines.kubeflow.workflow import (
    TERMINATED,
    Step,
    step_counts,
    step_of,
    steps_of_tasks,
    steps_of_workflow,
)
from c3d_pipelines.run.errors import write_reason
from support.fake_kube import fake_kube
from support.kfp_workflow import WORKFLOW, node_hash, place, pod_of, tasks_of, workflow
from support.processes import LONG_S
from support.s3_server import s3_server
from support.sample_summary import summary as summary_of

pytestmark = pytest.mark.usefixtures("bare")

RECORDED = Path(__file__).parents[1] / "fixtures" / "kubernetes-1.34"
RECORDED_RUN = json.loads((RECORDED / "pods.json").read_text())[0]["metadata"]["labels"][
    "pipeline/runid"
]
OOM = "OOMKilled (exit code 137)"
PULL = 'ImagePullBackOff: Back-off pulling image "no/such:1"'
EXIT = "main: Error (exit code 1)"


@pytest.fixture
def kube(tmp_path, monkeypatch):
    """A fake Kubernetes API, with its kubeconfig."""
    with fake_kube() as server:
        config = server.kubeconfig(tmp_path / "kubeconfig", namespace="team")
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield server


@pytest.fixture
def opened(kfp):
    with Backend(ClusterAccess(host=kfp.url)) as backend:
        yield backend


@pytest.fixture
def sent(kfp, opened, bulk):
    """Send a run and wait for its last state."""

    def send(out: str = "/data/out", state: str = "FAILED", **steps):
        kfp.states, kfp.steps = ["PENDING", state], steps
        run = submit(opened, bulk, {"videos": "s3://b/in", "out": "s3://b/out"}, name="one")
        # A folder that the compiled pipeline does not mount.
        kfp.runs[run.run_id]["runtime_config"]["parameters"]["out"] = out
        return opened.run(run.run_id)

    return send


def diagnose(backend, run):
    with Inspector(backend) as inspector:
        return inspector.diagnose(run)


def recorded(kube, run_id: str, namespace: str) -> None:
    """Put the pods and events of a real cluster into the fake API, as those of a run."""
    for kind in ("pods", "events"):
        for item in json.loads((RECORDED / f"{kind}.json").read_text()):
            metadata = item.pop("metadata")
            if kind == "pods":
                metadata["labels"]["pipeline/runid"] = run_id
            kube.add(kind, metadata["name"], namespace, metadata=metadata, **item)


# Names


def test_step_is_found_from_the_name_of_its_node():
    for node, step in {
        f"{WORKFLOW}.{place('plan')}.executor": ("plan", False),
        f"{WORKFLOW}.{place('extract-12')}.executor(1)": ("extract-12", False),
        f"{WORKFLOW}.{place('report')}.executor(0)": ("report", False),
        f"{WORKFLOW}.{place('extract-3')}-driver": ("extract-3", True),
        f"{WORKFLOW}.root-driver": ("", True),
        f"{WORKFLOW}.root.exit-handler-1.condition-2.publish.executor": ("publish", False),
        # Kubeflow's default retries give each group attempts too.
        f"{WORKFLOW}(0).root(0).exit-handler-1(1).plan(2).executor(0)": ("plan", False),
        f"{WORKFLOW}(0).root(0).exit-handler-1(0).for-loop-2(0)."
        "iteration-iterations(4:4)(0).iteration-item(0).extract(0).executor(0)": (
            "extract-4",
            False,
        ),
    }.items():
        assert step_of(node) == step, node


def test_pods_are_named_as_argo_names_them():
    # Of the documentation of Argo: the hash is FNV-1a of 32 bits.
    assert node_hash("") == 0x811C9DC5
    assert node_hash("foobar") == 0xBF9CF968
    made = workflow({"plan": ("Failed", EXIT), "extract-3": ("Error,Failed", OOM)})
    steps = {step.name: step for step in steps_of_workflow(made) if not step.driver}
    assert steps["plan"].pod == pod_of(made, "plan")
    assert steps["extract-3"].pod == pod_of(made, "extract-3")
    assert "-retry-system-container-impl-" in steps["extract-3"].pod
    made["metadata"]["annotations"] = {"workflows.argoproj.io/pod-name-format": "v1"}
    assert {"-impl-" in step.pod for step in steps_of_workflow(made)} == {False}


def test_newest_attempt_of_a_step_counts():
    made = workflow({"extract-0": ("Failed,Succeeded", ""), "extract-1": ("Error,Running", "")})
    steps = {step.name: step for step in steps_of_workflow(made) if not step.driver}
    assert {name: step.state for name, step in steps.items()} == {
        "extract-0": "done",
        "extract-1": "running",
    }
    assert {step.reason for step in steps.values()} == {""}


def test_retry_that_ran_out_of_time_is_named():
    made = workflow({"extract-0": ("Error,Failed", OOM)})
    for node in made["status"]["nodes"].values():
        if node["type"] == "Retry":
            node["message"] = "Max duration limit exceeded"
    (step,) = [step for step in steps_of_workflow(made) if not step.driver]
    assert step.reason == f"{OOM}; Max duration limit exceeded"


def test_compressed_nodes_are_read():
    steps = {f"extract-{n}": ("Succeeded", "") for n in range(5)} | {"plan": ("Failed", OOM)}
    plain, packed = workflow(steps), workflow(steps, compressed=True)
    assert "nodes" not in packed["status"]
    assert steps_of_workflow(packed) == steps_of_workflow(plain)


def test_answer_that_is_no_workflow_is_refused():
    for damaged in (
        {"metadata": {}, "status": {"nodes": {"a": {"type": "Pod", "phase": "Failed"}}}},
        {"metadata": {"name": "x"}, "status": {"compressedNodes": "AAAA"}},
        {"metadata": {"name": "x"}, "status": "Failed"},
        {"metadata": {"name": "x"}, "status": {"nodes": [1]}},
    ):
        with pytest.raises(RunError, match="not a workflow of Argo"):
            steps_of_workflow(damaged)


def test_steps_are_counted_without_names_of_nodes():
    steps = {"plan": ("Succeeded", ""), "report": ("Running", "")}
    steps |= {f"extract-{n}": ("Failed" if n == 1 else "Succeeded", "") for n in range(4)}
    made = workflow(steps)
    counts = step_counts(steps_of_workflow(made))
    assert counts == "plan done; report running; extract 3 done, 1 failed of 4"
    shown = [(task["display_name"], task["state"]) for task in tasks_of(made)]
    assert ("exit-handler-1.onExit", "RUNNING") in shown
    assert step_counts(steps_of_tasks(shown)) == counts
    assert step_counts([]) == ""


def test_equal_reasons_are_one_line():
    pull = "ErrImagePull: no such image"
    steps = [Step(f"extract-{n}", "waiting", PULL if n % 2 else pull) for n in range(9)]
    steps += [Step("extract-9", "failed", OOM), Step("plan", "failed")]
    assert grouped(steps) == [
        f"extract of shards 0, 1, 2, 3, 4 and 4 more cannot start: {pull}",
        f"extract of shard 9 failed: {OOM}",
        "plan failed",
    ]


def test_reason_is_the_steps_own_line_of_its_log():
    launcher = "F1130 06:00:00.000000 12 main.go:57] failed to execute component: exit status 1"
    argo = 'time="2026-11-30T06:00:00 UTC" level=info msg="sub-process exited"'
    own = "c3d-pipelines: c3d:8500: no answer"
    ends = ["", launcher, argo, "Error: exit status 1", ""]
    late = "grpc: a connection was closed at exit"
    assert reason_in_log("\n".join(["a line", own, late, *ends])) == "c3d:8500: no answer"
    assert reason_in_log("\n".join(["Traceback", "ValueError: x", *ends])) == "ValueError: x"
    assert reason_in_log("\n".join(ends)) == ""
    assert reason_in_log("") == ""


# Sources


def test_data_set_that_can_be_read_is_asked_first(kfp, opened, sent, kube, tmp_path):
    run = sent(str(tmp_path), plan=("Succeeded", ""), gate=("Failed", EXIT))
    write_reason("gate", "3 videos did not end ok", out=str(tmp_path), run=run.run_id)
    write_reason("extract-2", "c3d:8500: no answer", out=str(tmp_path), run=run.run_id)
    before = len(kfp.requests)
    found = diagnose(opened, run)
    assert found.reasons == (
        "extract of shard 2: c3d:8500: no answer",
        "gate: 3 videos did not end ok",
    )
    assert (found.source, found.tried, found.commands) == (f"the dataset {tmp_path}", (), ())
    assert kfp.requests[before:] == kube.requests == []
    assert step_counts(found.steps) == "plan done; gate failed"


@pytest.mark.long
def test_data_set_in_a_bucket_is_read(kfp, opened, sent, tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed: storage on S3 not tested")
    with s3_server(tmp_path) as server:
        server.use(monkeypatch)
        server.file_system().mkdir("results")
        run = sent("s3://results/out", plan=("Failed", EXIT))
        found = diagnose(opened, run)
        assert found.tried[0] == "dataset s3://results/out: has no reason and no report of the run"
        write_reason("plan", "s3://b/in: holds no videos", out="s3://results/out", run=run.run_id)
        found = diagnose(opened, run)
        assert found.reasons == ("plan: s3://b/in: holds no videos",)
        gone = sent("s3://gone/out", plan=("Failed", EXIT))
        assert "there is no such bucket" in diagnose(opened, gone).tried[0]


def test_report_of_the_data_set_has_the_reason_of_a_run_without_others(opened, sent, tmp_path):
    run = sent(str(tmp_path), plan=("Failed", OOM))
    folder = tmp_path / "runs" / run.run_id
    folder.mkdir(parents=True)
    for message, source in (
        ("stopped by the user", "the dataset"),
        (library.NO_REASON, "the API at"),
        ("", "the API at"),
    ):
        summary = summary_of([], [], state="FAILED", message=message)
        (folder / "summary.json").write_text(summary.to_json())
        found = diagnose(opened, run)
        assert found.source.startswith(source), message
        assert found.reasons == (message if source == "the dataset" else f"plan failed: {OOM}",)


@pytest.mark.long
def test_folder_of_the_same_name_on_this_machine_is_no_data_set_of_the_run(opened, sent, tmp_path):
    run = sent(str(tmp_path), plan=("Failed", OOM))
    write_reason("plan", "another run's", out=str(tmp_path), run="another")
    assert diagnose(opened, run).reasons == (f"plan failed: {OOM}",)


def test_bucket_that_does_not_answer_delays_the_other_sources_for_a_short_time(
    opened, sent, monkeypatch
):
    import threading

    never = threading.Event()
    monkeypatch.setattr(library, "_written_reasons", lambda *_: never.wait(LONG_S))
    monkeypatch.setattr(library, "DATASET_S", 0.05)
    run = sent("s3://b/out")
    found = diagnose(opened, run)
    never.set()
    assert found.tried[0] == "dataset s3://b/out: no answer within 0.05 s"


def test_messages_of_the_workflow_are_the_reason(kfp, opened, sent):
    steps = {f"extract-{n}": ("Failed", f"main: {OOM}") for n in (1, 4)}
    run = sent(plan=("Succeeded", ""), **steps)
    assert run.message == ""  # the names of nodes are no reason
    found = diagnose(opened, run)
    assert found.reasons == (f"extract of shards 1 and 4 failed: {OOM}",)
    assert found.source == f"the API at {kfp.url}"
    assert "GET /apis/v1beta1/runs/" + run.run_id in kfp.requests
    assert not any("executor" in reason or "driver" in reason for reason in found.reasons)


def test_end_of_the_log_explains_a_step_that_ended_itself(kfp, opened, sent):
    steps = {"plan": ("Failed", EXIT), "report": ("Succeeded", "")}
    run = sent(**steps)
    pod = pod_of(workflow(steps), "plan")
    kfp.logs = {pod: "x\nc3d-pipelines: /data/in: holds no videos\nError: exit status 1\n"}
    for is_ui in (False, True):
        kfp.is_ui = is_ui
        assert diagnose(opened, run).reasons == ("plan failed: /data/in: holds no videos",), is_ui
    kfp.logs = {}
    for is_ui in (False, True):
        kfp.is_ui = is_ui
        found = diagnose(opened, run)
        assert found.reasons == ("plan failed: Error (exit code 1)",)
        assert found.commands[1].endswith(
            f"-l pipeline/runid={run.run_id} -c main --prefix --tail 20"
        )
        assert "-n kubeflow" in found.commands[0]


def test_driver_that_failed_is_named_as_kubeflows(kfp, opened, sent):
    run = sent(plan=("Succeeded", ""))
    made = workflow(kfp.steps, drivers={"plan": ("Error", "pod deleted")})
    kfp.workflow_of = lambda _: made
    assert diagnose(opened, run).reasons == ("Kubeflow's driver of plan failed: pod deleted",)


def test_terminated_run_has_that_reason(kfp, opened, sent):
    run = sent(state="RUNNING", **{"extract-0": ("Failed", "Step exceeded its deadline")})
    opened.terminate(run.run_id)
    ended = wait(opened, run, every_s=0.01)
    assert ended.state == "FAILED"
    found = diagnose(opened, ended)
    assert found.reasons == (TERMINATED,)
    assert found.exit_code == 1


def test_workflow_without_failed_steps_has_a_message_of_its_own(kfp, opened, sent):
    run = sent(plan=("Succeeded", ""))
    made = workflow(kfp.steps, message="Request entity too large: limit is 3145728")
    kfp.workflow_of = lambda _: made
    assert diagnose(opened, run).reasons == ("Request entity too large: limit is 3145728",)


def test_kubernetes_is_asked_where_the_api_has_no_workflow(kfp, opened, sent, kube):
    kfp.workflow_shown = False
    run = sent(plan=("Failed", EXIT))
    recorded(kube, run.run_id, "kubeflow")
    pod = f"{WORKFLOW}-system-container-impl-plan"
    kube.texts[f"/api/v1/namespaces/kubeflow/pods/{pod}/log"] = "c3d-pipelines: no videos\n"
    found = diagnose(opened, run)
    assert found.source == "Kubernetes (context fake)"
    assert found.reasons == (
        f"extract of shard 6 failed: {OOM}; its memory limit is 32Mi",
        "extract of shard 7 failed: DeadlineExceeded: Pod was active on the node longer than the "
        "specified deadline",
        "plan failed: no videos",
    )


def test_sources_that_have_nothing_are_listed_with_the_commands_to_run(kfp, opened, sent, kube):
    kfp.workflow_shown = False
    run = sent("/data/out")
    found = diagnose(opened, run)
    assert (found.reasons, found.source, found.exit_code) == ((), "", 1)
    assert found.tried == (
        "dataset /data/out: this machine does not have the run's folder",
        f"{kfp.url}: returns no workflow of the run",
        "Kubernetes (context fake): has no workflow and no pod of the run",
    )
    assert found.commands[0] == (
        f"kubectl describe pods -n kubeflow -l pipeline/runid={run.run_id}"
    )
    assert all("\n" not in line for line in found.tried)


def test_each_source_may_be_away(kfp, opened, sent, kube, monkeypatch, tmp_path):
    kfp.workflow_shown = False
    run = sent("/data/out")
    kube.forbidden = {f"/api/v1/namespaces/{name}/pods" for name in ("team", "kubeflow")} | {
        "/api/v1/pods"
    }
    assert 'Kubernetes (context fake): answers HTTP 403: "/api' in diagnose(opened, run).tried[2]
    broken = tmp_path / "broken"
    broken.write_text("a: [")
    monkeypatch.setenv("KUBECONFIG", str(broken))
    assert "kubeconfig: cannot be used" in diagnose(opened, run).tried[2]
    monkeypatch.delenv("KUBECONFIG")
    assert diagnose(opened, run).tried[2] == "Kubernetes: no kubeconfig here"


# Kubernetes


def test_each_cause_of_a_real_cluster_is_named(kube):
    from c3d_pipelines.kubeflow.kube import open_kube

    recorded(kube, RECORDED_RUN, "team")
    with open_kube() as api:
        seen = look_at_pods(api, RECORDED_RUN)
    reasons = {step.name: f"{step.state}: {step.reason}" for step in seen.steps}
    for step, start in {
        "extract-0": "waiting: ErrImagePull: failed to pull and unpack image",
        "extract-1": "waiting: InvalidImageName: ",
        "extract-2": "waiting: Unschedulable: 0/1 nodes are available: 1 Insufficient cpu",
        "extract-3": "waiting: Unschedulable: 0/1 nodes are available: persistentvolumeclaim "
        '"gone" not found',
        "extract-4": 'waiting: CreateContainerConfigError: secret "no-secret" not found',
        "extract-5": 'waiting: FailedMount: MountVolume.SetUp failed for volume "v"',
        "extract-6": f"failed: {OOM}; its memory limit is 32Mi",
        "extract-7": "failed: DeadlineExceeded: Pod was active",
        "plan": "failed: Error (exit code 1)",
    }.items():
        assert reasons[step].startswith(start), reasons[step]
    assert "preemption" not in str(reasons)


def test_other_causes_are_named(kube):
    """Causes that a small cluster cannot be brought to: an evicted pod, and an init container's."""
    from c3d_pipelines.kubeflow.kube import open_kube

    pods = json.loads((RECORDED / "pods.json").read_text())
    base = next(p for p in pods if p["metadata"]["name"].endswith("-plan"))
    statuses = {
        "extract-0": {"phase": "Failed", "reason": "Evicted", "message": "The node was low"},
        "extract-1": {
            "phase": "Failed",
            "initContainerStatuses": [_ended("init", 64, "Error", "no token")],
            "containerStatuses": [],
        },
        "extract-2": {"phase": "Pending", "containerStatuses": [_waits("PodInitializing")]},
        "extract-3": {"phase": "Running", "containerStatuses": [_ended("main", 137, "OOMKilled")]},
        "extract-4": {"phase": "Failed"},
        "extract-5": {
            "phase": "Failed",
            "containerStatuses": [_ended("wait", 1, "Error"), _ended("main", 137, "OOMKilled")],
        },
    }
    for step, status in statuses.items():
        node = {"workflows.argoproj.io/node-name": f"{WORKFLOW}.{place(step)}.executor"}
        metadata = {**base["metadata"], "name": step, "annotations": node}
        kube.add("pods", step, "team", metadata=metadata, spec=base["spec"], status=status)
    with open_kube() as api:
        seen = look_at_pods(api, RECORDED_RUN, "team")
    assert {step.name: (step.state, step.reason) for step in seen.steps} == {
        "extract-0": ("failed", "Evicted: The node was low"),
        "extract-1": ("failed", "init: Error (exit code 64)"),
        "extract-2": ("waiting", ""),
        "extract-3": ("waiting", OOM),
        "extract-4": ("failed", ""),
        "extract-5": ("failed", OOM),
    }


def _ended(name: str, code: int, reason: str, message: str = "") -> dict:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return _container(name, state)


def _waits(reason: str) -> dict:
    return _container("main", {"waiting": {"reason": reason}})


def _container(name: str, state: dict) -> dict:
    same = {"image": "x", "imageID": "", "ready": False, "restartCount": 0}
    return {"name": name, "state": state, **same}


def test_workflow_whose_pods_are_rejected_has_the_reason(kfp, opened, sent, kube):
    """There is no pod: the workflow's node has the message, or else an event of the workflow."""
    kfp.workflow_shown = False
    refused = 'pods "x-1" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot'
    run = sent(plan=("Error", refused))
    made = workflow(kfp.steps, run_id=run.run_id, compressed=True)
    kube.objects["/apis/argoproj.io/v1alpha1/namespaces/kubeflow/workflows"] = {"items": [made]}
    assert diagnose(opened, run).reasons == (f"plan failed: {refused}",)
    # Argo's own event, where pods but no workflows may be read.
    kube.objects.clear()
    node = {"workflows.argoproj.io/node-name": f"{WORKFLOW}.{place('plan')}.executor"}
    labels = {"pipeline/runid": run.run_id, "workflows.argoproj.io/workflow": WORKFLOW}
    started = {"labels": labels, "creationTimestamp": "2026-11-30T06:00:00Z"}
    spec = {"containers": [{"name": "main"}]}
    kube.add("pods", "d", "team", metadata=started, spec=spec, status={"phase": "Succeeded"})
    event = {"annotations": node, "creationTimestamp": "2026-11-30T06:00:01Z"}
    kube.add(
        "events",
        "e",
        "team",
        metadata=event,
        involvedObject={"kind": "Workflow", "name": WORKFLOW},
        reason="WorkflowNodeError",
        message=f"Error node {WORKFLOW}.plan: {refused}",
        type="Warning",
    )
    kfp.states = ["RUNNING"]
    going_on = replace(run, state="RUNNING")
    assert diagnose(opened, going_on).reasons == (f"plan cannot start: Forbidden: {refused}",)


# Waiting


def watched(backend, run, **changes):
    lines: list[str] = []
    inspector = Inspector(backend)
    return Watch(inspector, lines.append, **{"every_s": 0.0, **changes}), lines


def test_pods_that_cannot_start_are_named_once_while_waiting(kfp, opened, sent):
    run = sent(state="RUNNING", plan=("Pending", "ContainerCreating"))
    watch, lines = watched(opened, run)
    watch.look(opened.run(run.run_id))
    assert lines == []
    kfp.steps = {"plan": ("Pending", PULL)}
    for _ in range(2):
        watch.look(opened.run(run.run_id))
    kfp.steps = {"plan": ("Pending", "ErrImagePull: not found")}
    watch.look(opened.run(run.run_id))
    assert lines == [f"plan cannot start: {PULL}"]
    kfp.steps = {"plan": ("Pending", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")}
    watch.look(opened.run(run.run_id))
    kfp.steps = {"plan": ("Succeeded", ""), "extract-0": ("Failed", OOM)}
    watch.look(opened.run(run.run_id))
    assert lines[1:] == [
        "plan cannot start: Unschedulable: 0/1 nodes are available: 1 Insufficient cpu",
        f"extract of shard 0 failed: {OOM}",
    ]


def test_pods_are_looked_at_less_often_than_the_run(kfp, opened, sent):
    run = sent(state="RUNNING", plan=("Pending", PULL))
    watch, lines = watched(opened, run, every_s=60.0)
    before = len(kfp.requests)
    for _ in range(5):
        watch.look(run)
    assert (len(kfp.requests) - before, len(lines)) == (1, 1)


def test_run_that_nothing_explains_is_mentioned_once_after_some_minutes(
    kfp, opened, sent, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(library.time, "monotonic", lambda: now[0])
    kfp.workflow_shown = False
    run = sent(state="RUNNING", plan=("Running", ""))
    watch, lines = watched(opened, run)
    for now[0] in (0.0, 299.0, 300.0, 600.0):
        watch.look(opened.run(run.run_id))
    (line,) = lines
    assert line.startswith("no step has changed for 5 min, and the API does not show why")
    assert line.endswith(f"kubectl describe pods -n kubeflow -l pipeline/runid={run.run_id}")
    kfp.steps = {"plan": ("Succeeded", "")}
    for now[0] in (700.0, 999.0, 1001.0):
        watch.look(opened.run(run.run_id))
    assert len(lines) == 2


def test_kubernetes_is_asked_first_while_a_run_goes_on(kfp, opened, sent, kube):
    run = sent(state="RUNNING", **{"extract-5": ("Pending", PULL)})  # out of date
    recorded(kube, run.run_id, "kubeflow")
    found = diagnose(opened, run)
    assert found.source == "Kubernetes (context fake)"
    assert any(
        line.startswith("extract of shard 5 cannot start: FailedMount") for line in found.reasons
    )
    assert found.exit_code == 0


def test_run_that_goes_on_needs_no_reason(kfp, opened, sent, kube):
    run = sent(state="RUNNING", plan=("Running", ""))
    found = diagnose(opened, run)
    assert (found.reasons, found.commands, found.exit_code) == ((), (), 0)


def test_run_that_was_removed_with_its_schedule_differs_from_one_that_goes_on(
    kfp, opened, sent, kube
):
    run = sent(state="RUNNING", plan=("Running", ""))
    kfp.runs[run.run_id]["recurring_run_id"] = "gone"
    run = opened.run(run.run_id)
    found = diagnose(opened, run)
    assert (found.lost, found.exit_code) == (True, 1)
    assert "the API calls it RUNNING for ever" in found.reasons[0]
    # Its pods may be where this user cannot look.
    kube.forbidden = {"/api/v1/pods"}
    found = diagnose(opened, run)
    assert (found.lost, found.exit_code) == (None, 2)
    assert "if its workflow was deleted too" in found.reasons[0]
    assert found.tried[0].endswith("has no workflow and no pod of the run in team, kubeflow")
    kube.forbidden |= {"/api/v1/namespaces/team/pods"}
    found = diagnose(opened, run)
    assert (found.lost, "HTTP 403" in found.tried[0]) == (None, True)
    recorded(kube, run.run_id, "kubeflow")
    assert diagnose(opened, run).lost is False
