"""Local gRPC server with TensorFlow Serving's API, for trying without TensorFlow Serving.

It uses the official protocol stubs, and runs the model in a session as TensorFlow Serving does. It
does not batch requests of several clients, does not reload new versions, and has no TLS.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from c3d_client.core.contract import (
    COMPUTE_TRAILER,
    DEFAULT_SIGNATURE,
    MODEL_NAME,
    QUEUE_TRAILER,
)
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from c3d_export.errors import ExportError
from c3d_export.graph import GraphServable, read_card
from c3d_export.store import newest_version
from c3d_export.warmup import read_warmup

_THREADS = 16
_SIGNATURE_FIELD = "signature_def"
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class LocalServer:
    """gRPC server for the newest version of one model, warmed up before it accepts requests.

    Args:
        base: the model's folder, e.g. ``models/c3d``.
        port: the port; 0 for any free one.
        host: the address to listen at; this machine only by default.
        model: the served model's name.

    Raises:
        UsageError: the model has no version.
        VerificationError: the version cannot be loaded.
        ExportError: the port is in use.
    """

    def __init__(
        self, base: Path, *, port: int = 0, host: str = "localhost", model: str = MODEL_NAME
    ) -> None:
        self.path = newest_version(base)
        _check_free(host, port)
        self.version = int(self.path.name)
        self.model = model
        self.servable = GraphServable(self.path)
        self.card = read_card(self.servable)
        self.compute_lock = threading.Lock()
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="predict"),
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # Otherwise a second server on the same port would share it without an error.
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(self), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(self), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            self.servable.close()
            raise _port_error(host, port) from error
        self.target = f"{host}:{self.port}"

    def start(self) -> None:
        """Run the warm-up requests, then accept requests.

        Raises:
            ExportError: a warm-up request fails.
        """
        for request in read_warmup(self.path):
            request.model_spec.name = self.model
            try:
                predict(request, self.servable, model=self.model, version=self.version)
            except Rejection as rejection:
                raise ExportError(f"{self.path}: a warm-up request fails: {rejection}") from None
        self._server.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float) -> None:
        """Refuse new requests, wait for running requests, and close.

        Args:
            grace_s: the longest wait in seconds; requests that run longer are cancelled.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self.servable.close()


class Rejection(Exception):
    """The request is refused with a gRPC status.

    Args:
        code: the gRPC status.
        message: the status's details.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code.name}: {message}")


class Servable(Protocol):
    """The part of :class:`c3d_export.graph.GraphServable` that :func:`predict` uses."""

    signatures: dict[str, Any]

    def run(
        self, signature: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: tuple[str, ...]
    ) -> dict[str, npt.NDArray[Any]]:
        """Compute the named outputs."""
        ...


def _check_model_spec(request: Any, *, model: str, version: int) -> None:
    """Check that a request's ModelSpec names the served model and version.

    Raises:
        Rejection: it names another model or version, or none.
    """
    spec = request.model_spec
    if not request.HasField("model_spec"):
        raise Rejection(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
    if not spec.name:
        raise Rejection(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        raise Rejection(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Unrecognized servable version label: {spec.version_label}",
        )
    requested = (
        f"Specific({spec.name}, {spec.version.value})"
        if choice == "version"
        else f"Latest({spec.name})"
    )
    if spec.name != model or (choice == "version" and spec.version.value != version):
        raise Rejection(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {requested}")


def predict(
    request: Any, servable: Servable, *, model: str, version: int
) -> predict_pb2.PredictResponse:
    """Compute one PredictRequest.

    The checks, their order, codes and messages are those of TensorFlow Serving 2.20 (its
    predict_util.cc and server_core.cc). Errors of the graph's kernels are passed on unchanged.

    Args:
        request: a tensorflow.serving.PredictRequest.
        servable: computes the outputs.
        model: the served model's name.
        version: the served version's number.

    Raises:
        Rejection: the request is refused, with the status of TensorFlow Serving.
    """
    _check_model_spec(request, model=model, version=version)
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise Rejection(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    signature = servable.signatures[name]
    inputs = _inputs(request, signature)
    outputs = _outputs(request, signature)
    _check_dtypes(inputs, signature)
    try:
        answers = servable.run(name, inputs, outputs)
    except tf.errors.OpError as error:
        code = _STATUS_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        raise Rejection(code, error.message) from error
    response = predict_pb2.PredictResponse()
    response.model_spec.name = model
    response.model_spec.version.value = version
    response.model_spec.signature_name = name
    for alias, answer in answers.items():
        # The server's default: values in the repeated field of their dtype.
        response.outputs[alias].CopyFrom(_as_values(answer))
    return response


class _TimedServable:
    """A servable that computes one request at a time, and measures queueing and computing.

    One computation uses every core. A second one at the same time would not increase the
    throughput, and neither's duration could be measured.
    """

    def __init__(self, servable: GraphServable, lock: threading.Lock) -> None:
        self.signatures = servable.signatures
        self.queue_s = 0.0
        self.compute_s = 0.0
        self._servable = servable
        self._lock = lock

    def run(
        self, signature: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: tuple[str, ...]
    ) -> dict[str, npt.NDArray[Any]]:
        arrived_s = time.perf_counter()
        with self._lock:
            started_s = time.perf_counter()
            arrays = self._servable.run(signature, inputs, outputs)
        self.queue_s = started_s - arrived_s
        self.compute_s = time.perf_counter() - started_s
        return arrays


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, server: LocalServer) -> None:
        self._server = server

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        server = self._server
        timed = _TimedServable(server.servable, server.compute_lock)
        try:
            response = predict(request, timed, model=server.model, version=server.version)
        except Rejection as rejection:
            context.abort(rejection.code, rejection.message)
        context.set_trailing_metadata(
            ((QUEUE_TRAILER, f"{timed.queue_s:.6f}"), (COMPUTE_TRAILER, f"{timed.compute_s:.6f}"))
        )
        return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        server = self._server
        try:
            _check_model_spec(request, model=server.model, version=server.version)
        except Rejection as rejection:
            context.abort(rejection.code, rejection.message)
        if not request.metadata_field:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "GetModelMetadataRequest must specify at least one metadata_field",
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_FIELD:
                context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {field} is not supported"
                )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in server.servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = server.model
        response.model_spec.version.value = server.version
        response.metadata[_SIGNATURE_FIELD].Pack(signatures)
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, server: LocalServer) -> None:
        self._server = server

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        server, spec = self._server, request.model_spec
        by_number = spec.WhichOneof("version_choice") == "version"
        if spec.name != server.model or (by_number and spec.version.value != server.version):
            requested = f"{spec.name}, {spec.version.value}" if by_number else spec.name
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {requested}"
            )
        response = get_model_status_pb2.GetModelStatusResponse()
        status = response.model_version_status.add()
        status.version = server.version
        status.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        status.status.SetInParent()
        return response


def _inputs(request: Any, signature: Any) -> dict[str, npt.NDArray[Any]]:
    sent, required = set(request.inputs), set(signature.inputs)
    if len(sent) != len(required):
        raise Rejection(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(required)} "
            f"len({_names(sent)}) != len({_names(required)}). "
            f"Sent extra: {_names(sent - required)}. "
            f"Missing but required: {_names(required - sent)}.",
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for alias, info in signature.inputs.items():
        if alias not in request.inputs:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request "
                "and no default value provided. Inputs expected to be in the request "
                f"{_names(sent)}, or default input alias set: ",
            )
        try:
            arrays[alias] = _tensor(request.inputs[alias])
        except (TypeError, ValueError, OverflowError, MemoryError) as error:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT, f"tensor parsing error: {alias}"
            ) from error
    return arrays


def _tensor(proto: Any) -> npt.NDArray[Any]:
    size = int(np.prod([dim.size for dim in proto.tensor_shape.dim], dtype=object))
    if proto.tensor_content and len(proto.tensor_content) != size * tf.as_dtype(proto.dtype).size:
        raise ValueError("the content does not fill the shape")
    return np.asarray(tf.make_ndarray(proto))


def _outputs(request: Any, signature: Any) -> tuple[str, ...]:
    aliases = tuple(request.output_filter)
    for position, alias in enumerate(aliases):
        if alias not in signature.outputs:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_names(signature.outputs)}.",
            )
        if alias in aliases[:position]:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}"
            )
    return aliases or tuple(sorted(signature.outputs))


def _check_dtypes(inputs: dict[str, npt.NDArray[Any]], signature: Any) -> None:
    for position, (alias, info) in enumerate(sorted(signature.inputs.items())):
        expected, sent = tf.as_dtype(info.dtype), tf.as_dtype(inputs[alias].dtype)
        if expected != sent:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Expects arg[{position}] to be {expected.name} but {_cpp_name(sent)} is provided",
            )


def _as_values(array: npt.NDArray[Any]) -> Any:
    proto = tf.make_tensor_proto(array)
    if proto.tensor_content and array.dtype == np.float32:
        proto.ClearField("tensor_content")
        proto.float_val.extend(array.reshape(-1).tolist())
    return proto


def _cpp_name(dtype: tf.DType) -> str:
    """Return the dtype's name in the server's messages: float, not float32."""
    return {"float32": "float", "float64": "double"}.get(dtype.name, str(dtype.name))


def _names(aliases: Any) -> str:
    return "{" + ",".join(sorted(aliases)) + "}"


def _check_free(host: str, port: int) -> None:
    """Raise an error if the port is in use at any address of the host.

    gRPC accepts a host if it can listen at one of its addresses. With another server at 127.0.0.1
    it would listen at ::1 only, and a client of localhost would reach either server.
    """
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ExportError(f"{host}: no address to listen at ({error.strerror})") from error
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            # Other errors mean that this machine lacks the address or IPv6; gRPC skips it.
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise _port_error(host, port) from error


def _port_error(host: str, port: int) -> ExportError:
    return ExportError(
        f"port {port} on {host} cannot be listened at; it is in use, or not yours to use: "
        "choose another with --port"
    )
