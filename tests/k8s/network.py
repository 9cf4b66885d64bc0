"""Who may talk to the server: nobody but who is named, and REST to no client at all.

The server authenticates nobody, and its REST port has no TLS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from c3d_client.core.contract import GRPC_PORT, REST_PORT

from k8s.bundle import Object
from k8s.objects import Pod, matches, namespace, of_kind, servers, where

CLIENT_LABEL = "c3d.dev/client"
_PORTS = {"grpc": GRPC_PORT, "http": REST_PORT}
_NAME, _SPACE = "app.kubernetes.io/name", "kubernetes.io/metadata.name"
_ELSEWHERE = "elsewhere"
# Who asks: (labels, namespace or the server's own, what may be reached).
_WHO: dict[str, tuple[dict[str, str], str | None, set[str]]] = {
    "a client": ({CLIENT_LABEL: "true", _NAME: "client"}, None, {"grpc"}),
    "a stranger": ({_NAME: "stranger"}, None, set()),
    "a stranger of another namespace": ({_NAME: "stranger"}, _ELSEWHERE, set()),
    "a client of another namespace": ({CLIENT_LABEL: "true"}, _ELSEWHERE, set()),
    "Prometheus": ({_NAME: "prometheus"}, "monitoring", {"http"}),
}
# What a way out to anywhere must leave out: private networks, and the cloud's metadata address.
_PRIVATE = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
_OPEN = ("LoadBalancer", "NodePort", "ExternalName")


def network(objects: list[Object]) -> list[str]:
    """Where there are policies: all is denied, clients reach gRPC alone; nothing is public."""
    found = [
        f"{where(s)}: type {s['spec']['type']} is public, and the server authenticates nobody"
        for s in of_kind(objects, "Service")
        if s["spec"].get("type") in _OPEN
    ]
    found += [f"{where(o)}: opens the server to the outside" for o in of_kind(objects, "Ingress")]
    policies = of_kind(objects, "NetworkPolicy")
    closing = [p for p in policies if "Ingress" in p["spec"].get("policyTypes", ("Ingress",))]
    if not closing:
        return found
    for space in sorted({namespace(p) for p in policies}):
        mine = [p for p in policies if namespace(p) == space]
        if not any(_denies_all(p) for p in mine):
            found.append(f"NetworkPolicy: nothing denies all by default in namespace {space}")
    for pod in servers(objects):
        found += (f"{pod.where}: {problem}" for problem in _reach(pod, policies))
    for policy in policies:
        found += (f"{where(policy)}: {problem}" for problem in _ways_out(policy))
    return found


def _denies_all(policy: Object) -> bool:
    spec = policy["spec"]
    return (
        not spec.get("podSelector")
        and set(spec.get("policyTypes") or ()) == {"Ingress", "Egress"}
        and not spec.get("ingress")
        and not spec.get("egress")
    )


def _reach(pod: Pod, policies: list[Object]) -> Iterator[str]:
    mine = [
        p
        for p in policies
        if namespace(p) == pod.namespace and matches(p["spec"].get("podSelector") or {}, pod.labels)
    ]
    rules = [
        rule
        for policy in mine
        if "Ingress" in policy["spec"].get("policyTypes", ("Ingress",))
        for rule in policy["spec"].get("ingress") or ()
    ]
    for who, (labels, space, wanted) in _WHO.items():
        reached = {
            name
            for rule in rules
            if _admits(rule, labels, space or pod.namespace, pod.namespace)
            for name, number in _PORTS.items()
            if not rule.get("ports")
            or any(p.get("port", number) in (name, number) for p in rule["ports"])
        }
        yield from (f"{who} does not reach {port}" for port in sorted(wanted - reached))
        yield from (f"{who} reaches {port}" for port in sorted(reached - wanted))


def _admits(rule: dict[str, Any], labels: dict[str, str], space: str, own: str) -> bool:
    """Whether a rule lets in a pod with these labels from a namespace; `own` is the policy's."""
    for source in rule.get("from") or ({"ipBlock": {"cidr": "0.0.0.0/0"}},):
        if "ipBlock" in source:
            if source["ipBlock"]["cidr"] in ("0.0.0.0/0", "::/0"):
                return True
            continue
        spaces = source.get("namespaceSelector")
        near = space == own if spaces is None else matches(spaces, {_SPACE: space})
        if near and matches(source.get("podSelector") or {}, labels):
            return True
    return False


def _ways_out(policy: Object) -> Iterator[str]:
    for rule in policy["spec"].get("egress") or ():
        if not rule.get("to") or not rule.get("ports"):
            yield "lets pods call anybody, or by any port"
        for block in (to["ipBlock"] for to in rule.get("to") or () if "ipBlock" in to):
            left = _PRIVATE - set(block.get("except") or ())
            if block["cidr"] == "0.0.0.0/0" and left:
                yield f"lets pods call {', '.join(sorted(left))}"
