"""The local server's start and stop: version, port, warm-up, and draining."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
import tensorflow as tf
from c3d_client.core.errors import UsageError
from c3d_export.errors import ExportError, VerificationError
from c3d_export.local_server import LocalServer
from c3d_export.store import newest_version
from c3d_export.warmup import WARMUP_FILE, write_warmup
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

TIMEOUT_S = 120


def grey_request(rows: int) -> predict_pb2.PredictRequest:
    """Return a request for any number of clips that has a hundred bytes on the wire."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "c3d"
    request.model_spec.signature_name = "fc6_features"
    tensor = request.inputs["clips"]
    tensor.dtype = tf.uint8.as_datatype_enum
    tensor.tensor_shape.CopyFrom(tf.TensorShape([rows, 16, 112, 112, 3]).as_proto())
    tensor.int_val.append(128)
    return request


def predict(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict


def is_listening(target: str) -> bool:
    """Return whether a new connection is accepted; no request is sent."""
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
    except ConnectionError:  # refused, or reset while the server closes
        return False
    return True


class TestVersions:
    def test_version_with_the_highest_number_is_served(self, tiny_base, narrow_base, tmp_path):
        (tmp_path / "9").symlink_to(narrow_base / "1")
        (tmp_path / "10").symlink_to(tiny_base / "1")
        for name in (".building-11", "12.bak", "latest", "²"):
            (tmp_path / name).mkdir()
        server = LocalServer(tmp_path)
        server.start()
        try:
            with grpc.insecure_channel(server.target) as channel:
                request = grey_request(1)
                request.model_spec.signature_name = "classify"
                response = predict(channel)(request, timeout=TIMEOUT_S)
        finally:
            server.stop(5)
        assert response.model_spec.version.value == 10
        assert len(response.outputs["probabilities"].float_val) == 3  # the tiny network's classes

    def test_folder_without_a_version_is_an_error(self, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "draft").mkdir()
        for name in ("empty", "absent"):
            match = f"{name}: no model version there .* c3d-export build"
            with pytest.raises(UsageError, match=match):
                newest_version(tmp_path / name)

    def test_version_that_cannot_be_loaded_is_an_error(self, tmp_path):
        (tmp_path / "1").mkdir()
        with pytest.raises(VerificationError, match="no SavedModel there"):
            LocalServer(tmp_path)

    def test_model_may_be_served_under_another_name(self, tiny_base):
        server = LocalServer(tiny_base, model="sports")
        server.start()
        try:
            with grpc.insecure_channel(server.target) as channel:
                request = grey_request(1)
                request.model_spec.name = "sports"
                response = predict(channel)(request, timeout=TIMEOUT_S)
        finally:
            server.stop(5)
        assert response.model_spec.name == "sports"


class TestPorts:
    def test_port_of_another_local_server_is_an_error(self, narrow_server, tiny_base):
        with pytest.raises(ExportError, match=f"port {narrow_server.port} on localhost .* --port"):
            LocalServer(tiny_base, port=narrow_server.port)

    def test_port_in_use_at_one_of_the_hosts_addresses_is_an_error(self, tiny_base):
        """gRPC would listen at ::1 only, and a client of localhost would reach either server."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(ExportError, match=f"port {port} on localhost .* it is in use"):
                LocalServer(tiny_base, port=port)

    def test_unknown_host_is_an_error(self, tiny_base):
        with pytest.raises(ExportError, match="nowhere.invalid: no address to listen at"):
            LocalServer(tiny_base, host="nowhere.invalid")

    def test_port_is_free_after_the_stop(self, tiny_base):
        first = LocalServer(tiny_base)
        first.start()
        first.stop(5)
        second = LocalServer(tiny_base, port=first.port)
        second.start()
        second.stop(5)
        assert second.port == first.port


class TestWarmUp:
    @pytest.fixture
    def base(self, tiny_base, tmp_path):
        shutil.copytree(tiny_base, tmp_path / "c3d")
        return tmp_path / "c3d"

    def test_failed_request_is_an_error_at_start(self, base):
        write_warmup(base / "1", batch_sizes=(1,))
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.CopyFrom(grey_request(1))
        log.predict_log.request.inputs["clips"].tensor_shape.dim[2].size = 113
        with tf.io.TFRecordWriter(str(base / "1" / WARMUP_FILE)) as writer:
            writer.write(log.SerializeToString())
        server = LocalServer(base)
        with pytest.raises(ExportError, match="a warm-up request fails: INVALID_ARGUMENT: .*113"):
            server.start()
        server.stop(0)

    def test_damaged_file_is_an_error_at_start(self, base):
        path = base / "1" / WARMUP_FILE
        path.write_bytes(path.read_bytes()[:-1])
        server = LocalServer(base)
        with pytest.raises(ExportError, match="damaged warm-up file"):
            server.start()
        server.stop(0)

    def test_file_may_be_missing(self, base):
        (base / "1" / WARMUP_FILE).unlink()
        server = LocalServer(base)
        server.start()
        with grpc.insecure_channel(server.target) as channel:
            response = predict(channel)(grey_request(1), timeout=TIMEOUT_S)
        server.stop(5)
        assert len(response.outputs["features"].float_val) == 4096


class _Gate:
    """A replacement for the server's lock that blocks a request until the test opens it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self.reached.set()
        assert self.opened.wait(TIMEOUT_S)

    def __exit__(self, *_: object) -> None:
        pass


def test_stop_refuses_new_requests_and_waits_for_running_ones(tiny_base):
    server = LocalServer(tiny_base)
    server.start()
    server.compute_lock = gate = _Gate()
    with grpc.insecure_channel(server.target) as channel:
        running = predict(channel).future(grey_request(2), timeout=TIMEOUT_S)
        assert gate.reached.wait(TIMEOUT_S)
        stopping = threading.Thread(target=server.stop, args=(TIMEOUT_S,))
        stopping.start()
        while is_listening(server.target):
            time.sleep(0.01)
        assert not running.done()
        assert stopping.is_alive()
        gate.opened.set()
        assert len(running.result().outputs["features"].float_val) == 2 * 4096
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_drains_at_a_signal(narrow_base, number):
    command = [sys.executable, "-m", "c3d_export", "serve", str(narrow_base), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            ready = process.stdout.readline()
            match = re.match(r"ready: c3d version 1 at ([^\s,]+:\d+)", ready)
            assert match, ready
            with grpc.insecure_channel(match[1]) as channel:
                # Requests are computed one after the other. When the first is done, the others, of
                # a hundred bytes each, have been received.
                futures = [
                    predict(channel).future(grey_request(16), timeout=TIMEOUT_S) for _ in range(5)
                ]
                expected = futures[0].result().outputs["features"].float_val
                process.send_signal(number)
                for future in futures:
                    assert list(future.result().outputs["features"].float_val) == list(expected)
            rest, errors = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert rest.splitlines() == ["draining: no new requests, those running finish", "stopped"]
    assert process.returncode == 0
    assert errors == ""
    assert not is_listening(match[1])
