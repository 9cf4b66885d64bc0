"""The local server's life: which version, which port, warm-up before the start, and the drain."""

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
    """A request for any number of clips that takes a hundred bytes on the wire."""
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
    """Whether a new connection is taken; no request goes with it."""
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
    except ConnectionError:  # refused, or reset by the very closing
        return False
    return True


class TestVersions:
    def test_the_newest_by_number_is_served(self, tiny_base, narrow_base, tmp_path):
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
        assert len(response.outputs["probabilities"].float_val) == 3  # the tiny one's classes

    @pytest.mark.parametrize("name", ["empty", "absent"])
    def test_none_at_all_is_said(self, tmp_path, name):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "draft").mkdir()
        with pytest.raises(UsageError, match=f"{name}: no model version there .* c3d-export build"):
            newest_version(tmp_path / name)

    def test_one_that_cannot_be_loaded_is_said(self, tmp_path):
        (tmp_path / "1").mkdir()
        with pytest.raises(VerificationError, match="no SavedModel there"):
            LocalServer(tmp_path)

    def test_one_may_be_served_under_another_name(self, tiny_base):
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
    def test_in_use_by_another_of_its_kind_are_said(self, narrow_server, tiny_base):
        with pytest.raises(ExportError, match=f"port {narrow_server.port} on localhost .* --port"):
            LocalServer(tiny_base, port=narrow_server.port)

    def test_in_use_at_one_of_the_names_addresses_are_said(self, tiny_base):
        """gRPC would take ::1 beside it, and a client of localhost would reach the one or other."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(ExportError, match=f"port {port} on localhost .* it is in use"):
                LocalServer(tiny_base, port=port)

    def test_of_no_host_are_said(self, tiny_base):
        with pytest.raises(ExportError, match="nowhere.invalid: no address to listen at"):
            LocalServer(tiny_base, host="nowhere.invalid")

    def test_are_free_again_after_the_stop(self, tiny_base):
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

    def test_that_fails_fails_the_start(self, base):
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

    def test_that_is_damaged_fails_the_start(self, base):
        path = base / "1" / WARMUP_FILE
        path.write_bytes(path.read_bytes()[:-1])
        server = LocalServer(base)
        with pytest.raises(ExportError, match="damaged warm-up file"):
            server.start()
        server.stop(0)

    def test_may_be_missing(self, base):
        (base / "1" / WARMUP_FILE).unlink()
        server = LocalServer(base)
        server.start()
        with grpc.insecure_channel(server.target) as channel:
            response = predict(channel)(grey_request(1), timeout=TIMEOUT_S)
        server.stop(5)
        assert len(response.outputs["features"].float_val) == 4096


class _Gate:
    """In the place of the server's lock: a request that is being computed waits here, seen."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self.reached.set()
        assert self.opened.wait(TIMEOUT_S)

    def __exit__(self, *_: object) -> None:
        pass


def test_a_stop_refuses_new_requests_and_waits_for_those_that_run(tiny_base):
    server = LocalServer(tiny_base)
    server.start()
    server.turns = gate = _Gate()
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
def test_the_command_drains_when_it_is_told_to_stop(narrow_base, number):
    command = [sys.executable, "-m", "c3d_export", "serve", str(narrow_base), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            ready = process.stdout.readline()
            found = re.match(r"ready: c3d version 1 at ([^\s,]+:\d+)", ready)
            assert found, ready
            with grpc.insecure_channel(found[1]) as channel:
                # One after the other they are computed; when the first is answered, the others,
                # of a hundred bytes each, have long arrived.
                answers = [
                    predict(channel).future(grey_request(16), timeout=TIMEOUT_S) for _ in range(5)
                ]
                expected = answers[0].result().outputs["features"].float_val
                process.send_signal(number)
                for answer in answers:
                    assert list(answer.result().outputs["features"].float_val) == list(expected)
            rest, errors = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert rest.splitlines() == ["draining: no new requests, those running finish", "stopped"]
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not is_listening(found[1])
