"""The test server does what TensorFlow Serving does with the Deployment's flags."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from c3d_export.serving_api import Rejection
from grpc_health.v1 import health_pb2, health_pb2_grpc
from k8s.objects import flags, get, mounted_text, servers
from k8s.render import K8S, ROOT, objects_of
from support.certificates import Authority, Identity
from support.ports import reserved_port
from support.processes import LONG_S
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from cluster.server.__main__ import IMPLEMENTED
from cluster.server.flags import FILES, SettingsError, parse_config, parse_flags
from cluster.server.metrics import Metrics
from cluster.server.service import Queues

TIMEOUT_S = LONG_S
LARGEST = 32  # the Deployment's max_batch_size
COMMAND = [sys.executable, "-m", "cluster.server"]


def eventually(check: Callable[[], object], server: Server | None = None) -> None:
    """Wait until a check is true; the server, if given, must go on."""
    end = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < end, "not within the time limit"
        assert server is None or server.process.poll() is None, server.log.read_text()
        time.sleep(0.05)


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def arguments(bundle: str, folder: Path, **changes: object) -> list[str]:
    """Return the flags of a bundle's server, with the pod's paths below a folder.

    The store is ``folder/store``; a change of None removes the flag.
    """
    objects = objects_of(bundle)
    (pod,) = servers(objects)
    variables = {e["name"]: e["value"] for e in get(pod.server, "env", []) if "value" in e}
    variables["CPU_LIMIT"] = "2"
    values: dict[str, object] = {
        name: re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], value)
        for name, value in flags(pod.server).items()
    }
    for name in set(values) & set(FILES):
        text = mounted_text(objects, pod, pod.server, str(values[name]))
        if text is not None:
            path = folder / Path(str(values[name])).name
            path.write_text(text.replace('"/models/c3d"', f'"{folder / "store"}"'))
            values[name] = path
    if "model_base_path" in values:  # KServe's server has no model config
        values["model_base_path"] = folder / "store"
    values.update(changes)
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    store: Path
    log: Path
    port: int
    rest_port: int

    def rest(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.rest_port}{path}", timeout=TIMEOUT_S
            ) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def states(self) -> dict[int, str]:
        """Return the state of each version, by the REST interface."""
        _, text = self.rest("/v1/models/c3d")
        return {int(v["version"]): v["state"] for v in json.loads(text)["model_version_status"]}

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}")


@contextlib.contextmanager
def running(bundle: str, folder: Path, **changes: object) -> Iterator[Server]:
    """Run a bundle's server with an empty store."""
    store, log = folder / "store", folder / "log"
    store.mkdir()
    port, rest_port = reserved_port(), reserved_port()
    command = [*COMMAND, *arguments(bundle, folder, port=port, rest_api_port=rest_port, **changes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stderr=output)
    try:
        yield Server(process, store, log, port, rest_port)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def add(narrow_base):
    """Publish a version in a store, by number."""

    def add(store: Path, number: int) -> None:
        (store / str(number)).symlink_to(narrow_base / "1")

    return add


def card(channel: grpc.Channel, **version: object) -> int:
    """Request the model card, and return the version that answers."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "c3d"
    request.model_spec.signature_name = "model_card"
    if "number" in version:
        request.model_spec.version.value = version["number"]
    if "label" in version:
        request.model_spec.version_label = version["label"]
    request.inputs["n"].dtype = 3  # DT_INT32
    request.inputs["n"].tensor_shape.dim.add(size=1)
    request.inputs["n"].int_val.append(0)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return stub.Predict(request, timeout=TIMEOUT_S).model_spec.version.value


def features(channel: grpc.Channel, rows: int) -> grpc.StatusCode:
    """Request the features of some clips, and return the status."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "c3d"
    request.model_spec.signature_name = "fc6_features"
    request.inputs["clips"].dtype = 4  # DT_UINT8
    for size in (rows, 16, 112, 112, 3):
        request.inputs["clips"].tensor_shape.dim.add(size=size)
    request.inputs["clips"].int_val.append(128)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    try:
        stub.Predict(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


@pytest.fixture(scope="module")
def served(tmp_path_factory, add):
    """The server of overlay cpu-dev, with version 1; its ports opened only when that was ready."""
    folder = tmp_path_factory.mktemp("cpu-dev")
    times = {"file_system_poll_wait_seconds": 1, "load_retry_interval_micros": 200_000}
    with running("overlays/cpu-dev", folder, **times) as server:
        eventually(lambda: "No versions of servable c3d found" in server.log.read_text(), server)
        (server.store / ".building-1").mkdir()
        assert not is_open(server.port)
        assert not is_open(server.rest_port)
        add(server.store, 1)
        eventually(lambda: is_open(server.rest_port), server)
        yield server


@pytest.mark.long
class TestVersions:
    def test_new_version_replaces_the_old_one_without_a_lost_request(self, served, add):
        answers, stop = [], threading.Event()

        def ask() -> None:
            with served.channel() as channel:
                while not stop.is_set():
                    answers.append(card(channel))

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)

            def answered(version: int) -> bool:
                assert not asking.done(), asking.exception()
                return answers[-1:] == [version]

            try:
                eventually(lambda: answered(1))
                add(served.store, 2)
                eventually(lambda: served.states() == {1: "END", 2: "AVAILABLE"})
                eventually(lambda: answered(2))
                (served.store / "2").unlink()  # back again
                eventually(lambda: served.states() == {1: "AVAILABLE", 2: "END"})
                eventually(lambda: answered(1))
            finally:
                stop.set()
            asking.result(TIMEOUT_S)
        assert set(answers) == {1, 2}

    def test_broken_newest_version_is_reported_and_the_old_one_serves(self, served):
        broken = served.store / "3"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"\xff" * 99)
        try:
            eventually(lambda: served.states().get(3) == "END")
            status, text = served.rest("/v1/models/c3d/versions/3")
            (version,) = json.loads(text)["model_version_status"]
            assert status == 200
            assert version["status"]["error_code"] != "OK"
            assert "damaged" in version["status"]["error_message"]
            assert "version: 3} retry: 1" in served.log.read_text()
            assert "version: 3} retry: 2" not in served.log.read_text()
            assert served.rest("/v1/models/c3d/metadata")[0] == 200
            with served.channel() as channel:
                assert card(channel) == 1
        finally:
            shutil.rmtree(broken)

    def test_rest_answers_status_metadata_and_metrics(self, served):
        status, text = served.rest("/v1/models/c3d/metadata")
        metadata = json.loads(text)
        assert (status, metadata["model_spec"]["version"]) == (200, "1")
        assert "classify" in metadata["metadata"]["signature_def"]["signature_def"]
        assert served.rest("/v1/models/c3d/versions/1/metadata")[0] == 200
        assert served.rest("/v1/models/c3d/versions/9/metadata")[0] == 404
        assert served.rest("/v1/models/c3d/versions/9")[0] == 404
        assert served.rest("/v1/models/other")[0] == 404
        assert served.rest("/v1/models/c3d/labels/stable/metadata")[0] == 400
        labels = 'model_name="c3d",API="Predict",entrypoint="GRPC"'

        def metrics():
            status, page = served.rest("/monitoring/prometheus/metrics")
            assert status == 200
            (total,) = re.findall(rf"request_latency_sum{{{labels}}} (\S+)", page)
            (count,) = re.findall(rf"request_latency_count{{{labels}}} (\d+)", page)
            return page, float(total), int(count)

        with served.channel() as channel:
            assert features(channel, 1) is grpc.StatusCode.OK
            _, total_before, count_before = metrics()
            started_s = time.perf_counter()
            assert features(channel, 8) is grpc.StatusCode.OK
            took_s = time.perf_counter() - started_s
        page, total, count = metrics()
        assert count == count_before + 1
        # Microseconds: above a millisecond. The page has six digits of a sum.
        assert 1000 < total - total_before <= took_s * 1e6 + 1e-5 * total
        assert re.search(
            r'^:tensorflow:serving:request_count{model_name="c3d",status="OK"} [1-9]',
            page,
            re.MULTILINE,
        )
        buckets = re.findall(rf'request_latency_bucket{{{labels},le="\S+"}} (\d+)', page)
        assert list(map(int, buckets)) == sorted(map(int, buckets))
        assert int(buckets[-1]) == count

    def test_grpc_answers_health_status_and_metadata(self, served):
        metadata = get_model_metadata_pb2.GetModelMetadataRequest()
        metadata.model_spec.name = "c3d"
        metadata.metadata_field.append("signature_def")
        with served.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "tensorflow.serving.PredictionService"):
                answer = health.Check(
                    health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S
                )
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            unknown = health_pb2.HealthCheckRequest(service="c3d")
            assert refusal(lambda: health.Check(unknown, timeout=TIMEOUT_S))[0] is (
                grpc.StatusCode.NOT_FOUND
            )
            models = model_service_pb2_grpc.ModelServiceStub(channel)
            empty = get_model_status_pb2.GetModelStatusRequest()
            assert refusal(lambda: models.GetModelStatus(empty, timeout=TIMEOUT_S)) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "Missing ModelSpec",
            )
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            response = predictions.GetModelMetadata(metadata, timeout=TIMEOUT_S)
            assert response.model_spec.version.value == 1
            assert refusal(lambda: card(channel, number=7)) == (
                grpc.StatusCode.NOT_FOUND,
                "Servable not found for request: Specific(c3d, 7)",
            )

    def test_request_above_the_largest_batch_is_refused(self, served):
        with served.channel() as channel:
            assert features(channel, LARGEST) is grpc.StatusCode.OK
            assert features(channel, LARGEST + 1) is grpc.StatusCode.INVALID_ARGUMENT

    def test_sigterm_ends_the_server_at_once(self, served):
        """Last: it is the end of the class's server."""
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(TIMEOUT_S) == -signal.SIGTERM


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "ca")


@pytest.fixture(scope="module")
def canary(tmp_path_factory, authority, add):
    """The server of component canary, with version 1, mutual TLS and tight limits."""
    folder = tmp_path_factory.mktemp("canary")
    identity = authority.identity("server", hosts=("localhost",))
    secret = folder / "secret"
    secret.mkdir()
    for name, source in (
        ("tls.crt", identity.cert),
        ("tls.key", identity.key),
        ("ca.crt", authority.cert),
    ):
        shutil.copy(source, secret / name)
    ssl_config = folder / "ssl.config"
    subprocess.run(
        ["/bin/sh", K8S / "components/tls/ssl-config.sh", secret, ssl_config],
        env={"PATH": os.environ["PATH"], "C3D_TLS_CLIENT_VERIFY": "true"},
        check=True,
    )
    changes = {
        "ssl_config_file": ssl_config,
        "file_system_poll_wait_seconds": 1,
        "grpc_max_threads": 3,
        "grpc_channel_arguments": "grpc.max_connection_age_ms=500",
    }
    with running("components/canary", folder, **changes) as server:
        add(server.store, 1)
        eventually(lambda: is_open(server.port), server)
        yield server


@pytest.fixture
def channel(canary, authority):
    with secure(canary, authority, authority.identity("client")) as channel:
        yield channel


def secure(server: Server, authority: Authority, identity: Identity | None):
    credentials = grpc.ssl_channel_credentials(
        authority.cert.read_bytes(),
        identity and identity.key.read_bytes(),
        identity and identity.cert.read_bytes(),
    )
    return grpc.secure_channel(f"localhost:{server.port}", credentials)


@pytest.mark.long
class TestCanaryWithTls:
    def test_labels_name_versions_that_come_later(self, canary, channel, add):
        assert card(channel, label="stable") == 1
        assert canary.rest("/v1/models/c3d/labels/stable/metadata")[0] == 200
        assert canary.rest("/v1/models/c3d/labels/canary/metadata")[0] == 404
        assert refusal(lambda: card(channel, label="canary")) == (
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Specific(c3d, 2)",
        )
        assert refusal(lambda: card(channel, label="old")) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Unrecognized servable version label: old",
        )
        add(canary.store, 3)  # not among the specific versions
        add(canary.store, 2)
        eventually(lambda: canary.states() == {1: "AVAILABLE", 2: "AVAILABLE"})
        assert [card(channel, label="canary"), card(channel)] == [2, 2]
        assert card(channel, label="stable") == 1

    def test_clients_without_the_right_certificate_are_refused(self, canary, authority, tmp_path):
        other = Authority(tmp_path, "other").identity("client")
        for identity in (None, other):
            with secure(canary, authority, identity) as channel:
                assert refusal(lambda: card(channel))[0] is grpc.StatusCode.UNAVAILABLE  # noqa: B023
        with canary.channel() as channel:
            assert refusal(lambda: card(channel))[0] is grpc.StatusCode.UNAVAILABLE

    def test_connections_are_renewed(self, channel):
        states = []
        channel.subscribe(states.append)
        assert card(channel, label="stable") == 1
        # The age of 500 ms, and gRPC's 10 % more or less. The first state is from before the call.
        eventually(lambda: grpc.ChannelConnectivity.IDLE in states[1:])
        assert card(channel, label="stable") == 1

    def test_calls_beyond_the_threads_are_refused(self, channel):
        """Eight clients call until one of them is refused, which may be late on a busy machine."""
        refused = threading.Event()

        def call(_) -> set[grpc.StatusCode]:
            statuses = set()
            for _ in range(50):
                statuses.add(features(channel, 8))
                if grpc.StatusCode.RESOURCE_EXHAUSTED in statuses:
                    refused.set()
                if refused.is_set():
                    break
            return statuses

        with ThreadPoolExecutor(8) as pool:
            statuses = set().union(*pool.map(call, range(8)))
        assert statuses == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.long
def test_only_version_that_does_not_load_ends_the_server(tmp_path):
    with running("overlays/kserve", tmp_path, load_retry_interval_micros=1) as server:
        (server.store / "1").mkdir()
        assert server.process.wait(TIMEOUT_S) == 255
        assert "1 servable(s) did not become available" in server.log.read_text()


# What is wrong -> the flags' changes and a file's; each ends the server before it looks at models.
MISTAKES = {
    "unknown argument: --prot": ({"prot": 8500}, None),
    "not of type int": ({"port": "x"}, None),
    "all three of": ({"tensorflow_session_parallelism": 1}, None),
    "does not have this flag": ({"mixed_precision": "bfloat16"}, None),
    "--batching_parameters_file without": ({"enable_batching": "false"}, None),
    "Invalid protobuf file": ({}, ("batching.config", "\nbatch_timeout: 1\n")),
    "end at max_batch_size 32": ({}, ("batching.config", "\nallowed_batch_sizes: 33\n")),
    "assign label to version": ({"allow_version_labels_for_unavailable_models": None}, None),
    "grpc_port is not set": ({"port": 0}, None),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_wrong_settings_end_the_server(tmp_path, message):
    changes, file = MISTAKES[message]
    command = [*COMMAND, *arguments("components/canary", tmp_path, **changes)]
    if file:
        with (tmp_path / file[0]).open("a") as config:
            config.write(file[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert process.returncode == 255
    assert message in process.stderr
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "bundle",
    [
        "overlays/cpu-dev",
        "overlays/kserve",
        "components/tls",
        "components/canary",
        "components/gpu-timeslice",
    ],
)
def test_flags_of_the_bundles_are_implemented(bundle, tmp_path):
    values = parse_flags(arguments(bundle, tmp_path))
    assert set(values) <= IMPLEMENTED


def test_variable_that_nothing_replaced_is_refused():
    with pytest.raises(SettingsError, match="not of type"):
        parse_flags(["--grpc_channel_arguments=grpc.max_connection_age_ms=$(AGE_MS)"])


def test_requests_beyond_the_queue_are_refused():
    gate, reached = threading.Event(), threading.Event()

    class Blocked:
        def run(self, *_: object) -> None:
            reached.set()
            assert gate.wait(TIMEOUT_S)

    batching = parse_config(
        "BatchingParameters", "max_batch_size { value: 8 } max_enqueued_batches { value: 2 }"
    )
    queues, servable = Queues(batching, Metrics()), Blocked()

    def run(signature: str, rows: int) -> None:
        queues.run(servable, signature, {"clips": np.zeros(rows)}, ("features",))

    with ThreadPoolExecutor(5) as pool:
        try:
            requests = [pool.submit(run, "classify", 8)]
            assert reached.wait(TIMEOUT_S)  # the first computes, and no longer waits
            requests += [pool.submit(run, "classify", 8) for _ in range(2)]
            eventually(lambda: queues.waiting() == 16)
            refused = pool.submit(run, "classify", 1)
            with pytest.raises(Rejection, match="UNAVAILABLE: .* is full; currently 2 batches"):
                refused.result(TIMEOUT_S)
            requests.append(pool.submit(run, "fc6_features", 8))  # another queue
        finally:
            gate.set()
        for request in requests:
            request.result(TIMEOUT_S)


class TestFirstProcess:
    """As PID 1 the server is a supervisor with the server as its child."""

    @pytest.fixture
    def tree(self, tmp_path):
        """The processes unshare, supervisor and server; the server waits for a model."""
        unshare = ["unshare", "--pid", "--fork", "--kill-child"]
        if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
            pytest.skip("unshare may not make PID namespaces here (needs root)")
        (tmp_path / "store").mkdir()
        command = [*unshare, *COMMAND, *arguments("overlays/cpu-dev", tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: children(process.pid))
            (supervisor,) = children(process.pid)
            eventually(lambda: children(supervisor))
            yield process, supervisor, children(supervisor)[0]
        finally:
            process.kill()
            process.wait()

    def test_sigterm_is_ignored(self, tree):
        process, supervisor, child = tree
        os.kill(supervisor, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert children(supervisor) == [child]

    def test_killed_server_ends_the_container_with_its_code(self, tree):
        process, _, child = tree
        os.kill(child, signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGKILL


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()]
