"""Jobs end: by a limit of tries and time, told apart from disruptions, and are cleared away."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.bundle import Object
from k8s.objects import of_kind, selected, where


def jobs(objects: list[Object]) -> list[str]:
    """Every Job has a TTL, a deadline, few tries and a failure policy, and serves nobody."""
    found = []
    for job in of_kind(objects, "Job"):
        found += (f"{where(job)}: {problem}" for problem in _job(job))
    for cron in of_kind(objects, "CronJob"):
        template = {"spec": cron["spec"]["jobTemplate"]["spec"]}
        found += (f"{where(cron)}: {problem}" for problem in _job(template))
    for budget in of_kind(objects, "PodDisruptionBudget", "Service"):
        given = budget["spec"].get("selector") or {}
        selector = given if budget["kind"] == "PodDisruptionBudget" else {"matchLabels": given}
        space = budget["metadata"].get("namespace") or "c3d"
        for pod in selected(objects, selector, space):
            if pod.owner["kind"] == "Job":
                found.append(f"{where(budget)}: selects the pods of {pod.where}")
    return found


def _job(job: Object) -> Iterator[str]:
    spec = job["spec"]
    if not spec.get("ttlSecondsAfterFinished"):
        yield "no ttlSecondsAfterFinished: it would stay for ever"
    if not spec.get("activeDeadlineSeconds"):
        yield "no activeDeadlineSeconds: it might hang for ever"
    if not 0 <= spec.get("backoffLimit", 6) <= 4:
        yield f"backoffLimit is {spec.get('backoffLimit', 6)}: the same failure six times over"
    pod = spec["template"]["spec"]
    if pod.get("restartPolicy") != "Never":
        yield f"restartPolicy is {pod.get('restartPolicy')}; podFailurePolicy needs Never"
    rules = (spec.get("podFailurePolicy") or {}).get("rules") or []
    if not any(r["action"] == "FailJob" and r.get("onExitCodes") for r in rules):
        yield "no podFailurePolicy that fails the Job on an error that a retry does not mend"
    disruptions = [c["type"] for r in rules for c in r.get("onPodConditions") or ()]
    if "DisruptionTarget" not in disruptions:
        yield "no podFailurePolicy that leaves disruptions out of the count"
    names = {c["name"] for c in [*(pod.get("initContainers") or ()), *pod["containers"]]}
    for rule in rules:
        named = (rule.get("onExitCodes") or {}).get("containerName")
        if named and named not in names:
            yield f"podFailurePolicy names no container {named}"
