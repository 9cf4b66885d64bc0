"""The conversation: what is there, one batch, and many with several on their way."""

import threading

import grpc
import numpy as np
import pytest
from c3d_client.core.contract import CLASSIFY, CLIP_SHAPE, FC6_FEATURES, MODEL_CARD
from c3d_client.core.errors import (
    ContractMismatch,
    ModelNotFound,
    RequestRejected,
    ServingUnavailable,
    UsageError,
)
from c3d_client.serving.client import ServingClient, VersionStatus
from c3d_client.serving.options import ServingOptions
from support.fake_serving import clips_of, plain_output
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

WAIT_S = 30  # for what happens at once unless the code is wrong


@pytest.fixture
def connect():
    """A ServingClient of a target, closed after the test."""
    opened = []

    def open_client(target, **changes):
        opened.append(ServingClient(ServingOptions(target, **changes)))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


class TestWhatIsThere:
    def test_a_sound_server_is_healthy_and_has_the_version(self, connect, narrow_server):
        client = connect(narrow_server.target)
        assert client.health() == "SERVING"
        assert client.versions() == (VersionStatus(narrow_server.version, "AVAILABLE", ""),)

    def test_a_server_without_a_health_service_says_so(self, connect, fake_serving):
        assert connect(fake_serving().target).health() == "UNIMPLEMENTED"

    def test_versions_come_in_the_servers_order_with_their_errors(self, connect, fake_serving):
        server = fake_serving()
        server.statuses = get_model_status_pb2.GetModelStatusResponse()
        server.statuses.model_version_status.add(version=3, state=20)
        failed = server.statuses.model_version_status.add(version=2, state=50)
        failed.status.error_code, failed.status.error_message = 5, "Could not find variable"
        assert connect(server.target).versions() == (
            VersionStatus(3, "LOADING", ""),
            VersionStatus(2, "END", "Could not find variable"),
        )

    def test_another_model_or_version_is_not_found(self, connect, narrow_server):
        for changes in ({"model": "other"}, {"version": 99}):
            client = connect(narrow_server.target, **changes)
            for ask in (client.versions, client.model_info):
                with pytest.raises(ModelNotFound, match="NOT_FOUND"):
                    ask()

    def test_nobody_at_the_address_is_unavailable_whatever_is_asked(self, connect, nobody):
        client = connect(nobody, retries=1)
        for ask in (client.health, client.versions, client.model_info):
            with pytest.raises(ServingUnavailable):
                ask()


class TestOneBatch:
    def test_is_answered_row_by_row(self, connect, fake_serving):
        server = fake_serving(version=5)
        answer = connect(server.target).predict(FC6_FEATURES, clips_of(3, 7))
        assert answer.output.shape == (2, 4096)
        assert answer.output[:, 0].tolist() == [4.0, 8.0]
        assert answer.version == 5
        assert answer.latency_s > 0
        assert (answer.queue_s, answer.compute_s) == (None, None)

    def test_of_our_server_comes_with_its_times(self, connect, narrow_server):
        answer = connect(narrow_server.target).predict(CLASSIFY, clips_of(0))
        assert answer.queue_s >= 0
        assert 0 < answer.compute_s < answer.latency_s

    def test_names_the_model_the_version_and_the_signature(self, connect, fake_serving):
        server = fake_serving(version=4)
        connect(server.target, version=4).predict(CLASSIFY, clips_of(0))
        spec = server.requests[0].model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("c3d", 4, "classify")

    def test_may_name_a_label_and_the_version_is_the_answers(self, connect, fake_serving):
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

    def test_carries_the_clips_as_bytes(self, connect, fake_serving):
        server = fake_serving()
        connect(server.target).predict(FC6_FEATURES, clips_of(1, 2))
        assert server.requests[0].inputs["clips"].tensor_content == clips_of(1, 2).tobytes()

    @pytest.mark.parametrize(
        "shape",
        [(0, *CLIP_SHAPE), CLIP_SHAPE, (1, 16, 112, 112, 1), (1, 8, 112, 112, 3), (1,), ()],
        ids=str,
    )
    def test_of_another_shape_never_leaves_the_process(self, connect, fake_serving, shape):
        server = fake_serving()
        with pytest.raises(UsageError, match=r"fc6_features takes \[n,16,112,112,3\]"):
            connect(server.target).predict(FC6_FEATURES, np.zeros(shape, np.uint8))
        assert server.requests == []

    def test_of_another_dtype_is_refused_by_the_server(self, connect, narrow_server):
        client = connect(narrow_server.target)
        with pytest.raises(RequestRejected, match="to be uint8 but float is provided"):
            client.predict(FC6_FEATURES, clips_of(1).astype(np.float32))

    @pytest.mark.parametrize(
        ("output", "words"),
        [
            (np.ones((3, 4096), np.float32), r"answered 2 rows with shape \[3, 4096\]"),
            (np.ones((1, 4096), np.float32), r"answered 2 rows with shape \[1, 4096\]"),
            (np.ones((2, 2048), np.float32), r"answered 2 rows with shape \[2, 2048\]"),
            (np.ones(2, np.float32), r"answered 2 rows with shape \[2\]"),
            (np.ones((2, 4096), np.float64), "answered with dtype DOUBLE, expected FLOAT"),
            (np.ones((2, 4096), np.float16), "answered with .*dtype.* 19"),
        ],
    )
    def test_answered_with_another_tensor_is_a_mismatch(self, connect, fake_serving, output, words):
        server = fake_serving(lambda *_: output)
        with pytest.raises(ContractMismatch, match=words) as caught:
            connect(server.target).predict(FC6_FEATURES, clips_of(1, 2))
        assert caught.value.target == server.target

    def test_answered_without_the_output_is_a_mismatch(self, connect, fake_serving):
        server = fake_serving(lambda *_: predict_pb2.PredictResponse())
        with pytest.raises(ContractMismatch, match="answered without 'features'"):
            connect(server.target).predict(FC6_FEATURES, clips_of(1))

    def test_whose_answer_does_not_fill_its_shape_is_a_mismatch(self, connect, fake_serving):
        def on_predict(request, rows, _context):
            response = server.respond(request, plain_output("fc6_features", rows))
            response.outputs["features"].ClearField("float_val")
            response.outputs["features"].tensor_content = b"\0" * 12
            return response

        server = fake_serving(on_predict)
        with pytest.raises(ContractMismatch, match="holds 12 bytes"):
            connect(server.target).predict(FC6_FEATURES, clips_of(1))

    def test_may_be_the_model_cards(self, connect, narrow_server):
        answer = connect(narrow_server.target).predict(MODEL_CARD, np.zeros(1, np.int32))
        assert answer.output.shape == (1,)
        assert answer.output[0].startswith(b"{")


class TestManyBatches:
    def test_answers_come_in_the_order_of_the_batches(self, connect, fake_serving):
        client = connect(fake_serving().target, max_in_flight=3)
        answers = client.stream(FC6_FEATURES, (clips_of(n) for n in range(10)))
        assert [answer.output[0, 0] for answer in answers] == [n + 1 for n in range(10)]

    def test_answers_keep_that_order_when_the_server_does_not(self, connect, fake_serving):
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

    @pytest.mark.parametrize("window", [1, 3])
    def test_as_many_are_on_their_way_as_the_window_holds(self, connect, fake_serving, window):
        # The server answers nobody before the window is full: fewer at once would time out here.
        together = threading.Barrier(window)

        def on_predict(*_):
            together.wait(WAIT_S)

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=window)
        batches = (clips_of(n) for n in range(2 * window))
        assert len(list(client.stream(FC6_FEATURES, batches))) == 2 * window
        assert server.most_at_once == window

    def test_batches_are_made_one_ahead_of_the_window_and_no_further(self, connect, fake_serving):
        made = []

        def batches():
            for number in range(100):
                made.append(number)
                yield clips_of(number)

        server = fake_serving()
        answers = connect(server.target, max_in_flight=2).stream(FC6_FEATURES, batches())
        assert made == []
        for taken in range(1, 5):
            next(answers)
            assert taken <= len(made) <= taken + 2
        answers.close()
        assert len(server.requests) <= len(made)

    def test_no_batches_are_no_answers_and_no_requests(self, connect, fake_serving):
        server = fake_serving()
        assert list(connect(server.target).stream(FC6_FEATURES, iter(()))) == []
        assert server.requests == []

    def test_a_failure_cancels_those_behind_it(self, connect, fake_serving):
        waiting, cancelled = threading.Semaphore(0), threading.Semaphore(0)

        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 0:
                for _ in range(2):  # the others are here
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

    def test_a_failing_maker_of_batches_cancels_those_on_their_way(self, connect, fake_serving):
        here, cancelled = threading.Event(), threading.Event()

        def on_predict(_request, _rows, context):
            context.add_callback(cancelled.set)
            here.set()
            cancelled.wait(WAIT_S)

        def batches():
            yield clips_of(0)
            assert here.wait(WAIT_S)
            raise RuntimeError("the film is torn")

        client = connect(fake_serving(on_predict).target)
        with pytest.raises(RuntimeError, match="torn"):
            list(client.stream(FC6_FEATURES, batches()))
        assert cancelled.wait(WAIT_S)

    def test_one_refused_batch_is_sent_again_and_nothing_is_lost(self, connect, fake_serving):
        refused = threading.Event()

        def on_predict(_request, rows, context):
            if rows[0, 0, 0, 0, 0] == 2 and not refused.is_set():
                refused.set()
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")

        server = fake_serving(on_predict)
        client = connect(server.target, max_in_flight=2)
        answers = client.stream(FC6_FEATURES, (clips_of(n) for n in range(6)))
        assert [answer.output[0, 0] for answer in answers] == [1, 2, 3, 4, 5, 6]
        assert len(server.requests) == 7
