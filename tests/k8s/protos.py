"""The server's text files, parsed as the server parses them: an unknown field ends it (exit 255).

ModelServerConfig is tensorflow-serving-api's. That package leaves out three messages; they are
declared here as TensorFlow Serving's `.proto` files have them at 2.20.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from k8s.bundle import Object
from k8s.objects import Pod, flags, mounted_text, servers, written_at_start

_FIELD = descriptor_pb2.FieldDescriptorProto
_WRAPPED = ".google.protobuf.Int64Value"
# message -> field -> (number, type or message), of session_bundle_config.proto,
# monitoring_config.proto and ssl_config.proto.
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, _WRAPPED),
        "batch_timeout_micros": (2, _WRAPPED),
        "max_enqueued_batches": (3, _WRAPPED),
        "num_batch_threads": (4, _WRAPPED),
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


def protos(objects: list[Object]) -> list[str]:
    """Every file that a flag names is mounted, parses, and says what can be."""
    found = []
    for pod in servers(objects):
        assert pod.server is not None
        for flag, kind in FILES.items():
            path = flags(pod.server).get(flag)
            if path is None:
                continue
            text = mounted_text(objects, pod, pod.server, path)
            if text is None:
                if not written_at_start(pod, pod.server, path):
                    found.append(f"{pod.where}: --{flag}={path}: nothing puts a file there")
                continue
            try:
                message = parse(kind, text)
            except text_format.ParseError as error:
                found.append(f"{pod.where}: {path}: not a {kind}: {error}")
                continue
            found += (f"{pod.where}: {path}: {p}" for p in _CHECKS[kind](pod, message))
    return found


def config(objects: list[Object], pod: Pod, flag: str) -> Any:
    """The message of one flag's file, or None where there is none that parses."""
    assert pod.server is not None
    path = flags(pod.server).get(flag)
    text = mounted_text(objects, pod, pod.server, path) if path else None
    try:
        return parse(FILES[flag], text) if text is not None else None
    except text_format.ParseError:
        return None


def parse(kind: str, text: str) -> Any:
    """A text proto as its message.

    Raises:
        text_format.ParseError: it is none of that kind.
    """
    return text_format.Parse(text, _types()[kind]())


@functools.cache
def _types() -> dict[str, Any]:
    from tensorflow_serving.config import model_server_config_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name="c3d/tests/server_files.proto", package="c3d.tests", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            several = isinstance(kind, list)
            label = _FIELD.LABEL_REPEATED if several else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, kind
            else:
                added.type = kind[0] if several else kind
    pool = DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    types = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"c3d.tests.{name}"))
        for name in _MESSAGES
    }
    return {**types, "ModelServerConfig": model_server_config_pb2.ModelServerConfig}


def _models(pod: Pod, message: Any) -> Iterator[str]:
    assert pod.server is not None
    for model in message.model_config_list.config:
        if model.model_platform != "tensorflow":
            yield f"model_platform is {model.model_platform!r}, not tensorflow"
        labels = dict(model.version_labels)
        if labels:
            if flags(pod.server).get("allow_version_labels_for_unavailable_models") != "true":
                yield "version_labels need --allow_version_labels_for_unavailable_models=true"
            wanted = set(model.model_version_policy.specific.versions)
            for label, version in labels.items():
                if version not in wanted:
                    served = sorted(wanted)
                    yield f"label {label} is version {version}, which is not served: {served}"


def _batching(pod: Pod, message: Any) -> Iterator[str]:
    largest, sizes = message.max_batch_size.value, list(message.allowed_batch_sizes)
    if sizes != sorted(set(sizes)):
        yield f"allowed_batch_sizes {sizes} do not increase: the load would fail"
    if not sizes or sizes[-1] != largest:
        yield f"allowed_batch_sizes {sizes} do not end at max_batch_size {largest}"
    for field in ("batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"):
        if not message.HasField(field) or getattr(message, field).value < 1:
            yield f"{field} is not given"
    if message.pad_variable_length_inputs:
        yield "pad_variable_length_inputs: a clip has one shape"


def _monitoring(pod: Pod, message: Any) -> Iterator[str]:
    if not message.prometheus_config.enable:
        yield "Prometheus is not enabled"
    if not message.prometheus_config.path.startswith("/"):
        yield f"path {message.prometheus_config.path!r} is no path"


def _ssl(pod: Pod, message: Any) -> Iterator[str]:
    if not message.server_key or not message.server_cert:
        yield "server_key and server_cert are not both given"
    if message.client_verify and not message.custom_ca:
        yield "client_verify without custom_ca: nobody could connect"


_CHECKS = {
    "ModelServerConfig": _models,
    "BatchingParameters": _batching,
    "MonitoringConfig": _monitoring,
    "SSLConfig": _ssl,
}
