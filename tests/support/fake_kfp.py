"""Fake REST API v2beta1 of Kubeflow Pipelines; it refuses what the real API refuses."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from support.kfp_rules import Refusal
from support.kfp_state import FakeKfp

ROOT = "/apis/v2beta1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer waits for a delayed ACK

    def respond(self) -> None:
        kfp: FakeKfp = self.server.kfp
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with kfp.lock:
            kfp.requests.append(f"{self.command} {urlsplit(self.path).path}")
            kfp.headers.append(dict(self.headers))
            fault = kfp.faults.pop(0) if kfp.faults else None
        if fault is not None and fault(self):
            return
        try:
            with kfp.lock:
                self.answer(200, self.route(kfp, raw))
        except Refusal as refused:
            self.answer(refused.status, refused.body)

    do_GET = do_POST = do_DELETE = respond

    def route(self, kfp: FakeKfp, raw: bytes) -> dict:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        headers = self.headers
        if not url.path.startswith(f"{ROOT}/"):
            return self.other_path(kfp, url.path, query)
        request = (self.command, *url.path.removeprefix(f"{ROOT}/").split("/"))
        body = self.body(kfp, raw)
        match request:
            case ("GET", "healthz"):
                release = {"commit_sha": "unknown", "tag_name": kfp.tag}
                return {**release, "multi_user": kfp.multi_user, "pipeline_store": "database"}
            case ("GET", "experiments"):
                return kfp.page(kfp.experiments, "experiments", query, headers)
            case ("POST", "experiments"):
                return kfp.create_experiment(body, headers)
            case ("POST", "runs"):
                return kfp.create_run(body, headers)
            case ("GET", "runs"):
                return kfp.runs_page(query, headers)
            case ("GET", "runs", run_id):
                return kfp.get_run(run_id, headers)
            case ("GET", "runs", run_id, "nodes", node, "artifacts", action):
                name = action.removesuffix(":read")
                return kfp.read_artifact(run_id, node, name, headers)
            case ("POST", "runs", action):
                run_id, _, verb = action.partition(":")
                if verb in ("terminate", "retry"):
                    return getattr(kfp, f"{verb}_run")(run_id, headers)
            case ("GET", "recurringruns"):
                return kfp.page(kfp.schedules, "recurringRuns", query, headers)
            case ("GET", "recurringruns", schedule_id):
                return kfp.get_schedule(schedule_id, headers)
            case ("POST", "recurringruns"):
                return kfp.create_schedule(body, headers)
            case ("DELETE", "recurringruns", schedule_id):
                return kfp.delete_schedule(schedule_id, query, headers)
            case ("POST", "recurringruns", action):
                schedule_id, _, mode = action.partition(":")
                if mode in ("enable", "disable"):
                    return kfp.change_schedule(schedule_id, mode.upper(), headers)
            case ("POST", "pipelines"):
                return kfp.uploads.create(body, kfp.namespace_of(body.get("namespace"), headers))
            case ("GET", "pipelines", "names", name):
                namespace = kfp.namespace_of(query.get("namespace"), headers)
                return kfp.uploads.by_name(unquote(name), namespace)
            case ("GET", "pipelines", pipeline_id, "versions"):
                versions = kfp.uploads.versions_of(pipeline_id)
                return kfp.page(versions, "pipeline_versions", query, headers)
            case ("POST", "pipelines", "upload_version"):
                return kfp.uploads.upload(query, headers.get("Content-Type", ""), body)
        raise Refusal("Not Found", code=5, status=404)

    def other_path(self, kfp: FakeKfp, path: str, query: dict[str, str]) -> object:
        """Answer outside of version 2 of the API: runs of version 1, and logs."""
        match (self.command, *path.strip("/").split("/")):
            case ("GET", "apis", "v1beta1", "runs", run_id):
                return kfp.get_run_v1(run_id, self.headers)
            case ("GET", "apis", "v1alpha1", "runs", run_id, "nodes", pod, "log"):
                if not kfp.is_ui:
                    return kfp.read_log(run_id, pod)
            case ("GET", "k8s", "pod", "logs"):
                if kfp.is_ui and query.get("podname") in kfp.logs:
                    return kfp.logs[query["podname"]].encode()
                if kfp.is_ui:
                    raise Refusal("Could not get main container logs: not found", status=500)
        if kfp.is_ui:  # the interface's own page, whatever the path
            return b"<!doctype html><html><head><title>Kubeflow Pipelines</title></head></html>"
        raise Refusal("Not Found", code=5, status=404)

    def body(self, kfp: FakeKfp, raw: bytes) -> object:
        if not raw:
            return {}
        if self.headers.get("Content-Type", "").startswith("multipart/form-data"):
            return raw
        if "json" not in self.headers.get("Content-Type", ""):
            raise Refusal("Unsupported Media Type", status=415)
        try:
            kfp.bodies.append(json.loads(raw))
        except ValueError as error:
            raise Refusal(f"invalid character: {error}") from error
        return kfp.bodies[-1]

    def answer(self, status: int, body: object, kind: str = "application/json", **more) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.suppress(OSError):
            self.send_response_only(status)
            headers = {"Content-Type": kind, "Content-Length": len(data), **more}
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def page(title: str, status: int = 200) -> Callable[[Handler], bool]:
    """Answer with a web page, as a login does."""

    def answer(handler: Handler) -> bool:
        text = f"<!doctype html><html><head><title>{title}</title></head></html>".encode()
        handler.answer(status, text, "text/html; charset=utf-8")
        return True

    return answer


def redirects(target: str) -> Callable[[Handler], bool]:
    """Redirect to another address, as before a login."""

    def answer(handler: Handler) -> bool:
        handler.answer(302, b"", "text/html", Location=target)
        return True

    return answer


def fails(status: int, message: str = "requested by the test") -> Callable[[Handler], bool]:
    """Answer with an error status."""

    def answer(handler: Handler) -> bool:
        handler.answer(status, Refusal(message).body)
        return True

    return answer


def hangs_up(handler: Handler) -> bool:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(2)
    return True


def no_answer(handler: Handler) -> bool:
    """Keep the connection open without an answer until the server ends."""
    handler.close_connection = True
    handler.server.kfp.released.wait()
    return True


def no_fault(handler: Handler) -> bool:
    """Answer this request as usual; the next fault is for the next request."""
    return False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    kfp: FakeKfp

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that close the connection are expected


@contextlib.contextmanager
def fake_kfp(identity=None) -> Iterator[FakeKfp]:
    """Serve on a free loopback port within the block.

    Args:
        identity: a certificate and key as files (certificates.Identity), for TLS.
    """
    server = _Server(("127.0.0.1", 0), Handler)
    scheme = "http"
    if identity is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert, identity.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    server.kfp = FakeKfp(f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.kfp
    finally:
        server.kfp.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
