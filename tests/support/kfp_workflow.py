"""Argo workflows as Kubeflow Pipelines 2.17 compiles and Argo 4 names them.

Node names, ids and pods' names are made as Argo makes them: an id is the workflow's name and the
FNV-1a hash of the node's name; a pod's name has the template's name between the two.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping

WORKFLOW, NAMESPACE = "c3d-bulk-extraction-x7k2p", "kubeflow"
_HANDLER = "root.exit-handler-1"
_WITH_WORK = f"{_HANDLER}.condition-2"  # what a run with nothing to do leaves out
_RETRIED = ("extract", "publish", "report")


def node_hash(name: str) -> int:
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return value


def place(step: str) -> str:
    """Return the place of a step's task in the workflow: ``plan``, ``extract-3``, ``report``."""
    kind, _, shard = step.partition("-")
    if shard:
        iteration = f"iteration-iterations({shard}:{shard}).iteration-item"
        return f"{_WITH_WORK}.for-loop-3.{iteration}.{kind}"
    if kind == "publish":
        return f"{_WITH_WORK}.publish"
    return f"{_HANDLER}.onExit.{kind}" if kind == "report" else f"{_HANDLER}.{kind}"


def workflow(
    steps: Mapping[str, tuple[str, str]],
    *,
    run_id: str = "",
    phase: str = "Failed",
    message: str = "",
    compressed: bool = False,
    drivers: Mapping[str, tuple[str, str]] = {},
) -> dict:
    """Return a workflow as JSON.

    Args:
        steps: phase and message of each step's last attempt, by the step's name. A phase such as
            ``Error,Succeeded`` has an attempt for each part.
        run_id: of the label.
        phase, message: of the workflow.
        compressed: compress the nodes, as Argo does above 1 MB.
        drivers: phase and message of the drivers that did not succeed, by the step's name.
    """
    nodes: dict[str, dict] = {}
    clock = iter(range(60 * 60))

    def add(name: str, kind: str, phase: str, message: str = "", template: str = "") -> None:
        parts = re.split(r"\.(?![^(]*\))", name)
        node_id = WORKFLOW if name == WORKFLOW else f"{WORKFLOW}-{node_hash(name)}"
        minute, second = divmod(next(clock), 60)
        nodes[node_id] = {
            "id": node_id,
            "name": name,
            "displayName": "exit-handler-1.onExit" if parts[-1] == "onExit" else parts[-1],
            "type": kind,
            "templateName": template,
            "phase": phase,
            "startedAt": f"2026-11-30T06:{minute:02}:{second:02}Z",
            **({"message": message} if message else {}),
        }

    def group(name: str, phase: str) -> None:
        if f"{WORKFLOW}-{node_hash(name)}" not in nodes:
            add(name, "DAG", phase)

    add(WORKFLOW, "DAG", phase)
    for driver in ("root-driver", "root.exit-handler-1-driver"):
        add(f"{WORKFLOW}.{driver}", "Pod", "Succeeded", template="system-dag-driver")
    for step, (phases, why) in steps.items():
        parts = place(step).split(".")
        for depth in range(1, len(parts)):
            group(".".join([WORKFLOW, *parts[:depth]]), "Running")
        task = f"{WORKFLOW}.{place(step)}"
        own_phase, own_message = drivers.get(step, ("Succeeded", ""))
        driver = f"{task}-driver"
        add(driver, "Pod", own_phase, own_message, template="system-container-driver")
        *_, last = attempts = phases.split(",")
        if not last:
            continue
        retried = step.partition("-")[0] in _RETRIED
        template = "retry-system-container-impl" if retried else "system-container-impl"
        add(task, "DAG", last)
        if retried:
            add(f"{task}.executor", "Retry", last)
        for attempt, outcome in enumerate(attempts):
            name = f"{task}.executor({attempt})" if retried else f"{task}.executor"
            note = why if attempt == len(attempts) - 1 else "main: Error (exit code 1)"
            add(name, "Pod", outcome, note if outcome != "Succeeded" else "", template)
    status: dict = {"phase": phase, "message": message}
    if compressed:
        packed = gzip.compress(json.dumps(nodes).encode())
        status["compressedNodes"] = base64.b64encode(packed).decode()
    else:
        status["nodes"] = nodes
    labels = {"pipeline/runid": run_id}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": WORKFLOW, "namespace": NAMESPACE, "labels": labels},
        "spec": {"entrypoint": "entrypoint"},
        "status": status,
    }


def nodes_of(workflow: dict) -> list[dict]:
    status = workflow["status"]
    if "compressedNodes" in status:
        packed = base64.b64decode(status["compressedNodes"])
        return list(json.loads(gzip.decompress(packed)).values())
    return list(status["nodes"].values())


def pod_of(workflow: dict, step: str) -> str:
    """Return the name of a step's newest pod."""
    start = f"{WORKFLOW}.{place(step)}.executor"
    newest = [n for n in nodes_of(workflow) if n["type"] == "Pod" and n["name"].startswith(start)]
    node = newest[-1]
    return f"{WORKFLOW}-{node['templateName']}-{node['id'].rpartition('-')[2]}"


def node_of(workflow: dict, step: str) -> str:
    """Return the id of the node of a step's newest pod."""
    return f"{WORKFLOW}-{pod_of(workflow, step).rpartition('-')[2]}"


def tasks_of(workflow: dict) -> list[dict]:
    """Return a workflow as the API of version 2 does: no places, pods or messages."""
    states = {"Error": "FAILED"}
    return [
        {
            "run_id": workflow["metadata"]["labels"]["pipeline/runid"],
            "task_id": f"task-{node_hash(node['name'])}",
            "display_name": node["displayName"],
            "state": states.get(node["phase"], node["phase"].upper()),
        }
        for node in nodes_of(workflow)
    ]
