"""Steps of a run, by this package's names, as Argo's workflow and Kubernetes' pods show them.

Kubeflow compiles a pipeline into an Argo workflow of a dozen nodes for each task. Its nodes are
named after their place in the workflow, such as
``NAME.root.exit-handler-1.for-loop-2.iteration-iterations(3:3).iteration-item.extract.executor``.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from c3d_pipelines.errors import RunError
from c3d_pipelines.run.errors import one_line
from c3d_pipelines.text import shortened

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
_STATES = {
    **dict.fromkeys(("Pending", "PENDING"), WAITING),
    **dict.fromkeys(("Running", "RUNNING"), RUNNING),
    **dict.fromkeys(("Succeeded", "SUCCEEDED"), DONE),
    **dict.fromkeys(("Failed", "Error", "FAILED"), FAILED),
}
# Kubeflow terminates a workflow by a deadline of 0 s, so that its steps fail.
TERMINATED = "it was ended by a request to terminate it"
_LONGEST_REASON = 300
_LONGEST_PREFIX = 242  # of a pod's name before its hash, as Argo cuts it
NODE_NAME = "workflows.argoproj.io/node-name"
_POD_NAMES = "workflows.argoproj.io/pod-name-format"
# Nodes that Kubeflow's compiler puts around a task.
_GROUP = re.compile(
    r"root|executor|onExit|exit-handler-\d+|for-loop-\d+|condition(-branches)?-\d+"
    r"|iteration(-item|-iterations)?"
)
_DRIVER = "-driver"
_ITERATION = re.compile(r"iteration-iterations\((\d+):")
_SHARD = re.compile(r"(.+)-(\d+)")
_ATTEMPT = re.compile(r"\(\d+\)")
_SUFFIX = re.compile(r"(\(\d+(:[^)]*)?\))+$")
# Messages of pods that are being started as usual.
_USUAL = ("PodInitializing", "ContainerCreating")
# What a process that ends with an error leaves behind, whatever the error was.
_EXIT = re.compile(r"(main: )?Error \(exit code \d+\)")


@dataclass(frozen=True)
class Step:
    """A step of a run with the newest of its pods.

    Args:
        name: ``plan``, or ``extract-3`` for shard 3, as in the data set's ``error-*.txt``; empty
            for the run's own drivers.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        reason: why it waits or failed, in one line; empty where it is not known.
        pod: the pod's name.
        driver: whether the pod is Kubeflow's own, which starts a step.
        started: when it was created, in ISO 8601.
    """

    name: str
    state: str
    reason: str = ""
    pod: str = ""
    driver: bool = False
    started: str = ""

    @property
    def title(self) -> str:
        """The step's name in a sentence."""
        if not self.driver:
            return title(self.name)
        return f"Kubeflow's driver of {title(self.name)}" if self.name else "Kubeflow's driver"

    @property
    def unexplained(self) -> bool:
        """Whether it failed and only its log has the reason."""
        return self.state == FAILED and (not self.reason or bool(_EXIT.fullmatch(self.reason)))


def title(name: str) -> str:
    """Return a step's name in a sentence.

    >>> title("plan"), title("extract-3")
    ('plan', 'extract of shard 3')
    """
    match = _SHARD.fullmatch(name)
    return f"{match[1]} of shard {match[2]}" if match else name


def step_of(node: str) -> tuple[str, bool]:
    """Return the step of a workflow's node, and whether the node is Kubeflow's driver of the step.

    Args:
        node: its name: the workflow's name and its place in the workflow.
    """
    parts = [_SUFFIX.sub("", part) for part in node.split(".")[1:]]
    names = [part for part in parts if not _GROUP.fullmatch(part.removesuffix(_DRIVER))]
    driver = bool(parts) and parts[-1].endswith(_DRIVER)
    if not names:
        return "", driver
    shards = _ITERATION.findall(node)
    name = names[-1].removesuffix(_DRIVER) if driver else names[-1]
    return (f"{name}-{shards[-1]}" if shards else name), driver


def steps_of_workflow(workflow: Mapping[str, Any]) -> list[Step]:
    """Return the steps whose pods a workflow has begun to create, oldest first.

    Args:
        workflow: an Argo Workflow as JSON; its nodes may be compressed.

    Raises:
        RunError: it is not a workflow.
    """
    try:
        nodes = _nodes(workflow)
        steps: dict[str, Step] = {}
        for node in sorted(nodes, key=lambda node: str(node.get("startedAt") or "")):
            state = _STATES.get(node.get("phase", ""))
            # Attempts of the same step share this key; the newest is kept.
            key = _ATTEMPT.sub("", node["name"])
            if node.get("type") == "Pod" and state is not None:
                name, driver = step_of(node["name"])
                steps[key] = Step(
                    name=name,
                    state=state,
                    reason=short_reason(node.get("message")),
                    pod=_pod_name(workflow, node),
                    driver=driver,
                    started=str(node.get("startedAt") or ""),
                )
        for node in nodes:  # a retry that Argo gave up is no attempt
            message, key = str(node.get("message") or ""), _ATTEMPT.sub("", node["name"])
            if node.get("type") == "Retry" and "duration limit" in message and key in steps:
                reason = f"{steps[key].reason}; {message}".removeprefix("; ")
                steps[key] = replace(steps[key], state=FAILED, reason=reason)
        return list(steps.values())
    except (AttributeError, KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise RunError(f"not a workflow of Argo ({type(error).__name__})") from error


def workflow_message(workflow: Mapping[str, Any]) -> str:
    """Return a workflow's own message in one line; empty where it has none."""
    status, spec = workflow.get("status"), workflow.get("spec")
    if isinstance(spec, Mapping) and spec.get("activeDeadlineSeconds") == 0:
        return TERMINATED
    return short_reason(status.get("message")) if isinstance(status, Mapping) else ""


def steps_of_tasks(tasks: Iterable[tuple[str, str]]) -> list[Step]:
    """Return the steps among a run's tasks as the API of version 2 shows them.

    Args:
        tasks: display name and state of each; the names are those of the workflow's nodes, without
            their places, so that shards cannot be distinguished.
    """
    # All other nodes, the workflow's own included, have names with more than letters.
    return [
        Step(name=shown, state=_STATES[state])
        for shown, state in tasks
        if state in _STATES and shown.isalpha() and not _GROUP.fullmatch(shown)
    ]


def step_counts(steps: Iterable[Step]) -> str:
    """Return how many steps of each kind are in each state.

    >>> step_counts([Step("plan", DONE), Step("extract-0", DONE), Step("extract-1", FAILED)])
    'plan done; extract 1 done, 1 failed of 2'
    """
    kinds: dict[str, Counter[str]] = {}
    for step in steps:
        if not step.driver:
            match = _SHARD.fullmatch(step.name)
            kinds.setdefault(match[1] if match else step.name, Counter())[step.state] += 1
    parts = []
    for kind, states in kinds.items():
        ordered = [state for state in (DONE, FAILED, RUNNING, WAITING) if states[state]]
        counts = ", ".join(f"{states[state]} {state}" for state in ordered)
        total = states.total()
        parts.append(f"{kind} {counts} of {total}" if total > 1 else f"{kind} {ordered[0]}")
    return "; ".join(parts)


def short_reason(message: object) -> str:
    """Return a message of Argo or Kubernetes in one line; empty while a pod starts as usual."""
    text = one_line(Exception(message or ""))
    if text.startswith(_USUAL):
        return ""
    # Kubernetes' scheduler repeats itself.
    text = text.partition(" preemption: ")[0].rstrip(" ,.")
    return shortened(text.removeprefix("main: "), _LONGEST_REASON)


def _nodes(workflow: Mapping[str, Any]) -> list[dict[str, Any]]:
    status = workflow.get("status") or {}
    nodes = status.get("nodes")
    if not nodes and status.get("compressedNodes"):
        nodes = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
    return list((nodes or {}).values())


def _pod_name(workflow: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return the name that Argo gives a node's pod."""
    metadata = workflow["metadata"]
    if (metadata.get("annotations") or {}).get(_POD_NAMES) == "v1":
        return str(node["id"])
    prefix = f"{metadata['name']}-{node.get('templateName', '')}"[:_LONGEST_PREFIX]
    return f"{prefix}-{str(node['id']).rpartition('-')[2]}"
