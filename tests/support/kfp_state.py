"""State of the fake Kubeflow Pipelines: experiments, runs, schedules, and users' tokens."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timezone

import kfp_server_api as api

from support.kfp_rules import Refusal, check_body, check_run, check_six_fields


class FakeKfp:
    """A Kubeflow Pipelines installation.

    Attributes:
        tokens: the valid tokens, each with the namespaces it may use; without any, no request
            needs a token.
        states: the states of a run, one for each time that it is read; the last one stays.
        failure: the messages of a failed run's tasks by name; "" is the run itself.
        faults: each is used by one request.
        requests, headers, bodies: of the requests so far.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.multi_user = False
        self.tag = "2.17.0"
        self.tokens: dict[str, set[str]] = {}
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]
        self.failure: dict[str, str] = {}
        self.page_size = 100
        self.faults: list[Callable[..., bool]] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[object] = []
        self.experiments: dict[str, dict] = {}
        self.runs: dict[str, dict] = {}
        self.schedules: dict[str, dict] = {}
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
        run = {**body, "run_id": str(uuid.uuid4()), "created_at": now(), "reads": 0}
        self.runs[run["run_id"]] = run
        return self.run_answer(run)

    def get_run(self, run_id: str, headers) -> dict:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal(f"Run {run_id} not found", code=5, status=404)
        self.parent(run, headers)
        run["reads"] += 1
        if run["reads"] > len(self.states) + 100:
            raise Refusal("the run was read long after its end", code=5, status=404)
        return self.run_answer(run)

    def run_answer(self, run: dict) -> dict:
        state = self.states[min(run["reads"], len(self.states) - 1)]
        answer = {**{key: value for key, value in run.items() if key != "reads"}, "state": state}
        if state == "FAILED":
            own, tasks = self.failure.get(""), []
            for name, message in self.failure.items():
                task = {"run_id": run["run_id"], "display_name": name, "state": "FAILED"}
                tasks += [{**task, "error": {"code": 13, "message": message}}] if name else []
            tasks.append({"display_name": "plan", "state": "SUCCEEDED"})
            answer |= {"error": {"code": 13, "message": own}} if own else {}
            answer |= {"run_details": {"task_details": tasks}}
        return answer

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
        schedule |= {"namespace": namespace, "status": f"{body['mode']}D"}
        self.schedules[schedule["recurring_run_id"]] = schedule
        return schedule

    def change_schedule(self, schedule_id: str, mode: str | None, headers) -> dict:
        schedule = self.schedules.get(schedule_id)
        if schedule is None:
            raise Refusal(f"Recurring run {schedule_id} not found", code=5, status=404)
        self.parent(schedule, headers)
        if mode is None:
            del self.schedules[schedule_id]
        else:
            schedule |= {"mode": mode, "status": f"{mode}D"}
        return {}

    # Lists

    def page(self, resources: dict[str, dict], field: str, query, headers) -> dict:
        known = {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}
        if set(query) - known:
            raise Refusal(f"unknown query parameters {sorted(set(query) - known)}")
        items = list(resources.values())
        if "experiment_id" in query:
            self.parent(query, headers)
            items = [item for item in items if item["experiment_id"] == query["experiment_id"]]
        else:
            namespace = self.namespace_of(query.get("namespace"), headers)
            items = [item for item in items if item.get("namespace", "") == namespace]
        for name in _filter_names(query.get("filter")):
            items = [item for item in items if item["display_name"] == name]
        start = int(query.get("page_token") or 0)
        end = start + min(int(query.get("page_size") or 10), self.page_size)
        more = {"next_page_token": str(end)} if end < len(items) else {}
        # The real API leaves out empty lists.
        page = {field: items[start:end]} if items[start:end] else {}
        return {**page, "total_size": len(items), **more}


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _filter_names(text: str | None) -> list[str]:
    if not text:
        return []
    try:
        predicates = json.loads(text)["predicates"]
        names = []
        for predicate in predicates:
            if predicate["operation"] not in ("EQUALS", 1) or predicate["key"] != "display_name":
                raise ValueError(predicate)
            (value_key,) = set(predicate) - {"operation", "key"}
            if value_key not in ("stringValue", "string_value"):
                raise ValueError(value_key)
            names.append(predicate[value_key])
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(f"not a filter: {error!r}") from error
    return names
