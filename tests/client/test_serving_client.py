"""ServingClient: model versions, predictions, lost requests, failing servers and closing."""

import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from c3d_client.core.contract import CLASSIFY, CLIP_SHAPE, FC6_FEATURES, MODEL_CARD
from c3d_client.core.errors import (
    Cancelled,
    ContractMismatch,
    ModelNotFound,
    RequestRejected,
    ServingError,
    ServingUnavailable,
    UsageError,
)
from c3d_client.serving.client import ServingClient, VersionStatus
from c3d_client.serving.options import ServingOptions
from support.fake_serving import LossyProxy, clips_of, plain_output
from support.measures import relative
from support.processes import LONG_S, wait_until
from support.relay import Relay
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

WAIT_S = 120  # a timeout that passes only if the code is wrong


class TestVersions:
    def test_healthy_server_has_its_version(self, connect, narrow_server):
        client = connect(narrow_server.target)
        assert client.health() == "SERVING"
        assert client.versions() == (VersionStatus(narrow_server.version, "AVAILABLE", ""),)

    def test_server_without_a_health_service_is_unimplemented(self, connect, fake_serving):
        assert connect(fake_serving().target).health() == "UNIMPLEMENTED"

    def test_versions_are_in_the_order_of_the_server_with_their_errors(self, connect, fake_serving):
        server = fake_serving()
        server.statuses = get_model_status_pb2.GetModelStatusResponse()
        server.statuses.model_version_status.add(version=3, state=20)
        failed = server.statuses.model_version_status.add(version=2, state=50)
        failed.status.error_code, failed.status.error_message = 5, "Could not find variable"
        assert connect(server.target).versions() == (
            VersionStatus(3, "LOADING", ""),
            VersionStatus(2, "END", "Could not find variable"),
        )

    def test_missing_model_or_version_is_not_found(self, connect, narrow_server):
        for changes in ({"model": "other"}, {"version": 99}):
            client = connect(narrow_server.target, **changes)
            for request in (client.versions, client.model_info):
                with pytest.raises(ModelNotFound, match="NOT_FOUND"):
                    request()

    def test_without_a_server_every_request_is_unavailable(self, connect, closed_port):
        client = connect(closed_port)
        for request in (client.health, client.versions, client.model_info):
            with pytest.raises(ServingUnavailable):
                request()


class TestPredict:
    def test_answer_has_one_row_for_each_clip(self, connect, fake_serving):
        server = fake_serving(version=5)
        answer = connect(server.target).predict(FC6_FEATURES, clips_of(3, 7))
        assert answer.output.shape == (2, 4096)
        assert answer.output[:, 0].tolist() == [4.0, 8.0]
        assert answer.version == 5
        assert answer.latency_s > 0
        assert (answer.queue_s, answer.compute_s) == (None, None)

    def test_local_server_reports_its_times(self, connect, narrow_server):
        answer = connect(narrow_server.target).predict(CLASSIFY, clips_of(0))
        assert answer.queue_s >= 0
        assert 0 < answer.compute_s < answer.latency_s

    def test_request_names_model_version_and_signature(self, connect, fake_serving):
        server = fake_serving(version=4)
        connect(server.target, version=4).predict(CLASSIFY, clips_of(0))
        spec = server.requests[0].model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("c3d", 4, "classify")

    def test_with_a_label_the_version_is_that_of_the_answer(self, connect, fake_serving):
        server = fake_serving(version=4)
        client = connect(server.target, label="stable")
        assert client.predict(CLASSIFY, clips_of(0)).version == 4
        assert client.model_info().version == 4
        server.version = 5  # the label was moved
        assert client.model_info().version == 5
        assert client.versions() == (VersionStatus(5, "AVAILABLE", ""),)
        specs = [server.requests[0].model_spec, *server.specs]
        assert {spec.version_label for spec in specs} == {"stable"}
        assert not any(spec.HasField("version") for spec in specs)

    def test_what_tensorflow_serving_refuses_is_an_error(self, connect, fake_serving):
        """FakeServing refuses it, so that a wrong request cannot pass the other tests."""
        server = fake_serving(version=4)
        for changes, message in (
            ({"model": "i3d"}, r"Latest\(i3d\)"),
            ({"version": 5}, r"Specific\(c3d, 5\)"),
            ({"label": "beta"}, "label: beta"),
        ):
            with pytest.raises(ModelNotFound, match=message):
                connect(server.target, **changes).predict(FC6_FEATURES, clips_of(0))
        del server.signatures["classify"]
        with pytest.raises(RequestRejected, match='Serving signature key "classify" not found'):
            connect(server.target).predict(CLASSIFY, clips_of(0))
        assert not server.requests

    def test_clips_are_sent_as_bytes(self, connect, fake_serving):
        server = fake_serving()
        connect(server.target).predict(FC6_FEATURES, clips_of(1, 2))
        assert server.requests[0].inputs["clips"].tensor_content == clips_of(1, 2).tobytes()

    @pytest.mark.parametrize(
        "shape",
        [(0, *CLIP_SHAPE), CLIP_SHAPE, (1, 16, 112, 112, 1), (1, 8, 112, 112, 3), (1,), ()],
        ids=str,
    )
    def test_wrong_shape_is_an_error_before_any_request(self, connect, fake_serving, shape):
        server = fake_serving()
        with pytest.raises(UsageError, match=r"fc6_features takes \[n,16,112,112,3\]"):
            connect(server.target).predict(FC6_FEATURES, np.zeros(shape, np.uint8))
        assert server.requests == []

    def test_wrong_dtype_is_rejected_by_the_server(self, connect, narrow_server):
        client = connect(narrow_server.target)
        with pytest.raises(RequestRejected, match="to be uint8 but float is provided"):
            client.predict(FC6_FEATURES, clips_of(1).astype(np.float32))

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            (np.ones((3, 4096), np.float32), r"answered 2 rows with shape \[3, 4096\]"),
            (np.ones((1, 4096), np.float32), r"answered 2 rows with shape \[1, 4096\]"),
            (np.ones((2, 2048), np.float32), r"answered 2 rows with shape \[2, 2048\]"),
            (np.ones(2, np.float32), r"answered 2 rows with shape \[2\]"),
            (np.ones((2, 4096), np.float64), "answered with dtype DOUBLE, expected FLOAT"),
            (np.ones((2, 4096), np.float16), "answered with .*dtype.* 19"),
        ],
    )
    def test_answer_of_another_shape_or_dtype_is_a_mismatch(
        self, connect, fake_serving, output, message
    ):
        server = fake_serving(lambda *_: output)
        with pytest.raises(ContractMismatch, match=message) as caught:
            connect(server.target).predict(FC6_FEATURES, clips_of(1, 2))
        assert caught.value.target == server.target

    def test_answer_without_the_output_is_a_mismatch(self, connect, fake_serving):
        server = fake_serving(lambda *_: predict_pb2.PredictResponse())
        with pytest.raises(ContractMismatch, match="answered without 'features'"):
            connect(server.target).predict(FC6_FEATURES, clips_of(1))

    def test_answer_that_does_not_fill_its_shape_is_a_mismatch(self, connect, fake_serving):
        def on_predict(request, rows, _context):
            response = server.respond(request, plain_output("fc6_features", rows))
            response.outputs["features"].ClearField("float_val")
            response.outputs["features"].tensor_content = b"\0" * 12
            return response

        server = fake_serving(on_predict)
        with pytest.raises(ContractMismatch, match="holds 12 bytes"):
            connect(server.target).predict(FC6_FEATURES, clips_of(1))

    def test_model_card_can_be_requested(self, connect, narrow_server):
        answer = connect(narrow_server.target).predict(MODEL_CARD, np.zeros(1, np.int32))
        assert answer.output.shape == (1,)
        assert answer.output[0].startswith(b"{")


class TestStream:
    def test_answers_are_in_the_order_of_the_batches(self, connect, fake_serving):
        client = connect(fake_serving().target, max_in_flight=3)
        answers = client.stream(FC6_FEATURES, (clips_of(n) for n in range(10)))
        assert [answer.output[0, 0] for answer in answers] == [n + 1 for n in range(10)]

    def test_answers_are_in_order_if_the_server_finishes_out_of_order(self, connect, fake_serving):
        second_is_done = threading.Event()
        finished = []

        def on_predict(_request, rows, _context):
            number = int(rows[0, 0, 0, 0, 0])
            if number == 0:
                assert second_is_done.wait(WAIT_S)
            finished.append(number)
            if number == 1:
                second_is_done.set()

        client = connect(fake_serving(on_predict).target, max_in_flight=2)
        answers = client.stream(FC6_FEATURES, (clips_of(n) for n in range(2)))
        assert [answer.output[0, 0] for answer in answers] == [1.0, 2.0]
        assert finished == [1, 0]

    @pytest.mark.parametrize("limit", [1, 3])
    def test_as_many_requests_are_in_flight_as_the_limit_allows(self, connect, fake_serving, limit):
        # The server sends no answer before the limit is reached: with fewer requests in flight the
        # barrier would time out.
        together = threading.Barrier(limit)

        def on_predict(*_):
            together.wait(WAIT_S)

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=limit)
        batches = (clips_of(n) for n in range(2 * limit))
        assert len(list(client.stream(FC6_FEATURES, batches))) == 2 * limit
        assert server.most_at_once == limit

    def test_one_more_batch_is_read_than_can_be_sent(self, connect, fake_serving):
        read = []

        def batches():
            for number in range(100):
                read.append(number)
                yield clips_of(number)

        server = fake_serving()
        answers = connect(server.target, max_in_flight=2).stream(FC6_FEATURES, batches())
        assert read == []
        for answered in range(1, 5):
            next(answers)
            assert answered <= len(read) <= answered + 2
        answers.close()
        assert len(server.requests) <= len(read)

    def test_no_batches_cause_no_requests(self, connect, fake_serving):
        server = fake_serving()
        assert list(connect(server.target).stream(FC6_FEATURES, iter(()))) == []
        assert server.requests == []

    def test_failed_request_cancels_later_requests(self, connect, fake_serving):
        waiting, cancelled = threading.Semaphore(0), threading.Semaphore(0)

        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 0:
                for _ in range(2):  # the other requests have arrived
                    assert waiting.acquire(timeout=WAIT_S)
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")
            gone = threading.Event()
            context.add_callback(gone.set)
            waiting.release()
            if gone.wait(WAIT_S):
                cancelled.release()

        client = connect(fake_serving(on_predict).target, max_in_flight=3)
        with pytest.raises(RequestRejected, match="not this one"):
            list(client.stream(FC6_FEATURES, (clips_of(n) for n in range(3))))
        assert cancelled.acquire(timeout=WAIT_S)
        assert cancelled.acquire(timeout=WAIT_S)

    def test_error_while_reading_batches_cancels_requests_in_flight(self, connect, fake_serving):
        arrived, cancelled = threading.Event(), threading.Event()

        def on_predict(_request, _rows, context):
            context.add_callback(cancelled.set)
            arrived.set()
            cancelled.wait(WAIT_S)

        def batches():
            yield clips_of(0)
            assert arrived.wait(WAIT_S)
            raise RuntimeError("the video is damaged")

        client = connect(fake_serving(on_predict).target)
        with pytest.raises(RuntimeError, match="damaged"):
            list(client.stream(FC6_FEATURES, batches()))
        assert cancelled.wait(WAIT_S)

    def test_cancelling_ends_every_wait_and_releases_the_slots(self, connect, fake_serving):
        """Waits for an answer (one batch), for a slot (two batches), and between retries."""
        for batches, retried in ((1, False), (2, False), (1, True)):
            case = f"{batches} batches, retried: {retried}"
            arrived, cancelled, cancel = threading.Event(), threading.Event(), threading.Event()

            def on_predict(_request, _rows, context, at=(retried, arrived, cancelled)):
                retried, arrived, cancelled = at
                arrived.set()
                if retried:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the server restarts")
                context.add_callback(cancelled.set)
                cancelled.wait(WAIT_S)

            target = fake_serving(on_predict).target
            client = connect(target, max_in_flight=1 if batches == 2 else 4, patience_s=600)
            errors: list[Cancelled] = []

            def read(client=client, batches=batches, cancel=cancel, errors=errors):
                try:
                    list(client.stream(FC6_FEATURES, map(clips_of, range(batches)), cancel=cancel))
                except Cancelled as cancelled_error:
                    errors.append(cancelled_error)

            reader = threading.Thread(target=read)
            reader.start()
            assert arrived.wait(WAIT_S), case
            cancel.set()
            reader.join(WAIT_S)
            assert not reader.is_alive(), case
            assert [type(error) for error in errors] == [Cancelled], case
            assert retried or cancelled.wait(WAIT_S), case
            wait_until(lambda client=client: not client.concurrency.in_flight, case)

    def test_rejected_batch_is_retried_and_no_answer_is_lost(self, connect, fake_serving):
        rejected = threading.Event()

        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 2 and not rejected.is_set():
                rejected.set()
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=2)
        answers = client.stream(FC6_FEATURES, (clips_of(n) for n in range(6)))
        assert [answer.output[0, 0] for answer in answers] == [1, 2, 3, 4, 5, 6]
        assert len(server.requests) == 7


CLIPS = np.random.default_rng(5).integers(0, 256, (35, *CLIP_SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference(narrow_server):
    """The features of CLIPS, one request for each clip."""
    with ServingClient(ServingOptions(narrow_server.target)) as client:
        return np.concatenate(
            [client.predict(FC6_FEATURES, CLIPS[n : n + 1]).output for n in range(len(CLIPS))]
        )


@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_batch_size_and_lost_requests_do_not_change_answers(
    connect, narrow_server, reference, size
):
    proxy = LossyProxy(narrow_server.target, seed=size, share=0.4)
    # On a busy machine the first answer may take longer than the 5 seconds of the default.
    client = connect(proxy.target, patience_s=60)
    batches = (CLIPS[n : n + size] for n in range(0, len(CLIPS), size))
    try:
        features = np.concatenate([a.output for a in client.stream(FC6_FEATURES, batches)])
    finally:
        proxy.stop()
    assert proxy.lost > 0
    assert features.shape == reference.shape
    assert relative(features, reference) <= 1e-6


class TestSeveralServers:
    def test_requests_are_shared_among_servers(self, connect, fake_serving):
        servers = [fake_serving(), fake_serving()]
        client = connect(f"ipv4:{servers[0].target},{servers[1].target}")
        # The first server that is connected may receive all requests for a while.
        sent = 0
        ends = time.monotonic() + LONG_S
        while min(len(server.requests) for server in servers) < 8 and time.monotonic() < ends:
            answers = client.stream(FC6_FEATURES, map(clips_of, range(40)))
            assert [answer.output[0, 0] for answer in answers] == [n + 1 for n in range(40)]
            sent += 40
        shares = [len(server.requests) for server in servers]
        assert sum(shares) == sent
        assert min(shares) >= 8

    def test_death_of_a_server_neither_loses_nor_repeats_an_answer(self, connect, fake_serving):
        def die(*_):
            # Requests that are answered at a time may all find more than five.
            if len(dying.requests) >= 5:
                relay.cut()

        dying, living = fake_serving(die), fake_serving()
        relay = Relay(dying.target)
        client = connect(f"ipv4:{relay.target},{living.target}")
        numbers = []
        # The other server may be connected first and receive all requests for a while.
        ends = time.monotonic() + LONG_S
        while not relay.is_cut and time.monotonic() < ends:
            answers = client.stream(FC6_FEATURES, map(clips_of, range(60)))
            numbers += [answer.output[0, 0] - 1 for answer in answers]
        assert relay.is_cut
        assert numbers == [*range(60)] * (len(numbers) // 60)
        # The requests in flight were retried.
        assert len(dying.requests) + len(living.requests) > len(numbers)


class TestClose:
    def test_waiting_threads_end_with_an_error(self, fake_serving, monkeypatch):
        # One request waits for its retry, two are in flight, three wait for a slot or the retry.
        monkeypatch.setattr("c3d_client.serving.patience._FIRST_PAUSE_S", 600)
        monkeypatch.setattr("c3d_client.serving.patience._LONGEST_PAUSE_S", 600)
        refuse, release, ended = threading.Event(), threading.Event(), []

        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 0:
                refuse.wait(WAIT_S)
                context.abort(grpc.StatusCode.UNAVAILABLE, "try later")
            release.wait(WAIT_S)

        server = fake_serving(on_predict)
        client = ServingClient(ServingOptions(server.target, max_in_flight=3, patience_s=6000))

        def predict(number):
            with pytest.raises(ServingError, match="the connection was closed") as caught:
                client.predict(FC6_FEATURES, clips_of(number))
            ended.append((type(caught.value), caught.value.code))

        threads = [threading.Thread(target=predict, args=(number,)) for number in range(6)]
        for thread in threads[:3]:
            thread.start()
        wait_until(lambda: len(server.requests) == 3)
        for thread in threads[3:]:
            thread.start()
        refuse.set()
        wait_until(lambda: client.patience.pause_ends > time.perf_counter())
        client.close()
        for thread in threads:
            thread.join(WAIT_S)
        release.set()
        assert ended == [(ServingError, "CANCELLED")] * 6
        assert len(server.requests) == 3
        assert client.concurrency.in_flight == 0

    def test_close_can_be_repeated_and_later_requests_fail(self, fake_serving):
        client = ServingClient(ServingOptions(fake_serving().target))
        client.predict(FC6_FEATURES, clips_of(0))
        client.close()
        client.close()
        for request in (client.versions, lambda: client.predict(FC6_FEATURES, clips_of(0))):
            with pytest.raises(ServingError, match="the connection was closed"):
                request()
        assert client.concurrency.in_flight == 0

    def test_client_cannot_be_used_in_a_forked_process(self, fake_serving):
        code = f"""
import os
from c3d_client import ServingOptions, UsageError
from c3d_client.serving.client import ServingClient
client = ServingClient(ServingOptions({fake_serving().target!r}))
client.versions()
if os.fork() == 0:
    try:
        client.versions()
    except UsageError as error:
        print(error, flush=True)
    client.close()
    os._exit(0)
os.wait()
print(len(client.versions()))
"""
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=True,
        )
        child, parent = process.stdout.splitlines()
        assert "before this process was forked; make a client in each process" in child
        assert parent == "1"
