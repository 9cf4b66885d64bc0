"""Arrays to TensorProto and back, in both encodings, against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.messages import encode, from_proto
from tensorflow.core.framework import tensor_pb2

DTYPES = ["float32", "float64", "int32", "uint8", "int64", "bool"]
SHAPES = [(), (0,), (1,), (5,), (2, 3), (2, 0, 3), (2, 3, 4, 5)]


def array_of(dtype, shape):
    values = np.random.default_rng(1).integers(0, 200, shape)
    return (values % 2 if dtype == "bool" else values).astype(dtype)


def assert_same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


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
    def test_survives_the_round_trip(self, dtype, shape):
        array = array_of(dtype, shape)
        assert_same(from_proto(to_proto(array)), array)

    def test_is_read_by_tensorflow(self, dtype, shape):
        array = array_of(dtype, shape)
        theirs = tensor_pb2.TensorProto.FromString(to_proto(array).SerializeToString())
        assert_same(tf.make_ndarray(theirs), array)

    def test_is_read_from_tensorflows_content(self, dtype, shape):
        array = array_of(dtype, shape)
        ours = wire.TensorProto.FromString(tf.io.serialize_tensor(array).numpy())
        assert_same(from_proto(ours), array)

    def test_is_read_from_repeated_values(self, dtype, shape):
        array = array_of(dtype, shape)
        theirs = tf.make_tensor_proto(array)
        theirs.ClearField("tensor_content")
        field = {"float32": "float_val", "float64": "double_val", "int64": "int64_val"}.get(
            dtype, "bool_val" if dtype == "bool" else "int_val"
        )
        theirs.ClearField(field)
        getattr(theirs, field).extend(array.reshape(-1).tolist())
        assert_same(from_proto(wire.TensorProto.FromString(theirs.SerializeToString())), array)


def test_requests_carry_bytes_and_not_lists_of_numbers():
    proto = to_proto(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert proto.tensor_content == np.arange(6, dtype="<f4").tobytes()
    assert not proto.float_val


def test_a_scalar_has_a_shape_and_no_dimensions():
    assert to_proto(np.array(1.5, np.float32)).HasField("tensor_shape")


def test_a_big_endian_array_is_sent_little_endian():
    assert_same(
        from_proto(to_proto(np.array([1.5, -2.0], ">f4"))), np.array([1.5, -2.0], np.float32)
    )


@pytest.mark.parametrize("view", [np.s_[:, ::2], np.s_[::-1], np.s_[:, 1]], ids=str)
def test_views_are_sent_as_what_they_show(view):
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[view]
    assert_same(from_proto(to_proto(array)), array)


def test_a_column_major_array_is_sent_row_by_row():
    array = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))
    assert_same(from_proto(to_proto(array)), array)


@pytest.mark.parametrize("dtype", ["float16", "uint16", "complex64", "U3", "object"])
def test_other_dtypes_cannot_be_sent(dtype):
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
def test_the_last_value_repeats_to_fill_the_shape_as_in_tensorflow(dtype, field, values):
    ours = wire.TensorProto(dtype=dtype, **{field: values})
    ours.tensor_shape.dim.add(size=2)
    ours.tensor_shape.dim.add(size=3)
    theirs = tensor_pb2.TensorProto.FromString(ours.SerializeToString())
    assert from_proto(ours).tolist() == tf.make_ndarray(theirs).tolist()


@pytest.mark.parametrize("size", [1, 31, 32, 4096, 40000])
def test_many_floats_are_read_bit_by_bit(size):
    # Whatever the bits: also NaNs with a message, infinities, -0 and denormal numbers.
    bits = np.random.default_rng(3).integers(0, 2**32, size, dtype=np.uint32)
    bits[bits & 0x7FC00000 == 0x7F800000] |= 0x00400000  # all but signalling NaNs
    array = bits.view(np.float32)
    ours = wire.TensorProto(dtype=wire.DT_FLOAT, float_val=array.tolist())
    ours.tensor_shape.dim.add(size=size)
    assert from_proto(ours).tobytes() == array.tobytes()
    assert from_proto(wire.TensorProto.FromString(ours.SerializeToString())).tobytes() == (
        array.tobytes()
    )


def test_floats_are_read_as_well_where_other_fields_follow_them():
    ours = wire.TensorProto(
        dtype=wire.DT_FLOAT, float_val=[1.5, 2.5], double_val=[9.0], int_val=[7]
    )
    ours.tensor_shape.dim.add(size=2)
    # Field 13 is one that the client does not know: half_val.
    unknown = wire.TensorProto.FromString(ours.SerializeToString() + b"\x6a\x02\x01\x02")
    for proto in (ours, unknown):
        assert from_proto(proto).tolist() == [1.5, 2.5]


class TestStrings:
    VALUES = np.array([[b"one", b""], [b"\xff\x00", b"x" * 300]], object)

    def test_are_read_from_values(self):
        theirs = tf.make_tensor_proto(self.VALUES)
        found = from_proto(wire.TensorProto.FromString(theirs.SerializeToString()))
        assert found.dtype == object
        assert found.tolist() == self.VALUES.tolist()

    def test_a_single_string_has_no_dimensions(self):
        theirs = tf.make_tensor_proto(b"one")
        found = from_proto(wire.TensorProto.FromString(theirs.SerializeToString()))
        assert found.shape == ()
        assert found.item() == b"one"

    def test_are_read_from_content_as_a_server_sends_them_that_was_told_to(self):
        # --enable_serialization_as_tensor_content acts on strings too, the model card among them:
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
    def test_content_that_does_not_fill_the_shape_is_refused(self, content):
        with pytest.raises(ValueError, match="string"):
            from_proto(by_content((1,), wire.DT_STRING, content))


class TestWhatCannotBeRead:
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

    def test_a_dtype_that_the_client_does_not_know(self):
        theirs = tf.make_tensor_proto(np.zeros(2, np.float16))
        with pytest.raises(ValueError, match="dtype number 19"):
            from_proto(wire.TensorProto.FromString(theirs.SerializeToString()))

    def test_a_tensor_without_a_dtype(self):
        with pytest.raises(ValueError, match="dtype number 0"):
            from_proto(wire.TensorProto())

    def test_an_unknown_rank(self):
        proto = to_proto(np.zeros(2, np.float32))
        proto.tensor_shape.unknown_rank = True
        with pytest.raises(ValueError, match="unknown shape"):
            from_proto(proto)

    def test_an_unknown_dimension(self):
        with pytest.raises(ValueError, match="unknown shape"):
            from_proto(by_content((-1,), wire.DT_FLOAT, b"\0" * 8))
