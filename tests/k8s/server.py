"""Checks of the servers: flags and configuration files."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

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

BINARY = "/usr/bin/tensorflow_model_server"
_PATTERNS = {
    "int": re.compile(r"-?[0-9]+|\$\([A-Z_]+\)"),
    "bool": re.compile(r"true|false"),
    "float": re.compile(r"0(\.[0-9]+)?|1(\.0+)?"),
    "file": re.compile(r"/[^\s]+"),
    "text": re.compile(r".+"),
    "pairs": re.compile(r"grpc\.[a-z_]+=[^,=\s]+(,grpc\.[a-z_]+=[^,=\s]+)*"),
}
# From model_servers/main.cc of TensorFlow Serving 2.20.
FLAGS = {
    "port": "int",
    "grpc_socket_path": "file",
    "rest_api_port": "int",
    "rest_api_num_threads": "int",
    "rest_api_timeout_in_ms": "int",
    "rest_api_enable_cors_support": "bool",
    "enable_batching": "bool",
    "allow_version_labels_for_unavailable_models": "bool",
    "batching_parameters_file": "file",
    "enable_per_model_batching_parameters": "bool",
    "model_config_file": "file",
    "model_config_file_poll_wait_seconds": "int",
    "model_name": "text",
    "model_base_path": "text",
    "num_load_threads": "int",
    "num_unload_threads": "int",
    "max_num_load_retries": "int",
    "load_retry_interval_micros": "int",
    "file_system_poll_wait_seconds": "int",
    "flush_filesystem_caches": "bool",
    "tensorflow_session_parallelism": "int",
    "tensorflow_session_config_file": "file",
    "tensorflow_intra_op_parallelism": "int",
    "tensorflow_inter_op_parallelism": "int",
    "use_alts_credentials": "bool",
    "ssl_config_file": "file",
    "platform_config_file": "file",
    "per_process_gpu_memory_fraction": "float",
    "saved_model_tags": "text",
    "grpc_channel_arguments": "pairs",
    "grpc_max_threads": "int",
    "enable_model_warmup": "bool",
    "num_request_iterations_for_warmup": "int",
    "monitoring_config_file": "file",
    "remove_unused_fields_from_bundle_metagraph": "bool",
    "enable_signature_method_name_check": "bool",
    "enable_profiler": "bool",
    "thread_pool_factory_config_file": "file",
    "mixed_precision": "text",
    "enable_grpc_healthcheck_service": "bool",
    "enable_serialization_as_tensor_content": "bool",
}
_PARALLELISM = {f"tensorflow_{kind}_parallelism" for kind in ("session", "intra_op", "inter_op")}
# Flags that every server sets: (value or None for any, why the default is wrong).
_REQUIRED = {
    "enable_profiler": ("false", "the profiler shares the port and answers any caller"),
    "enable_grpc_healthcheck_service": ("true", "clients and probes call it"),
    "enable_batching": ("true", "clips of several clients share a batch"),
    "tensorflow_intra_op_parallelism": (None, "the default counts the node's cores, not the pod's"),
    "grpc_max_threads": (None, "the default, four per core of the node, limits concurrency"),
}
# Without the second flag the first is an error or has no effect.
_NEEDS = {
    "batching_parameters_file": "enable_batching",
    "model_config_file_poll_wait_seconds": "model_config_file",
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
        elif not _PATTERNS[FLAGS[flag]].fullmatch(value):
            yield f"--{flag}={value}: not of type {FLAGS[flag]}"
    if set(values) >= _PARALLELISM:
        yield f"all three of {', '.join(sorted(_PARALLELISM))}: the server does not start"
    for flag, (required, reason) in _REQUIRED.items():
        value = values.get(flag)
        if value is None or (required and value != required):
            yield f"--{flag} is {value}, not {required or 'set'}: {reason}"
    for flag, other in _NEEDS.items():
        if flag in values and values.get(other) in (None, "false"):
            yield f"--{flag} needs --{other}"
    for flag in _IGNORED_WITH_MODEL_CONFIG:
        if flag in values and "model_config_file" in values:
            yield f"--{flag} is ignored with --model_config_file"


# ---- configuration files

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT64 = ".google.protobuf.Int64Value"
# Messages that tensorflow-serving-api lacks, from TensorFlow Serving 2.20's
# session_bundle_config.proto, monitoring_config.proto and ssl_config.proto.
# Message -> field -> (number, type; a list for a repeated field, a name for a message).
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, _INT64),
        "batch_timeout_micros": (2, _INT64),
        "max_enqueued_batches": (3, _INT64),
        "num_batch_threads": (4, _INT64),
        "thread_pool_name": (5, ".google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, [_FIELD.TYPE_INT64]),
        "pad_variable_length_inputs": (7, _FIELD.TYPE_BOOL),
    },
    "PrometheusConfig": {"enable": (1, _FIELD.TYPE_BOOL), "path": (2, _FIELD.TYPE_STRING)},
    "MonitoringConfig": {"prometheus_config": (1, ".c3d.tests.PrometheusConfig")},
    "SSLConfig": {
        "server_key": (1, _FIELD.TYPE_STRING),
        "server_cert": (2, _FIELD.TYPE_STRING),
        "custom_ca": (3, _FIELD.TYPE_STRING),
        "client_verify": (4, _FIELD.TYPE_BOOL),
    },
}
FILES = {
    "model_config_file": "ModelServerConfig",
    "batching_parameters_file": "BatchingParameters",
    "monitoring_config_file": "MonitoringConfig",
    "ssl_config_file": "SSLConfig",
}


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


def parse_config(kind: str, text: str) -> Any:
    """Parse a text proto as the server does.

    Raises:
        text_format.ParseError: the text is not a message of that kind.
    """
    return text_format.Parse(text, _message_types()[kind]())


@functools.cache
def _message_types() -> dict[str, Any]:
    from tensorflow_serving.config import model_server_config_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name="c3d/tests/server_files.proto", package="c3d.tests", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            repeated = isinstance(kind, list)
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, kind
            else:
                field.type = kind[0] if repeated else kind
    pool = DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    types = {
        message_name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"c3d.tests.{message_name}")
        )
        for message_name in _MESSAGES
    }
    return {**types, "ModelServerConfig": model_server_config_pb2.ModelServerConfig}


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
