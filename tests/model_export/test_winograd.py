"""Winograd's convolution equals the direct one, and a wrong transformed kernel is detected."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from c3d_client.core.errors import UsageError
from c3d_export import servable
from c3d_export.errors import VerificationError
from c3d_export.graph import GraphServable
from c3d_export.servable import build, save
from c3d_export.verify import verify
from c3d_export.warmup import write_warmup
from c3d_export.winograd import F2, F4, PAIR, Form, convolution, in_groups

FORMS = {"F2, F4": Form(F2, F4, tiles=2), "F2, F2": Form(F2, F2), "pair, F2": Form(PAIR, F2)}


def direct(x, kernel):
    return tf.nn.conv3d(x, kernel, [1] * 5, "SAME").numpy()


@pytest.mark.parametrize("name", FORMS)
def test_convolution_is_the_direct_one_within_5e_5_of_its_maximum(name):
    form, rng = FORMS[name], np.random.default_rng(1)
    kernel = rng.standard_normal((3, 3, 3, 8, 16)).astype(np.float32)
    transformed = form.transformed(kernel)
    for rows in range(5, 16):
        frames = 2 if form.frames is PAIR else 1 + rows % 5
        shape = (3, frames, rows, 20 - rows, 8)
        inputs = {
            "noise": rng.standard_normal(shape),
            "zeros": np.zeros(shape),
            "saturated": np.full(shape, 255.0),
        }
        for kind, values in inputs.items():
            x = tf.constant(values, tf.float32)
            expected, observed = direct(x, kernel), convolution(x, transformed, form).numpy()
            assert observed.shape == expected.shape, (rows, kind)
            assert np.abs(observed - expected).max() <= 5e-5 * np.abs(expected).max(), (rows, kind)


def test_convolution_transforms_in_the_dtype_of_its_input_and_multiplies_in_that_of_its_kernel():
    form, rng = FORMS["F2, F2"], np.random.default_rng(1)
    kernel = rng.standard_normal((3, 3, 3, 8, 16)).astype(np.float32)
    x = tf.cast(rng.standard_normal((3, 4, 9, 11, 8)), tf.bfloat16)
    expected = direct(tf.cast(x, tf.float32), kernel)
    rounded = tf.cast(form.transformed(kernel), tf.bfloat16)

    def relative(observed, expected):
        return tf.norm(tf.cast(observed, tf.float32) - expected) / tf.norm(expected)

    # Rounding to bfloat16 is an error of about 2**-9; F2's transforms multiply it by three.
    for dtype in (tf.float32, tf.bfloat16):
        observed = convolution(tf.cast(x, dtype), rounded, form)
        assert observed.dtype == dtype
        assert 2**-9 < relative(observed, expected) < 2**-6, dtype
        wide = convolution(tf.cast(x, tf.float32), tf.cast(rounded, tf.float32), form)
        assert relative(observed, wide) > 2**-9, "inputs and products of a bfloat16 kernel round"


def test_transform_of_a_pair_is_refused_for_other_counts_of_frames():
    form = FORMS["pair, F2"]
    with pytest.raises(ValueError, match="4 frames for a transform of 2"):
        convolution(tf.zeros((1, 4, 7, 7, 1)), form.transformed(np.zeros((3, 3, 3, 1, 1))), form)


def test_groups_cover_all_rows_in_order():
    grouped = tf.function(lambda x: in_groups(lambda part: part + 1, x, 3, [2]))
    for n in (0, 1, 2, 3, 7):
        x = tf.reshape(tf.range(2.0 * n), [n, 2])
        assert np.array_equal(grouped(x), x + 1), n


@pytest.mark.long
def test_forms_have_the_same_features_and_weights(tiny_weights, make_spec, clips, tmp_path):
    clips = np.concatenate([clips, np.zeros_like(clips[:2]), np.full_like(clips[:4], 255)])
    clips[-1, ..., 0] = 0  # black, white, and one saturated colour; nine clips: a second group
    features = {}
    for form in ("direct", "winograd"):
        folder = tmp_path / form
        save(make_spec(tiny_weights, convolution=form), folder)
        with GraphServable(folder) as loaded:
            features[form] = loaded.run("fc6_features", {"clips": clips})["features"]
    difference = np.abs(features["winograd"] - features["direct"]).max()
    assert 0 < difference <= 1e-5 * features["direct"].max()


def test_graph_has_only_operations_of_tensorflow_and_no_python(tiny_base):
    with GraphServable(tiny_base / "1") as loaded:
        library = loaded.meta_graph.graph_def.library.function
        operations = {node.op for function in library for node in function.node_def}
    functions = {function.signature.name for function in library}
    assert "BatchMatMulV2" in operations
    assert not {op for op in operations - functions if "Py" in op or "Mkl" in op}


@pytest.mark.long
def test_wrong_transformed_kernel_is_detected(tiny_weights, make_spec, tmp_path, monkeypatch):
    transformed = Form.transformed

    def wrong(form, kernel):
        array = transformed(form, kernel)
        array[3, 0, 0] *= 1 + 1e-6
        return array

    folder, spec = tmp_path / "1", make_spec(tiny_weights)
    with monkeypatch.context() as patch:
        patch.setattr(Form, "transformed", wrong)
        save(spec, folder)
    write_warmup(folder, batch_sizes=(1,), signatures=spec.signatures)
    with pytest.raises(VerificationError, match="transformed kernel of conv.* is not that of"):
        verify(folder)


@pytest.mark.long
def test_card_of_the_other_form_is_detected(tiny_weights, make_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(servable, "transformed_kernels", lambda _network: {})
    with pytest.raises(VerificationError, match="0 transformed kernels .* 'winograd'"):
        build(make_spec(tiny_weights), tmp_path)


def test_auto_is_winograd_for_float32_on_cpus_alone(tiny_weights, make_spec):
    spec = make_spec(tiny_weights)
    assert spec.resolved_convolution == "winograd"
    assert spec.digest == make_spec(tiny_weights, convolution="winograd").digest
    for changes in ({"precision": "bfloat16"}, {"precision": "float16"}, {"target": "gpu"}):
        assert dataclasses.replace(spec, **changes).resolved_convolution == "direct", changes
    with pytest.raises(UsageError, match="'fft'; choose auto, direct, winograd"):
        make_spec(tiny_weights, convolution="fft")


def test_winograd_in_a_short_format_is_refused_with_the_reason(tiny_weights, make_spec):
    reasons = {
        "bfloat16": r"AMX it had 0\.3 to 0\.8 of the speed .* 1\.4 to 2\.7 times",
        "float16": "is for GPUs",
    }
    assert {"float32", *reasons} == set(servable.PRECISIONS)
    for precision, reason in reasons.items():
        message = f"needs precision float32, not {precision}: .*{reason}.*; choose direct or auto$"
        with pytest.raises(UsageError, match=message):
            make_spec(tiny_weights, precision=precision, convolution="winograd")
