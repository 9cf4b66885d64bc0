"""Checks of security and lifetime: Pod Security, API tokens, the network, and Jobs that end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from c3d_client.core.contract import GRPC_PORT, REST_PORT

from k8s.links import CLIENT_LABEL
from k8s.objects import (
    Pod,
    containers,
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
from k8s.render import Object

_ENFORCE = "pod-security.kubernetes.io/enforce"
_ALLOWED_VOLUMES = {
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
_VOLUMES_OF_ONE_USER = {"persistentVolumeClaim", "secret"}
_PORTS = {"grpc": GRPC_PORT, "http": REST_PORT}
_NAME, _NAMESPACE_NAME = "app.kubernetes.io/name", "kubernetes.io/metadata.name"
# Callers: (labels, namespace or None for the server's, ports that must be reachable; no others).
_CALLERS: dict[str, tuple[dict[str, str], str | None, set[str]]] = {
    "a client": ({CLIENT_LABEL: "true", _NAME: "client"}, None, {"grpc"}),
    "a stranger": ({_NAME: "stranger"}, None, set()),
    "a stranger in another namespace": ({_NAME: "stranger"}, "elsewhere", set()),
    "a client in another namespace": ({CLIENT_LABEL: "true"}, "elsewhere", set()),
    "Prometheus": ({_NAME: "prometheus"}, "monitoring", {"http"}),
}
# Private networks and the cloud's metadata address: no egress rule to 0.0.0.0/0 may include them.
_PRIVATE = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}


# ---- Pod Security


def check_restricted(objects: list[Object]) -> Iterator[str]:
    """Every pod passes Pod Security "restricted", sets its user, and has a read-only root."""
    for pod in pods(objects):
        yield from prefix(pod.ref, _restricted_pod(pod))
    for pod, container in containers(objects):
        yield from prefix(f"{pod.ref}: {container['name']}", _restricted_container(pod, container))


def _restricted_pod(pod: Pod) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"{key} is set"
    for volume in pod.volumes:
        forbidden = volume.keys() - {"name"} - _ALLOWED_VOLUMES
        if forbidden:
            yield f"volume {volume['name']} is a {', '.join(sorted(forbidden))}"
    owned = [volume for volume in pod.volumes if volume.keys() & _VOLUMES_OF_ONE_USER]
    if owned and not get(pod.spec, "securityContext.fsGroup"):
        yield f"no fsGroup: the pod's user cannot read volume {owned[0]['name']}"
    if get(pod.spec, "securityContext.sysctls"):
        yield "sysctls are set"


def _restricted_container(pod: Pod, container: Object) -> Iterator[str]:
    own = get(container, "securityContext", {})
    merged = {**get(pod.spec, "securityContext", {}), **own}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if get(own, "capabilities.drop") != ["ALL"]:
        yield "does not drop ALL capabilities"
    added = get(own, "capabilities.add", [])
    if set(added) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {', '.join(added)}"
    if merged.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not merged.get("runAsUser"):
        yield f"runAsUser is {merged.get('runAsUser')}: root, or the user of the image"
    if get(merged, "seccompProfile.type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not RuntimeDefault"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if own.get("procMount", "Default") != "Default":
        yield f"procMount is {own['procMount']}"
    for port in get(container, "ports", []):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"


def check_namespaces(objects: list[Object]) -> Iterator[str]:
    """Every namespace that objects name is in the bundle, and enforces "restricted"."""
    declared = {name(obj): obj for obj in of_kind(objects, "Namespace")}
    for space, obj in declared.items():
        level = labels(obj).get(_ENFORCE)
        if level != "restricted":
            yield f"Namespace/{space}: {_ENFORCE} is {level}, not restricted"
    used = {obj["metadata"].get("namespace") for obj in objects} - {None}
    for space in sorted(used - declared.keys()) if declared else ():
        yield f"namespace {space} is used and not in the bundle"


def check_tokens(objects: list[Object]) -> Iterator[str]:
    """No pod has a token of the Kubernetes API, and none runs as the default account."""
    for pod in pods(objects):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.ref}: automountServiceAccountToken is not false"
        if pod.spec.get("serviceAccountName", "default") == "default":
            yield f"{pod.ref}: runs as the default service account"
        for volume in pod.volumes:
            for source in get(volume, "projected.sources", []):
                if "serviceAccountToken" in source:
                    yield f"{pod.ref}: volume {volume['name']} holds a token"
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"{ref(account)}: automountServiceAccountToken is not false"


# ---- network


def check_network(objects: list[Object]) -> Iterator[str]:
    """Nothing is public; with policies, all is denied but the ports that each caller needs.

    The server does not authenticate callers, and its REST port has no TLS.
    """
    for service in of_kind(objects, "Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            kind = service["spec"]["type"]
            yield f"{ref(service)}: type {kind} is public, and the server does not authenticate"
    for ingress in of_kind(objects, "Ingress"):
        yield f"{ref(ingress)}: opens the server to the outside"
    policies = of_kind(objects, "NetworkPolicy")
    if not any(map(_is_ingress, policies)):
        return
    for space in sorted({namespace(policy) for policy in policies}):
        if not any(_denies_all(policy) for policy in policies if namespace(policy) == space):
            yield f"NetworkPolicy: none denies all by default in namespace {space}"
    for pod in servers(objects):
        yield from prefix(pod.ref, _reachable_ports(pod, policies))
    for policy in policies:
        yield from prefix(ref(policy), _egress(policy))


def _is_ingress(policy: Object) -> bool:
    return "Ingress" in policy["spec"].get("policyTypes", ("Ingress",))


def _denies_all(policy: Object) -> bool:
    spec = policy["spec"]
    types = set(get(spec, "policyTypes", []))
    has_rules = spec.get("podSelector") or spec.get("ingress") or spec.get("egress")
    return types == {"Ingress", "Egress"} and not has_rules


def _reachable_ports(pod: Pod, policies: list[Object]) -> Iterator[str]:
    rules = [
        rule
        for policy in policies
        if _is_ingress(policy) and namespace(policy) == pod.namespace
        if matches(get(policy, "spec.podSelector", {}), pod.labels)
        for rule in get(policy, "spec.ingress", [])
    ]
    for caller, (caller_labels, space, expected) in _CALLERS.items():
        reached = {
            port
            for rule in rules
            if _admits(rule, caller_labels, space or pod.namespace, pod.namespace)
            for port, number in _PORTS.items()
            if not rule.get("ports")
            or any(p.get("port", number) in (port, number) for p in rule["ports"])
        }
        yield from (f"{caller} cannot reach {port}" for port in sorted(expected - reached))
        yield from (f"{caller} can reach {port}" for port in sorted(reached - expected))


def _admits(rule: Object, caller: dict[str, str], space: str, policy_space: str) -> bool:
    """Return whether an ingress rule admits a pod with the caller's labels from a namespace."""
    for source in rule.get("from") or ({"ipBlock": {"cidr": "0.0.0.0/0"}},):
        if "ipBlock" in source:
            if source["ipBlock"]["cidr"] in ("0.0.0.0/0", "::/0"):
                return True
            continue
        spaces = source.get("namespaceSelector")
        in_namespace = (
            space == policy_space if spaces is None else matches(spaces, {_NAMESPACE_NAME: space})
        )
        if in_namespace and matches(get(source, "podSelector", {}), caller):
            return True
    return False


def _egress(policy: Object) -> Iterator[str]:
    for rule in get(policy, "spec.egress", []):
        if not rule.get("to") or not rule.get("ports"):
            yield "lets pods call any address, or any port"
        for target in get(rule, "to", []):
            block: dict[str, Any] = target.get("ipBlock") or {}
            private = _PRIVATE - set(get(block, "except", []))
            if block.get("cidr") == "0.0.0.0/0" and private:
                yield f"lets pods call {', '.join(sorted(private))}"


# ---- Jobs


def check_jobs(objects: list[Object]) -> Iterator[str]:
    """Every Job has a deadline, few tries, a failure policy, its own account, and no Service."""
    accounts = {pod.spec.get("serviceAccountName") for pod in servers(objects)}
    for job in of_kind(objects, "Job", "CronJob"):
        spec = get(job, "spec.jobTemplate.spec") or job["spec"]
        yield from prefix(ref(job), _job(spec))
        account = get(spec, "template.spec.serviceAccountName")
        if account in accounts:
            yield f"{ref(job)}: runs as {account}, the servers' account and its identity in a cloud"
    for obj in of_kind(objects, "PodDisruptionBudget", "Service"):
        selector = get(obj, "spec.selector", {})
        if obj["kind"] == "Service":
            selector = {"matchLabels": selector}
        for pod in selected(objects, selector, namespace(obj)):
            if pod.owner["kind"] == "Job":
                yield f"{ref(obj)}: selects the pods of {pod.ref}"


def _job(spec: Object) -> Iterator[str]:
    if spec.get("ttlSecondsAfterFinished") is not None:
        yield "has a ttlSecondsAfterFinished: a GitOps tool would make it again and again"
    if not spec.get("activeDeadlineSeconds"):
        yield "no activeDeadlineSeconds: it might hang for ever"
    backoff_limit = spec.get("backoffLimit", 6)
    if not 0 <= backoff_limit <= 4:
        yield f"backoffLimit is {backoff_limit}: the same failure would repeat"
    pod = Pod({}, {}, spec["template"]["spec"])
    if pod.spec.get("restartPolicy") != "Never":
        yield f"restartPolicy is {pod.spec.get('restartPolicy')}; podFailurePolicy needs Never"
    rules = get(spec, "podFailurePolicy.rules", [])
    final = [get(r, "onExitCodes", {}) for r in rules if r["action"] == "FailJob"]
    expected = {"operator": "In", "values": [2]}
    final_in = {codes.get("containerName") for codes in final if codes == codes | expected}
    if len(final_in) != len(final):
        yield "podFailurePolicy fails the Job on other exit codes than 2, such as network errors"
    conditions = [c["type"] for rule in rules for c in get(rule, "onPodConditions", [])]
    if "DisruptionTarget" not in conditions:
        yield "no podFailurePolicy that excludes disruptions from the count"
    names = {container["name"] for container in pod.containers}
    for missing in sorted(names - final_in):
        yield f"no podFailurePolicy that fails the Job on exit code 2 of {missing}"
    for rule in rules:
        container = get(rule, "onExitCodes.containerName")
        if container and container not in names:
            yield f"podFailurePolicy names {container}, which is not a container"
