"""One contract: names, ports, batch sizes and paths are `contract.py`'s, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator

from c3d_client.core.contract import BATCH_SIZES, GRPC_PORT, MODEL_NAME, REST_PORT

from k8s.bundle import Object
from k8s.objects import Pod, flags, name, namespace, of_kind, pods, servers, where
from k8s.promql import rules
from k8s.protos import config

BASE_PATH = f"/models/{MODEL_NAME}"
KSERVE_BASE_PATH = "/mnt/models"  # where KServe mounts the storage; versions lie directly in it
# 404 until it can serve; /v1/models/c3d lies.
READY_PATH = f"/v1/models/{MODEL_NAME}/metadata"
_PORTS = {"grpc": GRPC_PORT, "http": REST_PORT}
_PORT_FLAGS = {"port": GRPC_PORT, "rest_api_port": REST_PORT}
_TARGET = re.compile(r"dns:///([a-z0-9-]+)\.([a-z0-9-]+)\.svc\.cluster\.local:([0-9]+)")
_TARGETS = re.compile(r"dns:///[^\s\"']+")
_SIZES = "--batch-sizes"
_CONSTANT = re.compile(r"\* 0 \+ ([0-9]+)")


def contract(objects: list[Object]) -> list[str]:
    """Servers, Services, probes, the export Job and the pipelines say what the contract says."""
    found = []
    for pod in servers(objects):
        every = (*_flags(pod), *_ports(pod), *_files(objects, pod), *_probes(objects, pod))
        for problem in every:
            found.append(f"{pod.where}: {problem}")
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            if _PORTS.get(port.get("name")) != port["port"]:
                found.append(
                    f"{where(service)}: port {port.get('name')} {port['port']} is not {_PORTS}"
                )
    for monitor in of_kind(objects, "ServiceMonitor"):
        found += _monitor(objects, monitor)
    found += _queues(objects)
    found += _targets(objects)
    found += _exports(objects)
    return found


def _flags(pod: Pod) -> Iterator[str]:
    assert pod.server is not None
    given = flags(pod.server)
    for flag, value in _PORT_FLAGS.items():
        if given.get(flag) != str(value):
            yield f"--{flag} is {given.get(flag)}, the contract says {value}"
    threads = int(given.get("grpc_max_threads") or 0)
    if threads < 2 * BATCH_SIZES[-1]:
        yield f"--grpc_max_threads is {threads}: two full batches need {2 * BATCH_SIZES[-1]}"
    if "model_config_file" not in given:
        path = KSERVE_BASE_PATH if pod.owner["kind"] == "ServingRuntime" else BASE_PATH
        for flag, value in (("model_name", MODEL_NAME), ("model_base_path", path)):
            if given.get(flag) != value:
                yield f"--{flag} is {given.get(flag)}, the contract says {value}"


def _ports(pod: Pod) -> Iterator[str]:
    assert pod.server is not None
    given = {p.get("name"): p["containerPort"] for p in pod.server.get("ports") or ()}
    if given != _PORTS:
        yield f"ports {given}, the contract says {_PORTS}"


def _files(objects: list[Object], pod: Pod) -> Iterator[str]:
    models = config(objects, pod, "model_config_file")
    if models is not None:
        given = {m.name: m.base_path for m in models.model_config_list.config}
        if given != {MODEL_NAME: BASE_PATH}:
            yield f"models {given}, the contract says {MODEL_NAME} at {BASE_PATH}"
    batching = config(objects, pod, "batching_parameters_file")
    if batching is None:
        yield "no batching parameters: the warm-up's batch sizes would not be the server's"
    elif tuple(batching.allowed_batch_sizes) != BATCH_SIZES:
        yield f"batch sizes {list(batching.allowed_batch_sizes)}, warmed up are {BATCH_SIZES}"
    assert pod.server is not None
    mounts = {m["mountPath"].rstrip("/") for m in pod.server.get("volumeMounts") or ()}
    if pod.owner["kind"] != "ServingRuntime" and not mounts & {"/models", BASE_PATH}:
        yield f"no volume at /models or {BASE_PATH}"


def _probes(objects: list[Object], pod: Pod) -> Iterator[str]:
    assert pod.server is not None
    models = config(objects, pod, "model_config_file")
    labels = (
        {k for m in models.model_config_list.config for k in m.version_labels} if models else ()
    )
    paths = {READY_PATH.replace("/metadata", f"/labels/{label}/metadata") for label in labels}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe not in pod.server:
            yield f"no {probe}"
    ready = (pod.server.get("readinessProbe") or {}).get("httpGet") or {}
    if ready.get("path") not in {READY_PATH, *paths}:
        yield f"readiness asks {ready.get('path')}, not {READY_PATH}"
    if ready.get("port") not in ("http", REST_PORT):
        yield f"readiness asks port {ready.get('port')}, not http"
    for probe in ("startupProbe", "livenessProbe"):
        asked = pod.server.get(probe) or {}
        if len(asked.keys() & {"grpc", "httpGet", "tcpSocket", "exec"}) != 1:
            yield f"{probe} asks nothing"
        path = (asked["httpGet"].get("path", "/")) if "httpGet" in asked else READY_PATH
        if not f"{path}/".startswith(f"/v1/models/{MODEL_NAME}/"):
            yield f"{probe} asks {path}, which is not of model {MODEL_NAME}"
        if "grpc" in asked and asked["grpc"]["port"] != GRPC_PORT:
            yield f"{probe} asks port {asked['grpc']['port']}, the contract says {GRPC_PORT}"
        if "grpc" in asked and "ssl_config_file" in flags(pod.server):
            yield f"{probe} asks gRPC without TLS, and the server speaks TLS alone"


def _monitor(objects: list[Object], monitor: Object) -> Iterator[str]:
    paths = {
        found.prometheus_config.path
        for pod in servers(objects)
        if (found := config(objects, pod, "monitoring_config_file")) is not None
    }
    for endpoint in monitor["spec"]["endpoints"]:
        if endpoint.get("path") not in paths:
            yield f"{where(monitor)}: scrapes {endpoint.get('path')}, served is {sorted(paths)}"


def _queues(objects: list[Object]) -> Iterator[str]:
    """The record of what a queue holds says what batching.config does: GPUs first, CPUs last."""
    for _, rule in rules(objects):
        if rule.get("record") != "c3d:pod_queue_capacity:rows":
            continue
        sizes = [int(size) for size in _CONSTANT.findall(rule["expr"])]
        for pod in servers(objects):
            assert pod.server is not None
            given = config(objects, pod, "batching_parameters_file")
            holds = given.max_batch_size.value * given.max_enqueued_batches.value if given else 0
            said = sizes[0 if "nvidia.com/" in str(pod.server.get("resources")) else -1]
            if holds and said != holds:
                yield f"{pod.where}: a queue holds {holds} rows, {rule['record']} says {said}"


def _targets(objects: list[Object]) -> Iterator[str]:
    """gRPC targets that ConfigMaps and pods name: a headless Service of ours, at its port."""
    given = [
        (where(o), text)
        for o in of_kind(objects, "ConfigMap")
        for text in (o.get("data") or {}).values()
    ]
    for pod in pods(objects):
        for container in pod.containers:
            words = [*(container.get("command") or ()), *(container.get("args") or ())]
            words += [e.get("value") or "" for e in container.get("env") or ()]
            given += [(pod.where, word) for word in words]
    for subject, text in given:
        for target in _TARGETS.findall(text):
            found = _TARGET.fullmatch(target)
            if not found:
                yield f"{subject}: target {target} is not dns:///SERVICE.NAMESPACE.svc.cluster.local:PORT"
            elif found[1] != "c3d-grpc" or int(found[3]) != GRPC_PORT:
                yield f"{subject}: target {target}, the contract says c3d-grpc and {GRPC_PORT}"
            elif found[2] != "c3d":
                yield f"{subject}: target {target} is not in namespace c3d"
    for service in of_kind(objects, "Service"):
        if name(service) == "c3d-grpc" and service["spec"].get("clusterIP") != "None":
            yield f"{where(service)}: not headless: one connection would stay with one pod"
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{where(service)}: type {service['spec']['type']} opens it to the outside"


def _exports(objects: list[Object]) -> Iterator[str]:
    """An export warms up for the batch sizes, and writes to the server's volume."""
    volumes = {
        v["persistentVolumeClaim"]["claimName"]
        for pod in servers(objects)
        for v in pod.spec.get("volumes") or ()
        if "persistentVolumeClaim" in v
    }
    for pod in pods(objects):
        if pod.owner["kind"] != "Job" or "export" not in name(pod.owner):
            continue
        for container in pod.containers:
            words = [*(container.get("command") or ()), *(container.get("args") or ())]
            for word in " ".join(words).replace("=", " ").split(_SIZES)[1:]:
                sizes = word.split()[0]
                if sizes != ",".join(map(str, BATCH_SIZES)):
                    yield f"{pod.where}: {_SIZES} {sizes}, the contract says {BATCH_SIZES}"
        claims = {
            v["persistentVolumeClaim"]["claimName"]
            for v in pod.spec.get("volumes") or ()
            if "persistentVolumeClaim" in v
        }
        if volumes and not claims & volumes:
            yield f"{pod.where}: writes to {sorted(claims)}, the server reads {sorted(volumes)}"
        if namespace(pod.owner) not in {p.namespace for p in servers(objects)}:
            yield f"{pod.where}: in namespace {namespace(pod.owner)}, where no server is"
