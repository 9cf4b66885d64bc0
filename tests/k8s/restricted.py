"""Pod Security "restricted", and more: no token, a read-only root, a user by number."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.bundle import Object
from k8s.objects import Pod, name, of_kind, pods, where

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_OWNED = {"persistentVolumeClaim", "secret"}
_LEVEL = "pod-security.kubernetes.io/enforce"


def restricted(objects: list[Object]) -> list[str]:
    """Every pod passes Pod Security "restricted" and has a read-only root."""
    found = []
    for pod in pods(objects):
        found += [f"{pod.where}: {problem}" for problem in _pod(pod)]
        for container in pod.containers:
            for problem in _container(pod, container):
                found.append(f"{pod.where}: {container['name']}: {problem}")
    return found


def namespaces(objects: list[Object]) -> list[str]:
    """A namespace that is named is made, and enforces "restricted"."""
    made = {name(o): o for o in of_kind(objects, "Namespace")}
    found = []
    for space, made_one in made.items():
        level = (made_one["metadata"].get("labels") or {}).get(_LEVEL)
        if level != "restricted":
            found.append(f"Namespace/{space}: {_LEVEL} is {level}, not restricted")
    for space in sorted({o["metadata"].get("namespace") for o in objects} - {None}):
        if made and space not in made:
            found.append(f"namespace {space} is named and not made")
    return found


def tokens(objects: list[Object]) -> list[str]:
    """No pod holds a token of the Kubernetes API, and none runs as the default account."""
    found = []
    for pod in pods(objects):
        if pod.spec.get("automountServiceAccountToken") is not False:
            found.append(f"{pod.where}: automountServiceAccountToken is not false")
        if pod.spec.get("serviceAccountName", "default") == "default":
            found.append(f"{pod.where}: runs as the default service account")
        for volume in pod.spec.get("volumes") or ():
            for source in (volume.get("projected") or {}).get("sources") or ():
                if "serviceAccountToken" in source:
                    found.append(f"{pod.where}: volume {volume['name']} holds a token")
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            found.append(f"{where(account)}: automountServiceAccountToken is not false")
    return found


def _pod(pod: Pod) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"{key} is set"
    for volume in pod.spec.get("volumes") or ():
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is a {', '.join(sorted(kinds - _VOLUMES))}"
    stored = [v for v in pod.spec.get("volumes") or () if v.keys() & _OWNED]
    if stored and not (pod.spec.get("securityContext") or {}).get("fsGroup"):
        yield f"no fsGroup: its user cannot read {stored[0]['name']}"
    if (pod.spec.get("securityContext") or {}).get("sysctls"):
        yield "sysctls are set"


def _container(pod: Pod, container: Object) -> Iterator[str]:
    own = container.get("securityContext") or {}
    both = {**(pod.spec.get("securityContext") or {}), **own}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities") or {}
    if capabilities.get("drop") != ["ALL"]:
        yield "does not drop ALL capabilities"
    if set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {', '.join(capabilities['add'])}"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not both.get("runAsUser"):
        yield f"runAsUser is {both.get('runAsUser')}: the image would decide, or root"
    if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not RuntimeDefault"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if own.get("procMount", "Default") != "Default":
        yield f"procMount is {own['procMount']}"
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"
