"""What selectors select: exactly the pods that they should, and by ports that are there."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.bundle import Object
from k8s.bundle import objects as rendered
from k8s.network import CLIENT_LABEL
from k8s.objects import (
    PART_OF,
    Pod,
    matches,
    name,
    namespace,
    of_kind,
    pods,
    selected,
    servers,
    where,
)


def selectors(objects: list[Object]) -> list[str]:
    """Services, budgets, workloads, monitors, policies and spreading select what they are for."""
    return [
        *_workloads(objects),
        *_services(objects),
        *_budgets(objects),
        *_monitors(objects),
        *_policies(objects),
        *_spreading(objects),
    ]


def labels(objects: list[Object]) -> list[str]:
    """Every object says what it is part of, and every pod its name and component too."""
    label = "app.kubernetes.io/part-of"
    found = [
        f"{where(o)}: label {label} is {given}, not {PART_OF}"
        for o in objects
        if (given := (o["metadata"].get("labels") or {}).get(label)) != PART_OF
    ]
    for pod in pods(objects):
        if pod.owner["kind"] == "ServingRuntime":
            continue  # KServe labels its pods
        for key in ("name", "component", "part-of"):
            if f"app.kubernetes.io/{key}" not in pod.labels:
                found.append(f"{pod.where}: its pods have no label app.kubernetes.io/{key}")
    return found


def _workloads(objects: list[Object]) -> Iterator[str]:
    for workload in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet"):
        found = selected(objects, workload["spec"]["selector"], namespace(workload))
        given = workload["spec"]["selector"].get("matchLabels") or {}
        for key in ("name", "component"):
            if f"app.kubernetes.io/{key}" not in given:
                yield f"{where(workload)}: selector says no {key}: it may take other pods in"
        yield from _exactly(found, [where(workload)], f"{where(workload)}: selector")


def _services(objects: list[Object]) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        selector = {"matchLabels": service["spec"].get("selector") or {}}
        if not selector["matchLabels"]:
            yield f"{where(service)}: no selector"
            continue
        found = selected(objects, selector, namespace(service))
        yield from _exactly(found, _server_names(objects), f"{where(service)}: selector")
        for port in service["spec"]["ports"]:
            for pod in found:
                given = _ports(pod)
                target = port.get("targetPort", port["port"])
                if target not in given and target not in given.values():
                    yield f"{where(service)}: port {target} is not one of {pod.where}'s"


def _budgets(objects: list[Object]) -> Iterator[str]:
    for budget in of_kind(objects, "PodDisruptionBudget"):
        spec = budget["spec"]
        found = selected(objects, spec["selector"], namespace(budget))
        yield from _exactly(found, _server_names(objects), f"{where(budget)}: selector")
        least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
        replicas = min((p.owner["spec"].get("replicas", 1) for p in found), default=1)
        scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
        for scaler in scalers:
            given = scaler["spec"]
            replicas = given.get("minReplicas", given.get("minReplicaCount", replicas))
        if most in (0, "0%") or least == "100%" or (isinstance(least, int) and least >= replicas):
            yield f"{where(budget)}: lets no pod go, so that no node can be drained"


def _monitors(objects: list[Object]) -> Iterator[str]:
    for monitor in of_kind(objects, "ServiceMonitor"):
        spec = monitor["spec"]
        spaces = (spec.get("namespaceSelector") or {}).get("matchNames") or [namespace(monitor)]
        found = [
            service
            for service in of_kind(objects, "Service")
            if namespace(service) in spaces
            and matches(spec["selector"], service["metadata"].get("labels") or {})
        ]
        for endpoint in spec["endpoints"]:
            named = [
                s for s in found if endpoint["port"] in {p.get("name") for p in s["spec"]["ports"]}
            ]
            if not named:
                yield f"{where(monitor)}: selects no Service with a port {endpoint['port']}"
            elif len(named) > 1:
                both = ", ".join(sorted(name(s) for s in named))
                yield f"{where(monitor)}: scrapes every pod twice, through {both}"


def _policies(objects: list[Object]) -> Iterator[str]:
    for policy in of_kind(objects, "NetworkPolicy"):
        selector = policy["spec"].get("podSelector") or {}
        if selector == {"matchLabels": {CLIENT_LABEL: "true"}}:
            continue  # users' pods
        # The Job is applied beside the policies, when somebody wants a model.
        there = [*objects, *of_kind(rendered("jobs/export-model"), "Job")]
        if selector and not selected(there, selector, namespace(policy)):
            yield f"{where(policy)}: podSelector selects no pod"
        given = {}
        for pod in selected(objects, selector, namespace(policy)):
            given |= _ports(pod)
        for rule in policy["spec"].get("ingress") or ():
            for port in rule.get("ports") or ():
                if port["port"] not in given and port["port"] not in given.values():
                    yield f"{where(policy)}: port {port['port']} is no selected pod's"


def _spreading(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        constraints = [
            (f"topologySpreadConstraints {c['topologyKey']}", c.get("labelSelector") or {})
            for c in pod.spec.get("topologySpreadConstraints") or ()
        ]
        anti = ((pod.spec.get("affinity") or {}).get("podAntiAffinity")) or {}
        terms = [*(anti.get("requiredDuringSchedulingIgnoredDuringExecution") or ())]
        preferred = anti.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [t["podAffinityTerm"] for t in preferred]
        constraints += [("podAntiAffinity", t.get("labelSelector") or {}) for t in terms]
        for subject, selector in constraints:
            if not selector or not matches(selector, pod.labels):
                yield f"{pod.where}: {subject} does not select its own pods"


def _exactly(found: list[Pod], wanted: list[str], subject: str) -> Iterator[str]:
    owners = {p.where for p in found}
    for missing in sorted(set(wanted) - owners):
        yield f"{subject} does not select {missing}"
    for extra in sorted(owners - set(wanted)):
        yield f"{subject} selects {extra} too"
    if not wanted and not owners:
        yield f"{subject} selects no pod"


def _server_names(objects: list[Object]) -> list[str]:
    return [pod.where for pod in servers(objects)]


def _ports(pod: Pod) -> dict[str, int]:
    """Port numbers by name."""
    return {
        port.get("name", str(port["containerPort"])): port["containerPort"]
        for container in pod.containers
        for port in container.get("ports") or ()
    }
