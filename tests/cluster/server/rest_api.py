"""The REST port: status, metadata and metrics. Predictions go through gRPC."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

import grpc
from c3d_export.serving_api import Rejection, model_metadata, model_status
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from cluster.server.service import Service

# From http_rest_api_handler.cc of TensorFlow Serving 2.20.
_PATH = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?", re.IGNORECASE
)
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
}
_INTERNAL_ERROR = 500


def start(service: Service, port: int, metrics_path: str | None) -> ThreadingHTTPServer:
    """Open the REST port.

    Args:
        service: the models.
        port: the port.
        metrics_path: the path of the metrics; None for no metrics.

    Raises:
        OSError: the port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == metrics_path:
                self._send(200, "text/plain", service.metrics.page())
                return
            try:
                self._send(200, "application/json", _answer(service, path))
            except Rejection as rejection:
                text = json.dumps({"error": rejection.message})
                status = _STATUSES.get(rejection.code, _INTERNAL_ERROR)
                self._send(status, "application/json", text)

        def _send(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Write nothing, as the real server."""

    server = _Server(("0.0.0.0", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    # Probes and Prometheus must not be refused while the cores are busy.
    request_queue_size = 128

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which waits for a DNS server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]


def _answer(service: Service, path: str) -> str:
    match = _PATH.fullmatch(path)
    if not match:
        raise Rejection(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: GET {path}")
    name, version, label, metadata = match.groups()
    request: Any
    if metadata:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    else:
        request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version:
        request.model_spec.version.value = int(version)
    if label:
        request.model_spec.version_label = label
    if not metadata:
        return json.dumps(_dict(model_status(request, service.statuses)), indent=1)
    response = model_metadata(request, service.find)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    content = {
        "model_spec": _dict(response.model_spec),
        "metadata": {"signature_def": _dict(signatures)},
    }
    return json.dumps(content, indent=1)


def _dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
