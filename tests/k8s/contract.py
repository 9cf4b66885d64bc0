"""Checks of what must agree: the contract with clients and the exporter, and dependent times.

The contract is `c3d_client.core.contract`: names, ports, batch sizes and paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from c3d_client.core.contract import BATCH_SIZES, GRPC_PORT, MODEL_NAME, REST_PORT

from k8s.monitoring import rules
from k8s.objects import (
    NAMESPACE,
    PROBES,
    SCALERS,
    Pod,
    flags,
    get,
    name,
    of_kind,
    pods,
    prefix,
    ref,
    servers,
    words,
)
from k8s.render import Object
from k8s.server import config

BASE_PATH = f"/models/{MODEL_NAME}"
_KSERVE_BASE_PATH = "/mnt/models"  # KServe mounts the folder with the versions here
# /v1/models/c3d is 200 for failed versions too; its metadata is 404 until the model can serve.
READY_PATH = f"/v1/models/{MODEL_NAME}/metadata"
_PORTS = {"grpc": GRPC_PORT, "http": REST_PORT}
_SERVICE = "c3d-grpc"
_TARGET = re.compile(r"dns:///([a-z0-9-]+)\.([a-z0-9-]+)\.svc\.cluster\.local:([0-9]+)")
_ANY_TARGET = re.compile(r"dns:///[^\s\"']+")
_CONSTANT = re.compile(r"\* 0 \+ ([0-9]+)")


def check_contract(objects: list[Object]) -> Iterator[str]:
    """Servers, Services, probes, the export Job and the pipelines agree with the contract."""
    for pod in servers(objects):
        yield from prefix(pod.ref, _contract_flags(pod))
        yield from prefix(pod.ref, _contract_files(objects, pod))
        yield from prefix(pod.ref, _probes(objects, pod))
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            if _PORTS.get(port.get("name")) != port["port"]:
                yield f"{ref(service)}: port {port.get('name')} {port['port']} is not in {_PORTS}"
        if name(service) == _SERVICE and service["spec"].get("clusterIP") != "None":
            yield f"{ref(service)}: not headless: a connection would stay with one pod"
    yield from _scraped_paths(objects)
    yield from _queue_capacity(objects)
    yield from _targets(objects)
    yield from _exports(objects)


def _contract_flags(pod: Pod) -> Iterator[str]:
    values = flags(pod.server)
    expected = {"port": str(GRPC_PORT), "rest_api_port": str(REST_PORT)}
    if "model_config_file" not in values:
        is_kserve = pod.owner["kind"] == "ServingRuntime"
        expected |= {
            "model_name": MODEL_NAME,
            "model_base_path": _KSERVE_BASE_PATH if is_kserve else BASE_PATH,
        }
    for flag, value in expected.items():
        if values.get(flag) != value:
            yield f"--{flag} is {values.get(flag)}, not {value} as in the contract"
    threads = int(values.get("grpc_max_threads") or 0)
    if threads < 2 * BATCH_SIZES[-1]:
        yield f"--grpc_max_threads is {threads}: two full batches need {2 * BATCH_SIZES[-1]}"
    ports = {port.get("name"): port["containerPort"] for port in get(pod.server, "ports", [])}
    if ports != _PORTS:
        yield f"ports are {ports}, not {_PORTS} as in the contract"


def _contract_files(objects: list[Object], pod: Pod) -> Iterator[str]:
    models = config(objects, pod, "model_config_file")
    if models is not None:
        paths = {model.name: model.base_path for model in models.model_config_list.config}
        if paths != {MODEL_NAME: BASE_PATH}:
            yield f"models are {paths}, not {MODEL_NAME} at {BASE_PATH} as in the contract"
    batching = config(objects, pod, "batching_parameters_file")
    if batching is None:
        yield "no batching parameters: the server's batch sizes would not be warmed up"
    elif tuple(batching.allowed_batch_sizes) != BATCH_SIZES:
        yield f"batch sizes {list(batching.allowed_batch_sizes)}, warmed up are {BATCH_SIZES}"
    mounts = {mount["mountPath"].rstrip("/") for mount in get(pod.server, "volumeMounts", [])}
    if pod.owner["kind"] != "ServingRuntime" and not mounts & {"/models", BASE_PATH}:
        yield f"no volume at /models or {BASE_PATH}"


def _probes(objects: list[Object], pod: Pod) -> Iterator[str]:
    yield from (f"no {probe}" for probe in PROBES if probe not in pod.server)
    models = config(objects, pod, "model_config_file")
    version_labels = (
        {label for model in models.model_config_list.config for label in model.version_labels}
        if models
        else set()
    )
    paths = {READY_PATH.replace("/metadata", f"/labels/{x}/metadata") for x in version_labels}
    ready = get(pod.server, "readinessProbe.httpGet", {})
    if ready.get("path") not in {READY_PATH, *paths}:
        yield f"readinessProbe requests {ready.get('path')}, not {READY_PATH}"
    if ready.get("port") not in ("http", REST_PORT):
        yield f"readinessProbe requests port {ready.get('port')}, not http"
    for kind in ("startupProbe", "livenessProbe"):
        probe = get(pod.server, kind, {})
        if len(probe.keys() & {"grpc", "httpGet", "tcpSocket", "exec"}) != 1:
            yield f"{kind} has no action"
        path = probe["httpGet"].get("path", "/") if "httpGet" in probe else READY_PATH
        if not f"{path}/".startswith(f"/v1/models/{MODEL_NAME}/"):
            yield f"{kind} requests {path}, which does not belong to model {MODEL_NAME}"
        if "grpc" in probe and probe["grpc"]["port"] != GRPC_PORT:
            yield f"{kind} calls port {probe['grpc']['port']}, not {GRPC_PORT} as in the contract"
        if "grpc" in probe and "ssl_config_file" in flags(pod.server):
            yield f"{kind} calls gRPC without TLS, and the server accepts TLS only"


def _scraped_paths(objects: list[Object]) -> Iterator[str]:
    configs = [config(objects, pod, "monitoring_config_file") for pod in servers(objects)]
    paths = {message.prometheus_config.path for message in configs if message is not None}
    for monitor in of_kind(objects, "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint.get("path") not in paths:
                yield f"{ref(monitor)}: scrapes {endpoint.get('path')}, served is {sorted(paths)}"


def _queue_capacity(objects: list[Object]) -> Iterator[str]:
    """The recorded queue capacity equals batching.config's: first GPUs' constant, then CPUs'."""
    for _, rule in rules(objects):
        if rule.get("record") != "c3d:pod_queue_capacity:rows":
            continue
        constants = [int(constant) for constant in _CONSTANT.findall(rule["expr"])]
        for pod in servers(objects):
            batching = config(objects, pod, "batching_parameters_file")
            if not batching:
                continue
            capacity = batching.max_batch_size.value * batching.max_enqueued_batches.value
            has_gpu = "nvidia.com/" in str(pod.server.get("resources"))
            recorded = constants[0 if has_gpu else -1]
            if capacity and recorded != capacity:
                yield f"{pod.ref}: a queue holds {capacity} rows, {rule['record']} is {recorded}"


def _targets(objects: list[Object]) -> Iterator[str]:
    """Every gRPC target in a ConfigMap or a pod is the headless Service at its port."""
    texts = [
        (ref(config_map), text)
        for config_map in of_kind(objects, "ConfigMap")
        for text in get(config_map, "data", {}).values()
    ]
    for pod in pods(objects):
        for container in pod.containers:
            values = [variable.get("value") or "" for variable in get(container, "env", [])]
            texts += [(pod.ref, text) for text in (*words(container), *values)]
    expected = f"dns:///{_SERVICE}.{NAMESPACE}.svc.cluster.local:{GRPC_PORT}"
    for subject, text in texts:
        for target in _ANY_TARGET.findall(text):
            parts = _TARGET.fullmatch(target)
            if not parts:
                yield f"{subject}: target {target} is not like {expected}"
            elif parts[1] != _SERVICE or int(parts[3]) != GRPC_PORT:
                yield f"{subject}: target {target} is not {_SERVICE} at {GRPC_PORT}"
            elif parts[2] != NAMESPACE:
                yield f"{subject}: target {target} is not in namespace {NAMESPACE}"


def _exports(objects: list[Object]) -> Iterator[str]:
    """An export warms up the contract's batch sizes and writes to the servers' volume."""
    server_claims = {claim for pod in servers(objects) for claim in _claims(pod)}
    expected = ",".join(map(str, BATCH_SIZES))
    for pod in pods(objects):
        if pod.owner["kind"] != "Job" or "export" not in name(pod.owner):
            continue
        for container in pod.containers:
            command = " ".join(words(container)).replace("=", " ")
            for rest in command.split("--batch-sizes")[1:]:
                if rest.split()[0] != expected:
                    yield f"{pod.ref}: --batch-sizes {rest.split()[0]}, not {expected}"
        claims = _claims(pod)
        if server_claims and not claims & server_claims:
            yield f"{pod.ref}: writes to {sorted(claims)}, servers read {sorted(server_claims)}"
        if pod.namespace not in {server.namespace for server in servers(objects)}:
            yield f"{pod.ref}: in namespace {pod.namespace}, which has no server"


def _claims(pod: Pod) -> set[str]:
    volumes = [volume for volume in pod.volumes if "persistentVolumeClaim" in volume]
    return {volume["persistentVolumeClaim"]["claimName"] for volume in volumes}


# ---- times

STARTUP_S = 15 * 60  # load, warm-up of every batch size, and a GPU's first compilation
_MIN_SCALE_DOWN_S = 300  # a new pod takes minutes to load and warm up
_MIN_LIVENESS_S = 120  # a full server answers slowly, and a restart would only add load
_AGE = re.compile(r"grpc\.max_connection_age_ms=([^,]+)")
_VARIABLE = re.compile(r"\$\(([A-Z_]+)\)")


def check_timing(objects: list[Object]) -> Iterator[str]:
    """A pod drains before it ends, has time to start, and is not scaled down too early."""
    for pod in servers(objects):
        yield from prefix(pod.ref, _drain(pod, is_single=_is_single(objects, pod)))
        yield from prefix(pod.ref, _start(pod))
    for scaler in of_kind(objects, *SCALERS):
        yield from prefix(ref(scaler), _scaling(objects, scaler))


def _is_single(objects: list[Object], pod: Pod) -> bool:
    """Return whether there is one pod of a server for certain: one replica, and no autoscaler."""
    scaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in of_kind(objects, *SCALERS)}
    is_scaled = pod.owner["kind"] != "Deployment" or name(pod.owner) in scaled
    return not is_scaled and get(pod.owner, "spec.replicas") == 1


def _drain(pod: Pod, *, is_single: bool) -> Iterator[str]:
    age = _AGE.search(flags(pod.server).get("grpc_channel_arguments", ""))
    if not age:
        yield "no grpc.max_connection_age_ms: clients would never find new pods"
        return
    values = {e["name"]: e.get("value", "") for e in get(pod.server, "env", [])}
    age_ms = _VARIABLE.sub(lambda variable: values.get(variable[1], ""), age[1])
    if not age_ms.isdecimal():
        yield f"grpc.max_connection_age_ms is {age_ms or age[1]}, not milliseconds"
        return
    age_s = int(age_ms) / 1000
    drain_s = get(pod.server, "lifecycle.preStop.sleep.seconds", 0)
    grace_s = get(pod.spec, "terminationGracePeriodSeconds", 30)
    if drain_s <= age_s and not is_single:
        yield f"preStop sleeps {drain_s} s, not longer than a connection lasts ({age_s:g} s)"
    if grace_s <= drain_s:
        yield f"grace period of {grace_s} s is not longer than preStop's {drain_s} s"


def _start(pod: Pod) -> Iterator[str]:
    for probe in PROBES:
        if get(pod.server, f"{probe}.initialDelaySeconds"):
            yield f"{probe} has an initialDelaySeconds, which the startupProbe makes needless"
    startup_s = _probe_s(pod.server.get("startupProbe") or {})
    if startup_s < STARTUP_S:
        yield f"start-up may take {startup_s} s, less than {STARTUP_S}"
    if pod.owner["kind"] == "Deployment":
        rollout = get(pod.owner, "spec.strategy.rollingUpdate", {})
        surge, unavailable = rollout.get("maxSurge"), rollout.get("maxUnavailable")
        if (surge == 0) == (unavailable == 0):
            yield f"maxSurge {surge} and maxUnavailable {unavailable}: exactly one must be 0"
        progress_s = get(pod.owner, "spec.progressDeadlineSeconds", 600)
        if progress_s <= startup_s:
            yield f"progressDeadlineSeconds {progress_s} is not longer than start-up's {startup_s}"
    liveness_s = _probe_s(pod.server.get("livenessProbe") or {})
    if liveness_s < _MIN_LIVENESS_S:
        yield f"livenessProbe restarts after {liveness_s} s, less than {_MIN_LIVENESS_S}"
    values = flags(pod.server)
    retries = int(values.get("max_num_load_retries", 5))
    retry_s = retries * int(values.get("load_retry_interval_micros", 60_000_000)) / 1e6
    if retry_s > startup_s / 2:
        yield f"a model that does not load is retried for {retry_s:g} s of {startup_s}"


def _scaling(objects: list[Object], scaler: Object) -> Iterator[str]:
    spec = scaler["spec"]
    fewest = spec.get("minReplicas", spec.get("minReplicaCount", 0))
    most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
    if fewest > most:
        yield f"at least {fewest} replicas and at most {most}"
    if fewest < 1:
        yield "may scale to zero: the first request would wait minutes for a pod"
    hpa = spec
    if scaler["kind"] == "ScaledObject":
        hpa = get(spec, "advanced.horizontalPodAutoscalerConfig", {})
        if spec.get("cooldownPeriod", 300) < _MIN_SCALE_DOWN_S:
            yield f"cooldownPeriod {spec['cooldownPeriod']} s is less than {_MIN_SCALE_DOWN_S}"
    scale_down_s = get(hpa, "behavior.scaleDown.stabilizationWindowSeconds", 0)
    if scale_down_s < _MIN_SCALE_DOWN_S:
        yield f"scales down after {scale_down_s} s, less than {_MIN_SCALE_DOWN_S}"
    target = spec["scaleTargetRef"]
    for workload in of_kind(objects, target.get("kind", "Deployment")):
        if name(workload) == target["name"] and "replicas" in workload["spec"]:
            yield f"{ref(workload)} sets replicas: every apply would undo the scaling"


def _probe_s(probe: Object) -> int:
    """Return the seconds of failed probes until Kubernetes acts."""
    return probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
