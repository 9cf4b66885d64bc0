"""What one Kubeflow Pipelines knows: experiments, runs, schedules, and who may ask for them."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timezone

from support.kfp_rules import Refusal, check_body, check_run, check_six_fields


class FakeKfp:
    """One Kubeflow Pipelines.

    `tokens` are those that it knows, each with the namespaces it may use; none asks for none.
    `course` are the states of a run, one each time that it is asked for, of which the last stays.
    `faults` are used up by one request each. `requests` are those that came, and `bodies` theirs.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.multi_user = False
        self.tag = "2.17.0"
        self.tokens: dict[str, set[str]] = {}
        self.course = ["PENDING", "RUNNING", "SUCCEEDED"]
        self.failure: dict[str, str] = {}  # a task's name and what it said; "" is the run itself
        self.page_size = 100
        self.faults: list[Callable[..., bool]] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[object] = []
        self.experiments: dict[str, dict] = {}
        self.runs: dict[str, dict] = {}
        self.schedules: dict[str, dict] = {}
        self.pipelines: dict[str, dict] = {}
        self.lock = threading.RLock()
        self.released = threading.Event()

    # Who asks

    def authorise(self, headers, namespace: str) -> None:
        if not self.tokens:
            return
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise Refusal("Request header error: there is no user identity", code=16, status=401)
        if self.multi_user and namespace not in self.tokens[token]:
            said = f"User is not authorized with reason: no access to namespace {namespace!r}"
            raise Refusal(said, code=7, status=403)

    def namespace_of(self, given: str | None, headers) -> str:
        """The namespace that counts: none where there is a single user."""
        namespace = (given or "") if self.multi_user else ""
        self.authorise(headers, namespace)
        if self.multi_user and not namespace:
            raise Refusal("A resource cannot have an empty namespace in multi-user mode")
        return namespace

    # Experiments

    def create_experiment(self, body, headers) -> dict:
        check_body("V2beta1Experiment", body)
        namespace = self.namespace_of(body.get("namespace"), headers)
        if not body.get("display_name"):
            raise Refusal("The experiment's name is empty")
        same = [one for one in self.experiments.values() if one["namespace"] == namespace]
        if any(one["display_name"] == body["display_name"] for one in same):
            raise Refusal("Already exist error: the experiment", code=6, status=409)
        made = {**body, "experiment_id": str(uuid.uuid4()), "namespace": namespace}
        self.experiments[made["experiment_id"]] = made | {"storage_state": "AVAILABLE"}
        return self.experiments[made["experiment_id"]]

    def parent(self, body, headers) -> str:
        experiment = self.experiments.get(body.get("experiment_id", ""))
        if experiment is None:
            raise Refusal(f"Experiment {body.get('experiment_id')} not found", code=5, status=404)
        return self.namespace_of(experiment["namespace"], headers)

    # Runs

    def create_run(self, body, headers) -> dict:
        check_body("V2beta1Run", body)
        self.parent(body, headers)
        check_run(body)
        made = {**body, "run_id": str(uuid.uuid4()), "created_at": now(), "asked": 0}
        self.runs[made["run_id"]] = made
        return self.shown_run(made)

    def get_run(self, run_id: str, headers) -> dict:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal(f"Run {run_id} not found", code=5, status=404)
        self.parent(run, headers)
        run["asked"] += 1
        if run["asked"] > len(self.course) + 100:
            raise Refusal("it was asked for long after it ended", code=5, status=404)
        return self.shown_run(run)

    def shown_run(self, run: dict) -> dict:
        state = self.course[min(run["asked"], len(self.course) - 1)]
        shown = {**{k: v for k, v in run.items() if k != "asked"}, "state": state}
        if state == "FAILED":
            own, tasks = self.failure.get(""), []
            for name, said in self.failure.items():
                task = {"run_id": run["run_id"], "display_name": name, "state": "FAILED"}
                tasks += [{**task, "error": {"code": 13, "message": said}}] if name else []
            tasks.append({"display_name": "plan", "state": "SUCCEEDED"})
            shown |= {"error": {"code": 13, "message": own}} if own else {}
            shown |= {"run_details": {"task_details": tasks}}
        return shown

    # Recurring runs

    def create_schedule(self, body, headers) -> dict:
        check_body("V2beta1RecurringRun", body)
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
        made = {**body, "recurring_run_id": str(uuid.uuid4()), "created_at": now()}
        made |= {"namespace": namespace, "status": f"{body['mode']}D"}
        self.schedules[made["recurring_run_id"]] = made
        return made

    def change_schedule(self, schedule_id: str, mode: str | None, headers) -> dict:
        found = self.schedules.get(schedule_id)
        if found is None:
            raise Refusal(f"Recurring run {schedule_id} not found", code=5, status=404)
        self.parent(found, headers)
        if mode is None:
            del self.schedules[schedule_id]
        else:
            found |= {"mode": mode, "status": f"{mode}D"}
        return {}

    # Pipelines

    def upload(self, query, body: bytes, headers) -> dict:
        self.namespace_of(query.get("namespace"), headers)
        name = query.get("name", "")
        if any(one["display_name"] == name for one in self.pipelines.values()):
            raise Refusal("Failed to create a pipeline and a pipeline version", status=409)
        if b'name="uploadfile"' not in body or not name:
            raise Refusal("Failed to create a pipeline. Error parsing pipeline spec filename")
        made = {"pipeline_id": str(uuid.uuid4()), "display_name": name, "created_at": now()}
        self.pipelines[made["pipeline_id"]] = made
        return made

    # Lists

    def page(self, things: dict[str, dict], what: str, query, headers) -> dict:
        known = {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}
        if set(query) - known:
            raise Refusal(f"unknown query parameters {sorted(set(query) - known)}")
        found = list(things.values())
        if "experiment_id" in query:
            self.parent(query, headers)
            found = [one for one in found if one["experiment_id"] == query["experiment_id"]]
        else:
            namespace = self.namespace_of(query.get("namespace"), headers)
            found = [one for one in found if one.get("namespace", "") == namespace]
        for name in _names_wanted(query.get("filter")):
            found = [one for one in found if one["display_name"] == name]
        start = int(query.get("page_token") or 0)
        end = start + min(int(query.get("page_size") or 10), self.page_size)
        more = {"next_page_token": str(end)} if end < len(found) else {}
        # Empty lists are left out, as the real one does.
        page = {what: found[start:end]} if found[start:end] else {}
        return {**page, "total_size": len(found), **more}


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _names_wanted(text: str | None) -> list[str]:
    if not text:
        return []
    try:
        predicates = json.loads(text)["predicates"]
        names = []
        for one in predicates:
            if one["operation"] not in ("EQUALS", 1) or one["key"] != "display_name":
                raise ValueError(one)
            (other,) = set(one) - {"operation", "key"}
            if other not in ("stringValue", "string_value"):
                raise ValueError(other)
            names.append(one[other])
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(f"filter is not one: {error!r}") from error
    return names
