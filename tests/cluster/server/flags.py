"""TensorFlow Serving's flags and the text protos that they name.

Nothing here imports TensorFlow: wrong settings are reported at once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

BINARY = "/usr/bin/tensorflow_model_server"
PATTERNS = {
    "int": re.compile(r"-?[0-9]+"),
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
PARALLELISM = frozenset(
    f"tensorflow_{kind}_parallelism" for kind in ("session", "intra_op", "inter_op")
)
# Without the second flag the first is an error or has no effect.
NEEDS = {
    "batching_parameters_file": "enable_batching",
    "model_config_file_poll_wait_seconds": "model_config_file",
}

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
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
        "max_execution_batch_size": (9, _INT64),
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


class SettingsError(Exception):
    """A flag or a file that a flag names is wrong."""


def parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the flags' values: int, float, bool, str, or a dict for pairs.

    Stricter than TensorFlow Serving, which prints "unknown argument" and starts without the flag.

    Raises:
        SettingsError: an unknown, repeated or unsuitable flag, or a value of another type.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise SettingsError(f"{argument}: not --flag=value")
        if name not in FLAGS:
            raise SettingsError(f"unknown argument: {argument}")
        if name in values:
            raise SettingsError(f"--{name}: more than once")
        kind = FLAGS[name]
        if "$(" in value or not PATTERNS[kind].fullmatch(value):
            raise SettingsError(f"{argument}: not of type {kind}")
        values[name] = _CONVERSIONS[kind](value)
    if set(values) >= PARALLELISM:
        raise SettingsError(f"all three of {', '.join(sorted(PARALLELISM))}")
    for name, other in NEEDS.items():
        if name in values and not values.get(other):
            raise SettingsError(f"--{name} without --{other}")
    return values


def _pairs(text: str) -> dict[str, int | str]:
    pairs = (pair.split("=") for pair in text.split(","))
    return {key: int(value) if PATTERNS["int"].fullmatch(value) else value for key, value in pairs}


_CONVERSIONS: dict[str, Any] = {
    "int": int,
    "bool": lambda value: value == "true",
    "float": float,
    "file": str,
    "text": str,
    "pairs": _pairs,
}


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
