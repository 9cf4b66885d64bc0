"""What one object says of another is there: ConfigMaps, Secrets, claims, accounts, queues.

What a user must bring is listed in `BROUGHT` with its reason, and `k8s/README.md` must name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.bundle import Object
from k8s.objects import Pod, name, namespace, of_kind, pods, where

# (kind, name): (keys, why it is not in the bundle).
BROUGHT: dict[tuple[str, str], tuple[frozenset[str], str]] = {
    ("Secret", "c3d-serving-tls"): (
        frozenset({"tls.crt", "tls.key", "ca.crt"}),
        "cert-manager or its owner writes it",
    ),
    ("PersistentVolumeClaim", "c3d-weights"): (frozenset(), "holds weight files of the user's own"),
}
_BUILT_IN = {"system-cluster-critical", "system-node-critical"}
_QUEUE = "kueue.x-k8s.io/queue-name"
_PRIORITY = "kueue.x-k8s.io/priority-class"


def references(objects: list[Object]) -> list[str]:
    """Names, and keys of ConfigMaps and Secrets, resolve inside the namespace."""
    found: list[str] = []
    for pod in pods(objects):
        found += (
            problem for wanted in _wanted(pod) if (problem := _missing(objects, pod, *wanted))
        )
    for found_object in objects:
        found += _targets(objects, found_object)
    return found


def brought(objects: list[Object]) -> set[tuple[str, str]]:
    """What the pods name and the user brings."""
    wanted = {(kind, called) for pod in pods(objects) for kind, called, _ in _wanted(pod)}
    return {w for w in wanted if w in BROUGHT}


def _missing(
    objects: list[Object], pod: Pod, kind: str, called: str, keys: frozenset[str]
) -> str | None:
    if kind == "PriorityClass" and called in _BUILT_IN:
        return None
    there: frozenset[str] | None = None
    for candidate in of_kind(objects, kind):
        same = kind == "PriorityClass" or namespace(candidate) == pod.namespace
        if name(candidate) == called and same:
            there = frozenset(
                {**(candidate.get("data") or {}), **(candidate.get("stringData") or {})}
            )
    if there is None and (kind, called) in BROUGHT:
        there = BROUGHT[kind, called][0]
    if there is None:
        return f"{pod.where}: {kind} {called} is nowhere in the bundle"
    lacking = sorted(keys - there)
    return f"{pod.where}: {kind} {called} has no key {', '.join(lacking)}" if lacking else None


def _wanted(pod: Pod) -> Iterator[tuple[str, str, frozenset[str]]]:
    """(kind, name, keys) that a pod needs; optional ones are not."""
    spec = pod.spec
    if spec.get("serviceAccountName"):
        yield "ServiceAccount", spec["serviceAccountName"], frozenset()
    if spec.get("priorityClassName"):
        yield "PriorityClass", spec["priorityClassName"], frozenset()
    for secret in spec.get("imagePullSecrets") or ():
        yield "Secret", secret["name"], frozenset()
    for volume in spec.get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            yield "PersistentVolumeClaim", claim, frozenset()
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for source in sources:
            yield from _from_source(source)
    for container in pod.containers:
        for source in container.get("envFrom") or ():
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source and not source[key].get("optional"):
                    yield kind, source[key]["name"], frozenset()
        for variable in container.get("env") or ():
            for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                reference = (variable.get("valueFrom") or {}).get(key)
                if reference and not reference.get("optional"):
                    yield kind, reference["name"], frozenset({reference["key"]})


def _from_source(source: Mapping[str, Any]) -> Iterator[tuple[str, str, frozenset[str]]]:
    for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
        found = source.get(field)
        if found and not found.get("optional"):
            called = found.get("secretName") or found.get("name")
            yield kind, called, frozenset(i["key"] for i in found.get("items") or ())


def _targets(objects: list[Object], found: Object) -> Iterator[str]:
    """References of objects that make no pods, and the queue labels of those that do."""
    spec, kind = found.get("spec") or {}, found["kind"]

    def there(wanted: str, called: str, *, everywhere: bool = False) -> bool:
        return any(
            name(o) == called and (everywhere or namespace(o) == namespace(found))
            for o in of_kind(objects, wanted)
        )

    if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        target = spec["scaleTargetRef"]
        wanted = target.get("kind", "Deployment")
        if not there(wanted, target["name"]):
            yield f"{where(found)}: scale target {wanted}/{target['name']} is nowhere in the bundle"
    for trigger in spec.get("triggers") or ():
        reference = trigger.get("authenticationRef")
        if reference and not there(
            reference.get("kind", "TriggerAuthentication"), reference["name"]
        ):
            yield f"{where(found)}: authentication {reference['name']} is nowhere in the bundle"
    if kind == "LocalQueue" and not there("ClusterQueue", spec["clusterQueue"], everywhere=True):
        yield f"{where(found)}: ClusterQueue {spec['clusterQueue']} is nowhere in the bundle"
    if kind == "ClusterQueue":
        for group in spec["resourceGroups"]:
            for flavor in group["flavors"]:
                called = flavor["name"]
                if not there("ResourceFlavor", called, everywhere=True):
                    yield f"{where(found)}: ResourceFlavor {called} is nowhere in the bundle"
                quotas = {r["name"] for r in flavor["resources"]}
                if quotas != set(group["coveredResources"]):
                    yield f"{where(found)}: quotas of {called} differ from coveredResources"
    if kind == "InferenceService":
        runtime = (spec["predictor"].get("model") or {}).get("runtime")
        if runtime and not there("ServingRuntime", runtime):
            yield f"{where(found)}: ServingRuntime {runtime} is nowhere in the bundle"
        yield from _storage(found, there)
    if kind == "RoleBinding":
        for subject in found["subjects"]:
            if subject["kind"] == "ServiceAccount" and not there("ServiceAccount", subject["name"]):
                yield f"{where(found)}: ServiceAccount {subject['name']} is nowhere in the bundle"
        reference = found["roleRef"]
        if reference["kind"] == "Role" and not there("Role", reference["name"]):
            yield f"{where(found)}: Role {reference['name']} is nowhere in the bundle"
    labels = found["metadata"].get("labels") or {}
    if _QUEUE in labels and not there("LocalQueue", labels[_QUEUE]):
        yield f"{where(found)}: LocalQueue {labels[_QUEUE]} is nowhere in the bundle"
    if _PRIORITY in labels and not there(
        "WorkloadPriorityClass", labels[_PRIORITY], everywhere=True
    ):
        yield f"{where(found)}: WorkloadPriorityClass {labels[_PRIORITY]} is nowhere in the bundle"


def _storage(found: Object, there: Any) -> Iterator[str]:
    uri = (found["spec"]["predictor"].get("model") or {}).get("storageUri", "")
    if uri.startswith("pvc://"):
        claim = uri.removeprefix("pvc://").partition("/")[0]
        if (
            not there("PersistentVolumeClaim", claim)
            and ("PersistentVolumeClaim", claim) not in BROUGHT
        ):
            yield f"{where(found)}: PersistentVolumeClaim {claim} is nowhere in the bundle"
