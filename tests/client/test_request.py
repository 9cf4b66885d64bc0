"""Requests made by hand, held against what protobuf makes and what TensorFlow Serving reads."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.messages import predict_request, varint
from google.protobuf.internal.encoder import _VarintBytes
from tensorflow_serving.apis import predict_pb2

DTYPES = ["float32", "float64", "int32", "uint8", "int64", "bool"]
# Contents and names on both sides of where a length takes another byte.
EDGES = [0, 1, 100, 126, 127, 128, 129, 255, 256, 16383, 16384, 16385, 2**21 - 1, 2**21, 2**21 + 1]
SPEC = wire.ModelSpec(name="c3d", signature_name="fc6_features")


def official(name, array):
    """The request as tensorflow-serving-api makes it, with bytes and not numbers."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "c3d"
    request.model_spec.signature_name = "fc6_features"
    proto = request.inputs[name]
    proto.dtype = tf.as_dtype(array.dtype.newbyteorder("=")).as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return request


def assert_as_official(array, name="clips"):
    made = predict_request(SPEC, name, array)
    expected = official(name, array)
    assert type(made) is bytes
    assert made == expected.SerializeToString(deterministic=True)
    assert predict_pb2.PredictRequest.FromString(made) == expected
    assert wire.PredictRequest.FromString(made).SerializeToString(deterministic=True) == made
    read = tf.make_ndarray(predict_pb2.PredictRequest.FromString(made).inputs[name])
    assert np.array_equal(read, array)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 0, 3), (0, 16, 2), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_is_the_official_bytes(dtype, shape):
    values = np.random.default_rng(2).integers(0, 200, shape)
    assert_as_official((values % 2 if dtype == "bool" else values).astype(dtype))


@pytest.mark.parametrize("size", EDGES)
def test_contents_of_every_length_are_the_official_bytes(size):
    for more in range(-45, 1, 9):  # the lengths around the content are a few bytes more
        if size + more >= 0:
            assert_as_official(np.full(size + more, 7, np.uint8))


@pytest.mark.parametrize("size", [1, 127, 128, 16384])
def test_names_of_every_length_are_the_official_bytes(size):
    assert_as_official(np.arange(5, dtype=np.int32), "n" * size)


def test_a_name_beyond_ascii_is_the_official_bytes():
    assert_as_official(np.arange(5, dtype=np.int32), "\u00fcber")


@pytest.mark.parametrize("view", [np.s_[:, ::2], np.s_[::-1], np.s_[:, 1], np.s_[1:3]], ids=str)
def test_views_are_sent_as_what_they_show(view):
    assert_as_official(np.arange(24, dtype=np.int32).reshape(4, 6)[view])


def test_column_major_and_big_endian_arrays_are_sent_row_by_row_little_endian():
    assert_as_official(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    assert_as_official(np.arange(6, dtype=">i4").reshape(2, 3))


def test_a_read_only_array_is_sent():
    array = np.arange(6)
    array.flags.writeable = False
    assert_as_official(array)


@pytest.mark.parametrize("number", [*EDGES, 2**32, 2**63 - 1])
def test_a_varint_is_protobufs(number):
    assert varint(number) == _VarintBytes(number)


def test_a_batch_is_copied_once():
    clips = np.zeros((8, 16, 112, 112, 3), np.uint8)
    tracemalloc.start()
    try:
        predict_request(SPEC, "clips", clips)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 1.1 * clips.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's ways with memory")
def test_the_memory_of_a_batch_is_used_again():
    code = """
import resource
import numpy as np
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.messages import predict_request
from c3d_client.serving.messages import from_proto
clips = np.ones((32, 16, 112, 112, 3), np.uint8)
for turn in range(20):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = predict_request(wire.ModelSpec(name="c3d"), "clips", clips)
    from_proto(wire.PredictRequest.FromString(made).inputs["clips"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # A batch is 4704 pages; made, parsed and read ten times anew they would be 141,120.
    assert int(told.stdout) < 4704


def test_a_version_or_a_label_is_in_the_request():
    for change in ({"version": wire.Int64Value(value=7)}, {"version_label": "stable"}):
        spec = wire.ModelSpec(name="c3d", **change)
        made = predict_request(spec, "clips", np.zeros(3, np.uint8))
        found = predict_pb2.PredictRequest.FromString(made).model_spec
        assert found.SerializeToString() == spec.SerializeToString()
