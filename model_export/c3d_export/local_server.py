"""Local gRPC server with TensorFlow Serving's API, for trying without TensorFlow Serving.

It uses the official protocol stubs, runs the model in a session as TensorFlow Serving does, and
refuses what the server of the Kubernetes bundle refuses. Its batching is on, so a request has 1 to
32 rows; a model that was built for larger batches needs a server that takes them, and has them here
too. :mod:`c3d_export.serving_api` has the codes and messages.

What differs: requests of several clients are computed one after the other and not as one batch, so
that a request of a wrong shape fails alone; they wait without a limit, while TensorFlow Serving
refuses requests beyond its queue and its threads; a request without rows is refused, and not left
without an answer; there is one version and no label, no REST port, no TLS and no new version while
it runs.
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
from c3d_client.core.contract import (
    COMPUTE_TRAILER,
    MAX_BATCH_SIZE,
    MODEL_NAME,
    QUEUE_TRAILER,
)
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from c3d_export import serving_api
from c3d_export.errors import ExportError
from c3d_export.graph import GraphServable, read_card
from c3d_export.serving_api import HEALTH_SERVICES, Rejection, Servable, predict, requested_version
from c3d_export.store import served_version
from c3d_export.warmup import read_warmup

__all__ = ["LocalServer", "Rejection", "Servable", "predict"]

_THREADS = 16
# Of free ports that another program has at one of the host's addresses.
_PORT_ATTEMPTS = 20


class LocalServer:
    """gRPC server for one version of a model, warmed up before it accepts requests.

    Args:
        base: the model's folder, e.g. ``models/c3d``, for its newest version; or the folder of one
            version.
        port: the port; 0 for any free one.
        host: the address to listen at; this machine only by default.
        model: the served model's name.

    Raises:
        UsageError: the model has no version.
        VerificationError: the version cannot be loaded.
        ExportError: the port is in use, at one of the host's addresses at least.
    """

    def __init__(
        self, base: Path, *, port: int = 0, host: str = "localhost", model: str = MODEL_NAME
    ) -> None:
        self.path = served_version(base)
        addresses = _free_addresses(host, port)
        self.version = int(self.path.name)
        self.model = model
        self.servable = GraphServable(self.path)
        self.card = read_card(self.servable)
        self.max_batch_size = max(MAX_BATCH_SIZE, *self.card.data.get("batch_sizes", ()))
        self.compute_lock = threading.Lock()
        self._health = health.HealthServicer()
        try:
            self._server, self.port = _listen(addresses, port)
        except RuntimeError as error:
            self.servable.close()
            raise _port_error(host, port) from error
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(self), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            serving_api.ModelService(self), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        name = f"[{host}]" if ":" in host and not host.startswith("[") else host
        self.target = f"{name}:{self.port}"

    def start(self) -> None:
        """Run the warm-up requests, then accept requests.

        Raises:
            ExportError: a warm-up request fails.
        """
        for request in read_warmup(self.path):
            request.model_spec.name = self.model
            try:
                self.predict(request, self.servable)
            except Rejection as rejection:
                raise ExportError(f"{self.path}: a warm-up request fails: {rejection}") from None
        self._server.start()
        for service in HEALTH_SERVICES:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def predict(self, request: Any, servable: Servable) -> Any:
        """Compute one PredictRequest with the servable, or with one that wraps it.

        Raises:
            Rejection: the request is refused.
        """
        return predict(
            request,
            servable,
            model=self.model,
            version=self.version,
            max_batch_size=self.max_batch_size,
        )

    def find(self, spec: Any) -> tuple[int, Servable]:
        """Return the version that a ModelSpec names, and its number.

        Raises:
            Rejection: the server has no such model or version.
        """
        return requested_version(spec, (self.version,), model=self.model), self.servable

    def statuses(self, model: str) -> list[Any]:
        """Return the states of a model's versions; none for another model."""
        if model != self.model:
            return []
        status = get_model_status_pb2.ModelVersionStatus(
            version=self.version, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE
        )
        status.status.SetInParent()
        return [status]

    def stop(self, grace_s: float) -> None:
        """Refuse new requests, wait for running requests, and close.

        Args:
            grace_s: the longest wait in seconds; requests that run longer are cancelled.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self.servable.close()


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


class _PredictionService(serving_api.PredictionService):
    def __init__(self, server: LocalServer) -> None:
        super().__init__(server)
        self._server = server

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        server = self._server
        timed = _TimedServable(server.servable, server.compute_lock)
        response = serving_api.answer(context, server.predict, request, timed)
        context.set_trailing_metadata(
            ((QUEUE_TRAILER, f"{timed.queue_s:.6f}"), (COMPUTE_TRAILER, f"{timed.compute_s:.6f}"))
        )
        return response


def _listen(addresses: list[str], port: int) -> tuple[grpc.Server, int]:
    """Return a server that listens at all of the addresses, and its port.

    gRPC accepts a host if it can listen at one of its addresses. With another server at 127.0.0.1
    it would listen at ::1 only, and a client of localhost would reach either server.

    Raises:
        RuntimeError: the port is in use; where it is 0, every port that gRPC chose.
    """
    attempts = 1 if port else _PORT_ATTEMPTS
    while True:
        server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="predict"),
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # Otherwise a second server on the same port would share it without an error.
                ("grpc.so_reuseport", 0),
            ],
        )
        attempts -= 1
        chosen = port
        try:
            for address in addresses:
                chosen = server.add_insecure_port(f"{address}:{chosen}")
        except RuntimeError:
            server.stop(None).wait()
            if not attempts:
                raise
        else:
            return server, chosen


def _free_addresses(host: str, port: int) -> list[str]:
    """Return what to listen at for a host: its addresses, or the host where none can be used.

    Raises:
        ExportError: the host has no address, or the port is in use at one of them.
    """
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ExportError(f"{host}: no address to listen at ({error.strerror})") from error
    usable: dict[str, None] = {}
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            ip = str(address[0])
            usable[f"[{ip}]" if ":" in ip else ip] = None
        except OSError as error:
            # Other errors mean that this machine lacks the address or IPv6; gRPC skips it.
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise _port_error(host, port) from error
    return list(usable) or [host]


def _port_error(host: str, port: int) -> ExportError:
    return ExportError(
        f"port {port} on {host} cannot be listened at; it is in use, or not yours to use: "
        "choose another with --port"
    )
