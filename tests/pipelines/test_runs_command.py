"""`c3d-pipelines status`, `logs`, `terminate` and `retry`: output, exit codes, and which run."""

from __future__ import annotations

import json
import sys

import pytest
from c3d_pipelines.cli import main
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.submit import submit
from c3d_pipelines.run.errors import write_reason
from support.fake_kfp import fails, no_fault
from support.fake_kube import fake_kube
from support.kfp_workflow import WORKFLOW, node_of, pod_of, workflow
from support.terminals import run_in_terminal

pytestmark = pytest.mark.usefixtures("bare")

OOM = "OOMKilled (exit code 137)"
EXIT = "main: Error (exit code 1)"


@pytest.fixture
def send(kfp, bulk):
    """Send a run without a wait."""

    def send(name: str = "one", out: str = "s3://b/out") -> str:
        with Backend(ClusterAccess(host=kfp.url)) as backend:
            parameters = {"videos": "s3://b/in", "out": "s3://b/out"}
            run = submit(backend, bulk, parameters, name=name)
            kfp.runs[run.run_id]["runtime_config"]["parameters"]["out"] = out
            return run.run_id

    return send


@pytest.fixture
def command(kfp, capsys):
    """Run the command as a shell does; return its exit code and its lines."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--host", kfp.url, "--ui", "https://ui.example"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out.splitlines(), err.splitlines()

    return run


def test_status_prints_state_steps_reason_and_where_it_is_from(kfp, send, command, tmp_path):
    kfp.states = ["RUNNING", "FAILED"]
    kfp.steps = {
        "plan": ("Succeeded", ""),
        "extract-0": ("Succeeded", ""),
        "gate": ("Failed", EXIT),
    }
    kfp.steps["extract-1"] = ("Succeeded", "")
    run = send(out=str(tmp_path))
    write_reason("gate", "3 videos did not end ok", out=str(tmp_path), run=run)
    assert command("status", run) == (
        1,
        [
            "one",
            f"id      {run}",
            "state   FAILED",
            "steps   plan done; extract 2 done of 2; gate failed",
            "why     gate: 3 videos did not end ok",
            f"from    the dataset {tmp_path}",
            f"link    https://ui.example/#/runs/details/{run}",
        ],
        [],
    )


def test_status_of_a_run_that_goes_on_or_succeeded_is_0(kfp, send, command):
    for state in ("PENDING", "RUNNING", "SUCCEEDED"):
        kfp.states, kfp.steps = [state], {"plan": ("Succeeded", "")}
        code, lines, _ = command("status", send())
        assert (code, lines[2:4]) == (0, [f"state   {state}", "steps   plan done"]), state
        assert not any(line.startswith(("why", "tried", "look")) for line in lines)


def test_status_names_the_pods_that_cannot_start(kfp, send, command):
    kfp.states = ["RUNNING"]
    kfp.steps = {f"extract-{n}": ("Pending", "ImagePullBackOff: no such image") for n in range(3)}
    code, lines, _ = command("status", send())
    assert code == 0
    assert (
        "why     extract of shards 0, 1 and 2 cannot start: ImagePullBackOff: no such image"
        in lines
    )
    assert "steps   extract 3 waiting of 3" in lines


def test_status_without_a_reason_prints_what_was_tried(kfp, send, command):
    kfp.states = ["FAILED"]
    run = send(out="/data/out")
    code, lines, _ = command("status", run)
    assert code == 1
    assert "why     not known" in lines
    assert "tried   dataset /data/out: this machine does not have the run's folder" in lines
    assert "tried   Kubernetes: no kubeconfig here" in lines
    assert f"look    kubectl describe pods -n kubeflow -l pipeline/runid={run}" in lines


def test_status_as_json(kfp, send, command):
    kfp.states, kfp.steps = ["FAILED"], {"plan": ("Failed", OOM)}
    code, (line,), _ = command("status", send(out="/data/out"), "--json")
    answer = json.loads(line)
    assert (code, answer["state"], answer["reasons"]) == (1, "FAILED", [f"plan failed: {OOM}"])
    steps = [step for step in answer["steps"] if not step["driver"]]
    assert [(step["name"], step["state"]) for step in steps] == [("plan", "failed")]


@pytest.mark.long
def test_status_fits_the_terminal_and_commands_stay_whole(kfp, send):
    kfp.states = ["RUNNING"]
    kfp.steps = {
        f"extract-{n}": ("Pending", f"ErrImagePull: {'no image ' * 20}") for n in range(12)
    }
    waits = send()
    kfp.states = ["FAILED"]
    unknown = send(out="/data/out")
    program = [sys.executable, "-c", "from c3d_pipelines.cli import main; main()"]
    for columns, run in ((60, waits), (80, unknown)):
        _, lines = run_in_terminal([*program, "status", run, "--host", kfp.url], columns=columns)
        whole = [line for line in lines if line.startswith(("look", "link"))]
        assert max(len(line) for line in lines if line not in whole) <= columns
        assert sum(line.startswith("why ") for line in lines) == 1
    pods = f"-n kubeflow -l pipeline/runid={unknown}"
    assert f"look    kubectl logs {pods} -c main --prefix --tail 20" in whole


def test_run_is_found_by_id_its_beginning_name_or_latest(kfp, send, command):
    kfp.states = ["SUCCEEDED"]
    first = send("one")
    second = send("two")
    kfp.runs[first]["created_at"] = "2026-01-01T00:00:00Z"
    for given, run in ((first, first), (first[:8], first), ("two", second), ("latest", second)):
        code, lines, _ = command("status", given)
        assert (code, lines[1]) == (0, f"id      {run}"), given
    middle = first[9:13]
    if not any(run.startswith(middle) for run in (first, second)):
        assert f"has no run {middle!r}" in command("status", middle)[2][0]
    other = f"{first[:9]}0000-4000-8000-000000000000"
    kfp.runs[other] = {**kfp.runs[first], "run_id": other}
    kfp.progress[other] = kfp.progress[first]
    for given in ("one", first[:8]):
        code, out, (line,) = command("status", given)
        assert (code, out) == (2, [])
        assert f"has 2 runs {given!r}; give an id: " in line
        assert first in line
        assert other in line


def test_unknown_run_is_one_line(kfp, send, command):
    assert "has no run in the experiment 'c3d'" in command("status", "latest")[2][0]
    send()
    for given, message in (
        ("three", "has no run 'three'; give an id, the beginning of an id, a name, or latest"),
        ("ffffffff", "has no run 'ffffffff'"),
        ("00000000-0000-4000-8000-000000000000", "HTTP 404"),
    ):
        for name in ("status", "logs", "terminate", "retry"):
            code, out, (line,) = command(name, given)
            assert (code, out) == (2, []), name
            assert message in line
    latest = command("status", "latest", "--experiment", "another")
    assert "has no run in the experiment 'another'" in latest[2][0]


def test_logs_are_those_of_the_failed_steps(kfp, send, command):
    kfp.states = ["FAILED"]
    kfp.steps = {"plan": ("Succeeded", ""), "extract-0": ("Succeeded", "")}
    kfp.steps |= {"extract-1": ("Failed", OOM)}
    made = workflow(kfp.steps)
    pods = {step: pod_of(made, step) for step in kfp.steps}
    kfp.logs = {pod: f"of {step}\n" for step, pod in pods.items()}
    run = send()
    failed = [f"==> extract of shard 1 ({pods['extract-1']})", "of extract-1"]
    assert command("logs", run) == (0, failed, [])
    assert command("logs", run, "plan") == (0, [f"==> plan ({pods['plan']})", "of plan"], [])
    code, out, _ = command("logs", run, "extract")
    assert (code, out[1], out[2:]) == (0, "of extract-0", failed)
    assert command("logs", run, "extract-1")[1] == failed
    code, _, (line,) = command("logs", run, "publish")
    assert code == 2
    assert line.endswith("has no step 'publish'; there are plan, extract-0 to extract-1")
    kfp.steps["extract-1"] = ("Succeeded", "")
    assert len(command("logs", run)[1]) == 6  # of all steps


def test_log_of_a_pod_that_is_gone_is_one_line(kfp, send, command):
    kfp.states, kfp.steps = ["FAILED"], {"plan": ("Failed", EXIT)}
    pod = pod_of(workflow(kfp.steps), "plan")
    for is_ui in (False, True):
        kfp.is_ui = is_ui
        gone = f"c3d-pipelines: plan: no log is left of the pod {pod}"
        assert command("logs", send()) == (1, [], [gone])


def test_archived_log_of_a_pod_that_is_gone_is_printed(kfp, send, command):
    kfp.states, kfp.steps = ["FAILED"], {"plan": ("Failed", EXIT)}
    made = workflow(kfp.steps)
    kfp.archived = {node_of(made, "plan"): "café\nc3d-pipelines: no videos\n"}
    for is_ui in (False, True):
        kfp.is_ui = is_ui
        _, out, _ = command("logs", send())
        assert out == [f"==> plan ({pod_of(made, 'plan')})", "café", "c3d-pipelines: no videos"]
    assert "why     plan failed: no videos" in command("status", send())[1]


def test_log_is_read_from_kubernetes_where_the_api_has_none(
    kfp, send, command, tmp_path, monkeypatch
):
    kfp.states, kfp.steps = ["FAILED"], {"plan": ("Failed", EXIT)}
    pod = pod_of(workflow(kfp.steps), "plan")
    run = send()
    with fake_kube() as kube:
        monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "config")))
        absent = [f"c3d-pipelines: plan: no log is left of the pod {pod}"]
        assert command("logs", run)[2] == absent  # neither has it
        node = f"{WORKFLOW}.root.exit-handler-1.plan.executor"
        metadata = {
            "labels": {"pipeline/runid": run},
            "annotations": {"workflows.argoproj.io/node-name": node},
            "creationTimestamp": "2026-11-30T06:00:00Z",
        }
        spec = {"containers": [{"name": "main"}]}
        kube.add("pods", pod, "kubeflow", metadata=metadata, spec=spec, status={"phase": "Failed"})
        kube.texts[f"/api/v1/namespaces/kubeflow/pods/{pod}/log"] = "café\nlast"
        for shown in (True, False):
            kfp.workflow_shown = shown
            assert command("logs", run) == (0, [f"==> plan ({pod})", "café", "last"], [])
        (path,) = kube.texts
        kube.texts.clear()
        assert command("logs", run)[2] == absent
        kube.forbidden = {path}
        code, _, (line,) = command("logs", run)
        assert (code, "plan: Kubernetes (context fake): answers HTTP 403" in line) == (1, True)


def test_logs_without_a_source_are_one_line(kfp, send, command):
    kfp.workflow_shown, kfp.states = False, ["FAILED"]
    code, out, (line,) = command("logs", send())
    assert (code, out) == (2, [])
    assert "no source shows its pods" in line
    assert "look with: kubectl logs -n kubeflow -l pipeline/runid=" in line


@pytest.mark.long
def test_terminated_run_fails_with_that_reason(kfp, send, command):
    kfp.states, kfp.steps = ["RUNNING"], {"plan": ("Succeeded", "")}
    run = send()
    assert command("terminate", run) == (0, ["one: is being ended; its state becomes FAILED"], [])
    assert kfp.requests[-1] == f"POST /apis/v2beta1/runs/{run}:terminate"
    for _ in range(2):
        code, lines, _ = command("status", run)
    assert (code, lines[2]) == (1, "state   FAILED")
    assert "why     it was ended by a request to terminate it" in lines
    code, _, (line,) = command("terminate", run)
    assert (code, line) == (2, f"c3d-pipelines: one ({run}): has ended already as FAILED")


def test_failed_run_is_retried_under_its_id(kfp, send, command):
    kfp.states = ["FAILED"]
    run = send()
    assert command("retry", run) == (0, ["one: its failed steps are started again"], [])
    code, lines, _ = command("status", run)
    assert (code, lines[1], lines[2]) == (0, f"id      {run}", "state   SUCCEEDED")
    code, _, (line,) = command("retry", run)
    assert (code, "is SUCCEEDED; only a run that failed can be retried" in line) == (2, True)
    assert kfp.requests.count(f"POST /apis/v2beta1/runs/{run}:retry") == 1


def test_run_whose_record_is_damaged_is_unknown(kfp, send, command):
    run = send()

    def damaged(handler) -> bool:
        error = {"code": 13, "message": "Failed to parse\nruntime config"}
        handler.answer(200, {"run_id": run, "experiment_id": "x", "error": error})
        return True

    kfp.faults = [no_fault, damaged]
    code, out, (line,) = command("status", run)
    assert (code, out) == (2, [])
    assert "cannot return the run (Failed to parse runtime config)" in line


def test_refusal_of_the_server_is_one_line(kfp, send, command):
    kfp.states = ["RUNNING"]
    run = send()
    kfp.faults = [no_fault, no_fault, fails(500, "no\nworkflow")]
    code, out, (line,) = command("terminate", run)
    assert (code, out) == (2, [])
    assert "HTTP 500: no workflow" in line
