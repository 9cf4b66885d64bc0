"""Room: what a bundle asks for at its largest fits its own quota and its own queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal

from k8s.bundle import Object
from k8s.objects import Pod, of_kind, pods, where
from k8s.resources import quantity

_QUEUE = "kueue.x-k8s.io/queue-name"


def quota(objects: list[Object]) -> list[str]:
    """Quotas have room for all replicas and one more while rolling; queues know every resource."""
    found = []
    asked = _asked(objects)
    for limit in of_kind(objects, "ResourceQuota"):
        for called, size in limit["spec"]["hard"].items():
            most = quantity(size)
            if most is not None and asked[called] > most:
                found.append(
                    f"{where(limit)}: {called} {size}, and the bundle asks for {asked[called]}"
                )
    for queue in of_kind(objects, "ClusterQueue"):
        found += (f"{where(queue)}: {problem}" for problem in _queue(objects, queue))
    return found


def _asked(objects: list[Object]) -> dict[str, Decimal]:
    """Totals by a quota's names: `pods`, `requests.cpu`, `limits.memory` and so on."""
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for pod in pods(objects):
        count = _count(pod)
        totals["pods"] += count
        for kind in ("requests", "limits"):
            for called, size in _sums(pod, kind).items():
                totals[f"{kind}.{called}"] += size * count
    for claim in of_kind(objects, "PersistentVolumeClaim"):
        totals["persistentvolumeclaims"] += 1
        size = quantity(claim["spec"]["resources"]["requests"]["storage"])
        totals["requests.storage"] += size or 0
    return totals


def _sums(pod: Pod, kind: str) -> dict[str, Decimal]:
    """What Kubernetes counts for a pod: its containers' sum, or its largest init container."""
    totals: dict[str, Decimal] = defaultdict(Decimal)
    largest: dict[str, Decimal] = defaultdict(Decimal)
    for container in pod.containers:
        given = container.get("resources") or {}
        sizes = (given.get("limits") or {}) | (given.get(kind) or {})
        for called, size in sizes.items():
            number = quantity(size) or Decimal(0)
            if container in pod.spec["containers"]:
                totals[called] += number
            else:
                largest[called] = max(largest[called], number)
    return {called: max(totals[called], largest[called]) for called in {*totals, *largest}}


def _count(pod: Pod) -> int:
    spec = pod.owner["spec"]
    if pod.owner["kind"] != "Deployment":
        return 1
    surge = ((spec.get("strategy") or {}).get("rollingUpdate") or {}).get("maxSurge", 1)
    return int(spec.get("replicas", 1)) + (surge if isinstance(surge, int) else 1)


def _queue(objects: list[Object], queue: Object) -> Iterator[str]:
    groups = queue["spec"]["resourceGroups"]
    covered = {r for group in groups for r in group["coveredResources"]}
    for pod in pods(objects):
        labels = pod.owner["metadata"].get("labels") or {}
        for called in sorted(set(_sums(pod, "requests")) - covered if _QUEUE in labels else ()):
            yield f"does not know {called}, so that {pod.where} is never admitted"
