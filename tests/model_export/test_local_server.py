"""The local server over real gRPC, with the official messages: right responses, and refusals with
TensorFlow Serving's codes and messages.
"""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from c3d_export.graph import GraphServable
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.framework.types_pb2 import DT_RESOURCE
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

INVALID, NOT_FOUND, PRECONDITION = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)
TIMEOUT_S = 60
ONE = tf.TensorShape([1]).as_proto()


@pytest.fixture(scope="module")
def stub(narrow_channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(narrow_channel)


@pytest.fixture(scope="module")
def expected(narrow_base, clips):
    with GraphServable(narrow_base / "1") as servable:
        return servable.run("fc6_features", {"clips": clips})["features"]


def predict_request(
    inputs, *, signature="fc6_features", name="c3d", outputs=(), version=None, label=None
):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for alias, value in inputs.items():
        is_array = isinstance(value, np.ndarray | np.generic)
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value) if is_array else value)
    return request


def grey(rows=1, shape=(16, 112, 112, 3), dtype=np.uint8):
    """Return a tensor that is small on the wire: one value and the shape to repeat it in."""
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum, int_val=[128])
    for size in (rows, *shape):
        proto.tensor_shape.dim.add().size = size
    return proto


def truncated(clips):
    proto = tf.make_tensor_proto(clips)
    proto.tensor_content = proto.tensor_content[:-1]
    return proto


class TestResponses:
    def test_features_are_the_servables(self, stub, clips, expected):
        response = stub.Predict(predict_request({"clips": clips}), timeout=TIMEOUT_S)
        features = tf.make_ndarray(response.outputs["features"])
        assert features.dtype == np.float32
        assert features == pytest.approx(expected, rel=1e-5, abs=1e-5)

    def test_clips_may_be_bytes_or_single_values(self, stub, clips, expected):
        as_bytes = tf.make_tensor_proto(clips[:1])
        assert as_bytes.tensor_content
        as_values = tensor_pb2.TensorProto(dtype=as_bytes.dtype, tensor_shape=as_bytes.tensor_shape)
        as_values.int_val.extend(clips[:1].reshape(-1).tolist())
        for proto in (as_bytes, as_values):
            response = stub.Predict(predict_request({"clips": proto}), timeout=TIMEOUT_S)
            features = tf.make_ndarray(response.outputs["features"])
            assert features == pytest.approx(expected[:1], rel=1e-5, abs=1e-5)

    def test_last_value_is_repeated_over_the_shape(self, stub):
        every_value = np.full((2, 16, 112, 112, 3), 128, np.uint8)
        features = [
            tf.make_ndarray(
                stub.Predict(predict_request({"clips": clips}), timeout=TIMEOUT_S).outputs[
                    "features"
                ]
            )
            for clips in (every_value, grey(2))
        ]
        assert np.array_equal(*features)

    def test_values_wrap_around_and_surplus_values_are_dropped(self, stub):
        def features(*values):
            tensor = grey(1)
            tensor.int_val[:] = values
            response = stub.Predict(predict_request({"clips": tensor}), timeout=TIMEOUT_S)
            return tf.make_ndarray(response.outputs["features"])

        shape = 16 * 112 * 112 * 3
        assert np.array_equal(features(300), features(44))
        assert np.array_equal(features(-1), features(255))
        assert np.array_equal(features(*[9] * shape, 200), features(9))

    def test_largest_batch_is_computed(self, stub):
        response = stub.Predict(predict_request({"clips": grey(32)}), timeout=TIMEOUT_S)
        assert len(response.outputs["features"].float_val) == 32 * 4096

    def test_floats_are_in_float_val_as_from_a_server_without_options(self, stub, clips):
        response = stub.Predict(predict_request({"clips": clips[:2]}), timeout=TIMEOUT_S)
        tensor = response.outputs["features"]
        assert not tensor.tensor_content
        assert len(tensor.float_val) == 2 * 4096
        assert [dim.size for dim in tensor.tensor_shape.dim] == [2, 4096]

    def test_model_card_is_in_string_val(self, stub):
        message = predict_request({"n": np.zeros(1, np.int32)}, signature="model_card")
        tensor = stub.Predict(message, timeout=TIMEOUT_S).outputs["json"]
        assert not tensor.tensor_content
        assert len(tensor.string_val) == 1
        assert tensor.string_val[0].startswith(b"{")

    def test_response_names_model_version_and_signature(self, stub):
        for requested, used in (
            ("", "serving_default"),
            ("classify", "classify"),
            ("fc7_features", "fc7_features"),
        ):
            message = predict_request({"clips": grey()}, signature=requested)
            spec = stub.Predict(message, timeout=TIMEOUT_S).model_spec
            assert (spec.name, spec.version.value, spec.signature_name) == ("c3d", 1, used)
            assert not spec.version_label, requested

    def test_version_may_be_requested_by_number(self, stub):
        response = stub.Predict(predict_request({"clips": grey()}, version=1), timeout=TIMEOUT_S)
        assert response.model_spec.version.value == 1

    def test_response_has_the_requested_outputs(self, stub):
        message = predict_request(
            {"clips": grey()}, signature="classify", outputs=["probabilities"]
        )
        assert list(stub.Predict(message, timeout=TIMEOUT_S).outputs) == ["probabilities"]

    def test_trailers_have_queueing_and_computing_times(self, stub):
        _, call = stub.Predict.with_call(predict_request({"clips": grey()}), timeout=TIMEOUT_S)
        trailers = dict(call.trailing_metadata())
        assert float(trailers["c3d-queue-s"]) >= 0
        assert float(trailers["c3d-compute-s"]) > 0

    def test_concurrent_clients_get_their_own_responses(self, narrow_server, clips, expected):
        def client(number):
            row = number % len(clips)
            with grpc.insecure_channel(narrow_server.target) as channel:
                predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
                message = predict_request({"clips": clips[row : row + 1]})
                tensors = [
                    predict(message, timeout=TIMEOUT_S).outputs["features"] for _ in range(3)
                ]
            return row, [tf.make_ndarray(tensor)[0] for tensor in tensors]

        with ThreadPoolExecutor(6) as clients:
            for row, features in clients.map(client, range(6)):
                for feature in features:
                    assert feature == pytest.approx(expected[row], rel=1e-4, abs=1e-4)
        # Otherwise a mix-up would not show.
        assert not np.allclose(expected[0], expected[1], rtol=1e-2)


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
    "no name": (predict_request({}, name=""), INVALID, "ModelSpec has no name specified."),
    "unknown model": (
        predict_request({}, name="i3d"),
        NOT_FOUND,
        "Servable not found for request: Latest(i3d)",
    ),
    "unknown version": (
        predict_request({}, version=7),
        NOT_FOUND,
        "Servable not found for request: Specific(c3d, 7)",
    ),
    "unknown version of an unknown model": (
        predict_request({}, name="i3d", version=7),
        NOT_FOUND,
        "Servable not found for request: Specific(i3d, 7)",
    ),
    "unknown label": (
        predict_request({}, label="stable"),
        INVALID,
        "Unrecognized servable version label: stable",
    ),
    "unknown signature": (
        predict_request({}, signature="fc9"),
        PRECONDITION,
        'Serving signature key "fc9" not found.',
    ),
    "no inputs": (predict_request({}), INVALID, CLIPS_MISSING),
    "one input too many": (
        predict_request({"clips": grey(), "mask": grey()}),
        INVALID,
        TWO_FOR_ONE,
    ),
    "a malformed tensor": (
        predict_request({"clips": truncated(np.zeros((1, 16, 112, 112, 3), np.uint8))}),
        INVALID,
        "tensor parsing error: clips",
    ),
    "a tensor without a dtype": (
        predict_request({"clips": tensor_pb2.TensorProto()}),
        INVALID,
        "tensor parsing error: clips",
    ),
    "a negative shape": (
        predict_request({"clips": grey(-1)}),
        INVALID,
        "tensor parsing error: clips",
    ),
    "more than memory": (
        predict_request({"clips": grey(10**9)}),
        INVALID,
        "tensor parsing error: clips",
    ),
    "an unknown output": (
        predict_request({"clips": grey()}, outputs=["fc9"]),
        INVALID,
        "output tensor alias not found in signature: fc9 "
        "Outputs expected to be in the set {features}.",
    ),
    "duplicate output": (
        predict_request({"clips": grey()}, outputs=["features", "features"]),
        INVALID,
        "duplicate output tensor alias: features",
    ),
    "another dtype": (
        predict_request({"clips": np.zeros((1, 16, 112, 112, 3), np.float32)}),
        INVALID,
        "Expects arg[0] to be uint8 but float is provided",
    ),
    "a double": (
        predict_request({"clips": np.zeros((1, 16, 112, 112, 3), np.float64)}),
        INVALID,
        "Expects arg[0] to be uint8 but double is provided",
    ),
    "a half": (
        predict_request({"clips": np.zeros((1, 16, 112, 112, 3), np.float16)}),
        INVALID,
        "Expects arg[0] to be uint8 but half is provided",
    ),
    "a resource": (
        predict_request({"clips": tensor_pb2.TensorProto(dtype=DT_RESOURCE, tensor_shape=ONE)}),
        INVALID,
        "Expects arg[0] to be uint8 but resource is provided",
    ),
    "a resource of bytes that are no handle": (
        predict_request(
            {
                "clips": tensor_pb2.TensorProto(
                    dtype=DT_RESOURCE, tensor_shape=ONE, tensor_content=b"no"
                )
            }
        ),
        INVALID,
        "tensor parsing error: clips",
    ),
    "more rows than a batch": (
        predict_request({"clips": grey(33)}),
        INVALID,
        "Task size 33 is larger than maximum input batch size 32",
    ),
    "more cards than a batch": (
        predict_request({"n": np.zeros(487, np.int32)}, signature="model_card"),
        INVALID,
        "Task size 487 is larger than maximum input batch size 32",
    ),
    "no rows": (
        predict_request({"clips": grey(0)}),
        INVALID,
        "the request has no rows; TensorFlow Serving with batching never answers such a request, "
        "until its deadline",
    ),
    "a scalar": (
        predict_request({"n": np.int32(1)}, signature="model_card"),
        INVALID,
        "Batching Run() input tensors must have at least one dimension",
    ),
    "the signature of the load": (
        predict_request({}, signature="__saved_model_init_op"),
        INVALID,
        "Batching Run() must have at least one input tensor",
    ),
    "a long for the card": (
        predict_request({"n": np.zeros(1, np.int64)}, signature="model_card"),
        INVALID,
        "Expects arg[0] to be int32 but int64 is provided",
    ),
}


class TestRefusals:
    def test_codes_and_details_are_tensorflow_servings(self, stub, refusal):
        for kind, (message, code, details) in REFUSALS.items():
            assert refusal(stub.Predict, message) == (code, details), kind

    def test_missing_input_is_named(self, stub, refusal):
        code, details = refusal(stub.Predict, predict_request({"video": grey()}))
        assert code == INVALID
        assert details.startswith(
            "Signature input alias: clips(feed name: fc6_features_clips:0) not "
        )
        assert details.endswith(
            "no default value provided. Inputs expected to be in the request "
            "{video}, or default input alias set: "
        )

    def test_another_shape_is_refused_by_the_kernels(self, stub, refusal):
        for shape in ((16, 112, 112, 4), (16, 128, 171, 3), (8, 112, 112, 3), (16, 112, 3)):
            code, details = refusal(stub.Predict, predict_request({"clips": grey(2, shape)}))
            assert code == INVALID, shape
            assert "Incompatible shapes" in details, shape

    def test_request_after_a_refusal_is_computed(self, stub, refusal, clips, expected):
        refusal(stub.Predict, predict_request({"clips": grey(1, (16, 112, 112, 4))}))
        response = stub.Predict(predict_request({"clips": clips}), timeout=TIMEOUT_S)
        features = tf.make_ndarray(response.outputs["features"])
        assert features == pytest.approx(expected, rel=1e-5, abs=1e-5)
