"""Channel and Call: timeout, retries, and the error of each gRPC code."""

import contextlib
import http.server
import threading

import grpc
import numpy as np
import pytest
from c3d_client.core import errors
from c3d_client.core.contract import FC6_FEATURES
from c3d_client.serving import channel, patience
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.channel import Channel
from c3d_client.serving.messages import predict_request
from c3d_client.serving.options import ServingOptions
from support.fake_serving import clips_of
from support.processes import LONG_S, wait_until

PREDICT = "/tensorflow.serving.PredictionService/Predict"

# gRPC code -> error, and whether the request is retried.
EXPECTED = {
    "CANCELLED": (errors.ServingError, True),
    "UNKNOWN": (errors.ServingError, False),
    "INVALID_ARGUMENT": (errors.RequestRejected, False),
    "DEADLINE_EXCEEDED": (errors.ServingTimeout, True),
    "NOT_FOUND": (errors.ModelNotFound, False),
    "ALREADY_EXISTS": (errors.ServingError, False),
    "PERMISSION_DENIED": (errors.ServingError, False),
    "RESOURCE_EXHAUSTED": (errors.ServingOverloaded, True),
    "FAILED_PRECONDITION": (errors.RequestRejected, False),
    "ABORTED": (errors.ServingError, False),
    "OUT_OF_RANGE": (errors.ServingError, False),
    "UNIMPLEMENTED": (errors.ContractMismatch, False),
    "INTERNAL": (errors.ServingError, False),
    "UNAVAILABLE": (errors.ServingUnavailable, True),
    "DATA_LOSS": (errors.ServingError, False),
    "UNAUTHENTICATED": (errors.ServingError, False),
}
# Messages of TensorFlow Serving.
QUEUE_FULL = (
    "The batch scheduling queue to which this task was submitted is full; currently 64 batches "
    "enqueued and max_enqueued_batches is 64"
)
NO_LABEL = "Unrecognized servable version label: stable"


@contextlib.contextmanager
def sent(target, *, connected=False, **changes):
    """Send one clip and return the call.

    Args:
        connected: as if the server had answered before: the patience begins with the first
            failure, so that there is a second attempt, however long the first one takes.
    """
    options = ServingOptions(**{"target": target, "timeout_s": 60, "patience_s": 0.4, **changes})
    connection = Channel(options)
    spec = wire.ModelSpec(name=options.model, signature_name=FC6_FEATURES.name)
    request = predict_request(spec, "clips", clips_of(0))
    try:
        connection.patience.has_answered = connected
        yield connection.send(PREDICT, request, wire.PredictResponse)
    finally:
        connection.close()


def predict(target, **options):
    """Send one clip and wait for the answer."""
    with sent(target, **options) as call:
        return call.result()


def failing(code, details="message of the server"):
    def on_predict(_request, _rows, context):
        context.abort(grpc.StatusCode[code], details)

    return on_predict


def test_every_grpc_code_has_an_expectation():
    assert set(EXPECTED) | {"OK"} == {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("code", EXPECTED)
def test_grpc_code_becomes_its_error_after_all_attempts(fake_serving, code):
    kind, retried = EXPECTED[code]
    server = fake_serving(failing(code, "message of the server\non two lines"))
    with pytest.raises(errors.ServingError) as caught:
        predict(server.target, connected=True)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.target == server.target
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    message = str(caught.value)
    assert message.startswith(f"{server.target}: ")
    assert message.endswith(f"[{code}: message of the server on two lines]")
    assert "\n" not in message
    assert (len(server.requests) > 1) is retried


@pytest.mark.parametrize(
    ("code", "details", "kind", "retried"),
    [
        ("UNAVAILABLE", QUEUE_FULL, errors.ServingOverloaded, True),
        ("UNAVAILABLE", "failed to connect to queue-1.test:8500", errors.ServingUnavailable, True),
        ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted", errors.ServingOverloaded, True),
        ("INVALID_ARGUMENT", NO_LABEL, errors.ModelNotFound, False),
    ],
)
def test_server_message_decides_where_the_code_is_ambiguous(
    fake_serving, code, details, kind, retried
):
    server = fake_serving(failing(code, details))
    with pytest.raises(errors.ServingError) as caught:
        predict(server.target, connected=True)
    assert type(caught.value) is kind
    assert (len(server.requests) > 1) is retried


def test_error_without_details(fake_serving):
    with pytest.raises(errors.ServingError, match=r"\[ABORTED: no details\]"):
        predict(fake_serving(failing("ABORTED", "")).target)


def test_third_attempt_succeeds(fake_serving):
    def on_predict(_request, _rows, context):
        if len(server.requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, QUEUE_FULL)

    server = fake_serving(on_predict)
    assert set(predict(server.target, patience_s=LONG_S).outputs) == {"features"}
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[1] == server.requests[2]


def test_without_retries_there_is_one_attempt(fake_serving):
    server = fake_serving(failing("UNAVAILABLE"))
    with pytest.raises(errors.ServingUnavailable):
        predict(server.target, patience_s=0)
    assert len(server.requests) == 1


def test_pauses_grow_up_to_the_longest_and_are_never_near_zero(monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.25)
    for failures, longest_s in enumerate((0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0), 1):
        pauses = [patience.pause_s(failures) for _ in range(200)]
        assert longest_s / 2 <= min(pauses) < 0.6 * longest_s, failures
        assert 0.9 * longest_s < max(pauses) <= longest_s, failures
    # A float overflows after a thousand doublings: an hour of pauses of 5 s.
    assert patience.pause_s(100_000) <= 5


def test_no_answer_within_the_timeout(fake_serving):
    release = threading.Event()
    server = fake_serving(lambda *_: release.wait(LONG_S) and None)
    patient = {"timeout_s": 0.2, "patience_s": 0.5, "connected": True}
    try:
        with (
            sent(server.target, **patient) as call,
            pytest.raises(errors.ServingTimeout, match=r"no answer within 0\.2 s") as caught,
        ):
            call.result()
    finally:
        release.set()
    # Attempts of 0.2 s until 0.5 s after the first are over.
    assert 2 <= call.attempts <= 4
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_address_without_a_server_is_unavailable(closed_port):
    with pytest.raises(errors.ServingUnavailable, match="no server answers") as caught:
        predict(closed_port)
    assert (caught.value.target, caught.value.code) == (closed_port, "UNAVAILABLE")


def test_answers_may_be_larger_than_grpcs_default_of_4_mb(fake_serving):
    server = fake_serving(lambda *_: np.ones((1, 1_200_000), np.float32))
    response = predict(server.target)
    assert response.ByteSize() > 4 * 2**20


def test_message_that_is_too_large_is_not_retried(fake_serving):
    server = fake_serving(options=[("grpc.max_receive_message_length", 9999)])
    with (
        sent(server.target, connected=True) as call,
        pytest.raises(errors.RequestRejected, match="give a smaller batch_size") as caught,
    ):
        call.result()
    assert call.attempts == 1
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_http_port_is_not_a_grpc_port():
    server = http.server.HTTPServer(("127.0.0.1", 0), _Quiet)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        with pytest.raises(errors.ServingUnavailable, match="this is not a gRPC port"):
            predict(f"127.0.0.1:{server.server_port}", patience_s=LONG_S)
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing on standard error."""


def test_restarted_server_is_found_after_its_return(fake_serving, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.4)
    first = fake_serving()
    first.stop()
    with sent(first.target, patience_s=LONG_S) as call:
        wait_until(lambda: call.is_pausing)
        fake_serving(port=first.port)
        assert set(call.result().outputs) == {"features"}
    assert call.attempts > 1


def test_pings_are_rare_messages_may_be_large_and_connections_are_tried_again_soon():
    options = dict(channel._CHANNEL_OPTIONS)
    # By default the pause is 1 s at first and two minutes at last.
    assert options["grpc.initial_reconnect_backoff_ms"] <= 100
    assert options["grpc.max_reconnect_backoff_ms"] <= 2000
    # TensorFlow Serving answers pings more often than every 300 s with GOAWAY.
    assert options["grpc.keepalive_time_ms"] >= 300_000
    assert options["grpc.max_receive_message_length"] == -1
    assert options["grpc.max_send_message_length"] == -1


def test_missing_model_is_named_with_its_label(fake_serving):
    server = fake_serving(failing("INVALID_ARGUMENT", NO_LABEL))
    with pytest.raises(errors.ModelNotFound, match="does not have model 'c3d' label 'stable'"):
        predict(server.target, label="stable")


def test_missing_model_is_named_with_its_version(fake_serving):
    server = fake_serving(failing("NOT_FOUND"))
    with pytest.raises(errors.ModelNotFound, match="does not have model 'other' version 7"):
        predict(server.target, model="other", version=7)


def test_times_in_the_trailing_metadata_are_read(fake_serving):
    def on_predict(_request, _rows, context):
        context.set_trailing_metadata((("c3d-compute-s", "0.125"),))

    server = fake_serving(on_predict)
    connection = Channel(ServingOptions(server.target))
    spec = wire.ModelSpec(name="c3d", signature_name=FC6_FEATURES.name)
    request = predict_request(spec, "clips", clips_of(0))
    call = connection.send(PREDICT, request, wire.PredictResponse)
    call.result()
    assert call.trailer_s("c3d-compute-s") == 0.125
    assert call.trailer_s("c3d-queue-s") is None
    assert call.latency_s > 0
    connection.close()
