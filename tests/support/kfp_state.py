"""State of the fake Kubeflow Pipelines: experiments, runs, schedules, and users' tokens."""

from __future__ import annotations

import base64
import json
import re
import threading
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import kfp_server_api as api

from support.kfp_pipelines import Uploads
from support.kfp_rules import Refusal, check_body, check_run, check_six_fields
from support.kfp_workflow import tasks_of, workflow


@dataclass
class Progress:
    """A run's states, one for each time that it is read; the last one stays."""

    states: list[str]
    reads: int = 0
    terminated: bool = False

    @property
    def state(self) -> str:
        return self.states[min(self.reads, len(self.states) - 1)]


class FakeKfp:
    """A Kubeflow Pipelines installation.

    Attributes:
        tokens: the valid tokens, each with the namespaces it may use; without any, no request
            needs a token.
        states: the states of a run, one for each time that it is read; the last one stays.
        steps: phase and message of each step of a run in its last state, as
            :func:`support.kfp_workflow.workflow` takes them. The API of version 2 shows the names
            of their nodes, without messages.
        workflow_shown: whether the API of version 1 returns the workflow.
        logs: of the pods that are there, by the pod's name.
        archived: logs of pods, also of those that are gone, by the id of the node.
        is_ui: whether the address is that of the web interface, which passes on some paths only.
        faults: each is used by one request.
        destroyed: ids of runs in progress that were deleted together with their schedule.
        requests, headers, bodies: of the requests so far.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.multi_user = False
        self.tag = "2.17.0"
        self.tokens: dict[str, set[str]] = {}
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]
        self.steps: dict[str, tuple[str, str]] = {}
        self.workflow_shown = True
        self.logs: dict[str, str] = {}
        self.archived: dict[str, str] = {}
        self.is_ui = False
        self.page_size = 100
        self.faults: list[Callable[..., bool]] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[object] = []
        self.experiments: dict[str, dict] = {}
        self.runs: dict[str, dict] = {}
        self.progress: dict[str, Progress] = {}
        self.schedules: dict[str, dict] = {}
        self.uploads = Uploads()
        self.destroyed: list[str] = []
        self.lock = threading.RLock()
        self.released = threading.Event()

    # Users

    def authorise(self, headers, namespace: str) -> None:
        if not self.tokens:
            return
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise Refusal("Request header error: there is no user identity", code=16, status=401)
        if self.multi_user and namespace not in self.tokens[token]:
            message = f"User is not authorized with reason: no access to namespace {namespace!r}"
            raise Refusal(message, code=7, status=403)

    def namespace_of(self, given: str | None, headers) -> str:
        """Return the namespace of a request; empty for a backend with a single user."""
        namespace = (given or "") if self.multi_user else ""
        self.authorise(headers, namespace)
        if self.multi_user and not namespace:
            raise Refusal("A resource cannot have an empty namespace in multi-user mode")
        return namespace

    # Experiments

    def create_experiment(self, body, headers) -> dict:
        check_body(api.V2beta1Experiment, body)
        namespace = self.namespace_of(body.get("namespace"), headers)
        if not body.get("display_name"):
            raise Refusal("The experiment's name is empty")
        if any(
            experiment["namespace"] == namespace
            and experiment["display_name"] == body["display_name"]
            for experiment in self.experiments.values()
        ):
            raise Refusal("Already exist error: the experiment", code=6, status=409)
        experiment_id = str(uuid.uuid4())
        self.experiments[experiment_id] = {
            **body,
            "experiment_id": experiment_id,
            "namespace": namespace,
            "storage_state": "AVAILABLE",
        }
        return self.experiments[experiment_id]

    def parent(self, body, headers) -> str:
        experiment = self.experiments.get(body.get("experiment_id", ""))
        if experiment is None:
            raise Refusal(f"Experiment {body.get('experiment_id')} not found", code=5, status=404)
        return self.namespace_of(experiment["namespace"], headers)

    # Runs

    def create_run(self, body, headers) -> dict:
        check_body(api.V2beta1Run, body)
        self.parent(body, headers)
        check_run(body)
        return self.run_answer(self.add_run(str(uuid.uuid4()), **body))

    def add_run(self, run_id: str, **fields) -> dict:
        """Add a run with these fields, as a schedule does too."""
        self.runs[run_id] = {**fields, "run_id": run_id, "created_at": now()}
        self.progress[run_id] = Progress(self.states)
        return self.runs[run_id]

    def get_run(self, run_id: str, headers) -> dict:
        run = self.known_run(run_id, headers)
        progress = self.progress[run_id]
        progress.reads += 1
        if progress.reads > len(progress.states) + 100:
            raise Refusal("the run was read long after its end", code=5, status=404)
        return self.run_answer(run)

    def known_run(self, run_id: str, headers) -> dict:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal(f"Run {run_id} not found", code=5, status=404)
        self.parent(run, headers)
        return run

    def run_answer(self, run: dict) -> dict:
        """Return a run as the real API does: no error, and nodes of the workflow as tasks."""
        answer = {**run, "state": self.progress[run["run_id"]].state}
        if self.steps:
            answer["run_details"] = {"task_details": tasks_of(self.workflow_of(run))}
        return answer

    def workflow_of(self, run: dict) -> dict:
        progress = self.progress[run["run_id"]]
        shown = workflow(self.steps, run_id=run["run_id"], phase=progress.state.capitalize())
        if progress.terminated:
            shown["spec"]["activeDeadlineSeconds"] = 0
        return shown

    def get_run_v1(self, run_id: str, headers) -> dict:
        """Return a run with its workflow, which the API stores as text."""
        run = self.known_run(run_id, headers)
        answer = {"run": {"id": run_id, "name": run["display_name"]}, "pipeline_runtime": {}}
        if self.workflow_shown and self.steps:
            text = json.dumps(self.workflow_of(run))
            answer["pipeline_runtime"] = {"workflow_manifest": text}
        return answer

    def read_artifact(self, run_id: str, node: str, name: str, headers) -> dict:
        """Return an artifact of Argo: those of Kubeflow's own steps are not among them."""
        self.known_run(run_id, headers)
        if name != "main-logs" or node not in self.archived:
            raise Refusal("artifact not found", code=5, status=404)
        return {"data": base64.b64encode(self.archived[node].encode()).decode()}

    def runs_page(self, query, headers) -> dict:
        page = self.page(self.runs, "runs", query, headers)
        return page | {"runs": [self.run_answer(run) for run in page.get("runs", ())]}

    def terminate_run(self, run_id: str, headers) -> dict:
        self.known_run(run_id, headers)
        progress = self.progress[run_id]
        if progress.state not in ("PENDING", "RUNNING", "PAUSED"):
            raise Refusal(f"Failed to terminate a run {run_id}. Row not found")
        # The report step is killed too, so that the run fails; it never becomes CANCELED.
        self.progress[run_id] = Progress(["CANCELING", "FAILED"], terminated=True)
        return {}

    def retry_run(self, run_id: str, headers) -> dict:
        run = self.known_run(run_id, headers)
        if self.progress[run_id].state != "FAILED":
            message = "Workflow must be Failed/Error to retry: workflow cannot be retried"
            raise Refusal(f"Failed to retry run {run_id}: {message}")
        self.progress[run["run_id"]] = Progress(["RUNNING", "SUCCEEDED"])
        return {}

    def read_log(self, run_id: str, pod: str) -> bytes:
        """Return a pod's log; an error is part of an answer with status 200."""
        if run_id in self.runs and pod in self.logs:
            return self.logs[pod].encode()
        message = f"Failed to read logs for run {run_id}: pods {pod!r} not found"
        return json.dumps({"error_message": message, "error_details": message}).encode()

    # Recurring runs

    def create_schedule(self, body, headers) -> dict:
        check_body(api.V2beta1RecurringRun, body)
        namespace = self.parent(body, headers)
        check_run(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise Refusal("The max concurrency of the recurring run is out of range. Support 1-10")
        if body.get("mode") not in ("ENABLE", "DISABLE"):
            raise Refusal(f"Recurring run's mode is {body.get('mode')!r}")
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron")
        period = body.get("trigger", {}).get("periodic_schedule", {}).get("interval_second")
        if (cron is None) == (period is None):
            raise Refusal("Recurring run has no trigger, or two")
        if cron is not None and not cron.startswith("@"):
            check_six_fields(cron)
        schedule = {**body, "recurring_run_id": str(uuid.uuid4()), "created_at": now()}
        # With a single user that of Kubeflow Pipelines itself.
        schedule |= {"namespace": namespace or "kubeflow", "status": f"{body['mode']}D"}
        self.schedules[schedule["recurring_run_id"]] = schedule
        return schedule

    def get_schedule(self, schedule_id: str, headers) -> dict:
        schedule = self.schedules.get(schedule_id)
        if schedule is None:
            raise Refusal(f"Recurring run {schedule_id} not found", code=5, status=404)
        self.parent(schedule, headers)
        return schedule

    def change_schedule(self, schedule_id: str, mode: str, headers) -> dict:
        schedule = self.get_schedule(schedule_id, headers)
        schedule |= {"mode": mode, "status": f"{mode}D"}
        return {}

    def delete_schedule(self, schedule_id: str, query: dict[str, str], headers) -> dict:
        """Delete a schedule, and by default the workflow of the run that it started last."""
        self.get_schedule(schedule_id, headers)
        policy = query.get("propagation_policy", "BACKGROUND")
        if policy not in ("FOREGROUND", "BACKGROUND", "ORPHAN"):
            raise Refusal(f"parsing field propagation_policy: {policy!r} is not valid")
        del self.schedules[schedule_id]
        started = [run for run in self.runs.values() if run.get("recurring_run_id") == schedule_id]
        if started and policy != "ORPHAN":
            run_id = started[-1]["run_id"]
            state = self.progress[run_id].state
            if state in ("PENDING", "RUNNING", "CANCELING"):
                self.destroyed.append(run_id)
                self.progress[run_id] = Progress([state])  # for ever
        return {}

    def start_scheduled(self, schedule_id: str, states: list[str] | None = None) -> str:
        """Start a run of an enabled schedule, as its controller does; return the run's id."""
        schedule = self.schedules[schedule_id]
        assert schedule["mode"] == "ENABLE"
        number = sum(run.get("recurring_run_id") == schedule_id for run in self.runs.values()) + 1
        # Kubernetes makes the schedule's name of 25 letters of its display name and 5 of its own.
        short = re.sub(r"[^a-z0-9-]+", "", schedule["display_name"].lower())[:25]
        name = f"{short}x7k2p-{number}-{zlib.crc32(f'{short}{number}'.encode())}"
        shared = ("experiment_id", "pipeline_spec", "runtime_config", "service_account")
        run = {key: schedule[key] for key in shared if key in schedule}
        run |= {"run_id": str(uuid.uuid4()), "display_name": name, "created_at": now()}
        self.runs[run["run_id"]] = run | {"recurring_run_id": schedule_id}
        self.progress[run["run_id"]] = Progress(states or self.states)
        return run["run_id"]

    # Lists

    def page(self, resources: dict[str, dict], field: str, query, headers) -> dict:
        known = {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}
        if set(query) - known:
            raise Refusal(f"unknown query parameters {sorted(set(query) - known)}")
        items = list(resources.values())
        if "experiment_id" in query:
            self.parent(query, headers)
            items = [item for item in items if item["experiment_id"] == query["experiment_id"]]
        elif field != "pipeline_versions":
            namespace = self.namespace_of(query.get("namespace"), headers)
            items = [item for item in items if item.get("namespace", "") == namespace]
        items = [item for item in items if _matches(item, query.get("filter"))]
        key, _, order = query.get("sort_by", "").partition(" ")
        if key not in ("", "created_at"):
            raise Refusal(f"Invalid sorting field: {key!r}")
        if key:
            items = sorted(items, key=lambda item: item[key], reverse=order == "desc")
        start = int(query.get("page_token") or 0)
        end = start + min(int(query.get("page_size") or 10), self.page_size)
        more = {"next_page_token": str(end)} if end < len(items) else {}
        # The real API leaves out empty lists.
        page = {field: items[start:end]} if items[start:end] else {}
        return {**page, "total_size": len(items), **more}


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


_FILTERED = ("display_name", "run_id", "recurring_run_id")


def _matches(item: dict, text: str | None) -> bool:
    """Return whether a resource passes a filter of the two kinds that this project sends."""
    if not text:
        return True
    tests = {
        "EQUALS": lambda has, value: has == value,
        "IS_SUBSTRING": lambda has, value: value in has,
    }
    try:
        for predicate in json.loads(text)["predicates"]:
            test, key = tests[predicate["operation"]], predicate["key"]
            (value_key,) = set(predicate) - {"operation", "key"}
            if value_key not in ("stringValue", "string_value") or key not in _FILTERED:
                raise ValueError(predicate)
            if not test(item.get(key, ""), predicate[value_key]):
                return False
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(f"not a filter: {error!r}") from error
    return True
