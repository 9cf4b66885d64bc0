"""Checks of the servers: flags and configuration files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from cluster.server.flags import BINARY, FILES, FLAGS, NEEDS, PARALLELISM, PATTERNS, parse_config
from google.protobuf import text_format

from k8s.objects import (
    Pod,
    flags,
    get,
    is_written_at_start,
    mounted_text,
    prefix,
    servers,
)
from k8s.render import Object

# ---- flags

# In a manifest a number may be a variable that Kubernetes replaces.
_VALUES = {**PATTERNS, "int": re.compile(rf"{PATTERNS['int'].pattern}|\$\([A-Z_]+\)")}
# Flags that every server sets: (value or None for any, why the default is wrong).
_REQUIRED = {
    "enable_profiler": ("false", "the profiler shares the port and answers any caller"),
    "enable_grpc_healthcheck_service": ("true", "clients and probes call it"),
    "enable_batching": ("true", "clips of several clients share a batch"),
    "tensorflow_intra_op_parallelism": (None, "the default counts the node's cores, not the pod's"),
    "grpc_max_threads": (None, "the default, four per core of the node, limits concurrency"),
}
_IGNORED_WITH_MODEL_CONFIG = ("model_name", "model_base_path")


def check_flags(objects: list[Object]) -> Iterator[str]:
    """Every server's flags exist, have values of their type, and go together.

    For an unknown flag the server only prints a warning and starts without it.
    """
    for pod in servers(objects):
        yield from prefix(pod.ref, _flags(pod.server))


def _flags(container: Object) -> Iterator[str]:
    if (container.get("command") or [""])[0] != BINARY:
        yield f"command is not {BINARY}: the image's script does not forward SIGTERM"
    arguments = [*get(container, "command", [])[1:], *get(container, "args", [])]
    yield from (f"{word} is not --flag=value" for word in arguments if not word.startswith("--"))
    names = Counter(word.removeprefix("--").partition("=")[0] for word in arguments)
    yield from (f"--{flag} is set {count} times" for flag, count in names.items() if count > 1)
    values = flags(container)
    for flag, value in values.items():
        if flag not in FLAGS:
            yield f"--{flag} is not a flag of TensorFlow Serving"
        elif not _VALUES[FLAGS[flag]].fullmatch(value):
            yield f"--{flag}={value}: not of type {FLAGS[flag]}"
    if set(values) >= PARALLELISM:
        yield f"all three of {', '.join(sorted(PARALLELISM))}: the server does not start"
    for flag, (required, reason) in _REQUIRED.items():
        value = values.get(flag)
        if value is None or (required and value != required):
            yield f"--{flag} is {value}, not {required or 'set'}: {reason}"
    for flag, other in NEEDS.items():
        if flag in values and values.get(other) in (None, "false"):
            yield f"--{flag} needs --{other}"
    for flag in _IGNORED_WITH_MODEL_CONFIG:
        if flag in values and "model_config_file" in values:
            yield f"--{flag} is ignored with --model_config_file"


# ---- configuration files


def check_protos(objects: list[Object]) -> Iterator[str]:
    """Every file that a flag names is mounted, parses, and has valid values.

    The server exits with status 255 on an unknown field.
    """
    for pod in servers(objects):
        for flag, kind in FILES.items():
            path = flags(pod.server).get(flag)
            if path is None:
                continue
            text = mounted_text(objects, pod, pod.server, path)
            if text is None:
                if not is_written_at_start(pod, pod.server, path):
                    yield f"{pod.ref}: --{flag}={path}: no file is mounted there"
                continue
            try:
                message = parse_config(kind, text)
            except text_format.ParseError as error:
                yield f"{pod.ref}: {path}: not a {kind}: {error}"
                continue
            yield from prefix(f"{pod.ref}: {path}", _FILE_CHECKS[kind](pod, message))


def config(objects: list[Object], pod: Pod, flag: str) -> Any:
    """Return the message in the file that a flag names, or None if there is no valid one."""
    path = flags(pod.server).get(flag)
    text = mounted_text(objects, pod, pod.server, path) if path else None
    try:
        return parse_config(FILES[flag], text) if text is not None else None
    except text_format.ParseError:
        return None


def _models_problems(pod: Pod, message: Any) -> Iterator[str]:
    for model in message.model_config_list.config:
        if model.model_platform != "tensorflow":
            yield f"model_platform is {model.model_platform!r}, not tensorflow"
        version_labels = dict(model.version_labels)
        allowed = flags(pod.server).get("allow_version_labels_for_unavailable_models") == "true"
        if version_labels and not allowed:
            yield "version_labels need --allow_version_labels_for_unavailable_models=true"
        served = sorted(set(model.model_version_policy.specific.versions))
        for label, version in version_labels.items():
            if version not in served:
                yield f"label {label} is version {version}, which is not served: {served}"


def _batching_problems(pod: Pod, message: Any) -> Iterator[str]:
    largest, sizes = message.max_batch_size.value, list(message.allowed_batch_sizes)
    if sizes != sorted(set(sizes)):
        yield f"allowed_batch_sizes {sizes} do not increase: the model would not load"
    if not sizes or sizes[-1] != largest:
        yield f"allowed_batch_sizes {sizes} do not end at max_batch_size {largest}"
    for field in ("batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"):
        if not message.HasField(field) or getattr(message, field).value < 1:
            yield f"{field} is not set"
    if message.pad_variable_length_inputs:
        yield "pad_variable_length_inputs is set, and every clip has the same shape"
    # A split request's halves are computed apart, and the row at the split is of two other halves.
    if message.enable_large_batch_splitting.value:
        yield "enable_large_batch_splitting is set: fc6_features_halves would have wrong rows"


def _monitoring_problems(pod: Pod, message: Any) -> Iterator[str]:
    if not message.prometheus_config.enable:
        yield "Prometheus is not enabled"
    if not message.prometheus_config.path.startswith("/"):
        yield f"{message.prometheus_config.path!r} is not a path"


def _ssl_problems(pod: Pod, message: Any) -> Iterator[str]:
    if not message.server_key or not message.server_cert:
        yield "server_key and server_cert are not both set"
    if message.client_verify and not message.custom_ca:
        yield "client_verify without custom_ca: no client could connect"


_FILE_CHECKS = {
    "ModelServerConfig": _models_problems,
    "BatchingParameters": _batching_problems,
    "MonitoringConfig": _monitoring_problems,
    "SSLConfig": _ssl_problems,
}
