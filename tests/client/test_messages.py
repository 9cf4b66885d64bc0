"""Messages against protobuf's own bytes and TensorFlow: tensors, and whole requests."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.messages import encode, from_proto, predict_request, varint
from google.protobuf.internal.encoder import _VarintBytes
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

DTYPES = ["float32", "float64", "int32", "uint8", "int64", "bool"]
SHAPES = [(), (0,), (1,), (5,), (2, 3), (2, 0, 3), (2, 3, 4, 5)]


def array_of(dtype, shape):
    values = np.random.default_rng(1).integers(0, 200, shape)
    return (values % 2 if dtype == "bool" else values).astype(dtype)


def assert_same(decoded, expected):
    assert decoded.dtype == expected.dtype
    assert decoded.shape == expected.shape
    assert np.array_equal(decoded, expected)


def to_proto(array):
    head, content = encode(array)
    return wire.TensorProto.FromString(head + content.tobytes())


def by_content(shape, dtype, content):
    proto = wire.TensorProto(dtype=dtype, tensor_content=content)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
class TestEveryDtypeAndShape:
    def test_round_trip(self, dtype, shape):
        array = array_of(dtype, shape)
        assert_same(from_proto(to_proto(array)), array)

    def test_tensorflow_decodes_it(self, dtype, shape):
        array = array_of(dtype, shape)
        official = tensor_pb2.TensorProto.FromString(to_proto(array).SerializeToString())
        assert_same(tf.make_ndarray(official), array)

    def test_content_of_tensorflow_is_decoded(self, dtype, shape):
        array = array_of(dtype, shape)
        ours = wire.TensorProto.FromString(tf.io.serialize_tensor(array).numpy())
        assert_same(from_proto(ours), array)

    def test_repeated_values_are_decoded(self, dtype, shape):
        array = array_of(dtype, shape)
        official = tf.make_tensor_proto(array)
        official.ClearField("tensor_content")
        field = {"float32": "float_val", "float64": "double_val", "int64": "int64_val"}.get(
            dtype, "bool_val" if dtype == "bool" else "int_val"
        )
        official.ClearField(field)
        getattr(official, field).extend(array.reshape(-1).tolist())
        assert_same(from_proto(wire.TensorProto.FromString(official.SerializeToString())), array)


def test_arrays_are_sent_as_bytes_and_not_as_lists_of_numbers():
    proto = to_proto(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert proto.tensor_content == np.arange(6, dtype="<f4").tobytes()
    assert not proto.float_val


def test_scalar_has_a_shape_without_dimensions():
    assert to_proto(np.array(1.5, np.float32)).HasField("tensor_shape")


def test_big_endian_array_is_sent_little_endian():
    assert_same(
        from_proto(to_proto(np.array([1.5, -2.0], ">f4"))), np.array([1.5, -2.0], np.float32)
    )


@pytest.mark.parametrize("view", [np.s_[:, ::2], np.s_[::-1], np.s_[:, 1]], ids=str)
def test_view_is_sent_as_its_content(view):
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[view]
    assert_same(from_proto(to_proto(array)), array)


def test_column_major_array_is_sent_row_by_row():
    array = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))
    assert_same(from_proto(to_proto(array)), array)


@pytest.mark.parametrize("dtype", ["float16", "uint16", "complex64", "U3", "object"])
def test_other_dtypes_are_errors(dtype):
    with pytest.raises(TypeError, match="cannot be sent"):
        to_proto(np.zeros(2, dtype))


@pytest.mark.parametrize(
    ("dtype", "field", "values"),
    [
        (wire.DT_FLOAT, "float_val", [1.5, 2.5]),
        (wire.DT_INT32, "int_val", [1, 2]),
        (wire.DT_BOOL, "bool_val", [False, True]),
        (wire.DT_STRING, "string_val", [b"a", b"b"]),
    ],
)
def test_last_value_fills_the_shape_as_in_tensorflow(dtype, field, values):
    ours = wire.TensorProto(dtype=dtype, **{field: values})
    ours.tensor_shape.dim.add(size=2)
    ours.tensor_shape.dim.add(size=3)
    official = tensor_pb2.TensorProto.FromString(ours.SerializeToString())
    assert from_proto(ours).tolist() == tf.make_ndarray(official).tolist()


@pytest.mark.parametrize("size", [1, 31, 32, 4096, 40000])
def test_floats_are_decoded_bit_for_bit(size):
    # All bit patterns: also NaNs with a payload, infinities, -0 and denormal numbers.
    bits = np.random.default_rng(3).integers(0, 2**32, size, dtype=np.uint32)
    bits[bits & 0x7FC00000 == 0x7F800000] |= 0x00400000  # no signalling NaNs
    array = bits.view(np.float32)
    ours = wire.TensorProto(dtype=wire.DT_FLOAT, float_val=array.tolist())
    ours.tensor_shape.dim.add(size=size)
    assert from_proto(ours).tobytes() == array.tobytes()
    assert from_proto(wire.TensorProto.FromString(ours.SerializeToString())).tobytes() == (
        array.tobytes()
    )


def test_floats_are_decoded_if_other_fields_follow():
    ours = wire.TensorProto(
        dtype=wire.DT_FLOAT, float_val=[1.5, 2.5], double_val=[9.0], int_val=[7]
    )
    ours.tensor_shape.dim.add(size=2)
    # Field 13 (half_val) is unknown to the client.
    unknown = wire.TensorProto.FromString(ours.SerializeToString() + b"\x6a\x02\x01\x02")
    for proto in (ours, unknown):
        assert from_proto(proto).tolist() == [1.5, 2.5]


class TestStrings:
    VALUES = np.array([[b"one", b""], [b"\xff\x00", b"x" * 300]], object)

    def test_values_are_decoded(self):
        official = tf.make_tensor_proto(self.VALUES)
        decoded = from_proto(wire.TensorProto.FromString(official.SerializeToString()))
        assert decoded.dtype == object
        assert decoded.tolist() == self.VALUES.tolist()

    def test_single_string_has_no_dimensions(self):
        official = tf.make_tensor_proto(b"one")
        decoded = from_proto(wire.TensorProto.FromString(official.SerializeToString()))
        assert decoded.shape == ()
        assert decoded.item() == b"one"

    def test_content_is_decoded(self):
        # --enable_serialization_as_tensor_content also concerns strings such as the model card:
        # all lengths as varints, then all bytes.
        content = b"\x03\x00\x02\xac\x02" + b"one" + b"\xff\x00" + b"x" * 300
        ours = by_content((2, 2), wire.DT_STRING, content)
        assert tf.io.parse_tensor(ours.SerializeToString(), tf.string).numpy().tolist() == (
            self.VALUES.tolist()
        )
        assert from_proto(ours).tolist() == self.VALUES.tolist()

    @pytest.mark.parametrize(
        "content", [b"\x03on", b"\x03onex", b"\x83", b"\xff\xff\xff\xff\xff\xff\x01a"]
    )
    def test_content_that_does_not_fill_the_shape_is_an_error(self, content):
        with pytest.raises(ValueError, match="string"):
            from_proto(by_content((1,), wire.DT_STRING, content))


class TestErrors:
    @pytest.mark.parametrize("content", [b"\0" * 23, b"\0" * 25, b"\0" * 20])
    def test_bytes_that_do_not_fill_the_shape(self, content):
        with pytest.raises(ValueError, match=f"holds {len(content)} bytes, expected 24"):
            from_proto(by_content((2, 3), wire.DT_FLOAT, content))

    @pytest.mark.parametrize("values", [[], [1.0] * 7])
    def test_values_that_do_not_fill_the_shape(self, values):
        proto = by_content((2, 3), wire.DT_FLOAT, b"")
        proto.float_val.extend(values)
        with pytest.raises(ValueError, match=f"holds {len(values)} values where its shape has 6"):
            from_proto(proto)

    def test_unknown_dtype(self):
        official = tf.make_tensor_proto(np.zeros(2, np.float16))
        with pytest.raises(ValueError, match="dtype number 19"):
            from_proto(wire.TensorProto.FromString(official.SerializeToString()))

    def test_no_dtype(self):
        with pytest.raises(ValueError, match="dtype number 0"):
            from_proto(wire.TensorProto())

    def test_unknown_rank(self):
        proto = to_proto(np.zeros(2, np.float32))
        proto.tensor_shape.unknown_rank = True
        with pytest.raises(ValueError, match="unknown shape"):
            from_proto(proto)

    def test_unknown_dimension(self):
        with pytest.raises(ValueError, match="unknown shape"):
            from_proto(by_content((-1,), wire.DT_FLOAT, b"\0" * 8))


# Lengths on both sides of where their varint needs another byte.
EDGES = [0, 1, 100, 126, 127, 128, 129, 255, 256, 16383, 16384, 16385, 2**21 - 1, 2**21, 2**21 + 1]
SPEC = wire.ModelSpec(name="c3d", signature_name="fc6_features")


def official_request(name, array):
    """Return the request that tensorflow-serving-api makes, with tensor_content."""
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


def assert_official_bytes(array, name="clips"):
    message = predict_request(SPEC, name, array)
    expected = official_request(name, array)
    assert type(message) is bytes
    assert message == expected.SerializeToString(deterministic=True)
    assert predict_pb2.PredictRequest.FromString(message) == expected
    assert wire.PredictRequest.FromString(message).SerializeToString(deterministic=True) == message
    decoded = tf.make_ndarray(predict_pb2.PredictRequest.FromString(message).inputs[name])
    assert np.array_equal(decoded, array)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 0, 3), (0, 16, 2), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_request_of_every_dtype_and_shape(dtype, shape):
    values = np.random.default_rng(2).integers(0, 200, shape)
    assert_official_bytes((values % 2 if dtype == "bool" else values).astype(dtype))


@pytest.mark.parametrize("size", EDGES)
def test_request_with_content_of_every_length(size):
    for offset in range(-45, 1, 9):  # the lengths of the outer fields are a few bytes larger
        if size + offset >= 0:
            assert_official_bytes(np.full(size + offset, 7, np.uint8))


@pytest.mark.parametrize("size", [1, 127, 128, 16384])
def test_request_with_names_of_every_length(size):
    assert_official_bytes(np.arange(5, dtype=np.int32), "n" * size)


def test_request_with_a_name_beyond_ascii():
    assert_official_bytes(np.arange(5, dtype=np.int32), "\u00fcber")


@pytest.mark.parametrize("view", [np.s_[:, ::2], np.s_[::-1], np.s_[:, 1], np.s_[1:3]], ids=str)
def test_request_with_a_view(view):
    assert_official_bytes(np.arange(24, dtype=np.int32).reshape(4, 6)[view])


def test_request_with_column_major_and_big_endian_arrays():
    assert_official_bytes(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    assert_official_bytes(np.arange(6, dtype=">i4").reshape(2, 3))


def test_request_with_a_read_only_array():
    array = np.arange(6)
    array.flags.writeable = False
    assert_official_bytes(array)


@pytest.mark.parametrize("number", [*EDGES, 2**32, 2**63 - 1])
def test_varint_equals_protobufs(number):
    assert varint(number) == _VarintBytes(number)


def test_batch_is_copied_once():
    clips = np.zeros((8, 16, 112, 112, 3), np.uint8)
    tracemalloc.start()
    try:
        predict_request(SPEC, "clips", clips)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1.1 * clips.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="the memory allocator is glibc's")
def test_memory_of_a_batch_is_reused():
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
    message = predict_request(wire.ModelSpec(name="c3d"), "clips", clips)
    from_proto(wire.PredictRequest.FromString(message).inputs["clips"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    # A batch is 4704 pages; ten batches in new memory, each made, parsed and read, are 141,120.
    assert int(process.stdout) < 4704


def test_version_or_label_is_in_the_request():
    for change in ({"version": wire.Int64Value(value=7)}, {"version_label": "stable"}):
        spec = wire.ModelSpec(name="c3d", **change)
        message = predict_request(spec, "clips", np.zeros(3, np.uint8))
        sent = predict_pb2.PredictRequest.FromString(message).model_spec
        assert sent.SerializeToString() == spec.SerializeToString()
