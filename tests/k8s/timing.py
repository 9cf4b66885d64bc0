"""Times that must fit: connection age < preStop < grace; start-up < progress; no hasty scaling."""

from __future__ import annotations

import re
from collections.abc import Iterator

from k8s.bundle import Object
from k8s.objects import Pod, flags, of_kind, servers, where

STARTUP_S = 15 * 60  # load, warm-up of every batch size, and a GPU's first compilation
_CALM_S = 300  # a pod takes minutes to be warm again
_LAX_S = 120  # a full server is slow to answer, and killing it makes that worse
_DEFAULT_RETRIES, _DEFAULT_INTERVAL_US = 5, 60_000_000
_PROGRESS_S = 600  # Kubernetes' default
_GRACE_S = 30  # Kubernetes' default
_AGE = re.compile(r"grpc\.max_connection_age_ms=([0-9]+)")


def timing(objects: list[Object]) -> list[str]:
    """A pod drains before it ends, may take its time to start, and is not scaled away in haste."""
    found = []
    for pod in servers(objects):
        for problem in (*_drain(pod), *_start(pod)):
            found.append(f"{pod.where}: {problem}")
    for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        found += (f"{where(scaler)}: {problem}" for problem in _scaling(objects, scaler))
    return found


def _drain(pod: Pod) -> Iterator[str]:
    assert pod.server is not None
    aged = _AGE.search(flags(pod.server).get("grpc_channel_arguments", ""))
    if not aged:
        yield "no grpc.max_connection_age_ms: clients would never find new pods"
        return
    age_s = int(aged[1]) / 1000
    hook = (pod.server.get("lifecycle") or {}).get("preStop") or {}
    drain_s = (hook.get("sleep") or {}).get("seconds", 0)
    grace_s = pod.spec.get("terminationGracePeriodSeconds", _GRACE_S)
    if drain_s <= age_s:
        yield f"preStop sleeps {drain_s} s, not longer than a connection lives ({age_s:g} s)"
    if grace_s <= drain_s:
        yield f"grace period of {grace_s} s is not longer than preStop's {drain_s} s"


def _start(pod: Pod) -> Iterator[str]:
    assert pod.server is not None
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = pod.server.get(kind) or {}
        if probe.get("initialDelaySeconds"):
            yield f"{kind} has an initialDelaySeconds: the start-up probe waits already"
    startup_s = _budget_s(pod.server.get("startupProbe") or {})
    if startup_s < STARTUP_S:
        yield f"start-up may take {startup_s} s, less than {STARTUP_S}"
    if pod.owner["kind"] == "Deployment":
        yield from _rollout(pod.owner["spec"].get("strategy") or {})
        progress_s = pod.owner["spec"].get("progressDeadlineSeconds", _PROGRESS_S)
        if progress_s <= startup_s:
            yield f"progressDeadlineSeconds {progress_s} is not longer than start-up's {startup_s}"
    alive_s = _budget_s(pod.server.get("livenessProbe") or {})
    if alive_s < _LAX_S:
        yield f"livenessProbe kills after {alive_s} s, less than {_LAX_S}"
    given = flags(pod.server)
    retries = int(given.get("max_num_load_retries", _DEFAULT_RETRIES))
    interval_us = int(given.get("load_retry_interval_micros", _DEFAULT_INTERVAL_US))
    if retries * interval_us / 1e6 > startup_s / 2:
        yield f"a bad model is retried for {retries * interval_us / 1e6:g} s of {startup_s}"


def _rollout(strategy: Object) -> Iterator[str]:
    given = strategy.get("rollingUpdate") or {}
    surge, unavailable = given.get("maxSurge"), given.get("maxUnavailable")
    if (surge == 0) == (unavailable == 0):
        yield f"maxSurge {surge} and maxUnavailable {unavailable}: one is 0, the other is not"


def _scaling(objects: list[Object], scaler: Object) -> Iterator[str]:
    spec = scaler["spec"]
    least = spec.get("minReplicas", spec.get("minReplicaCount", 0))
    most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
    if least > most:
        yield f"at least {least} replicas and at most {most}"
    if least < 1:
        yield "may scale to none: the first request would wait for a start of minutes"
    behavior = spec.get("behavior")
    if scaler["kind"] == "ScaledObject":
        advanced = (spec.get("advanced") or {}).get("horizontalPodAutoscalerConfig") or {}
        behavior = advanced.get("behavior")
        if spec.get("cooldownPeriod", 300) < _CALM_S:
            yield f"cooldownPeriod {spec['cooldownPeriod']} s is less than {_CALM_S}"
    calm_s = ((behavior or {}).get("scaleDown") or {}).get("stabilizationWindowSeconds", 0)
    if calm_s < _CALM_S:
        yield f"scales down after {calm_s} s, less than {_CALM_S}"
    target = spec["scaleTargetRef"]
    for workload in of_kind(objects, target.get("kind", "Deployment")):
        same = workload["metadata"]["name"] == target["name"]
        if same and "replicas" in workload["spec"]:
            yield f"{where(workload)} says replicas: every apply would undo the scaling"


def _budget_s(probe: Object) -> int:
    return probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
