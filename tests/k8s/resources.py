"""Quantities and GPUs: requests and limits that parse and agree, GPUs whole and asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from k8s.bundle import Object
from k8s.objects import Pod, of_kind, pods, where

_QUANTITY = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_SCALE = {None: Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000)}
_SCALE |= {unit: Decimal(1000) ** n for n, unit in enumerate("MGTP", start=2)}
_SCALE |= {f"{unit}i": Decimal(1024) ** n for n, unit in enumerate("KMGTP", start=1)}
_VISIBLE = "NVIDIA_VISIBLE_DEVICES"
_ALWAYS = ("cpu", "memory", "ephemeral-storage")
_GPU = re.compile(r"nvidia\.com/(gpu(\.shared)?|mig-[0-9]+g\.[0-9]+gb)")


def quantity(text: object) -> Decimal | None:
    """A Kubernetes quantity as a number, or None where it is none."""
    found = _QUANTITY.fullmatch(str(text))
    return Decimal(found[1]) * _SCALE[found[2]] if found else None


def resources(objects: list[Object]) -> list[str]:
    """Every container asks for CPU and memory, within limits; quantities are positive numbers."""
    found = []
    for pod in pods(objects):
        for container in pod.containers:
            found += (f"{pod.where}: {container['name']}: {p}" for p in _container(container))
        for volume in pod.spec.get("volumes") or ():
            size = (volume.get("emptyDir") or {}).get("sizeLimit")
            if size is not None:
                found += _positive(f"{pod.where}: volume {volume['name']}", size)
    for claim in of_kind(objects, "PersistentVolumeClaim"):
        for called, size in claim["spec"]["resources"]["requests"].items():
            found += _positive(f"{where(claim)}: {called}", size)
    for quota in of_kind(objects, "ResourceQuota"):
        for called, size in quota["spec"]["hard"].items():
            found += _positive(f"{where(quota)}: {called}", size, least=0)
    return found


def gpu(objects: list[Object]) -> list[str]:
    """GPUs are whole, in limits, tolerated and visible; a pod without one sees none."""
    found = []
    for pod in pods(objects):
        found += (f"{pod.where}: {problem}" for problem in _gpu(pod))
    return found


def _container(container: Object) -> Iterator[str]:
    given = container.get("resources") or {}
    limits, requests = given.get("limits") or {}, given.get("requests") or {}
    for called in _ALWAYS:
        if called not in requests:
            yield f"requests no {called}"
        if called not in limits:
            yield f"has no limit of {called}"
    for group in (limits, requests):
        for called, size in group.items():
            yield from _positive(called, size)
    for called, asked in requests.items():
        least, most = quantity(asked), quantity(limits.get(called, asked))
        if least is not None and most is not None and least > most:
            yield f"requests {asked} {called}, over its limit {limits[called]}"


def _gpu(pod: Pod) -> Iterator[str]:
    asked = False
    for container in pod.containers:
        given = container.get("resources") or {}
        limits, requests = given.get("limits") or {}, given.get("requests") or {}
        extended = [r for r in {**limits, **requests} if r.startswith("nvidia.com/")]
        for called in extended:
            asked = True
            if not _GPU.fullmatch(called):
                yield f"{container['name']}: {called} is no resource of NVIDIA's device plugin"
            if called not in limits:
                yield f"{container['name']}: {called} is not in limits"
            elif not re.fullmatch(r"[1-9][0-9]*", str(limits[called])):
                yield f"{container['name']}: {limits[called]} of {called}: GPUs are whole"
            if called in requests and str(requests[called]) != str(limits.get(called)):
                yield f"{container['name']}: requests and limits of {called} differ"
        values = [e.get("value") for e in container.get("env") or () if e["name"] == _VISIBLE]
        if not extended and values != ["void"] and _has_tensorflow(container):
            yield f"{container['name']}: has no GPU, and {_VISIBLE} is not void"
        if extended and container is pod.server:
            yield from _compile_cache(pod, container)
        if extended and values:
            yield f"{container['name']}: has a GPU, and {_VISIBLE} is {values[0]}"
        if container is pod.server and bool(extended) != ("-gpu" in container["image"]):
            yield f"{container['name']}: image {container['image']} with GPUs: {sorted(extended)}"
    tolerated = any(
        t.get("key") == "nvidia.com/gpu" and t.get("operator") == "Exists"
        for t in pod.spec.get("tolerations") or ()
    )
    if asked and not tolerated:
        yield "asks for a GPU and does not tolerate nvidia.com/gpu"


def _compile_cache(pod: Pod, container: Object) -> Iterator[str]:
    """What the driver compiles at the first start lies on a volume, which it cannot fill."""
    given = {e["name"]: e.get("value") for e in container.get("env") or ()}
    mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts") or ()}
    volume = mounts.get(given.get("CUDA_CACHE_PATH"))
    if volume is None:
        yield f"CUDA_CACHE_PATH {given.get('CUDA_CACHE_PATH')} is no volume: lost at every restart"
        return
    for found in pod.spec["volumes"]:
        room = quantity((found.get("emptyDir") or {}).get("sizeLimit", ""))
        most = quantity(given.get("CUDA_CACHE_MAXSIZE"))
        if found["name"] == volume and room is not None and (most is None or most > room):
            yield f"CUDA_CACHE_MAXSIZE {most} is more than its volume's {room}"


def _has_tensorflow(container: Object) -> bool:
    return any(name in container.get("image", "") for name in ("tensorflow/serving", "c3d-export"))


def _positive(subject: str, size: object, *, least: int = 1) -> Iterator[str]:
    number = quantity(size)
    if number is None:
        yield f"{subject}: {size} is no quantity"
    elif number < 0 or (least and number == 0):
        yield f"{subject}: {size} is not positive"
