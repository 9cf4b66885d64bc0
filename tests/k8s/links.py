"""Checks between objects: schemas, labels, selectors, and names of other objects."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

from k8s.objects import (
    SCALERS,
    Pod,
    get,
    labels,
    matches,
    name,
    namespace,
    of_kind,
    pods,
    prefix,
    ref,
    selected,
    servers,
)
from k8s.render import Object, objects_of

VERSIONS = ("1.31", "1.33", "1.35", "1.37")
CUSTOM_SCHEMAS = Path(__file__).parent / "schemas"
_SCHEMAS = "kubernetes-json-schema/v{version}.0-local-strict"
PART_OF = "c3d"
_LABEL = "app.kubernetes.io/"
# Objects that hold data stay when the service goes: `kubectl apply --prune` selects PART_OF, and
# the annotations are those of Argo CD and Flux. Kind -> label part-of.
_KEPT = {"Namespace": "c3d-setup", "PersistentVolumeClaim": "c3d-setup"}
_KEEP = {
    "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
    "kustomize.toolkit.fluxcd.io/prune": "disabled",
}
CLIENT_LABEL = "c3d.dev/client"
# (kind, name): the keys of objects that the user creates. k8s/README.md must describe each.
USER_OBJECTS: dict[tuple[str, str], frozenset[str]] = {
    # Written by cert-manager or by hand.
    ("Secret", "c3d-serving-tls"): frozenset({"tls.crt", "tls.key", "ca.crt"}),
    # Holds the user's own weight files.
    ("PersistentVolumeClaim", "c3d-weights"): frozenset(),
}
_BUILT_IN_PRIORITIES = {"system-cluster-critical", "system-node-critical"}
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
_KUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"


# ---- schemas


def check_schemas(objects: list[Object]) -> Iterator[str]:
    """Every object matches its schema in every version; an unknown field is a problem.

    Kubernetes' own strict schemas come from kubernetes-validate, those of custom resources from
    `schemas/`. `kubernetes_validate.validate` reads 5 MB for each object, so the schemas are
    compiled once here instead.
    """
    for obj in objects:
        yield from prefix(ref(obj), _schema_problems(json.dumps(obj, sort_keys=True)))


@functools.cache
def _schema_problems(text: str) -> list[str]:
    """Return the problems of an object, given as JSON: combinations share most of their objects."""
    obj = json.loads(text)
    problems: dict[str, list[str]] = {}
    for version in VERSIONS:
        validator = _validator(obj["apiVersion"], obj["kind"], version)
        if validator is None:
            messages = [f"object: no schema for {obj['apiVersion']} {obj['kind']}"]
        else:
            messages = [
                f"{'.'.join(map(str, error.absolute_path)) or 'object'}: {error.message[:200]}"
                for error in validator.iter_errors(obj)
            ]
        for message in messages:
            problems.setdefault(message, []).append(version)
    return [
        f"{message} (Kubernetes {', '.join(versions)})" for message, versions in problems.items()
    ]


def custom_kinds() -> set[tuple[str, str]]:
    """Return (apiVersion, kind) of each schema in `schemas/`."""
    schemas = [json.loads(path.read_text())["properties"] for path in CUSTOM_SCHEMAS.glob("*.json")]
    return {(schema["apiVersion"]["const"], schema["kind"]["const"]) for schema in schemas}


@functools.cache
def _validator(api_version: str, kind: str, version: str) -> jsonschema.Draft202012Validator | None:
    group, _, api = api_version.rpartition("/")
    label = f"{kind.lower()}-{group.partition('.')[0] + '-' if group else ''}{api}"
    custom = CUSTOM_SCHEMAS / f"{label}.json"
    try:
        if custom.exists():
            schema = json.loads(custom.read_text())
            schema["$id"] = f"https://kubernetes.io/api/{label}"
        else:
            folder = _SCHEMAS.format(version=version)
            schema = utils.schema_contents(f"{folder}/{label}.json", version)
    except FileNotFoundError:
        return None
    registry = Resource.from_contents(schema) @ (_definitions(version) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(version: str) -> Resource[Object]:
    path = f"{_SCHEMAS.format(version=version)}/_definitions.json"
    return Resource.from_contents(utils.schema_contents(path, version))


# ---- labels and selectors


def check_labels(objects: list[Object]) -> Iterator[str]:
    """Every object has the label part-of; every pod has the labels name and component too.

    Namespaces and claims have labels and annotations that keep them when the service is removed.
    """
    for obj in objects:
        value = labels(obj).get(f"{_LABEL}part-of")
        expected = _KEPT.get(obj["kind"], PART_OF)
        if value != expected:
            yield f"{ref(obj)}: label {_LABEL}part-of is {value}, not {expected}"
        for key, keep in _KEEP.items() if obj["kind"] in _KEPT else ():
            annotation = get(obj, "metadata.annotations", {}).get(key)
            if annotation != keep:
                yield f"{ref(obj)}: annotation {key} is {annotation}, not {keep}"
    for pod in pods(objects):
        if pod.owner["kind"] == "ServingRuntime":
            continue  # KServe sets the labels of its pods.
        for key in ("name", "component", "part-of"):
            if f"{_LABEL}{key}" not in pod.labels:
                yield f"{pod.ref}: its pods have no label {_LABEL}{key}"


def check_selectors(objects: list[Object]) -> Iterator[str]:
    """Each selector matches exactly the pods that it is for, and ports that these pods have."""
    yield from _workloads(objects)
    yield from _services(objects)
    yield from _budgets(objects)
    yield from _monitors(objects)
    yield from _policies(objects)
    yield from _spreading(objects)


def _workloads(objects: list[Object]) -> Iterator[str]:
    for workload in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet"):
        selector = workload["spec"]["selector"]
        for key in ("name", "component"):
            if f"{_LABEL}{key}" not in get(selector, "matchLabels", {}):
                yield f"{ref(workload)}: selector has no {key}: it may match other pods"
        matched = selected(objects, selector, namespace(workload))
        yield from _differences(matched, [ref(workload)], f"{ref(workload)}: selector")


def _services(objects: list[Object]) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        selector = service["spec"].get("selector")
        if not selector:
            yield f"{ref(service)}: no selector"
            continue
        matched = selected(objects, {"matchLabels": selector}, namespace(service))
        yield from _differences(matched, _server_refs(objects), f"{ref(service)}: selector")
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in matched:
                if not _has_port(_ports(pod), target):
                    yield f"{ref(service)}: {pod.ref} has no port {target}"


def _budgets(objects: list[Object]) -> Iterator[str]:
    for budget in of_kind(objects, "PodDisruptionBudget"):
        spec = budget["spec"]
        matched = selected(objects, spec["selector"], namespace(budget))
        yield from _differences(matched, _server_refs(objects), f"{ref(budget)}: selector")
        replicas = min((pod.owner["spec"].get("replicas", 1) for pod in matched), default=1)
        for scaler in of_kind(objects, *SCALERS):
            fewest = scaler["spec"].get("minReplicaCount", replicas)
            replicas = scaler["spec"].get("minReplicas", fewest)
        available, unavailable = spec.get("minAvailable"), spec.get("maxUnavailable")
        blocks = unavailable in (0, "0%") or available == "100%"
        if blocks or (isinstance(available, int) and available >= replicas):
            yield f"{ref(budget)}: no pod may be evicted, so that no node can be drained"


def _monitors(objects: list[Object]) -> Iterator[str]:
    for monitor in of_kind(objects, "ServiceMonitor"):
        spec = monitor["spec"]
        spaces = get(spec, "namespaceSelector.matchNames") or [namespace(monitor)]
        services = [
            service
            for service in of_kind(objects, "Service")
            if namespace(service) in spaces and matches(spec["selector"], labels(service))
        ]
        for endpoint in spec["endpoints"]:
            scraped = [
                name(service)
                for service in services
                if endpoint["port"] in {port.get("name") for port in service["spec"]["ports"]}
            ]
            if not scraped:
                yield f"{ref(monitor)}: selects no Service with a port {endpoint['port']}"
            elif len(scraped) > 1:
                yield f"{ref(monitor)}: scrapes every pod twice, by {', '.join(sorted(scraped))}"


def _policies(objects: list[Object]) -> Iterator[str]:
    # The export Job is applied next to the bundle that has the policies.
    candidates = [*objects, *of_kind(objects_of("jobs/export-model"), "Job")]
    for policy in of_kind(objects, "NetworkPolicy"):
        selector = get(policy, "spec.podSelector", {})
        if selector == {"matchLabels": {CLIENT_LABEL: "true"}}:
            continue  # The users' pods are in no bundle.
        if selector and not selected(candidates, selector, namespace(policy)):
            yield f"{ref(policy)}: podSelector selects no pod"
        ports: dict[str, int] = {}
        for pod in selected(objects, selector, namespace(policy)):
            ports |= _ports(pod)
        for rule in get(policy, "spec.ingress", []):
            for port in get(rule, "ports", []):
                if not _has_port(ports, port["port"]):
                    yield f"{ref(policy)}: no selected pod has port {port['port']}"


def _spreading(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        selectors = [
            (f"topologySpreadConstraints {constraint['topologyKey']}", constraint)
            for constraint in get(pod.spec, "topologySpreadConstraints", [])
        ]
        rules = get(pod.spec, "affinity.podAntiAffinity", {})
        terms = [*get(rules, "requiredDuringSchedulingIgnoredDuringExecution", [])]
        preferred = get(rules, "preferredDuringSchedulingIgnoredDuringExecution", [])
        terms += [term["podAffinityTerm"] for term in preferred]
        selectors += [("podAntiAffinity", term) for term in terms]
        for subject, holder in selectors:
            selector = get(holder, "labelSelector")
            if not selector or not matches(selector, pod.labels):
                yield f"{pod.ref}: {subject} does not select its own pods"


def _differences(matched: list[Pod], expected: list[str], subject: str) -> Iterator[str]:
    owners = {pod.ref for pod in matched}
    for missing in sorted(set(expected) - owners):
        yield f"{subject} does not select {missing}"
    for extra in sorted(owners - set(expected)):
        yield f"{subject} also selects {extra}"
    if not expected and not owners:
        yield f"{subject} selects no pod"


def _server_refs(objects: list[Object]) -> list[str]:
    return [pod.ref for pod in servers(objects)]


def _ports(pod: Pod) -> dict[str, int]:
    """Return port numbers by name."""
    return {
        port.get("name", str(port["containerPort"])): port["containerPort"]
        for container in pod.containers
        for port in get(container, "ports", [])
    }


def _has_port(ports: Mapping[str, int], port: object) -> bool:
    return port in ports or port in ports.values()


# ---- names of other objects


def check_references(objects: list[Object]) -> Iterator[str]:
    """Every object, and every key of a ConfigMap or Secret, that is named exists in the bundle."""
    for pod in pods(objects):
        yield from prefix(pod.ref, _missing_objects(objects, pod))
    for obj in objects:
        yield from prefix(ref(obj), _missing_targets(objects, obj))


def needed_user_objects(objects: list[Object]) -> set[tuple[str, str]]:
    """Return the objects that the pods need and the user creates."""
    needed = {
        (kind, target_name) for pod in pods(objects) for kind, target_name, _ in _needed_by(pod)
    }
    return needed & USER_OBJECTS.keys()


def _missing_objects(objects: list[Object], pod: Pod) -> Iterator[str]:
    for kind, target_name, needed_keys in _needed_by(pod):
        if kind == "PriorityClass" and target_name in _BUILT_IN_PRIORITIES:
            continue
        keys = USER_OBJECTS.get((kind, target_name))
        for obj in of_kind(objects, kind):
            in_reach = kind == "PriorityClass" or namespace(obj) == pod.namespace
            if name(obj) == target_name and in_reach:
                keys = frozenset({**get(obj, "data", {}), **get(obj, "stringData", {})})
        if keys is None:
            yield f"{kind} {target_name} is not in the bundle"
        elif needed_keys - keys:
            yield f"{kind} {target_name} has no key {', '.join(sorted(needed_keys - keys))}"


def _needed_by(pod: Pod) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield (kind, name, keys) of the objects that a pod cannot start without."""
    for field, kind in (
        ("serviceAccountName", "ServiceAccount"),
        ("priorityClassName", "PriorityClass"),
    ):
        if pod.spec.get(field):
            yield kind, pod.spec[field], frozenset()
    for secret in get(pod.spec, "imagePullSecrets", []):
        yield "Secret", secret["name"], frozenset()
    for volume in pod.volumes:
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            yield "PersistentVolumeClaim", claim, frozenset()
        for source in [volume, *get(volume, "projected.sources", [])]:
            for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
                target = source.get(field)
                if target and not target.get("optional"):
                    target_name = target.get("secretName") or target.get("name")
                    yield kind, target_name, frozenset(i["key"] for i in get(target, "items", []))
    for container in pod.containers:
        for source in get(container, "envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source and not source[field].get("optional"):
                    yield kind, source[field]["name"], frozenset()
        for variable in get(container, "env", []):
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                target = get(variable, f"valueFrom.{field}")
                if target and not target.get("optional"):
                    yield kind, target["name"], frozenset({target["key"]})


def _missing_targets(objects: list[Object], obj: Object) -> Iterator[str]:
    for kind, target_name, in_cluster in _targets(obj):
        candidates = [other for other in of_kind(objects, kind) if name(other) == target_name]
        exists = any(in_cluster or namespace(other) == namespace(obj) for other in candidates)
        if not exists and (kind, target_name) not in USER_OBJECTS:
            yield f"{kind} {target_name} is not in the bundle"
    if obj["kind"] == "ClusterQueue":
        for group in obj["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                quotas = {resource["name"] for resource in flavor["resources"]}
                if quotas != set(group["coveredResources"]):
                    yield f"quotas of {flavor['name']} differ from coveredResources"


def _targets(obj: Object) -> Iterator[tuple[str, str, bool]]:
    """Yield (kind, name, whether it has no namespace) of the objects that an object names."""
    spec, kind = get(obj, "spec", {}), obj["kind"]
    if kind in SCALERS:
        target = spec["scaleTargetRef"]
        yield target.get("kind", "Deployment"), target["name"], False
    for trigger in get(spec, "triggers", []):
        target = trigger.get("authenticationRef")
        if target:
            yield target.get("kind", "TriggerAuthentication"), target["name"], False
    if kind == "LocalQueue":
        yield "ClusterQueue", spec["clusterQueue"], True
    if kind == "ClusterQueue":
        for group in spec["resourceGroups"]:
            for flavor in group["flavors"]:
                yield "ResourceFlavor", flavor["name"], True
    if kind == "InferenceService":
        model = get(spec, "predictor.model", {})
        if model.get("runtime"):
            yield "ServingRuntime", model["runtime"], False
        uri = model.get("storageUri", "")
        if uri.startswith("pvc://"):
            yield "PersistentVolumeClaim", uri.split("/")[2], False
    if kind == "RoleBinding":
        for subject in obj["subjects"]:
            if subject["kind"] == "ServiceAccount":
                yield "ServiceAccount", subject["name"], False
        if obj["roleRef"]["kind"] == "Role":
            yield "Role", obj["roleRef"]["name"], False
    if KUEUE_QUEUE in labels(obj):
        yield "LocalQueue", labels(obj)[KUEUE_QUEUE], False
    if _KUEUE_PRIORITY in labels(obj):
        yield "WorkloadPriorityClass", labels(obj)[_KUEUE_PRIORITY], True
