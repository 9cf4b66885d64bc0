"""Finding one's way in rendered objects: names, pods, containers, what a selector selects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k8s.bundle import Object

NAMESPACE = "c3d"  # where an object lands that names none; the overlays say so
PART_OF = "c3d"
_TEMPLATES = {"Deployment": ("template",), "StatefulSet": ("template",), "DaemonSet": ("template",)}
_TEMPLATES |= {"Job": ("template",), "CronJob": ("jobTemplate", "spec", "template")}


@dataclass(frozen=True)
class Pod:
    """What a workload makes pods from."""

    owner: Object
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def where(self) -> str:
        return where(self.owner)

    @property
    def namespace(self) -> str:
        return namespace(self.owner)

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.get("labels") or {}

    @property
    def containers(self) -> list[Object]:
        """Init containers first."""
        return [*(self.spec.get("initContainers") or ()), *self.spec["containers"]]

    @property
    def server(self) -> Object | None:
        """The container that runs TensorFlow Serving."""
        for found in self.spec["containers"]:
            if "tensorflow/serving" in found.get("image", ""):
                return found
        return None


def name(found: Object) -> str:
    return found["metadata"]["name"]


def namespace(found: Object) -> str:
    return found["metadata"].get("namespace") or NAMESPACE


def where(found: Object) -> str:
    return f"{found['kind']}/{name(found)}"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [o for o in objects if o["kind"] in kinds]


def pods(objects: list[Object]) -> Iterator[Pod]:
    """Every pod that the objects would make; KServe's is a runtime and the service that uses it."""
    for found in objects:
        if found["kind"] == "Pod":
            yield Pod(found, found["metadata"], found["spec"])
        elif found["kind"] == "ServingRuntime":
            yield _kserve_pod(found, objects)
        elif found["kind"] in _TEMPLATES:
            template = found["spec"]
            for key in _TEMPLATES[found["kind"]]:
                template = template[key]
            yield Pod(found, template.get("metadata") or {}, template["spec"])


def servers(objects: list[Object]) -> list[Pod]:
    """The pods with TensorFlow Serving in them."""
    return [pod for pod in pods(objects) if pod.server is not None]


def selected(objects: list[Object], selector: Mapping[str, Any], space: str) -> list[Pod]:
    """The pods of a namespace that a LabelSelector selects."""
    return [p for p in pods(objects) if p.namespace == space and matches(selector, p.labels)]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects these labels; an empty one selects all."""
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or ():
        value, key = labels.get(rule["key"]), rule["operator"]
        holds = {
            "In": value in rule.get("values", ()),
            "NotIn": value not in rule.get("values", ()),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[key]:
            return False
    return True


def flags(container: Object) -> dict[str, str]:
    """A server's flags by name; without `=` the value is empty."""
    given = [*(container.get("command") or ()), *(container.get("args") or ())]
    pairs = [word.removeprefix("--").partition("=") for word in given if word.startswith("--")]
    return {flag: value for flag, _, value in pairs}


def mounted_text(objects: list[Object], pod: Pod, container: Object, path: str) -> str | None:
    """What a ConfigMap puts at a path inside a container, or None."""
    volumes = {v["name"]: v for v in pod.spec.get("volumes") or ()}
    for mount in container.get("volumeMounts") or ():
        root = mount["mountPath"].rstrip("/")
        if path != root and not path.startswith(root + "/"):
            continue
        relative = mount["subPath"] if mount.get("subPath") else path[len(root) + 1 :]
        for source in _config_maps(volumes.get(mount["name"], {})):
            items = source.get("items")
            keys = {i["path"]: i["key"] for i in items} if items else {relative: relative}
            for found in of_kind(objects, "ConfigMap"):
                same = name(found) == source["name"] and namespace(found) == pod.namespace
                data = found.get("data") or {}
                if same and keys.get(relative) in data:
                    return data[keys[relative]]
    return None


def written_at_start(pod: Pod, container: Object, path: str) -> bool:
    """Whether an init container writes into the folder of a path inside a container."""
    folder = path.rpartition("/")[0]
    mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts") or ()}
    return any(
        mount["name"] == mounts.get(folder) and not mount.get("readOnly")
        for init in pod.spec.get("initContainers") or ()
        for mount in init.get("volumeMounts") or ()
    )


def _config_maps(volume: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "configMap" in volume:
        yield volume["configMap"]
    for source in (volume.get("projected") or {}).get("sources") or ():
        if "configMap" in source:
            yield source["configMap"]


def _kserve_pod(runtime: Object, objects: list[Object]) -> Pod:
    spec = dict(runtime["spec"])
    labels = dict(spec.pop("labels", None) or {})
    for service in of_kind(objects, "InferenceService"):
        predictor = service["spec"]["predictor"]
        if (predictor.get("model") or {}).get("runtime") == name(runtime):
            labels |= service["metadata"].get("labels") or {}
            # What KServe itself puts on the pods of an InferenceService.
            labels |= {
                "serving.kserve.io/inferenceservice": name(service),
                "component": "predictor",
            }
            spec |= {k: v for k, v in predictor.items() if k not in ("model", "containers")}
    return Pod(runtime, {"labels": labels, "annotations": spec.pop("annotations", {})}, spec)
