"""The gRPC port: predictions, metadata, status and health."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from c3d_export import serving_api
from c3d_export.serving_api import HEALTH_SERVICES
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from cluster.server.service import Service

# Threads beyond the limit, which only refuse requests.
_SPARE_THREADS = 4


def start(service: Service, flags: Mapping[str, Any], ssl: Any) -> grpc.Server:
    """Open the gRPC port.

    Args:
        service: the models.
        flags: the server's flags.
        ssl: an SSLConfig; None for no TLS.

    Raises:
        RuntimeError: the port is in use.
    """
    # The default of TensorFlow Serving's main.cc is four for each core.
    threads = flags.get("grpc_max_threads", 4 * (os.cpu_count() or 1))
    server = grpc.server(
        ThreadPoolExecutor(threads + _SPARE_THREADS, thread_name_prefix="grpc"),
        interceptors=[_ThreadLimit(threads)],
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            *flags.get("grpc_channel_arguments", {}).items(),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(service), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        serving_api.ModelService(service), server
    )
    if flags.get("enable_grpc_healthcheck_service"):
        servicer = health.HealthServicer()
        for name in HEALTH_SERVICES:
            servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"0.0.0.0:{flags['port']}"
    if ssl is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(
            address,
            grpc.ssl_server_credentials(
                [(ssl.server_key.encode(), ssl.server_cert.encode())],
                root_certificates=ssl.custom_ca.encode() or None,
                require_client_auth=ssl.client_verify,
            ),
        )
    server.start()
    return server


class _ThreadLimit(grpc.ServerInterceptor):
    """Refuses the calls for which the C++ server has no thread: one always waits for calls."""

    def __init__(self, threads: int) -> None:
        self._free = threading.BoundedSemaphore(max(1, threads - 1))

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler

        def limited(request: Any, context: grpc.ServicerContext) -> Any:
            if not self._free.acquire(blocking=False):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            try:
                return handler.unary_unary(request, context)
            finally:
                self._free.release()

        return grpc.unary_unary_rpc_method_handler(
            limited, handler.request_deserializer, handler.response_serializer
        )


class _PredictionService(serving_api.PredictionService):
    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._service = service

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return serving_api.answer(context, self._service.predict, request)
