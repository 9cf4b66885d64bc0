"""Pods of a run, as the Kubernetes API shows them: why each waits or failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.kube import Kube, KubeError
from c3d_pipelines.kubeflow.workflow import (
    DONE,
    FAILED,
    NODE_NAME,
    RUNNING,
    WAITING,
    Step,
    short_reason,
    step_of,
    steps_of_workflow,
    workflow_message,
)

RUN_LABEL = "pipeline/runid"
MAIN = "main"  # the container of a step, in the pods that Argo creates
_STEP_LABEL = "workflows.argoproj.io/workflow"
_PHASES = {"Pending": WAITING, "Running": RUNNING, "Succeeded": DONE, "Failed": FAILED}
# Events of a pod that is placed on a node and cannot start there.
_BLOCKING = (
    "FailedMount",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "FailedScheduling",
    "FailedBinding",
)
_USUAL = ("PodInitializing", "ContainerCreating")
_KUBEFLOW = "kubeflow"  # the namespace of an installation with a single user


@dataclass(frozen=True)
class PodsSeen:
    """The steps of a run in Kubernetes.

    Args:
        namespace: of the run's pods; empty where no workflow and no pod of the run was found.
        steps: oldest first.
        message: the workflow's own.
        searched: the namespaces without one, if not all could be searched.
    """

    namespace: str
    steps: tuple[Step, ...] = ()
    message: str = ""
    searched: tuple[str, ...] = ()


def look_at_pods(kube: Kube, run_id: str, namespace: str = "") -> PodsSeen:
    """Return the steps of a run in Kubernetes.

    Args:
        kube: the Kubernetes API.
        run_id: id of the run.
        namespace: of the user's profile; all namespaces are looked in where the run is not there.

    Raises:
        KubeError: the API does not answer, or does not allow to list pods.
    """
    label = {"label_selector": f"{RUN_LABEL}={run_id}"}
    pods: list[Any] = []
    workflows: list[dict[str, Any]] = []
    spaces = list(dict.fromkeys(filter(None, (namespace, kube.namespace, _KUBEFLOW))))
    error: KubeError | None = None
    for space in spaces:
        try:
            pods = kube.call(kube.core.list_namespaced_pod, namespace=space, **label).items
        except KubeError as refused:
            if refused.status not in (401, 403):
                raise
            error = error or refused
        workflows = _workflows(kube, space, label)
        if pods or workflows:
            return _seen(kube, space, pods, workflows)
    try:
        pods = kube.call(kube.core.list_pod_for_all_namespaces, **label).items
    except KubeError as refused:
        if refused.status not in (401, 403):
            raise
        if error is not None:
            raise error from None
        return PodsSeen("", searched=tuple(spaces))
    if not pods:
        return PodsSeen("")
    space = pods[0].metadata.namespace
    return _seen(kube, space, pods, _workflows(kube, space, label))


def steps_of_pods(pods: Sequence[Any], events: Sequence[Any]) -> list[Step]:
    """Return the steps of pods, with why each waits or failed.

    Args:
        pods: ``V1Pod`` of a run; of several attempts of a step the newest counts.
        events: ``CoreV1Event`` of their namespace, oldest first.
    """
    blocked = {
        event.involved_object.name: f"{event.reason}: {event.message}"
        for event in events
        if event.reason in _BLOCKING
    }
    steps: dict[tuple[str, bool], Step] = {}
    for pod in sorted(pods, key=lambda pod: pod.metadata.creation_timestamp):
        node = (pod.metadata.annotations or {}).get(NODE_NAME, "")
        name, driver = step_of(node) if node else (pod.metadata.name, False)
        state = _PHASES.get(pod.status.phase, RUNNING)
        reason = _failure(pod) if state == FAILED else ""
        if state in (WAITING, RUNNING):
            reason = _hindrance(pod, blocked.get(pod.metadata.name, ""))
            state = WAITING if reason else state
        steps[node or name, driver] = Step(
            name=name,
            state=state,
            reason=short_reason(reason),
            pod=pod.metadata.name,
            driver=driver,
            started=pod.metadata.creation_timestamp.isoformat(),
        )
    return list(steps.values())


def pod_log(kube: Kube, namespace: str, pod: str, *, lines: int | None = None) -> str | None:
    """Return the log of a step's pod; None where the pod is gone or has not started.

    Args:
        kube, namespace, pod: where it is.
        lines: how many lines of its end; all of it by default.

    Raises:
        KubeError: the log cannot be read.
    """
    tail = {} if lines is None else {"tail_lines": lines}
    arguments = {"name": pod, "namespace": namespace, "container": MAIN, **tail}
    try:
        # Without the library's decoding, which turns bytes into their Python notation.
        answer = kube.call(kube.core.read_namespaced_pod_log, _preload_content=False, **arguments)
        return bytes(answer.data).decode("utf-8", "replace")
    except KubeError as error:
        if error.status in (400, 404):  # 400: its container has not started
            return None
        raise


def _workflows(kube: Kube, space: str, label: dict[str, str]) -> list[dict[str, Any]]:
    """Return the workflows of a run; none where they cannot be read."""
    try:
        listed = kube.call(
            kube.custom.list_namespaced_custom_object,
            group="argoproj.io",
            version="v1alpha1",
            plural="workflows",
            namespace=space,
            **label,
        )
        return list(listed.get("items") or [])
    except KubeError as error:
        if error.status in (401, 403, 404):
            return []
        raise


def _seen(kube: Kube, space: str, pods: list[Any], workflows: list[dict[str, Any]]) -> PodsSeen:
    names = {pod.metadata.name for pod in pods}
    owners = {workflow["metadata"]["name"] for workflow in workflows}
    owners |= {(pod.metadata.labels or {}).get(_STEP_LABEL, "") for pod in pods} - {""}
    events: list[Any] = []
    try:
        listed = kube.call(
            kube.core.list_namespaced_event, namespace=space, field_selector="type=Warning"
        ).items
        events = sorted(
            (e for e in listed if e.involved_object.name in names | owners), key=_event_time
        )
    except KubeError as error:
        if error.status not in (401, 403):
            raise
    steps: dict[str, Step] = {}
    for workflow in workflows:
        try:
            steps |= {step.pod: step for step in steps_of_workflow(workflow)}
        except RunError:  # the pods remain
            continue
    rejected = [] if steps else _rejected(events, owners)
    for step in (*rejected, *steps_of_pods(pods, events)):
        known = steps.get(step.pod)
        if known is None or step.reason:
            steps[step.pod] = step
    message = next(filter(None, map(workflow_message, workflows)), "")
    return PodsSeen(space, tuple(sorted(steps.values(), key=lambda step: step.started)), message)


def _rejected(events: Iterable[Any], owners: set[str]) -> list[Step]:
    """Return steps whose pods were refused, from the events of the workflow that created them."""
    rejected = []
    for event in events:
        message = event.message or ""
        if event.involved_object.name in owners and "is forbidden" in message:
            node = (event.metadata.annotations or {}).get(NODE_NAME, "")
            name, driver = step_of(node) if node else ("a pod", False)
            start = message.find("pods ")
            reason = message[start:] if start >= 0 else message
            rejected.append(
                Step(name, WAITING, short_reason(f"Forbidden: {reason}"), node, driver=driver)
            )
    return rejected


def _failure(pod: Any) -> str:
    """Return why a pod failed."""
    status = pod.status
    if status.reason or status.message:  # Evicted, DeadlineExceeded, NodeLost, …
        return ": ".join(filter(None, (status.reason, status.message)))
    containers = [*(status.init_container_statuses or ()), *(status.container_statuses or ())]
    for container in sorted(containers, key=lambda c: c.name != MAIN):
        if reason := _end(pod, container):
            return reason
    return ""


def _end(pod: Any, container: Any) -> str:
    """Return how a container ended, if it failed."""
    ended = container.state and container.state.terminated
    if not ended or not ended.exit_code:
        return ""
    # Without a hint where the process ended itself: its log has the reason.
    reason = f"{ended.reason or 'Error'} (exit code {ended.exit_code})"
    if ended.reason == "OOMKilled":
        specs = [*(pod.spec.init_containers or ()), *pod.spec.containers]
        limits = [s.resources.limits for s in specs if s.name == container.name and s.resources]
        limit = (limits[0] or {}).get("memory") if limits else None
        reason += f"; its memory limit is {limit}" if limit else ""
    if ended.message and ended.reason != "Error":
        reason += f": {ended.message}"
    return reason if container.name == MAIN else f"{container.name}: {reason}"


def _hindrance(pod: Any, event: str) -> str:
    """Return why a pod does not start or is about to fail; empty while all is as usual."""
    status = pod.status
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        waiting = container.state and container.state.waiting
        if waiting and waiting.reason and waiting.reason not in _USUAL:
            return ": ".join(filter(None, (waiting.reason, waiting.message)))
    main = [c for c in status.container_statuses or () if c.name == MAIN]
    if main and (reason := _end(pod, main[0])):
        return reason
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    return event if status.phase == "Pending" else ""


def _event_time(event: Any) -> str:
    when = event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return when.isoformat() if when else ""
