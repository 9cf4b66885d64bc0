"""Inside a pod: volumes and mounts, ports, environment, images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from k8s.bundle import Object
from k8s.objects import Pod, of_kind, pods, where

_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](-?[a-z0-9])*")
_PORT_NAME_LENGTH = 15
_VARIABLE = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


def volumes(objects: list[Object]) -> list[str]:
    """Each mount has its volume, each volume a mount; no two mounts share a path."""
    found = []
    for pod in pods(objects):
        there = [v["name"] for v in pod.spec.get("volumes") or ()]
        used: set[str] = set()
        for container in pod.containers:
            mounts = container.get("volumeMounts") or ()
            used |= {m["name"] for m in mounts}
            for mount in mounts:
                if mount["name"] not in there:
                    found.append(
                        f"{pod.where}: {container['name']} mounts no volume {mount['name']}"
                    )
            for path, times in Counter(m["mountPath"] for m in mounts).items():
                if times > 1:
                    found.append(f"{pod.where}: {container['name']} mounts {path} {times} times")
        found += [f"{pod.where}: volume {v} is never mounted" for v in there if v not in used]
        found += (f"{pod.where}: {problem}" for problem in _sources(pod))
        found += [
            f"{pod.where}: emptyDir {v['name']} has no sizeLimit"
            for v in pod.spec.get("volumes") or ()
            if "emptyDir" in v and not (v["emptyDir"] or {}).get("sizeLimit")
        ]
    return found


def ports(objects: list[Object]) -> list[str]:
    """Ports are named, by names that Kubernetes takes; probes and hooks use names that exist."""
    found = []
    for pod in pods(objects):
        for container in pod.containers:
            given = container.get("ports") or ()
            names = [p.get("name") for p in given]
            for port in given:
                found += _port_name(f"{pod.where}: {container['name']}", port.get("name"))
            for called, times in Counter(names).items():
                if times > 1:
                    found.append(f"{pod.where}: {times} ports are called {called}")
            numbers = {p["containerPort"] for p in given}
            for kind, target in _handlers(container):
                if target not in names and target not in numbers:
                    found.append(f"{pod.where}: {container['name']}: {kind} uses no port {target}")
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            found += _port_name(where(service), port.get("name"))
    return found


def variables(objects: list[Object]) -> list[str]:
    """`$(NAME)` in a command is a variable of that container; no variable is given twice."""
    found = []
    for pod in pods(objects):
        for container in pod.containers:
            names = [v["name"] for v in container.get("env") or ()]
            found += [
                f"{pod.where}: {container['name']}: variable {v['name']} has no value"
                for v in container.get("env") or ()
                if "value" not in v and not v.get("valueFrom")
            ]
            found += [
                f"{pod.where}: {container['name']}: variable {called} is given {times} times"
                for called, times in Counter(names).items()
                if times > 1
            ]
            if container.get("envFrom"):
                continue
            words = [*(container.get("command") or ()), *(container.get("args") or ())]
            used = {v for word in words for v in _VARIABLE.findall(word)}
            found += [
                f"{pod.where}: {container['name']}: no variable {v}"
                for v in sorted(used - set(names))
            ]
    return found


def images(objects: list[Object]) -> list[str]:
    """Images have a tag that stays what it is, or a digest; the server's is TensorFlow's minor."""
    found = []
    for pod in pods(objects):
        pictures = [(c["name"], c.get("image", "")) for c in pod.containers]
        pictures += [
            (v["name"], v["image"]["reference"])
            for v in pod.spec.get("volumes") or ()
            if "image" in v
        ]
        for holder, image in pictures:
            tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
            if "@sha256:" not in image and (not tag or tag.startswith("latest") or tag == "stable"):
                found.append(f"{pod.where}: {holder}: image {image or 'missing'} is not pinned")
            if image.startswith("tensorflow/serving") and not tag.startswith("2.20."):
                found.append(f"{pod.where}: {holder}: image {image} is not TensorFlow 2.20's")
    return found


def _sources(pod: Pod) -> Iterator[str]:
    """A volume has a source; what starts empty is written by somebody; the model by no server."""
    for volume in pod.spec.get("volumes") or ():
        mounts = [
            (container, mount)
            for container in pod.containers
            for mount in container.get("volumeMounts") or ()
            if mount["name"] == volume["name"]
        ]
        if len(volume) < 2:
            yield f"volume {volume['name']} has no source"
        if "emptyDir" in volume and mounts and all(m.get("readOnly") for _, m in mounts):
            yield f"volume {volume['name']} stays empty: nobody writes to it"
        for container, mount in mounts:
            stores = "persistentVolumeClaim" in volume and container is pod.server
            if stores and not mount.get("readOnly"):
                yield f"{container['name']} may write to the model store {volume['name']}"


def _port_name(subject: str, called: str | None) -> Iterator[str]:
    if called is None:
        yield f"{subject}: a port without a name"
    elif len(called) > _PORT_NAME_LENGTH:
        yield f"{subject}: port name {called} is longer than {_PORT_NAME_LENGTH} characters"
    elif not _PORT_NAME.fullmatch(called):
        yield f"{subject}: port name {called} is not one"


def _handlers(container: Object) -> Iterator[tuple[str, int | str]]:
    holders = {k: container.get(k) for k in ("startupProbe", "readinessProbe", "livenessProbe")}
    holders |= container.get("lifecycle") or {}
    for kind, handler in holders.items():
        for action in ("httpGet", "tcpSocket", "grpc"):
            if handler and action in handler:
                yield kind, handler[action]["port"]
