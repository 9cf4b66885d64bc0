"""Checks inside pods: volumes, ports, variables, images, resources, GPUs and quotas."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal

from k8s.links import KUEUE_QUEUE
from k8s.objects import (
    PROBES,
    SCALERS,
    Pod,
    containers,
    get,
    labels,
    name,
    of_kind,
    pods,
    prefix,
    ref,
    servers,
    words,
)
from k8s.render import Object

_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](-?[a-z0-9])*")
_PORT_NAME_LENGTH = 15
_VARIABLE = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_QUANTITY = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS = {None: Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000)}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate("MGTP", start=2)}
_UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", start=1)}
_GPU = re.compile(r"nvidia\.com/(gpu(\.shared)?|mig-[0-9]+g\.[0-9]+gb)")
_VISIBLE = "NVIDIA_VISIBLE_DEVICES"
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


# ---- volumes, ports, variables, images


def check_volumes(objects: list[Object]) -> Iterator[str]:
    """Every mount has a volume with content, every volume a mount, and no path two mounts."""
    for pod in pods(objects):
        yield from prefix(pod.ref, _volumes(pod))


def _volumes(pod: Pod) -> Iterator[str]:
    mounts = [(c, mount) for c in pod.containers for mount in get(c, "volumeMounts", [])]
    volumes = {volume["name"]: volume for volume in pod.volumes}
    for container, mount in mounts:
        volume_name = mount["name"]
        if volume_name not in volumes:
            yield f"{container['name']} mounts {volume_name}, which is not a volume"
            continue
        is_model_store = container is pod.server and "persistentVolumeClaim" in volumes[volume_name]
        if is_model_store and not mount.get("readOnly"):
            yield f"{container['name']} may write to the model store {volume_name}"
    paths = Counter((container["name"], mount["mountPath"]) for container, mount in mounts)
    for (container_name, path), count in paths.items():
        if count > 1:
            yield f"{container_name} mounts {path} {count} times"
    for volume_name, volume in volumes.items():
        read_only = [mount.get("readOnly") for _, mount in mounts if mount["name"] == volume_name]
        if not read_only:
            yield f"volume {volume_name} is never mounted"
        if len(volume) < 2:
            yield f"volume {volume_name} has no source"
        if "emptyDir" in volume and read_only and all(read_only):
            yield f"volume {volume_name} stays empty: every mount is read-only"
        if "emptyDir" in volume and not get(volume, "emptyDir.sizeLimit"):
            yield f"emptyDir {volume_name} has no sizeLimit"


def check_ports(objects: list[Object]) -> Iterator[str]:
    """Every port has a valid name; every probe and hook uses a port of its container."""
    for pod, container in containers(objects):
        ports = get(container, "ports", [])
        names = [port.get("name") for port in ports]
        subject = f"{pod.ref}: {container['name']}"
        for port_name in names:
            yield from prefix(subject, _port_name_problems(port_name))
        for port_name, count in Counter(names).items():
            if count > 1:
                yield f"{subject}: {count} ports have the name {port_name}"
        handlers = {probe: container.get(probe) for probe in PROBES}
        handlers |= get(container, "lifecycle", {})
        for kind, handler in handlers.items():
            for action in ("httpGet", "tcpSocket", "grpc"):
                port = get(handler, f"{action}.port")
                numbers = [p["containerPort"] for p in ports]
                if get(handler, action) and port not in [*names, *numbers]:
                    yield f"{subject}: {kind} uses port {port}, which it does not have"
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            yield from prefix(ref(service), _port_name_problems(port.get("name")))


def _port_name_problems(port_name: str | None) -> Iterator[str]:
    if port_name is None:
        yield "a port without a name"
    elif len(port_name) > _PORT_NAME_LENGTH:
        yield f"port name {port_name} is longer than {_PORT_NAME_LENGTH} characters"
    elif not _PORT_NAME.fullmatch(port_name):
        yield f"port name {port_name} is not valid"


def check_variables(objects: list[Object]) -> Iterator[str]:
    """`$(NAME)` in a command is a variable of the container; every variable has one value."""
    for pod, container in containers(objects):
        subject = f"{pod.ref}: {container['name']}: variable"
        variables = get(container, "env", [])
        names = Counter(variable["name"] for variable in variables)
        for variable in variables:
            if "value" not in variable and not variable.get("valueFrom"):
                yield f"{subject} {variable['name']} has no value"
        for variable_name, count in names.items():
            if count > 1:
                yield f"{subject} {variable_name} is set {count} times"
        used = {
            variable_name for word in words(container) for variable_name in _VARIABLE.findall(word)
        }
        if not container.get("envFrom"):
            for variable_name in sorted(used - names.keys()):
                yield f"{subject} {variable_name} is not defined"


def check_images(objects: list[Object]) -> Iterator[str]:
    """Every image has a fixed tag or a digest; the server's is TensorFlow 2.20."""
    for pod in pods(objects):
        images = [(container["name"], container.get("image", "")) for container in pod.containers]
        images += [(v["name"], v["image"]["reference"]) for v in pod.volumes if "image" in v]
        for holder, image in images:
            tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
            if "@sha256:" not in image and (not tag or tag.startswith("latest") or tag == "stable"):
                yield f"{pod.ref}: {holder}: image {image or 'missing'} is not pinned"
            if image.startswith("tensorflow/serving") and not tag.startswith("2.20."):
                yield f"{pod.ref}: {holder}: image {image} is not TensorFlow 2.20"


# ---- resources


def quantity(text: object) -> Decimal | None:
    """Return a Kubernetes quantity such as `500m` or `2Gi` as a number, or None if invalid."""
    match = _QUANTITY.fullmatch(str(text))
    return Decimal(match[1]) * _UNITS[match[2]] if match else None


def check_resources(objects: list[Object]) -> Iterator[str]:
    """Every container requests CPU, memory and disk within limits; every quantity is positive."""
    for pod, container in containers(objects):
        yield from prefix(f"{pod.ref}: {container['name']}", _resources(container))
    for pod in pods(objects):
        for volume in pod.volumes:
            size = get(volume, "emptyDir.sizeLimit")
            if size is not None:
                yield from _positive(f"{pod.ref}: volume {volume['name']}", size)
    for claim in of_kind(objects, "PersistentVolumeClaim"):
        for resource, size in claim["spec"]["resources"]["requests"].items():
            yield from _positive(f"{ref(claim)}: {resource}", size)
    for quota in of_kind(objects, "ResourceQuota"):
        for resource, size in quota["spec"]["hard"].items():
            yield from _positive(f"{ref(quota)}: {resource}", size, may_be_zero=True)


def _resources(container: Object) -> Iterator[str]:
    requests, limits = get(container, "resources.requests", {}), _limits(container)
    for resource in ("cpu", "memory", "ephemeral-storage"):
        if resource not in requests:
            yield f"requests no {resource}"
        if resource not in limits:
            yield f"has no limit of {resource}"
    for resource, size in (*limits.items(), *requests.items()):
        yield from _positive(resource, size)
    for resource, size in requests.items():
        requested, limit = quantity(size), quantity(limits.get(resource, size))
        if requested is not None and limit is not None and requested > limit:
            yield f"requests {size} {resource}, over its limit {limits[resource]}"


def _limits(container: Object) -> Object:
    return get(container, "resources.limits", {})


def _positive(subject: str, size: object, *, may_be_zero: bool = False) -> Iterator[str]:
    number = quantity(size)
    if number is None:
        yield f"{subject}: {size} is not a quantity"
    elif number < 0 or (number == 0 and not may_be_zero):
        yield f"{subject}: {size} is not positive"


_LOGS = 50 * 1024**2  # bytes of a container's logs: the kubelet keeps five files of 10 MiB


def check_disk(objects: list[Object]) -> Iterator[str]:
    """A pod's limit of ephemeral storage holds its full volumes on disk and its containers' logs.

    Beyond the limit the kubelet evicts the pod. It is the larger of the containers' sum and the
    largest init container's.
    """
    for pod in pods(objects):
        limit = _pod_total(pod, "limits").get("ephemeral-storage", Decimal(0))
        disks = [v for v in pod.volumes if get(v, "emptyDir.medium", "") != "Memory"]
        sizes = [quantity(get(volume, "emptyDir.sizeLimit", 0)) or 0 for volume in disks]
        needed = sum(sizes) + _LOGS * len(pod.containers)
        if needed > limit:
            yield f"{pod.ref}: ephemeral-storage {limit}, and volumes and logs need {needed}"


def check_guaranteed(objects: list[Object]) -> Iterator[str]:
    """No init container makes a pod Burstable whose containers request what they limit."""
    for pod in servers(objects):
        if any(_unequal(container) for container in pod.spec["containers"]):
            continue  # Burstable on purpose, as in overlay cpu-dev.
        for container in pod.containers:
            for resource in _unequal(container):
                yield f"{pod.ref}: {container['name']}: requests of {resource} differ from limits"


def qos_class(pod: Pod) -> str:
    """Return the class of a pod that sets requests and limits: Guaranteed or Burstable."""
    return "Burstable" if any(map(_unequal, pod.containers)) else "Guaranteed"


def _unequal(container: Object) -> list[str]:
    requests, limits = get(container, "resources.requests", {}), _limits(container)
    return [
        resource
        for resource in sorted({*requests, *limits})
        if quantity(requests.get(resource, limits.get(resource))) != quantity(limits.get(resource))
    ]


# ---- GPUs


def check_gpu(objects: list[Object]) -> Iterator[str]:
    """GPUs are whole, in limits, tolerated and visible; a pod without GPUs sees none."""
    for pod, container in containers(objects):
        yield from prefix(f"{pod.ref}: {container['name']}", _gpu(pod, container))
    for pod in pods(objects):
        tolerated = any(
            toleration.get("key") == "nvidia.com/gpu" and toleration.get("operator") == "Exists"
            for toleration in get(pod.spec, "tolerations", [])
        )
        if any(_gpu_resources(container) for container in pod.containers) and not tolerated:
            yield f"{pod.ref}: requests a GPU and does not tolerate nvidia.com/gpu"


def _gpu_resources(container: Object) -> list[str]:
    names = {**_limits(container), **get(container, "resources.requests", {})}
    return [resource for resource in names if resource.startswith("nvidia.com/")]


def _gpu(pod: Pod, container: Object) -> Iterator[str]:
    gpus, limits = _gpu_resources(container), _limits(container)
    if len(gpus) > 1:
        yield f"has {' and '.join(sorted(gpus))}: a container uses one kind of GPU"
    requests, image = get(container, "resources.requests", {}), container.get("image", "")
    for resource in gpus:
        if not _GPU.fullmatch(resource):
            yield f"{resource} is not a resource of NVIDIA's device plugin"
        if resource not in limits:
            yield f"{resource} is not in limits"
        elif not re.fullmatch(r"[1-9][0-9]*", str(limits[resource])):
            yield f"{limits[resource]} of {resource}: GPUs are whole"
        if resource in requests and str(requests[resource]) != str(limits.get(resource)):
            yield f"requests and limits of {resource} differ"
    visible = [e.get("value") for e in get(container, "env", []) if e["name"] == _VISIBLE]
    if gpus and visible:
        yield f"has a GPU, and {_VISIBLE} is {visible[0]}"
    has_tensorflow = "tensorflow/serving" in image or "c3d-export" in image
    if not gpus and visible != ["void"] and has_tensorflow:
        yield f"has no GPU, and {_VISIBLE} is not void"
    if container is pod.server:
        if bool(gpus) != ("-gpu" in image):
            yield f"image {image} with GPUs: {sorted(gpus)}"
        onednn = [e.get("value") for e in get(container, "env", []) if e["name"] == _ONEDNN]
        if onednn != ([] if gpus else ["1"]):
            yield f"{_ONEDNN} is {onednn}: 1 on CPUs, and absent with a GPU"
        if gpus:
            yield from _compile_cache(pod, container)


def _compile_cache(pod: Pod, container: Object) -> Iterator[str]:
    """The kernels that the driver compiles at the first start fit on a volume."""
    env = {variable["name"]: variable.get("value") for variable in get(container, "env", [])}
    mounts = {m["mountPath"]: m["name"] for m in get(container, "volumeMounts", [])}
    path = env.get("CUDA_CACHE_PATH")
    if path not in mounts:
        yield f"CUDA_CACHE_PATH {path} is not on a volume: lost at every restart"
        return
    size = quantity(env.get("CUDA_CACHE_MAXSIZE"))
    for volume in pod.volumes:
        limit = quantity(get(volume, "emptyDir.sizeLimit", ""))
        if volume["name"] == mounts[path] and limit is not None and (size is None or size > limit):
            yield f"CUDA_CACHE_MAXSIZE {size} is more than its volume's {limit}"


# ---- quotas and queues


def check_quota(objects: list[Object]) -> Iterator[str]:
    """A quota and a queue allow all replicas and one more during a roll-out, and every resource."""
    totals = _totals(objects, list(pods(objects)))
    queued = _totals(objects, [pod for pod in pods(objects) if KUEUE_QUEUE in labels(pod.owner)])
    for quota in of_kind(objects, "ResourceQuota"):
        for resource, size in quota["spec"]["hard"].items():
            limit = quantity(size)
            if limit is not None and totals[resource] > limit:
                total = totals[resource]
                yield f"{ref(quota)}: {resource} is {size}, and the bundle requests {total}"
    for queue in of_kind(objects, "ClusterQueue"):
        groups = queue["spec"]["resourceGroups"]
        covered = {resource for group in groups for resource in group["coveredResources"]}
        for group in groups:
            for resource in group["flavors"][0]["resources"]:
                total = queued[f"requests.{resource['name']}"]
                if total > (quantity(resource["nominalQuota"]) or 0):
                    quota_text = f"{resource['name']} is {resource['nominalQuota']}"
                    yield f"{ref(queue)}: {quota_text}, and its pods request {total}"
        for pod in pods(objects):
            if KUEUE_QUEUE in labels(pod.owner):
                for resource in sorted(_pod_total(pod, "requests").keys() - covered):
                    yield f"{ref(queue)}: {resource} is not covered: {pod.ref} is never admitted"


def _totals(objects: list[Object], counted: list[Pod]) -> dict[str, Decimal]:
    """Return totals of pods by a quota's names: `pods`, `requests.cpu`, `limits.memory` etc."""
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for pod in counted:
        count = _max_pods(objects, pod)
        totals["pods"] += count
        for kind in ("requests", "limits"):
            for resource, size in _pod_total(pod, kind).items():
                totals[f"{kind}.{resource}"] += size * count
    for claim in of_kind(objects, "PersistentVolumeClaim"):
        totals["persistentvolumeclaims"] += 1
        size = claim["spec"]["resources"]["requests"]["storage"]
        totals["requests.storage"] += quantity(size) or 0
    return totals


def _pod_total(pod: Pod, kind: str) -> dict[str, Decimal]:
    """Return what Kubernetes counts: the sum of the containers, or the largest init container."""
    totals: dict[str, Decimal] = defaultdict(Decimal)
    largest: dict[str, Decimal] = defaultdict(Decimal)
    for container in pod.containers:
        sizes = _limits(container) | get(container, f"resources.{kind}", {})
        for resource, size in sizes.items():
            number = quantity(size) or Decimal(0)
            if container in pod.spec["containers"]:
                totals[resource] += number
            else:
                largest[resource] = max(largest[resource], number)
    return {resource: max(totals[resource], largest[resource]) for resource in {*totals, *largest}}


def _max_pods(objects: list[Object], pod: Pod) -> int:
    """Return how many pods a workload has during a roll-out, with its autoscaler's maximum."""
    if pod.owner["kind"] != "Deployment":
        return 1
    surge = get(pod.owner, "spec.strategy.rollingUpdate.maxSurge", 1)
    replicas = int(get(pod.owner, "spec.replicas", 1))
    for scaler in of_kind(objects, *SCALERS):
        if get(scaler, "spec.scaleTargetRef.name") == name(pod.owner):
            spec = scaler["spec"]
            replicas = max(replicas, spec.get("maxReplicas", spec.get("maxReplicaCount", 100)))
    return replicas + (surge if isinstance(surge, int) else 1)
