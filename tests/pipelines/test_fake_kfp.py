"""The fake Kubeflow Pipelines refuses what the real API refuses, and works with kfp's client."""

from __future__ import annotations

import copy
import json
import urllib.error
import urllib.request
import warnings

import pytest
from c3d_pipelines.kubeflow.compile import EXTRACTION, compiled_path
from c3d_pipelines.kubeflow.submit import Package
from support.fake_kfp import ROOT
from support.processes import LONG_S


@pytest.fixture(scope="module")
def path() -> str:
    return str(compiled_path(EXTRACTION))


@pytest.fixture(scope="module")
def spec(path) -> dict:
    return Package(path).to_body()


def request(kfp, method: str, path: str, body: object = None):
    """Send a request; return the status and the answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    sent = urllib.request.Request(f"{kfp.url}{ROOT}/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(sent, timeout=LONG_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def run(kfp, spec) -> dict:
    """A body for a run that is accepted."""
    _, experiment = request(kfp, "POST", "experiments", {"display_name": "c3d"})
    return copy.deepcopy(
        {
            "display_name": "one",
            "experiment_id": experiment["experiment_id"],
            "pipeline_spec": spec,
            "runtime_config": {"parameters": {"videos": "s3://a/b"}},
        }
    )


@pytest.fixture
def schedule(run) -> dict:
    """A body for a schedule that is accepted."""
    trigger = {"cron_schedule": {"cron": "0 0 2 * * *"}}
    return {**run, "mode": "ENABLE", "max_concurrency": "1", "trigger": trigger}


def _parameters(**values):
    return lambda body: body["runtime_config"].update(parameters=values)


def _in_spec(change):
    return lambda body: change(body["pipeline_spec"]["pipeline_spec"])


UNUSABLE_RUNS = {
    "no name": (lambda b: b.pop("display_name"), "run name is empty"),
    "unknown field": (lambda b: b.update(displayname="x"), "unknown field 'displayname'"),
    "server's field": (lambda b: b.update(run_id="x"), "run_id must not be set"),
    "no experiment": (lambda b: b.update(experiment_id="x"), "Experiment x not found"),
    "account": (lambda b: b.update(service_account="Default User"), "ServiceAccount"),
    "root": (lambda b: b["runtime_config"].update(pipeline_root="bucket/a"), "pipeline_root"),
    "no pipeline": (lambda b: b.pop("pipeline_spec"), "no pipeline spec"),
    "third document": (lambda b: b["pipeline_spec"].update(more={}), "unknown documents"),
    "unknown in spec": (_in_spec(lambda s: s.update(rot={})), "invalid v2 pipeline spec"),
    "version": (_in_spec(lambda s: s.update(schemaVersion="2.0.0")), "schema version 2.1.0"),
    "pipeline's name": (_in_spec(lambda s: s["pipelineInfo"].update(name="C3D x")), "name"),
    "no root": (_in_spec(lambda s: s.pop("root")), "root component is empty"),
    "unknown parameter": (_parameters(vidoes="x"), "not required by pipeline: vidoes"),
    "text for number": (_parameters(stride="8"), "requires type NUMBER_INTEGER"),
    "number for text": (_parameters(server=1), "requires type STRING"),
    "number for flag": (_parameters(clip_rows=1), "requires type BOOLEAN"),
    "null": (_parameters(server=None), "requires type STRING"),
    "too long": (_parameters(server="x" * 10_001), "exceed maximum size of 10000"),
}


def test_unusable_run_is_refused(kfp, run):
    for case, (spoil, message) in UNUSABLE_RUNS.items():
        body = copy.deepcopy(run)
        spoil(body)
        status, answer = request(kfp, "POST", "runs", body)
        assert status in (400, 404), case
        assert message in answer["message"], case
        assert kfp.runs == {}, case


def test_missing_required_parameter_is_refused(kfp, run):
    parameters = run["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    parameters["server"] = {"parameterType": "STRING"}
    status, answer = request(kfp, "POST", "runs", run)
    assert (status, "server is not optional" in answer["message"]) == (400, True)


UNUSABLE_SCHEDULES = {
    "five fields": (
        lambda b: b["trigger"]["cron_schedule"].update(cron="0 2 * * *"),
        "Expected 6 fields, found 5",
    ),
    "minutes": (
        lambda b: b["trigger"]["cron_schedule"].update(cron="0 60 2 * * *"),
        "above maximum (59)",
    ),
    "no trigger": (lambda b: b.pop("trigger"), "no trigger"),
    "two triggers": (
        lambda b: b["trigger"].update(periodic_schedule={"interval_second": "60"}),
        "no trigger, or two",
    ),
    "concurrency": (lambda b: b.update(max_concurrency="11"), "out of range"),
    "no concurrency": (lambda b: b.pop("max_concurrency"), "out of range"),
    "mode": (lambda b: b.update(mode="ON"), "mode is 'ON'"),
    "no mode": (lambda b: b.pop("mode"), "mode is None"),
    "parameters": (_parameters(vidoes="x"), "not required by pipeline"),
}


def test_unusable_schedule_is_refused(kfp, schedule):
    for case, (spoil, message) in UNUSABLE_SCHEDULES.items():
        body = copy.deepcopy(schedule)
        spoil(body)
        status, answer = request(kfp, "POST", "recurringruns", body)
        assert status == 400, case
        assert message in answer["message"], case
        assert kfp.schedules == {}, case


def test_kfps_own_client_works_with_it(kfp, path, monkeypatch, tmp_path, capsys):
    """Run, wait and schedule: the fake is not made for this package's client alone."""
    import kfp as sdk

    monkeypatch.setattr(sdk.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client = sdk.Client(host=kfp.url)
    sent = client.create_run_from_pipeline_package(
        path, {"videos": "s3://a/b"}, experiment_name="kfp", enable_caching=False
    )
    ended = client.wait_for_run_completion(sent.run_id, timeout=LONG_S, sleep_duration=0)
    assert ended.state == "SUCCEEDED"
    schedule = client.create_recurring_run(
        ended.experiment_id,
        "nightly",
        cron_expression="0 0 2 * * *",
        no_catchup=True,
        pipeline_package_path=path,
    )
    listed = client.list_recurring_runs(experiment_id=ended.experiment_id).recurring_runs
    assert [run.recurring_run_id for run in listed] == [schedule.recurring_run_id]
    client.delete_recurring_run(schedule.recurring_run_id)
    assert kfp.schedules == {}
    client._run_api.api_client.rest_client.pool_manager.clear()
    assert "Run details" in capsys.readouterr().out


def test_runs_behave_as_measured(kfp, run):
    """No errors, nodes of the workflow as tasks, FAILED after terminate, logs with status 200."""
    kfp.states = ["PENDING", "RUNNING"]
    kfp.steps = {"plan": ("Pending", "ImagePullBackOff: no such image")}
    run_id = request(kfp, "POST", "runs", run)[1]["run_id"]
    _, answer = request(kfp, "GET", f"runs/{run_id}")
    tasks = answer["run_details"]["task_details"]
    assert (answer["state"], "error" in answer, {"error", "pod_name"} & set(tasks[0])) == (
        "RUNNING",
        False,
        set(),
    )
    assert {"root", "root-driver", "exit-handler-1", "plan", "executor"} <= {
        task["display_name"] for task in tasks
    }
    assert request(kfp, "POST", f"runs/{run_id}:retry")[0] == 400
    assert request(kfp, "POST", f"runs/{run_id}:terminate") == (200, {})
    states = [request(kfp, "GET", f"runs/{run_id}")[1]["state"] for _ in range(3)]
    assert states == ["FAILED"] * 3
    status, answer = request(kfp, "POST", f"runs/{run_id}:terminate")
    assert (status, "Row not found" in answer["message"]) == (400, True)
    log = f"{kfp.url}/apis/v1alpha1/runs/{run_id}/nodes/gone/log"
    with urllib.request.urlopen(log, timeout=LONG_S) as answer:
        assert (answer.status, "not found" in json.load(answer)["error_message"]) == (200, True)
    status, listed = request(kfp, "GET", "runs?sort_by=created_at%20desc&page_size=1")
    assert (status, [item["run_id"] for item in listed["runs"]]) == (200, [run_id])
    assert request(kfp, "GET", "runs?sort_by=colour")[0] == 400
    for action in ("runs/gone:terminate", "runs/gone:retry"):
        assert request(kfp, "POST", action)[0] == 404
