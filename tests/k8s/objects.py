"""Read rendered objects: names, labels, pods, containers, selectors and mounted files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k8s.render import Object

NAMESPACE = "c3d"  # of an object that names none; every overlay sets it
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_TEMPLATES = {
    "Deployment": "spec.template",
    "StatefulSet": "spec.template",
    "DaemonSet": "spec.template",
    "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
}


@dataclass(frozen=True)
class Pod:
    """The pods of one workload."""

    owner: Object
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def ref(self) -> str:
        return ref(self.owner)

    @property
    def namespace(self) -> str:
        return namespace(self.owner)

    @property
    def labels(self) -> Mapping[str, str]:
        return get(self.metadata, "labels", {})

    @property
    def volumes(self) -> list[Object]:
        return get(self.spec, "volumes", [])

    @property
    def containers(self) -> list[Object]:
        """All containers, init containers first."""
        return [*get(self.spec, "initContainers", []), *self.spec["containers"]]

    @property
    def server(self) -> Object | None:
        """The container that runs TensorFlow Serving."""
        for container in self.spec["containers"]:
            if "tensorflow/serving" in container.get("image", ""):
                return container
        return None


def get(obj: Any, path: str, default: Any = None) -> Any:
    """Return the value at a dotted path; `default` where a part of the path is missing or null."""
    for key in path.split("."):
        obj = (obj or {}).get(key)
    return default if obj is None else obj


def name(obj: Object) -> str:
    return obj["metadata"]["name"]


def namespace(obj: Object) -> str:
    return obj["metadata"].get("namespace") or NAMESPACE


def labels(obj: Object) -> dict[str, str]:
    return get(obj, "metadata.labels", {})


def ref(obj: Object) -> str:
    """Return `Kind/name`."""
    return f"{obj['kind']}/{name(obj)}"


def prefix(subject: str, problems: Iterable[str]) -> Iterator[str]:
    """Yield problems with their subject in front."""
    return (f"{subject}: {problem}" for problem in problems)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [obj for obj in objects if obj["kind"] in kinds]


def pods(objects: list[Object]) -> Iterator[Pod]:
    """Yield the pods of every workload; for KServe, of every ServingRuntime."""
    for obj in objects:
        if obj["kind"] == "Pod":
            yield Pod(obj, obj["metadata"], obj["spec"])
        elif obj["kind"] == "ServingRuntime":
            yield _kserve_pod(obj, objects)
        elif obj["kind"] in _TEMPLATES:
            template = get(obj, _TEMPLATES[obj["kind"]])
            yield Pod(obj, get(template, "metadata", {}), template["spec"])


def containers(objects: list[Object]) -> Iterator[tuple[Pod, Object]]:
    """Yield every container with its pod."""
    return ((pod, container) for pod in pods(objects) for container in pod.containers)


def servers(objects: list[Object]) -> list[Pod]:
    """Return the pods that run TensorFlow Serving."""
    return [pod for pod in pods(objects) if pod.server is not None]


def selected(objects: list[Object], selector: Mapping[str, Any], space: str) -> list[Pod]:
    """Return the pods of a namespace that a LabelSelector matches."""
    return [
        pod for pod in pods(objects) if pod.namespace == space and matches(selector, pod.labels)
    ]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector matches labels; an empty selector matches all."""
    if any(labels.get(key) != value for key, value in get(selector, "matchLabels", {}).items()):
        return False
    for expression in get(selector, "matchExpressions", []):
        value = labels.get(expression["key"])
        holds = {
            "In": value in expression.get("values", ()),
            "NotIn": value not in expression.get("values", ()),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[expression["operator"]]:
            return False
    return True


def words(container: Object) -> list[str]:
    """Return the command and the arguments of a container."""
    return [*get(container, "command", []), *get(container, "args", [])]


def flags(container: Object) -> dict[str, str]:
    """Return the flags of a container by name; a flag without `=` has an empty value."""
    pairs = [w.removeprefix("--").partition("=") for w in words(container) if w.startswith("--")]
    return {flag: value for flag, _, value in pairs}


def mounted_text(objects: list[Object], pod: Pod, container: Object, path: str) -> str | None:
    """Return the text that a ConfigMap mounts at a path of a container, or None."""
    volumes = {volume["name"]: volume for volume in pod.volumes}
    for mount in get(container, "volumeMounts", []):
        root = mount["mountPath"].rstrip("/")
        if path != root and not path.startswith(root + "/"):
            continue
        relative = mount["subPath"] if mount.get("subPath") else path[len(root) + 1 :]
        for source in _config_maps(volumes.get(mount["name"], {})):
            items = source.get("items")
            keys = {i["path"]: i["key"] for i in items} if items else {relative: relative}
            for config_map in of_kind(objects, "ConfigMap"):
                is_source = name(config_map) == source["name"]
                is_source = is_source and namespace(config_map) == pod.namespace
                data = get(config_map, "data", {})
                if is_source and keys.get(relative) in data:
                    return data[keys[relative]]
    return None


def is_written_at_start(pod: Pod, container: Object, path: str) -> bool:
    """Return whether an init container can write to the folder of a path of a container."""
    folder = path.rpartition("/")[0]
    mounts = {m["mountPath"]: m["name"] for m in get(container, "volumeMounts", [])}
    return any(
        mount["name"] == mounts.get(folder) and not mount.get("readOnly")
        for init in get(pod.spec, "initContainers", [])
        for mount in get(init, "volumeMounts", [])
    )


def _config_maps(volume: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for source in [volume, *get(volume, "projected.sources", [])]:
        if "configMap" in source:
            yield source["configMap"]


def _kserve_pod(runtime: Object, objects: list[Object]) -> Pod:
    spec = dict(runtime["spec"])
    pod_labels = dict(spec.pop("labels", None) or {})
    for service in of_kind(objects, "InferenceService"):
        predictor = service["spec"]["predictor"]
        if get(predictor, "model.runtime") == name(runtime):
            pod_labels |= labels(service)
            # Labels that KServe puts on the pods of an InferenceService.
            pod_labels |= {
                "serving.kserve.io/inferenceservice": name(service),
                "component": "predictor",
            }
            spec |= {k: v for k, v in predictor.items() if k not in ("model", "containers")}
    annotations = spec.pop("annotations", {})
    return Pod(runtime, {"labels": pod_labels, "annotations": annotations}, spec)
