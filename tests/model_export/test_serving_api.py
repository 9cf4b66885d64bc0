"""TensorFlow Serving's checks and answers, without a gRPC server.

TensorFlow's own C++ code is asked for what it does: its parser of TensorProto through
``tf.io.parse_tensor``, and its session's check of dtypes through a session in this process.
"""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from c3d_export.serving_api import (
    Rejection,
    classify,
    model_metadata,
    model_status,
    multi_inference,
    parse_tensor,
    predict,
    predict_with,
    requested_version,
)
from support.bounded_queue import BoundedQueue
from support.fake_serving import signature_defs
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
)

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UINT8, INT32, HALF, STRING = (tf.uint8, tf.int32, tf.float16, tf.string)


def tensor(dtype, *shape, content=b"", **values):
    """Return a TensorProto; the dtype may be a number that TensorFlow does not have."""
    number = dtype if isinstance(dtype, int) else dtype.as_datatype_enum
    proto = tensor_pb2.TensorProto(dtype=number, tensor_content=content, **values)
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    return proto


def as_tensorflow_reads(proto):
    """Return what TensorFlow's parser makes of a TensorProto; None where it refuses."""
    try:
        return tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype))
    except (tf.errors.InvalidArgumentError, TypeError):
        return None


def assert_read_as_by_tensorflow(proto):
    expected = as_tensorflow_reads(proto)
    try:
        parsed = parse_tensor(proto)
    except ValueError:
        parsed = None
    assert (parsed is None) == (expected is None), proto
    if expected is None:
        return
    assert tf.as_dtype(parsed.dtype) == expected.dtype, proto
    assert tuple(parsed.shape) == tuple(expected.shape), proto
    if expected.dtype not in (tf.resource, tf.variant):
        assert np.asarray(parsed).tolist() == np.asarray(expected).tolist(), proto


class TestParser:
    def test_values_of_uint8_wrap_around(self):
        proto = tensor(UINT8, 4, int_val=[300, -1, 256, 255])
        assert parse_tensor(proto).tolist() == [44, 255, 0, 255]
        assert_read_as_by_tensorflow(proto)

    def test_surplus_values_are_dropped(self):
        proto = tensor(UINT8, 2, int_val=[1, 2, 3])
        assert parse_tensor(proto).tolist() == [1, 2]
        assert_read_as_by_tensorflow(proto)

    def test_last_value_is_repeated(self):
        proto = tensor(UINT8, 2, 2, int_val=[1, 2])
        assert parse_tensor(proto).tolist() == [[1, 2], [2, 2]]
        assert_read_as_by_tensorflow(proto)

    def test_no_value_is_zeros(self):
        proto = tensor(INT32, 3)
        assert parse_tensor(proto).tolist() == [0, 0, 0]
        assert_read_as_by_tensorflow(proto)

    def test_values_of_another_field_are_not_seen(self):
        proto = tensor(UINT8, 2, float_val=[7.0], int64_val=[7])
        assert parse_tensor(proto).tolist() == [0, 0]
        assert_read_as_by_tensorflow(proto)

    def test_bytes_win_over_values(self):
        proto = tensor(UINT8, 2, content=b"ab", int_val=[1, 2])
        assert parse_tensor(proto).tolist() == [97, 98]
        assert_read_as_by_tensorflow(proto)

    def test_bytes_of_another_length_are_refused(self):
        for content in (b"a", b"abc"):
            with pytest.raises(ValueError, match="does not fill"):
                parse_tensor(tensor(UINT8, 2, content=content))

    def test_bytes_of_an_empty_tensor_are_ignored(self):
        proto = tensor(UINT8, 0, 3, content=b"abc")
        assert parse_tensor(proto).shape == (0, 3)
        assert_read_as_by_tensorflow(proto)

    def test_shapes_are_refused_as_by_tensorflow(self):
        for shape, is_valid in (
            ((-1,), False),
            ((0, -1), False),
            ((-1, -1), False),
            ((-2, -3), False),
            ((2**40, 2**40), False),
            ((2**31, 2**31, 2), False),
            ((2**62, 4, 0), False),
            ((0, 2**40, 4), True),
            ((1,) * 64, True),
            ((0,) * 255, False),
        ):
            proto = tensor(UINT8, *shape)
            assert (as_tensorflow_reads(proto) is not None) == is_valid, shape
            assert_read_as_by_tensorflow(proto)

    def test_unknown_rank_is_a_scalar(self):
        proto = tensor(UINT8)
        proto.tensor_shape.unknown_rank = True
        assert parse_tensor(proto).shape == ()
        assert_read_as_by_tensorflow(proto)

    def test_every_dtype_is_read_as_by_tensorflow(self):
        """With values in every field, with bytes that are too few, and without values."""
        values = {
            **{"int_val": [3, -1], "float_val": [1.5], "double_val": [2.5], "int64_val": [-7]},
            **{"bool_val": [True], "string_val": [b"a"], "half_val": [15360]},
            **{"uint32_val": [2**32 - 1], "uint64_val": [2**64 - 1]},
            **{"scomplex_val": [1.0, 2.0], "dcomplex_val": [1.0, 2.0]},
        }
        numbers = {*types_pb2.DataType.values(), 33, 99}
        for number in sorted(numbers):
            assert_read_as_by_tensorflow(tensor(number, 3, **values))
            assert_read_as_by_tensorflow(tensor(number, 3))
            assert_read_as_by_tensorflow(tensor(number, 0))
            assert_read_as_by_tensorflow(tensor(number, 3, content=b"\1"))

    def test_many_random_tensors_are_read_as_by_tensorflow(self):
        source = random.Random(13)
        dtypes = (tf.uint8, tf.int32, tf.int8, tf.uint16, tf.int64, tf.float32, tf.bool, tf.string)
        fields = {tf.float32: "float_val", tf.int64: "int64_val", tf.bool: "bool_val"}
        read = 0
        for _ in range(300):
            dtype = source.choice(dtypes)
            proto = tensor(dtype, *source.choices((0, 1, 2, 3), k=source.randrange(4)))
            if source.random() < 0.3:
                proto.tensor_content = source.randbytes(source.randrange(9))
            elif dtype == tf.string:
                proto.string_val.extend(source.randbytes(2) for _ in range(source.randrange(5)))
            else:
                numbers = [source.randrange(-400, 400) for _ in range(source.randrange(9))]
                field = fields.get(dtype, "int_val")
                getattr(proto, field).extend(
                    number > 0 if dtype == tf.bool else number for number in numbers
                )
            assert_read_as_by_tensorflow(proto)
            read += as_tensorflow_reads(proto) is not None
        assert 100 < read < 300


def signature(*inputs, outputs=("features",)):
    """Return a SignatureDef of uint8 inputs."""
    definition = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for name in inputs:
        definition.inputs[name].name = f"{name}:0"
        definition.inputs[name].dtype = types_pb2.DT_UINT8
    for name in outputs:
        definition.outputs[name].name = f"{name}:0"
    return definition


class Recorder:
    """A servable that returns zeros, and records its inputs."""

    def __init__(self, **signatures):
        self.signatures = {
            "serving_default": signature("clips"),
            "two": signature("clips", "mask"),
            "__saved_model_init_op": signature(outputs=("__saved_model_init_op",)),
            **signatures,
        }
        self.inputs = None

    def run(self, name, inputs, outputs):
        self.inputs = inputs
        rows = len(next(iter(inputs.values())))
        return {output: np.zeros((rows, 2), np.float32) for output in outputs}


def request(signature_name="", **inputs):
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "c3d"
    message.model_spec.signature_name = signature_name
    for name, proto in inputs.items():
        message.inputs[name].CopyFrom(proto)
    return message


def refused(function, *args, **kwargs):
    """Return the code and message of the Rejection."""
    with pytest.raises(Rejection) as caught:
        function(*args, **kwargs)
    return caught.value.code, caught.value.message


def refused_predict(message, **kwargs):
    return refused(predict, message, Recorder(), model="c3d", version=1, **kwargs)


class TestBatching:
    SCALAR = (INVALID, "Batching Run() input tensors must have at least one dimension")

    def test_scalar_is_refused_before_its_dtype(self):
        for dtype in (UINT8, INT32, STRING):
            assert refused_predict(request(clips=tensor(dtype))) == self.SCALAR

    def test_rows_of_two_inputs_must_be_equal(self):
        message = request("two", clips=tensor(UINT8, 2, 3), mask=tensor(UINT8, 3, 3))
        assert refused_predict(message) == (
            INVALID,
            "Batching Run() input tensors must have equal 0th-dimension size",
        )

    def test_signature_without_inputs_is_refused(self):
        assert refused_predict(request("__saved_model_init_op")) == (
            INVALID,
            "Batching Run() must have at least one input tensor",
        )

    def test_more_rows_than_the_largest_batch_are_refused_before_their_dtype(self):
        for dtype in (UINT8, INT32):
            message = request(clips=tensor(dtype, 33, 1))
            assert refused_predict(message) == (
                INVALID,
                "Task size 33 is larger than maximum input batch size 32",
            )
        assert refused_predict(request(clips=tensor(UINT8, 9, 1)), max_batch_size=8) == (
            INVALID,
            "Task size 9 is larger than maximum input batch size 8",
        )
        full = predict(request(clips=tensor(UINT8, 32, 1)), Recorder(), model="c3d", version=1)
        assert len(full.outputs["features"].float_val) == 2 * 32

    def test_request_without_rows_is_refused(self):
        code, message = refused_predict(request(clips=tensor(UINT8, 0, 1)))
        assert code == INVALID
        assert message.startswith("the request has no rows; TensorFlow Serving")

    def test_without_batching_there_are_no_limits(self):
        for rows in (0, 33):
            servable = Recorder()
            message = request(clips=tensor(UINT8, rows, 1))
            predict_with(message, servable, version=1, max_batch_size=None)
            assert len(servable.inputs["clips"]) == rows

    def test_output_is_checked_before_the_rows(self):
        message = request(clips=tensor(UINT8, 33, 1))
        message.output_filter.append("fc9")
        assert refused_predict(message)[1].startswith("output tensor alias not found")


class TestMergedBatches:
    """The queue that the client's tests put before a servable."""

    def test_another_shape_fails_every_request_of_the_batch(self):
        is_open = threading.Event()

        class Slow(Recorder):
            def run(self, name, inputs, outputs):
                assert is_open.wait(60)
                return super().run(name, inputs, outputs)

        queue = BoundedQueue(Slow(), threads=1)

        def answer(shape):
            try:
                message = request(clips=tensor(UINT8, *shape))
                return predict(message, queue, model="c3d", version=1)
            except Rejection as rejection:
                return rejection.code, rejection.message

        with ThreadPoolExecutor(4) as clients:
            first = clients.submit(answer, (1, 3))
            while not queue.most_waiting or queue._batches:
                time.sleep(0.01)
            others = [clients.submit(answer, shape) for shape in ((2, 3), (1, 4))]
            while not queue._batches or len(queue._batches[0][2]) < 2:
                time.sleep(0.01)
            is_open.set()
            assert len(first.result().outputs["features"].float_val) == 2
            for other in others:
                assert other.result() == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Tensors with name 'clips:0' from different tasks have different shapes and "
                    "padding is turned off. Set pad_variable_length_inputs to true, or ensure that "
                    "all tensors with the same name have equal dimensions starting with the first "
                    "dim.",
                )

    def test_request_larger_than_a_batch_is_refused(self):
        queue = BoundedQueue(Recorder(), rows=4)
        message = request(clips=tensor(UINT8, 5, 1))
        assert refused(predict, message, queue, model="c3d", version=1) == (
            INVALID,
            "Task size 5 is larger than maximum input batch size 4",
        )


class TestDtypes:
    @pytest.fixture
    def session_says(self):
        """Return the session's message for an array that is fed to a placeholder."""
        graph = tf.Graph()
        with graph.as_default():
            placeholder = tf.compat.v1.placeholder(tf.uint8, [None])
            fetched = tf.identity(placeholder)
        session = tf.compat.v1.Session(graph=graph)

        def feed(array):
            # The public Session.run would convert the array to the placeholder's dtype.
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                pywrap_tf_session.TF_SessionRun_wrapper(
                    session._session,
                    None,
                    {placeholder._as_tf_output(): array},
                    [fetched._as_tf_output()],
                    [],
                    None,
                )
            return caught.value.message

        yield feed
        session.close()

    def test_message_is_the_sessions(self, session_says):
        names = ("float16", "float32", "float64", "int32", "int64", "bool", "string", "complex64")
        for name in (*names, "uint16", "int8", "uint64", "complex128"):
            dtype = tf.as_dtype(name)
            array = np.array([b"a"], object) if dtype == STRING else np.ones(1, name)
            assert refused_predict(request(clips=tensor(dtype, 1))) == (
                INVALID,
                session_says(array),
            ), name

    def test_dtypes_without_an_array_are_named_too(self):
        for number, name in (("DT_RESOURCE", "resource"), ("DT_VARIANT", "variant")):
            message = request(clips=tensor(types_pb2.DataType.Value(number), 1))
            assert refused_predict(message) == (
                INVALID,
                f"Expects arg[0] to be uint8 but {name} is provided",
            )

    def test_invalid_dtype_is_a_parsing_error(self):
        for number in (0, 99, types_pb2.DT_UINT8_REF, types_pb2.DT_RESOURCE_REF):
            message = request(clips=tensor(number, 1))
            assert refused_predict(message) == (INVALID, "tensor parsing error: clips"), number


class TestVersions:
    LABELS = {"stable": 3, "gone": 2}

    def requested(self, name="c3d", versions=(1, 3, 11), **choice):
        spec = model_pb2.ModelSpec(name=name)
        if "version" in choice:
            spec.version.value = choice["version"]
        if "label" in choice:
            spec.version_label = choice["label"]
        return requested_version(spec, versions, model="c3d", labels=self.LABELS)

    def test_highest_number_is_the_latest(self):
        assert self.requested() == 11

    def test_number_and_label_name_a_version(self):
        assert self.requested(version=1) == 1
        assert self.requested(label="stable") == 3

    def test_version_zero_is_a_version(self):
        assert self.requested(version=0, versions=(0, 1)) == 0
        assert self.requested(versions=(0,)) == 0

    def test_unknown_ones_are_refused(self):
        for arguments, code, message in (
            ({"name": ""}, INVALID, "ModelSpec has no name specified."),
            ({"name": "", "label": "x"}, INVALID, "ModelSpec has no name specified."),
            ({"label": "beta"}, INVALID, "Unrecognized servable version label: beta"),
            (
                # The label is looked up before the model.
                {"name": "i3d", "label": "stable"},
                INVALID,
                "Unrecognized servable version label: stable",
            ),
            ({"label": ""}, INVALID, "Unrecognized servable version label: "),
            ({"label": "gone"}, NOT_FOUND, "Servable not found for request: Specific(c3d, 2)"),
            ({"version": 7}, NOT_FOUND, "Servable not found for request: Specific(c3d, 7)"),
            ({"version": 0}, NOT_FOUND, "Servable not found for request: Specific(c3d, 0)"),
            ({"name": "i3d"}, NOT_FOUND, "Servable not found for request: Latest(i3d)"),
            ({"versions": ()}, NOT_FOUND, "Servable not found for request: Latest(c3d)"),
        ):
            assert refused(self.requested, **arguments) == (code, message), arguments


class TestStatus:
    STATES = {
        "c3d": [
            get_model_status_pb2.ModelVersionStatus(version=version, state=state)
            for version, state in ((3, 30), (11, 20), (9, 50))
        ]
    }

    def answer(self, **spec):
        message = get_model_status_pb2.GetModelStatusRequest()
        message.model_spec.CopyFrom(model_pb2.ModelSpec(**spec))
        response = model_status(message, lambda name: self.STATES.get(name, []))
        return [(status.version, status.state) for status in response.model_version_status]

    def test_newest_version_is_first(self):
        assert self.answer(name="c3d") == [(11, 20), (9, 50), (3, 30)]

    def test_label_is_ignored(self):
        assert len(self.answer(name="c3d", version_label="unknown")) == 3

    def test_one_version_may_be_requested(self):
        assert self.answer(name="c3d", version={"value": 9}) == [(9, 50)]

    def test_unknown_ones_are_refused(self):
        for spec, message in (
            ({"name": "i3d"}, "Could not find any versions of model i3d"),
            ({}, "Could not find any versions of model "),
            ({"name": "c3d", "version": {"value": 7}}, "Could not find version 7 of model c3d"),
            ({"name": "i3d", "version": {"value": 7}}, "Could not find version 7 of model i3d"),
        ):
            assert refused(self.answer, **spec) == (NOT_FOUND, message), spec


def find(spec):
    """Find the version of a model with one version, whose signatures are a C3D's."""
    version = requested_version(spec, (1,), model="c3d")
    return version, Recorder(**signature_defs())


class TestMetadata:
    def test_fields_are_checked_before_the_model(self):
        message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["graph"])
        message.model_spec.name = "i3d"
        assert refused(model_metadata, message, find) == (
            INVALID,
            "Metadata field graph is not supported",
        )
        del message.metadata_field[:]
        assert refused(model_metadata, message, find) == (
            INVALID,
            "GetModelMetadataRequest must specify at least one metadata_field",
        )

    def test_model_spec_is_checked_before_the_fields(self):
        message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["graph"])
        assert refused(model_metadata, message, find) == (INVALID, "Missing ModelSpec")


class TestExamples:
    def test_model_is_checked_before_the_signature(self):
        message = classification_pb2.ClassificationRequest()
        assert refused(classify, message, find) == (INVALID, "Missing ModelSpec")
        message.model_spec.name = "i3d"
        message.model_spec.signature_name = "fc9"
        assert refused(classify, message, find) == (
            NOT_FOUND,
            "Servable not found for request: Latest(i3d)",
        )

    def test_signature_without_inputs_is_refused(self):
        message = classification_pb2.ClassificationRequest()
        message.model_spec.name = "c3d"
        message.model_spec.signature_name = "__saved_model_init_op"
        assert refused(classify, message, find) == (INVALID, "Expected one input Tensor.")

    def test_first_task_is_the_one_that_is_refused(self):
        for task, code, details in (
            ({}, INVALID, "ModelSpec has no name specified."),
            (
                {"model_spec": {"name": "c3d", "signature_name": "fc9"}},
                INVALID,
                "Requested signature not found in model graph: fc9",
            ),
            (
                {"model_spec": {"name": "c3d"}, "method_name": "predict"},
                grpc.StatusCode.UNIMPLEMENTED,
                "Unsupported signature method_name: predict",
            ),
        ):
            message = inference_pb2.MultiInferenceRequest(tasks=[task, {}])
            assert refused(multi_inference, message, find) == (code, details), task
        message = inference_pb2.MultiInferenceRequest()
        assert refused(multi_inference, message, find)[1] == "ModelSpec has no name specified."


def test_long_messages_are_cut():
    assert Rejection(INVALID, "a" * 1024).message == "a" * 1024
    assert Rejection(INVALID, "a" * 1025).message == "a" * 1024 + "...TRUNCATED"
