"""The oracle, with which other tests compare the product, is right by first principles."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from support import caffe_bytes, oracle
from support.videos import read_index, write_video


@pytest.fixture(scope="module")
def net():
    """The narrow network in Caffe's layout."""
    return caffe_bytes.random_net(0, width=4)


@pytest.fixture(scope="module")
def mean():
    return caffe_bytes.random_mean(0)


@pytest.fixture(scope="module")
def frames(carphone):
    """24 real frames: two clips."""
    return oracle.decode(carphone, count=24)


@pytest.fixture(scope="module")
def right(frames, net, mean):
    return oracle.video_fc6(frames, net, mean)


def uniform(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


# Layers.


def test_convolution_is_the_defining_sum():
    volume, kernel, bias = uniform(0, 2, 3, 5, 4), uniform(1, 3, 2, 3, 3, 3), uniform(2, 3)
    expected = np.zeros((3, 3, 5, 4))
    for o, t, y, x in np.ndindex(expected.shape):
        expected[o, t, y, x] = bias[o]
        for c, dt, dy, dx in product(range(2), (-1, 0, 1), (-1, 0, 1), (-1, 0, 1)):
            position = t + dt, y + dy, x + dx
            if all(0 <= p < size for p, size in zip(position, (3, 5, 4), strict=True)):
                value = volume[(c, *position)]
                expected[o, t, y, x] += value * kernel[o, c, dt + 1, dy + 1, dx + 1]
    np.testing.assert_allclose(oracle.conv3d(volume, kernel, bias), expected, atol=1e-12)


def test_last_entry_of_a_kernel_reads_the_next_position():
    volume = np.arange(3 * 4 * 5.0).reshape(1, 3, 4, 5)
    kernel = np.zeros((1, 1, 3, 3, 3))
    kernel[0, 0, 2, 2, 2] = 1
    moved = oracle.conv3d(volume, kernel, np.zeros((1, 1, 1, 1, 1)))
    np.testing.assert_array_equal(moved[0, :2, :3, :4], volume[0, 1:, 1:, 1:])
    assert not moved[0, 2].any()
    assert not moved[0, :, 3].any()
    assert not moved[0, :, :, 4].any()


def test_seven_rows_are_pooled_to_four_and_the_last_window_is_clipped():
    volume = uniform(3, 2, 2, 7, 7)
    windows = [(0, 1), (2, 3), (4, 5), (6,)]
    pooled = oracle.max_pool(volume, (2, 2, 2))
    assert pooled.shape == (2, 1, 4, 4)
    for c, row, column in product(range(2), range(4), range(4)):
        inside = [volume[c, :, y, x] for y in windows[row] for x in windows[column]]
        assert pooled[c, 0, row, column] == np.max(inside)


def test_first_pool_does_not_change_time():
    volume = uniform(4, 1, 3, 4, 6)
    pooled = oracle.max_pool(volume, (1, 2, 2))
    np.testing.assert_array_equal(pooled, volume.reshape(1, 3, 2, 2, 3, 2).max((3, 5)))


def test_symmetric_padding_shifts_the_windows_of_pool5(frames, net, mean):
    clip = oracle.preprocess(frames[:16], mean)
    wrong = oracle.MISTAKES["symmetric pool5 padding"]
    outputs = oracle.stages(clip, net, variant=wrong)
    windows = [(0,), (1, 2), (3, 4), (5, 6)]
    for row, column in product(range(4), range(4)):
        inside = outputs["conv5b"][:, :, windows[row]][:, :, :, windows[column]]
        np.testing.assert_array_equal(outputs["pool5"][:, 0, row, column], inside.max((1, 2, 3)))


def test_inner_product_flattens_with_columns_fastest_and_channels_slowest():
    volume = uniform(5, 2, 1, 3, 4)
    kernel = np.zeros((1, 1, 1, 24, 24))
    for index, (c, t, y, x) in enumerate(product(range(2), range(1), range(3), range(4))):
        kernel[0, 0, 0, index, index] = 10 + index
        assert volume.reshape(-1)[index] == volume[c, t, y, x]
    output = oracle.inner_product(volume, kernel, np.full((1, 1, 1, 1, 24), 0.5))
    assert output[0] == volume[0, 0, 0, 0] * 10 + 0.5
    assert output[1] == volume[0, 0, 0, 1] * 11 + 0.5
    assert output[4] == volume[0, 0, 1, 0] * 14 + 0.5
    assert output[12] == volume[1, 0, 0, 0] * 22 + 0.5


def test_layers_have_their_channels_last_and_are_those_of_the_clips(frames, net, mean, right):
    clip = oracle.preprocess(frames[8:24], mean)
    outputs = oracle.stages(clip, net)
    layers = oracle.layers(outputs)
    shapes = {"conv5b": (2, 7, 7, 32), "pool5": (1, 4, 4, 32)}
    shapes |= {"fc6": (4096,), "fc7": (4096,), "fc8": (487,)}
    assert {name: array.shape for name, array in layers.items()} == shapes
    for c, t, y, x in ((0, 0, 0, 0), (31, 1, 6, 6), (5, 1, 2, 3)):
        assert layers["conv5b"][t, y, x, c] == outputs["conv5b"][c, t, y, x]
    for c, y, x in ((0, 0, 0), (31, 3, 3), (5, 1, 2)):
        inside = layers["conv5b"][:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2, c]
        assert layers["pool5"][0, y, x, c] == inside.max()
    for name in ("conv5b", "pool5", "fc6", "fc7"):
        assert layers[name].min() == 0, name  # after ReLU
    assert layers["fc8"].min() < 0
    np.testing.assert_array_equal(oracle.softmax(layers["fc8"]), outputs["prob"])
    of_video = oracle.video_layers(frames, net, mean)
    np.testing.assert_array_equal(of_video["fc6"], right[0])
    for name, rows in of_video.items():
        assert rows.shape == (2, *shapes[name])
        np.testing.assert_array_equal(rows[1], layers[name])


def test_softmax_is_exact_for_large_scores_too():
    np.testing.assert_allclose(oracle.softmax(np.log([1.0, 2.0, 5.0])), [1 / 8, 2 / 8, 5 / 8])
    np.testing.assert_allclose(oracle.softmax(np.array([1e4, 1e4])), [0.5, 0.5])


# Frames.


def test_preprocessing_crops_frames_less_the_mean():
    rows, columns = np.mgrid[:128, :171].astype(np.uint8)
    frames = [np.stack([rows, columns, np.full_like(rows, 7 * t)], 2) for t in range(16)]  # RGB
    cube = np.arange(3 * 16 * 128 * 171, dtype=np.float32).reshape(3, 16, 128, 171) / 1024
    clip = oracle.preprocess(frames, cube)
    assert clip.dtype == np.float32
    assert clip.shape == (3, 16, 112, 112)
    for t, y, x in [(0, 0, 0), (15, 111, 111), (3, 50, 20)]:
        blue, green, red = 7 * t, x + 29, y + 8
        expected = [blue, green, red] - cube[:, t, y + 8, x + 29]
        np.testing.assert_array_equal(clip[:, t, y, x], expected)


def test_resize_interpolates_between_pixel_centres(frames):
    small = frames[0][:128, :171]
    np.testing.assert_array_equal(oracle.resize(small.repeat(2, 0).repeat(2, 1)), small)
    expected = frames[0].astype(float)
    for axis, size in enumerate((128, 171)):
        source = expected.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
        low = np.minimum(position.astype(int), source - 2)
        share = (position - low).reshape([-1 if a == axis else 1 for a in range(3)])
        expected = expected.take(low, axis) * (1 - share) + expected.take(low + 1, axis) * share
    assert np.abs(oracle.resize(frames[0]) - expected).max() <= 1


def test_requests_pixels_less_the_mean_are_the_networks_input(frames, mean):
    wire = np.stack([oracle.wire_frame(frame) for frame in frames[:16]])
    assert wire.shape == (16, 112, 112, 3)
    assert wire.dtype == np.uint8
    expected = wire[..., ::-1].transpose(3, 0, 1, 2) - mean[:, :, 8:120, 29:141]
    np.testing.assert_array_equal(oracle.preprocess(frames[:16], mean), expected)


def test_all_frames_are_decoded_in_order(tmp_path):
    decoded = oracle.decode(write_video(tmp_path / "video.mp4", 24))
    numbers = [read_index(oracle.wire_frame(frame)) for frame in decoded]
    assert numbers == [number & ~3 for number in range(24)]  # the crop shows bits 2-7


def test_clips_start_every_8_frames_and_the_video_feature_has_length_1(frames, net, mean, right):
    features, feature = right
    assert features.shape == (2, 4096)
    for start, clip_feature in zip((0, 8), features, strict=True):
        clip = oracle.preprocess(frames[start : start + 16], mean)
        np.testing.assert_array_equal(oracle.stages(clip, net)["fc6"], clip_feature)
    average = features.astype(np.float64).sum(0) / 2
    np.testing.assert_allclose(feature, average / np.sqrt((average**2).sum()), rtol=1e-12)


def test_fifteen_frames_are_an_error(frames, net, mean):
    with pytest.raises(ValueError, match="too short: 15"):
        oracle.video_fc6(frames[:15], net, mean)


# The network.


def test_every_stage_has_caffes_shape_and_a_plausible_distribution(frames, net, mean):
    outputs = oracle.stages(oracle.preprocess(frames[:16], mean), net)
    shapes = {
        **{"conv1": (4, 16, 112, 112), "pool1": (4, 16, 56, 56)},
        **{"conv2": (8, 16, 56, 56), "pool2": (8, 8, 28, 28)},
        **{"conv3a": (16, 8, 28, 28), "conv3b": (16, 8, 28, 28), "pool3": (16, 4, 14, 14)},
        **{"conv4a": (32, 4, 14, 14), "conv4b": (32, 4, 14, 14), "pool4": (32, 2, 7, 7)},
        **{"conv5a": (32, 2, 7, 7), "conv5b": (32, 2, 7, 7), "pool5": (32, 1, 4, 4)},
        **{"fc6": (4096,), "fc7": (4096,), "fc8": (487,), "prob": (487,)},
    }
    assert {name: output.shape for name, output in outputs.items()} == shapes
    for name, output in outputs.items():
        assert output.dtype == np.float32, name
        if name not in ("fc8", "prob"):
            assert output.min() == 0, name
            assert (output > 0).mean() > 0.2, name
            assert 0.2 < output.std() < 5, name
    assert outputs["prob"].sum() == pytest.approx(1)


def test_float32_is_within_1e_4_of_float64(frames, net, mean, right):
    features, feature = oracle.video_fc6(frames[:16], net, mean, dtype=np.float64)
    assert features.dtype == np.float64
    np.testing.assert_allclose(right[0][0], features[0], atol=1e-4)


# Every mistake must change the features; otherwise an agreement would not exclude it.


@pytest.mark.long
def test_every_mistake_changes_the_features(frames, net, mean, right):
    for mistake in set(oracle.MISTAKES) - {"resize by area"}:
        _, wrong = oracle.video_fc6(frames, net, mean, mistake=mistake)
        assert right[1] @ wrong < 0.9999, mistake


def test_resize_by_area_changes_the_features_of_larger_frames(bunny, net, mean):
    frames = oracle.decode(bunny, count=16)
    _, right = oracle.video_fc6(frames, net, mean)
    _, wrong = oracle.video_fc6(frames, net, mean, mistake="resize by area")
    assert right @ wrong < 0.9999


# Caffe's bytes.


def test_net_is_parsed_in_every_packing():
    net = {
        "conv1a": (np.float32(uniform(0, 4, 3, 3, 3, 3)), np.float32(uniform(1, 1, 1, 1, 1, 4))),
        "fc6-1": (np.float32(uniform(2, 1, 1, 1, 300, 7)), np.float32(uniform(3, 1, 1, 1, 1, 300))),
    }
    for packing in ("packed", "split", "unpacked"):
        content = caffe_bytes.net_bytes(net, packing=packing, diff=True, extras=True)
        parsed = oracle.parse_net(content)
        assert list(parsed) == list(net), packing
        for name, arrays in net.items():
            for array, expected in zip(parsed[name], arrays, strict=True):
                np.testing.assert_array_equal(array, expected, packing, strict=True)


def test_bytes_are_those_of_the_dialect():
    """num, channels, length, height and width are fields 1-5; data is field 6, packed."""
    assert caffe_bytes.blob_bytes(np.float32([[1.0, -2.0]])) == bytes.fromhex(
        "0801 1001 1801 2001 2802 3208 0000803f 000000c0"
    )
    net = {"fc6": (np.float32([[1]]), np.float32([1]))}
    written = caffe_bytes.net_bytes(net, extras=False)
    # Layers are field 2, with bottom 2, top 3, name 4, type 5 (INNER_PRODUCT 14, RELU 18).
    assert b"\x12\x04data\x1a\x03fc6\x22\x03fc6\x28\x0e\x32\x10\x08\x01" in written
    assert b"\x12\x13\x12\x03fc6\x1a\x03fc6\x22\x05relu6\x28\x12" in written


def test_mean_file_is_one_blob(mean):
    written = caffe_bytes.blob_bytes(mean)
    assert len(written) == 4_202_513  # as the published files
    np.testing.assert_array_equal(oracle.parse_mean(written), mean)


def test_later_dialect_is_an_error():
    net = {"fc8": (np.ones((1, 1, 1, 5, 7), np.float32), np.ones((1, 1, 1, 1, 5), np.float32))}
    for legacy in (False, True):
        with pytest.raises(ValueError, match="C3D-v1.0"):
            oracle.parse_net(caffe_bytes.later_dialect_net_bytes(net, legacy=legacy))
        with pytest.raises(ValueError, match="C3D-v1.0"):
            oracle.parse_blob(caffe_bytes.later_dialect_blob_bytes(net["fc8"][0], legacy=legacy))


def test_weights_have_the_names_and_shapes_of_the_published_files():
    for names, suffix, classes in (("sport1m", "-1", 487), ("ucf101", "", 101)):
        net = caffe_bytes.random_net(1, classes=classes, width=4, names=names)
        assert list(net)[:3] == ["conv1a", "conv2a", "conv3a"]
        assert list(net)[8:] == [f"fc{n}{suffix}" for n in (6, 7, 8)]
        assert net["conv5b"][0].shape == (32, 32, 3, 3, 3)
        assert net["conv5b"][1].shape == (1, 1, 1, 1, 32)
        assert net[f"fc6{suffix}"][0].shape == (1, 1, 1, 4096, 512)
        assert net[f"fc8{suffix}"][0].shape == (1, 1, 1, classes, 4096)
