"""Fake Kubernetes API: objects at their paths, and the Status that the real API answers with."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

TOKEN = "token-of-the-cluster"


class FakeKube:
    """A Kubernetes API.

    Attributes:
        objects: each by its path, such as ``/api/v1/namespaces/a/pods/b``; the path without the
            name lists them.
        texts: answers that are no JSON, such as logs, by path.
        forbidden: paths that the user may not read.
        requests: paths that were requested so far.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, dict] = {}
        self.texts: dict[str, str] = {}
        self.forbidden: set[str] = set()
        self.requests: list[str] = []
        self.hangs = threading.Event()
        self.released = threading.Event()

    def add(self, plural: str, name: str, namespace: str = "", *, api: str = "api/v1", **parts):
        """Add an object, with its other top-level parts."""
        folder = f"/{api}" + (f"/namespaces/{namespace}" if namespace else "") + f"/{plural}"
        metadata = {"name": name, "uid": f"uid-{name}", **parts.pop("metadata", {})}
        metadata |= {"namespace": namespace} if namespace else {}
        self.objects[f"{folder}/{name}"] = {"metadata": metadata, **parts}

    def kubeconfig(self, path: Path, *, token: str = TOKEN, namespace: str = "") -> Path:
        """Write a kubeconfig for this API."""
        context = {"cluster": "fake", "user": "me"} | (
            {"namespace": namespace} if namespace else {}
        )
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": context}],
        }
        path.write_text(json.dumps(config))
        return path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer waits for a delayed ACK

    def do_GET(self) -> None:
        kube: FakeKube = self.server.kube
        url = urlsplit(self.path)
        kube.requests.append(url.path)
        if kube.hangs.is_set():
            self.close_connection = True
            kube.released.wait()
        elif self.headers.get("Authorization", "") not in (f"Bearer {TOKEN}", f"bearer {TOKEN}"):
            self._status(401, "Unauthorized", "Unauthorized")
        elif url.path in kube.forbidden:
            message = f'"{url.path}" is forbidden: User "me" cannot get it'
            self._status(403, "Forbidden", message)
        elif url.path in kube.texts:
            self._answer(200, kube.texts[url.path].encode(), "text/plain")
        elif url.path in kube.objects:
            self._answer(200, json.dumps(kube.objects[url.path]).encode())
        else:
            self._list(kube, url.path, parse_qs(url.query))

    def _list(self, kube: FakeKube, path: str, query: dict[str, list[str]]) -> None:
        folder, _, name = path.rpartition("/")
        plural = folder.rpartition("/")[2]
        if path.count("/") in (3, 5) and not path.startswith("/apis") and plural != "namespaces":
            items = [o for key, o in kube.objects.items() if key.rpartition("/")[0] == path]
            wanted = dict(p.split("=") for p in query.get("labelSelector", [""])[0].split(",") if p)
            items = [
                item
                for item in items
                if wanted.items() <= item["metadata"].get("labels", {}).items()
            ]
            return self._answer(200, json.dumps({"kind": "List", "items": items}).encode())
        return self._status(404, "NotFound", f'{plural} "{name}" not found')

    def _status(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "status": "Failure", "reason": reason, "code": code}
        self._answer(code, json.dumps({**status, "message": message}).encode())

    def _answer(self, code: int, data: bytes, kind: str = "application/json") -> None:
        with contextlib.suppress(OSError):
            self.send_response_only(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    kube: FakeKube


@contextlib.contextmanager
def fake_kube(identity=None) -> Iterator[FakeKube]:
    """Serve on a free loopback port within the block.

    Args:
        identity: a certificate and key as files (certificates.Identity), for TLS.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    if identity is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert, identity.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if identity else "http"
    server.kube = FakeKube(f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.kube
    finally:
        server.kube.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
