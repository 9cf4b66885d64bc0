"""The served network agrees with the oracle, an independent C3D that shares no code with it.

Both start from the same bytes of a C3D-v1.0 file and the same videos. The last tests show that each
known mistake of C3D ports would break the agreement.
"""

import keras
import numpy as np
import pytest
from c3d_client import C3DClient, decode_frames, iter_clips
from c3d_client.core.contract import LAYERS
from support import oracle
from support.measures import relative

TOLERANCE = 1e-4  # of the length of each row
STRIDE = 80  # the oracle needs a second per clip
VIDEOS = ["carphone", *(pytest.param(name, marks=pytest.mark.long) for name in ("bikes", "bunny"))]


@pytest.fixture(scope="module")
def net(full_files):
    return oracle.parse_net(full_files["weights"].read_bytes())


@pytest.fixture(scope="module")
def mean(full_files):
    return oracle.parse_mean(full_files["mean"].read_bytes())


@pytest.mark.long
@pytest.mark.parametrize("video", VIDEOS)
def test_served_layers_and_probabilities_are_the_oracles(full_server, net, mean, request, video):
    path = request.getfixturevalue(video)
    with C3DClient(full_server.target, stride=STRIDE) as c3d:
        features = c3d.extract(path)
        classification = c3d.classify(path)
    with C3DClient(full_server.target, stride=STRIDE, layers=list(LAYERS)) as c3d:
        every = c3d.extract(path)
    frames = oracle.decode(path)
    starts = range(0, len(frames) - 15, STRIDE)
    assert list(features.clip_starts) == list(starts)
    stages = [oracle.stages(oracle.preprocess(frames[s : s + 16], mean), net) for s in starts]
    fc6 = np.stack([outputs["fc6"] for outputs in stages])
    prob = np.stack([outputs["prob"] for outputs in stages])
    assert relative(features.clip_features, fc6) < TOLERANCE
    assert relative(classification.clip_probabilities, prob) < TOLERANCE
    served = {"conv5b": every.clip_features, **every.layers}
    assert list(served) == list(LAYERS)
    assert served["conv5b"].shape[1:] == (2, 7, 7, 512)
    assert served["pool5"].shape[1:] == (1, 4, 4, 512)
    for name, rows in served.items():
        expected = np.stack([oracle.layers(outputs)[name] for outputs in stages])
        assert rows.shape == expected.shape, name
        flat = (array.reshape(len(starts), -1) for array in (rows, expected))
        assert relative(*flat) < TOLERANCE, name
    mean_fc6 = fc6.mean(axis=0, dtype=np.float64)
    assert relative(features.video_feature, mean_fc6 / np.linalg.norm(mean_fc6)) < TOLERANCE


@pytest.mark.parametrize("video", VIDEOS)
def test_clips_in_requests_have_the_oracles_pixels(request, video):
    path = request.getfixturevalue(video)
    clip = next(iter_clips(decode_frames(path)))
    expected = [oracle.wire_frame(frame) for frame in oracle.decode(path, count=16)]
    assert np.array_equal(clip.pixels, np.stack(expected))


@pytest.fixture(scope="module")
def oracle_stages(bikes, net, mean):
    clip = oracle.preprocess(oracle.decode(bikes, count=16), mean)
    return {"clips": clip, **oracle.stages(clip, net)}


@pytest.fixture(scope="module")
def keras_stages(full_network, full_mean, bikes):
    pixels = next(iter_clips(decode_frames(bikes))).pixels
    outputs = {layer.name: layer.output for layer in full_network.layers[1:]}
    centred = pixels[None, ..., ::-1].astype(np.float32) - full_mean.bgr
    arrays = keras.Model(full_network.input, outputs)(centred, training=False)
    return {"clips": centred, **{name: np.asarray(array) for name, array in arrays.items()}}


class TestStageByStage:
    """Where the outputs differ, these tests show the first stage that does."""

    def test_preprocessing_is_exactly_the_same(self, oracle_stages, keras_stages):
        clip = keras_stages["clips"][0].transpose(3, 0, 1, 2)
        assert np.array_equal(clip, oracle_stages["clips"])

    def test_every_layer_agrees(self, oracle_stages, keras_stages):
        for stage, expected in oracle_stages.items():
            array = keras_stages["softmax" if stage == "prob" else stage][0]
            if array.ndim == 4:
                # Keras's axes are time, row, column, channel; Caffe's channel, time, row, column.
                array = array.transpose(3, 0, 1, 2)
            assert array.shape == expected.shape, stage
            tolerance = 1e-5 if array.ndim == 4 else TOLERANCE
            assert relative(array.reshape(-1), expected.reshape(-1)) < tolerance, stage


@pytest.mark.long
def test_every_known_mistake_would_break_the_agreement(full_server, bunny, net, mean):
    # 1280x720: a resize with antialiasing has an effect only on large frames.
    with C3DClient(full_server.target, stride=1000) as c3d:
        served = c3d.extract(bunny).clip_features
    frames = oracle.decode(bunny, count=16)
    features, _ = oracle.video_fc6(frames, net, mean)
    assert relative(served, features) < TOLERANCE
    for mistake in oracle.MISTAKES:
        features, _ = oracle.video_fc6(frames, net, mean, mistake=mistake)
        assert relative(served, features) > 100 * TOLERANCE, mistake
