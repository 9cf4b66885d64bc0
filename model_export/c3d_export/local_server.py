"""TensorFlow Serving's API on this machine, for people without TensorFlow Serving.

The same protocol from the official stubs, over the same kind of session, for one machine: no
batching across clients, no reload of new versions, no TLS.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy.typing as npt
from c3d_client.core.contract import COMPUTE_TRAILER, MODEL_NAME, QUEUE_TRAILER
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from c3d_export.errors import ExportError
from c3d_export.graph import GraphServable
from c3d_export.model_card import read_card
from c3d_export.predict import Rejection, find_version, predict
from c3d_export.store import newest_version
from c3d_export.warmup import read_warmup

_THREADS = 16
_SIGNATURE_FIELD = "signature_def"


class LocalServer:
    """The newest version of one model behind a gRPC port, warmed up before it answers.

    Args:
        base: the model's folder, e.g. ``models/c3d``.
        port: 0 for any free one.
        host: the address to listen at; this machine alone by default.
        model: the name that it is served under.

    Raises:
        UsageError: there is no version.
        VerificationError: the version cannot be loaded.
        ExportError: a warm-up request fails, or the port is taken.
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
        self.turns = threading.Lock()
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="predict"),
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # Without this a second server on the same port would share it silently.
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
            raise _taken(host, port) from error
        self.target = f"{host}:{self.port}"

    def start(self) -> None:
        """Run the warm-up requests, then answer.

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
        """Refuse new requests, let those that are running finish, and close.

        Args:
            grace_s: after so many seconds those still running are cut off.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self.servable.close()


def _check_free(host: str, port: int) -> None:
    """Fail where somebody listens at an address of the host already.

    gRPC is content with one of a name's addresses: beside another server at 127.0.0.1 it takes ::1
    alone, and a client of localhost would reach the one or the other.
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
            # Other errors mean that this machine lacks the address or IPv6; gRPC passes it over.
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise _taken(host, port) from error


def _taken(host: str, port: int) -> ExportError:
    return ExportError(
        f"port {port} on {host} cannot be listened at; it is in use, or not yours to use: "
        "choose another with --port"
    )


class _Turn:
    """A servable that computes for one request at a time.

    One computation uses every core; a second beside it makes both slower and nothing faster, and
    would hide how long either takes.
    """

    def __init__(self, servable: GraphServable, turns: threading.Lock) -> None:
        self.signatures = servable.signatures
        self.queue_s = 0.0
        self.compute_s = 0.0
        self._servable = servable
        self._turns = turns

    def run(
        self, signature: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: tuple[str, ...]
    ) -> dict[str, npt.NDArray[Any]]:
        arrived = time.perf_counter()
        with self._turns:
            started = time.perf_counter()
            answers = self._servable.run(signature, inputs, outputs)
        self.queue_s = started - arrived
        self.compute_s = time.perf_counter() - started
        return answers


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, server: LocalServer) -> None:
        self._server = server

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        server = self._server
        turn = _Turn(server.servable, server.turns)
        try:
            response = predict(request, turn, model=server.model, version=server.version)
        except Rejection as rejection:
            context.abort(rejection.code, rejection.message)
        context.set_trailing_metadata(
            ((QUEUE_TRAILER, f"{turn.queue_s:.6f}"), (COMPUTE_TRAILER, f"{turn.compute_s:.6f}"))
        )
        return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        server = self._server
        try:
            find_version(request, model=server.model, version=server.version)
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
            wanted = f"{spec.name}, {spec.version.value}" if by_number else spec.name
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {wanted}"
            )
        response = get_model_status_pb2.GetModelStatusResponse()
        status = response.model_version_status.add()
        status.version = server.version
        status.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        status.status.SetInParent()
        return response
