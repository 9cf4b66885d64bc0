"""The network: every layer's size and shape, pool5's windows, and where features are read."""

import keras
import numpy as np
import pytest
from c3d_client.core.errors import UsageError
from c3d_export.architecture import build_c3d, features_extractor, set_weights
from c3d_export.weights import random_weights

# The layer table of the published port: parameters, and the output's shape without the batch.
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
def tiny(tiny_weights):
    network = build_c3d(width=1, classes=3)
    set_weights(network, tiny_weights.arrays)
    return network


@pytest.fixture(scope="module")
def centred(clips):
    return clips[:2].astype(np.float32) - 128


def run(model, x):
    return np.asarray(model(x, training=False))


class TestLayerTable:
    def test_full_network_is_that_of_the_table(self, full_network):
        assert [layer.name for layer in full_network.layers] == list(TABLE)
        for layer in full_network.layers:
            parameters, shape = TABLE[layer.name]
            assert layer.count_params() == parameters, layer.name
            assert tuple(layer.output.shape) == (None, *shape), layer.name

    def test_full_network_has_79_991_015_parameters(self, full_network):
        assert full_network.count_params() == 79_991_015
        assert sum(count for count, _ in TABLE.values()) == 79_991_015

    def test_narrow_network_has_the_same_layers_and_features(self, tiny):
        assert [layer.name for layer in tiny.layers] == list(TABLE)
        assert tiny.get_layer("fc6").output.shape == (None, 4096)
        assert tiny.output.shape == (None, 3)

    def test_width_or_classes_below_1_are_an_error(self):
        for width, classes in ((0, 487), (-1, 487), (64, 0)):
            with pytest.raises(UsageError, match=f"width is {width} and classes {classes}"):
                build_c3d(width=width, classes=classes)


class TestPool5:
    def test_windows_are_caffes(self, tiny):
        end = keras.Model(tiny.get_layer("pad5").input, tiny.get_layer("pool5").output)
        one_at_each_position = np.zeros((49, 2, 7, 7, 8), np.float32)
        for position in range(49):
            one_at_each_position[position, 1, position // 7, position % 7, 0] = 1
        pooled = run(end, one_at_each_position)[:, 0, :, :, 0].reshape(7, 7, 4, 4)
        assert (pooled.sum(axis=(2, 3)) == 1).all()
        rows, columns = pooled.any(axis=(1, 3)), pooled.any(axis=(0, 2))
        assert rows.argmax(axis=1).tolist() == [0, 0, 1, 1, 2, 2, 3]
        assert columns.argmax(axis=1).tolist() == [0, 0, 1, 1, 2, 2, 3]

    def test_channels_are_separate_and_both_frames_are_pooled(self, tiny):
        end = keras.Model(tiny.get_layer("pad5").input, tiny.get_layer("pool5").output)
        x = np.random.default_rng(0).random((1, 2, 7, 7, 8), np.float32)
        assert np.array_equal(run(end, x)[0, 0, 3, 3], x[0, :, 6, 6].max(axis=0))


class TestFeatures:
    def test_extractor_ends_at_the_named_layer(self, tiny, centred):
        for name in ("conv1", "pool4", "pool5", "fc6", "fc7", "fc8", "softmax"):
            part = features_extractor(tiny, name)
            assert part.layers[-1].name == name
            assert run(part, centred).shape == (2, *tiny.get_layer(name).output.shape[1:]), name

    def test_extractor_ends_at_fc6_by_default(self, tiny):
        assert features_extractor(tiny).layers[-1].name == "fc6"

    def test_unknown_layer_is_an_error_with_the_known_ones(self, tiny):
        with pytest.raises(
            UsageError, match=r"no layer 'fc9'; the layers are clips, conv1, .* fc8"
        ):
            features_extractor(tiny, "fc9")

    def test_features_are_read_after_the_relu(self, tiny, centred, tiny_weights):
        for below, name in (("flatten", "fc6"), ("fc6", "fc7")):
            x = run(features_extractor(tiny, below), centred)
            sums = x @ tiny_weights.arrays[f"{name}/kernel"] + tiny_weights.arrays[f"{name}/bias"]
            assert (sums < 0).any(), name  # otherwise the ReLU would have no effect
            features = run(features_extractor(tiny, name), centred)
            assert features.min() == 0, name
            assert features == pytest.approx(np.maximum(sums, 0), rel=1e-4, abs=1e-4), name

    def test_extractor_shares_the_networks_weights(self, tiny):
        part = features_extractor(tiny, "fc6")
        assert part.get_layer("fc6").kernel is tiny.get_layer("fc6").kernel


def test_probabilities_of_a_clip_add_up_to_one(tiny, centred):
    rows = run(tiny, centred)
    assert rows.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert (rows >= 0).all()


def test_fc8_has_no_relu(tiny, centred):
    assert (run(features_extractor(tiny, "fc8"), centred) < 0).any()


def test_kernels_are_not_flipped():
    """In a cross-correlation a kernel of 1 at its first tap reads one position before."""
    first_tap = np.zeros((3, 3, 3, 3, 1), np.float32)
    first_tap[0, 0, 0, 0, 0] = 1
    network = build_c3d(width=1, classes=1)
    network.get_layer("conv1").set_weights([first_tap, np.zeros(1, np.float32)])
    x = np.zeros((1, 16, 112, 112, 3), np.float32)
    x[0, 5, 60, 70, 0] = 9
    output = run(features_extractor(network, "conv1"), x)[0, ..., 0]
    assert np.argwhere(output).tolist() == [[6, 61, 71]]


def test_precision_is_that_of_weights_and_arithmetic():
    for precision in ("float32", "bfloat16", "float16"):
        network = build_c3d(width=1, classes=3, precision=precision)
        assert {variable.dtype for variable in network.variables} == {precision}
        assert network.input.dtype == precision
        assert network.output.dtype == "float32", precision  # the softmax
        # CPUs have no 3-D max pool of float16.
        pool_precision = "float32" if precision == "float16" else precision
        for layer in network.layers[1:-1]:
            expected = pool_precision if "pool" in layer.name else precision
            assert layer.output.dtype == expected, (precision, layer.name)


def test_arrays_are_assigned_by_layer_name():
    weights = random_weights(5, width=1, classes=3)
    network = build_c3d(width=1, classes=3)
    # In the reverse order: only the names decide.
    set_weights(network, dict(reversed(weights.arrays.items())))
    for layer in network.layers:
        for variable in layer.weights:
            expected = weights.arrays[f"{layer.name}/{variable.name}"]
            assert np.array_equal(np.asarray(variable), expected), variable.path
