"""The local server's answers, over real gRPC and the official messages: right, or refused in
TensorFlow Serving's words."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from c3d_export.graph import GraphServable
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

INVALID, NOT_FOUND, PRECONDITION = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def stub(narrow_channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(narrow_channel)


@pytest.fixture(scope="module")
def expected(narrow_base, clips):
    with GraphServable(narrow_base / "1") as servable:
        return servable.run("fc6_features", {"clips": clips})["features"]


def request(inputs, *, signature="fc6_features", name="c3d", outputs=(), **version):
    made = predict_pb2.PredictRequest(output_filter=outputs)
    made.model_spec.name = name
    made.model_spec.signature_name = signature
    for key, value in version.items():
        spec = made.model_spec
        spec.version.value = value if key == "version" else 0
        if key == "label":
            spec.version_label = value
    for alias, value in inputs.items():
        array = isinstance(value, np.ndarray)
        made.inputs[alias].CopyFrom(tf.make_tensor_proto(value) if array else value)
    return made


def grey(rows=1, shape=(16, 112, 112, 3), dtype=np.uint8):
    """A request's tensor that is small on the wire: one value, and the shape to repeat it in."""
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum, int_val=[128])
    for size in (rows, *shape):
        proto.tensor_shape.dim.add().size = size
    return proto


def damaged(clips):
    proto = tf.make_tensor_proto(clips)
    proto.tensor_content = proto.tensor_content[:-1]
    return proto


class TestAnswers:
    def test_are_those_of_the_servable(self, stub, clips, expected):
        response = stub.Predict(request({"clips": clips}), timeout=TIMEOUT_S)
        features = tf.make_ndarray(response.outputs["features"])
        assert features.dtype == np.float32
        assert features == pytest.approx(expected, rel=1e-5, abs=1e-5)

    def test_are_the_same_for_clips_as_bytes_and_as_single_values(self, stub, clips, expected):
        as_bytes = tf.make_tensor_proto(clips[:1])
        assert as_bytes.tensor_content
        as_values = tensor_pb2.TensorProto(dtype=as_bytes.dtype, tensor_shape=as_bytes.tensor_shape)
        as_values.int_val.extend(clips[:1].reshape(-1).tolist())
        for proto in (as_bytes, as_values):
            response = stub.Predict(request({"clips": proto}), timeout=TIMEOUT_S)
            features = tf.make_ndarray(response.outputs["features"])
            assert features == pytest.approx(expected[:1], rel=1e-5, abs=1e-5)

    def test_repeat_the_last_value_over_the_shape(self, stub):
        whole = np.full((2, 16, 112, 112, 3), 128, np.uint8)
        one, other = (
            tf.make_ndarray(
                stub.Predict(request({"clips": c}), timeout=TIMEOUT_S).outputs["features"]
            )
            for c in (whole, grey(2))
        )
        assert np.array_equal(one, other)

    def test_come_in_float_val_as_from_a_server_without_options(self, stub, clips):
        response = stub.Predict(request({"clips": clips[:2]}), timeout=TIMEOUT_S)
        tensor = response.outputs["features"]
        assert not tensor.tensor_content
        assert len(tensor.float_val) == 2 * 4096
        assert [dim.size for dim in tensor.tensor_shape.dim] == [2, 4096]

    def test_of_the_model_card_come_in_string_val(self, stub):
        one = request({"n": np.zeros(1, np.int32)}, signature="model_card")
        tensor = stub.Predict(one, timeout=TIMEOUT_S).outputs["json"]
        assert not tensor.tensor_content
        assert len(tensor.string_val) == 1
        assert tensor.string_val[0].startswith(b"{")

    @pytest.mark.parametrize(
        ("asked", "answered"),
        [("", "serving_default"), ("classify", "classify"), ("fc7_features", "fc7_features")],
    )
    def test_say_which_model_version_and_signature_gave_them(self, stub, asked, answered):
        spec = stub.Predict(
            request({"clips": grey()}, signature=asked), timeout=TIMEOUT_S
        ).model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("c3d", 1, answered)
        assert not spec.version_label

    def test_may_be_asked_of_a_version_by_its_number(self, stub):
        response = stub.Predict(request({"clips": grey()}, version=1), timeout=TIMEOUT_S)
        assert response.model_spec.version.value == 1

    def test_hold_the_outputs_that_are_asked_for(self, stub):
        one = request({"clips": grey()}, signature="classify", outputs=["probabilities"])
        assert list(stub.Predict(one, timeout=TIMEOUT_S).outputs) == ["probabilities"]

    def test_tell_waiting_from_computing(self, stub):
        _, call = stub.Predict.with_call(request({"clips": grey()}), timeout=TIMEOUT_S)
        trailers = dict(call.trailing_metadata())
        assert float(trailers["c3d-queue-s"]) >= 0
        assert float(trailers["c3d-compute-s"]) > 0

    def test_go_to_the_client_that_asked(self, narrow_server, clips, expected):
        def client(number):
            row = number % len(clips)
            with grpc.insecure_channel(narrow_server.target) as own:
                ask = prediction_service_pb2_grpc.PredictionServiceStub(own).Predict
                one = request({"clips": clips[row : row + 1]})
                answers = [ask(one, timeout=TIMEOUT_S).outputs["features"] for _ in range(3)]
            return row, [tf.make_ndarray(answer)[0] for answer in answers]

        with ThreadPoolExecutor(6) as clients:
            for row, answers in clients.map(client, range(6)):
                for answer in answers:
                    assert answer == pytest.approx(expected[row], rel=1e-4, abs=1e-4)
        assert not np.allclose(expected[0], expected[1], rtol=1e-2)  # or any answer would do


CLIPS_MISSING = (
    "input size does not match signature: 0!=1 len({}) != len({clips}). "
    "Sent extra: {}. Missing but required: {clips}."
)
TWO_FOR_ONE = (
    "input size does not match signature: 2!=1 len({clips,mask}) != len({clips}). "
    "Sent extra: {mask}. Missing but required: {}."
)
REFUSALS = {
    "no model_spec": (predict_pb2.PredictRequest(), INVALID, "Missing ModelSpec"),
    "no name": (request({}, name=""), INVALID, "ModelSpec has no name specified."),
    "unknown model": (
        request({}, name="i3d"),
        NOT_FOUND,
        "Servable not found for request: Latest(i3d)",
    ),
    "unknown version": (
        request({}, version=7),
        NOT_FOUND,
        "Servable not found for request: Specific(c3d, 7)",
    ),
    "unknown version of an unknown model": (
        request({}, name="i3d", version=7),
        NOT_FOUND,
        "Servable not found for request: Specific(i3d, 7)",
    ),
    "unknown label": (
        request({}, label="stable"),
        INVALID,
        "Unrecognized servable version label: stable",
    ),
    "unknown signature": (
        request({}, signature="fc9"),
        PRECONDITION,
        'Serving signature key "fc9" not found.',
    ),
    "no inputs": (request({}), INVALID, CLIPS_MISSING),
    "an input too many": (request({"clips": grey(), "mask": grey()}), INVALID, TWO_FOR_ONE),
    "a malformed tensor": (
        request({"clips": damaged(np.zeros((1, 16, 112, 112, 3), np.uint8))}),
        INVALID,
        "tensor parsing error: clips",
    ),
    "a tensor without a dtype": (
        request({"clips": tensor_pb2.TensorProto()}),
        INVALID,
        "tensor parsing error: clips",
    ),
    "a negative shape": (request({"clips": grey(-1)}), INVALID, "tensor parsing error: clips"),
    "more than memory": (request({"clips": grey(10**9)}), INVALID, "tensor parsing error: clips"),
    "an unknown output": (
        request({"clips": grey()}, outputs=["fc9"]),
        INVALID,
        "output tensor alias not found in signature: fc9 "
        "Outputs expected to be in the set {features}.",
    ),
    "an output twice": (
        request({"clips": grey()}, outputs=["features", "features"]),
        INVALID,
        "duplicate output tensor alias: features",
    ),
    "another dtype": (
        request({"clips": np.zeros((1, 16, 112, 112, 3), np.float32)}),
        INVALID,
        "Expects arg[0] to be uint8 but float is provided",
    ),
    "a double": (
        request({"clips": np.zeros((1, 16, 112, 112, 3), np.float64)}),
        INVALID,
        "Expects arg[0] to be uint8 but double is provided",
    ),
    "a long for the card": (
        request({"n": np.zeros(1, np.int64)}, signature="model_card"),
        INVALID,
        "Expects arg[0] to be int32 but int64 is provided",
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("kind", REFUSALS)
    def test_are_tensorflow_servings(self, stub, refusal, kind):
        message, code, words = REFUSALS[kind]
        assert refusal(stub.Predict, message) == (code, words)

    def test_name_the_input_that_is_not_there(self, stub, refusal):
        code, words = refusal(stub.Predict, request({"video": grey()}))
        assert code == INVALID
        assert words.startswith(
            "Signature input alias: clips(feed name: fc6_features_clips:0) not "
        )
        assert words.endswith("no default value provided. Inputs expected to be in the request "
                              "{video}, or default input alias set: ")  # fmt: skip

    @pytest.mark.parametrize(
        "shape", [(16, 112, 112, 4), (16, 128, 171, 3), (8, 112, 112, 3), (16, 112, 3)]
    )
    def test_of_another_shape_are_the_kernels(self, stub, refusal, shape):
        code, words = refusal(stub.Predict, request({"clips": grey(2, shape)}))
        assert code == INVALID
        assert "Incompatible shapes" in words

    def test_of_a_value_that_is_no_byte_are_the_parsers(self, stub, refusal):
        loud = grey()
        loud.int_val[0] = 300
        assert refusal(stub.Predict, request({"clips": loud})) == (
            INVALID,
            "tensor parsing error: clips",
        )

    def test_do_not_disturb_the_next_request(self, stub, refusal, clips, expected):
        refusal(stub.Predict, request({"clips": grey(1, (16, 112, 112, 4))}))
        response = stub.Predict(request({"clips": clips}), timeout=TIMEOUT_S)
        features = tf.make_ndarray(response.outputs["features"])
        assert features == pytest.approx(expected, rel=1e-5, abs=1e-5)
