"""The network: every layer's size and shape, pool5's windows, and what is read where."""

import keras
import numpy as np
import pytest
from c3d_client.core.errors import UsageError
from c3d_export.architecture import build_c3d, features_extractor, set_weights
from c3d_export.weights import random_weights

# The layer table of the published port: parameters, and the output's shape after the batch.
TABLE = {
    "clips": (0, (16, 112, 112, 3)),
    "conv1": (5_248, (16, 112, 112, 64)),
    "pool1": (0, (16, 56, 56, 64)),
    "conv2": (221_312, (16, 56, 56, 128)),
    "pool2": (0, (8, 28, 28, 128)),
    "conv3a": (884_992, (8, 28, 28, 256)),
    "conv3b": (1_769_728, (8, 28, 28, 256)),
    "pool3": (0, (4, 14, 14, 256)),
    "conv4a": (3_539_456, (4, 14, 14, 512)),
    "conv4b": (7_078_400, (4, 14, 14, 512)),
    "pool4": (0, (2, 7, 7, 512)),
    "conv5a": (7_078_400, (2, 7, 7, 512)),
    "conv5b": (7_078_400, (2, 7, 7, 512)),
    "pad5": (0, (2, 8, 8, 512)),
    "pool5": (0, (1, 4, 4, 512)),
    "flatten": (0, (8192,)),
    "fc6": (33_558_528, (4096,)),
    "fc7": (16_781_312, (4096,)),
    "fc8": (1_995_239, (487,)),
    "softmax": (0, (487,)),
}


@pytest.fixture(scope="module")
def full():
    return build_c3d()


@pytest.fixture(scope="module")
def small(tiny_weights):
    network = build_c3d(width=1, classes=3)
    set_weights(network, tiny_weights.arrays)
    return network


@pytest.fixture(scope="module")
def centred(clips):
    return clips[:2].astype(np.float32) - 128


def run(model, x):
    return np.asarray(model(x, training=False))


@pytest.fixture(scope="module")
def windows(small):
    """Which of pool5's 4 x 4 places sees each of conv5b's 7 x 7 places."""
    end = keras.Model(small.get_layer("pad5").input, small.get_layer("pool5").output)
    one_at_each_place = np.zeros((49, 2, 7, 7, 8), np.float32)
    for place in range(49):
        one_at_each_place[place, 1, place // 7, place % 7, 0] = 1
    seen = run(end, one_at_each_place)[:, 0, :, :, 0].reshape(7, 7, 4, 4)
    assert (seen.sum(axis=(2, 3)) == 1).all()
    return seen


class TestTheLayerTable:
    def test_has_these_layers_in_this_order(self, full):
        assert [layer.name for layer in full.layers] == list(TABLE)

    @pytest.mark.parametrize("name", TABLE)
    def test_row(self, full, name):
        layer = full.get_layer(name)
        assert (layer.count_params(), tuple(layer.output.shape)) == (
            TABLE[name][0],
            (None, *TABLE[name][1]),
        )

    def test_adds_up_to_79_991_015_parameters(self, full):
        assert full.count_params() == 79_991_015
        assert sum(count for count, _ in TABLE.values()) == 79_991_015

    def test_a_narrow_network_has_the_same_layers_and_features(self, small):
        assert [layer.name for layer in small.layers] == list(TABLE)
        assert small.get_layer("fc6").output.shape == (None, 4096)
        assert small.output.shape == (None, 3)


@pytest.mark.parametrize(("width", "classes"), [(0, 487), (-1, 487), (64, 0)])
def test_a_network_of_nothing_is_refused(width, classes):
    with pytest.raises(UsageError, match=f"width is {width} and classes {classes}"):
        build_c3d(width=width, classes=classes)


class TestPool5:
    def test_has_caffes_windows_of_rows(self, windows):
        rows = windows.any(axis=(1, 3)).argmax(axis=1)
        assert rows.tolist() == [0, 0, 1, 1, 2, 2, 3]

    def test_has_caffes_windows_of_columns(self, windows):
        columns = windows.any(axis=(0, 2)).argmax(axis=1)
        assert columns.tolist() == [0, 0, 1, 1, 2, 2, 3]

    def test_takes_each_channel_for_itself_and_both_frames_together(self, small):
        end = keras.Model(small.get_layer("pad5").input, small.get_layer("pool5").output)
        x = np.random.default_rng(0).random((1, 2, 7, 7, 8), np.float32)
        assert np.array_equal(run(end, x)[0, 0, 3, 3], x[0, :, 6, 6].max(axis=0))


class TestFeatures:
    @pytest.mark.parametrize("name", ["conv1", "pool4", "pool5", "fc6", "fc7", "fc8", "softmax"])
    def test_end_at_the_named_layer(self, small, centred, name):
        part = features_extractor(small, name)
        assert part.layers[-1].name == name
        assert run(part, centred).shape == (2, *small.get_layer(name).output.shape[1:])

    def test_end_at_fc6_unless_told_otherwise(self, small):
        assert features_extractor(small).layers[-1].name == "fc6"

    def test_of_an_unknown_layer_are_refused_with_the_known_ones(self, small):
        with pytest.raises(
            UsageError, match=r"no layer 'fc9'; the layers are clips, conv1, .* fc8"
        ):
            features_extractor(small, "fc9")

    @pytest.mark.parametrize(("below", "name"), [("flatten", "fc6"), ("fc6", "fc7")])
    def test_are_read_after_the_relu(self, small, centred, tiny_weights, below, name):
        x = run(features_extractor(small, below), centred)
        sums = x @ tiny_weights.arrays[f"{name}/kernel"] + tiny_weights.arrays[f"{name}/bias"]
        assert (sums < 0).any()  # or the ReLU would have nothing to do
        features = run(features_extractor(small, name), centred)
        assert features.min() == 0
        assert features == pytest.approx(np.maximum(sums, 0), rel=1e-4, abs=1e-4)

    def test_share_the_networks_weights(self, small, centred):
        part = features_extractor(small, "fc6")
        kernel = small.get_layer("fc6").kernel
        assert part.get_layer("fc6").kernel is kernel


def test_probabilities_of_a_clip_add_up_to_one(small, centred):
    rows = run(small, centred)
    assert rows.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert (rows >= 0).all()


def test_fc8_has_no_relu(small, centred):
    assert (run(features_extractor(small, "fc8"), centred) < 0).any()


def test_kernels_are_not_flipped(small):
    """Cross-correlation: a kernel whose first tap alone is 1 looks one place back in each axis."""
    first_tap = np.zeros((3, 3, 3, 3, 1), np.float32)
    first_tap[0, 0, 0, 0, 0] = 1
    network = build_c3d(width=1, classes=1)
    network.get_layer("conv1").set_weights([first_tap, np.zeros(1, np.float32)])
    x = np.zeros((1, 16, 112, 112, 3), np.float32)
    x[0, 5, 60, 70, 0] = 9
    answer = run(features_extractor(network, "conv1"), x)[0, ..., 0]
    assert np.argwhere(answer).tolist() == [[6, 61, 71]]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
class TestPrecision:
    @pytest.fixture
    def network(self, precision):
        return build_c3d(width=1, classes=3, precision=precision)

    def test_is_that_of_weights_and_arithmetic(self, network, precision):
        assert {variable.dtype for variable in network.variables} == {precision}
        assert network.input.dtype == precision
        for layer in network.layers[1:]:
            if "pool" not in layer.name and layer.name != "softmax":
                assert layer.output.dtype == precision, layer.name

    def test_leaves_probabilities_float32(self, network, precision):
        assert network.output.dtype == "float32"

    def test_pools_in_float32_where_cpus_have_no_kernel(self, network, precision):
        expected = "float32" if precision == "float16" else precision
        pools = [layer for layer in network.layers if "pool" in layer.name]
        assert {pool.output.dtype for pool in pools} == {expected}


def test_arrays_go_to_the_layer_they_are_named_for():
    weights = random_weights(5, width=1, classes=3)
    network = build_c3d(width=1, classes=3)
    # In another order than the layers': the names alone count.
    set_weights(network, dict(reversed(weights.arrays.items())))
    for layer in network.layers:
        for variable in layer.weights:
            expected = weights.arrays[f"{layer.name}/{variable.name}"]
            assert np.array_equal(np.asarray(variable), expected)
