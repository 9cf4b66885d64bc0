"""The local server's start and stop: version, port, warm-up, and draining."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from c3d_client.core.errors import UsageError
from c3d_export.errors import ExportError, VerificationError
from c3d_export.local_server import LocalServer
from c3d_export.servable import build
from c3d_export.store import newest_version, served_version
from c3d_export.warmup import WARMUP_FILE, write_warmup
from support.ports import reserved_port
from support.processes import wait_until
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

TIMEOUT_S = 120
# The command, whose requests for clips wait until a file is gone; each prints a line before.
HELD = """
import os, sys, time
from pathlib import Path
from c3d_export import local_server
from c3d_export.cli import main
hold, *arguments = sys.argv[1:]
run = local_server._TimedServable.run
def held(self, *request):
    os.write(1, b"received\\n")  # whole, while other threads write too
    while Path(hold).exists():
        time.sleep(0.01)
    return run(self, *request)
local_server._TimedServable.run = held
main(arguments)
"""


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
        with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
            # Linux may connect a socket to itself where nobody listens.
            return connection.getsockname() != connection.getpeername()
    except ConnectionError:  # refused, or reset while the server closes
        return False


class TestVersions:
    @pytest.mark.long
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

    def test_version_whose_folder_is_given_is_served(self, tiny_base, tmp_path, monkeypatch):
        for name in ("9", "10", "copy"):
            (tmp_path / name).symlink_to(tiny_base / "1")
        assert served_version(tmp_path) == tmp_path / "10"
        assert served_version(tmp_path / "9") == tmp_path / "9"
        monkeypatch.chdir(tmp_path / "9")
        # The folder's own name, which a link has: /tmp/…/1 here.
        assert served_version(Path(".")).name == "1"
        monkeypatch.chdir(tmp_path / "9" / "variables")
        assert served_version(Path("..")).name == "1"
        for path in (tmp_path / "copy", tmp_path / "9" / "variables", tmp_path / "11"):
            with pytest.raises(UsageError, match="no model version there"):
                served_version(path)
        server = LocalServer(tmp_path / "9")
        server.stop(0)
        assert server.version == 9

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

    @pytest.mark.long
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

    def test_free_port_is_free_at_all_addresses_of_the_host(self, tiny_base, monkeypatch):
        """Another program takes the port at the second address, just before the server does."""
        others, make = [], grpc.server

        def make_late(*arguments, **options):
            server = make(*arguments, **options)
            add = server.add_insecure_port

            def add_and_occupy(address):
                port = add(address)
                if not others:
                    others.append(socket.create_server(("127.0.0.2", port)))
                return port

            server.add_insecure_port = add_and_occupy
            return server

        def two_addresses(host, port, **_):
            kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
            return [(*kind, (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

        with monkeypatch.context() as patch:
            patch.setattr(grpc, "server", make_late)
            patch.setattr(socket, "getaddrinfo", two_addresses)
            server = LocalServer(tiny_base)
        try:
            server.start()
            with others[0] as other:
                assert server.port != other.getsockname()[1]
            for address in ("127.0.0.1", "127.0.0.2"):
                assert is_listening(f"{address}:{server.port}"), address
        finally:
            server.stop(5)

    def test_ipv6_address_needs_no_brackets(self, tiny_base):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
        for host in ("::1", "[::1]"):
            server = LocalServer(tiny_base, host=host)
            server.start()
            try:
                assert server.target == f"[::1]:{server.port}", host
                with grpc.insecure_channel(server.target) as channel:
                    predict(channel)(grey_request(1), timeout=TIMEOUT_S)
            finally:
                server.stop(5)

    def test_unknown_host_is_an_error(self, tiny_base):
        with pytest.raises(ExportError, match="nowhere.invalid: no address to listen at"):
            LocalServer(tiny_base, host="nowhere.invalid")

    @pytest.mark.long
    def test_port_is_free_after_the_stop(self, tiny_base):
        port = reserved_port()
        for _ in range(2):
            server = LocalServer(tiny_base, port=port)
            server.start()
            assert is_listening(server.target)
            server.stop(5)
            assert server.port == port
            assert not is_listening(server.target)


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

    @pytest.mark.long
    def test_model_for_larger_batches_has_them(self, tiny_weights, make_spec, tmp_path):
        """TensorFlow Serving loads it with an equal max_batch_size or a larger one only."""
        build(make_spec(tiny_weights, batch_sizes=(1, 40)), tmp_path / "c3d")
        server = LocalServer(tmp_path / "c3d")
        server.start()
        try:
            with grpc.insecure_channel(server.target) as channel:
                response = predict(channel)(grey_request(40), timeout=TIMEOUT_S)
                assert len(response.outputs["features"].float_val) == 40 * 4096
                with pytest.raises(grpc.RpcError, match="Task size 41 .* batch size 40"):
                    predict(channel)(grey_request(41), timeout=TIMEOUT_S)
        finally:
            server.stop(5)

    @pytest.mark.long
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


@pytest.mark.long
def test_stop_refuses_new_requests_and_waits_for_running_ones(tiny_base):
    server = LocalServer(tiny_base)
    server.start()
    server.compute_lock = gate = _Gate()
    with grpc.insecure_channel(server.target) as channel:
        running = predict(channel).future(grey_request(2), timeout=TIMEOUT_S)
        assert gate.reached.wait(TIMEOUT_S)
        stopping = threading.Thread(target=server.stop, args=(TIMEOUT_S,))
        stopping.start()
        wait_until(lambda: not is_listening(server.target))
        assert not running.done()
        assert stopping.is_alive()
        gate.opened.set()
        assert len(running.result().outputs["features"].float_val) == 2 * 4096
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()


@pytest.mark.long
def test_command_until_eof_ends_with_its_standard_input(tiny_base):
    command = [sys.executable, "-m", "c3d_export", "serve", str(tiny_base), "--port", "0"]
    for loads_first in (True, False):
        with subprocess.Popen(
            [*command, "--until-eof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                if loads_first:
                    assert process.stdout.readline().startswith("ready: c3d version 1 at ")
                    process.stdin.write("not its end\n")
                process.stdin.close()
                rest = process.stdout.read()
                assert process.wait(TIMEOUT_S) == 0
            finally:
                process.kill()
        assert "ready" not in rest, loads_first


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_drains_at_a_signal(narrow_base, tmp_path, number):
    hold = tmp_path / "hold"
    hold.touch()
    command = [sys.executable, "-c", HELD, str(hold), "serve", str(narrow_base), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            ready = process.stdout.readline()
            match = re.match(r"ready: c3d version 1 at ([^\s,]+:\d+)", ready)
            assert match, ready
            with grpc.insecure_channel(match[1]) as channel:
                futures = [
                    predict(channel).future(grey_request(2), timeout=TIMEOUT_S) for _ in range(5)
                ]
                assert [process.stdout.readline() for _ in futures] == ["received\n"] * 5
                process.send_signal(number)
                draining = "draining: no new requests, those running finish\n"
                assert process.stdout.readline() == draining
                wait_until(lambda: not is_listening(match[1]))
                assert not any(future.done() for future in futures)
                hold.unlink()
                answers = [list(each.result().outputs["features"].float_val) for each in futures]
            rest, errors = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert answers == [answers[0]] * 5
    assert len(answers[0]) == 2 * 4096
    assert rest == "stopped\n"
    assert process.returncode == 0
    assert errors == ""
    assert not is_listening(match[1])
