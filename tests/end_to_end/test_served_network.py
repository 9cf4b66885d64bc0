"""The whole network behind gRPC gives the Keras model's numbers on real video."""

import keras
import numpy as np
import pytest
from c3d_client import C3DClient, decode_frames, iter_clips
from c3d_export.architecture import build_c3d, set_weights
from support.measures import relative

TOLERANCE = 1e-5  # of the length of each row


@pytest.fixture(scope="module")
def network(full_weights):
    """The Keras model with the weights as they are published: BGR in."""
    model = build_c3d()
    set_weights(model, full_weights.arrays)
    outputs = [model.get_layer(name).output for name in ("fc6", "softmax")]
    return keras.Model(model.input, outputs)


@pytest.mark.parametrize("video", ["carphone", "bikes", "baseball"])
def test_features_and_probabilities_are_the_keras_models(
    full_server, full_mean, network, request, video
):
    path = request.getfixturevalue(video)
    stride = 40  # a few clips show it; each costs a fifth of a second, twice
    with C3DClient(full_server.target, stride=stride) as c3d:
        features = c3d.extract(path)
        answer = c3d.classify(path)
    clips = np.stack([clip.pixels for clip in iter_clips(decode_frames(path), c3d.window)])
    assert len(clips) >= 3
    fc6, probabilities = map(np.asarray, network(clips[..., ::-1] - full_mean.bgr, training=False))
    assert relative(features.clip_features, fc6) <= TOLERANCE
    # A softmax multiplies the difference by the size of fc8's values, here about 10.
    assert relative(answer.clip_probabilities, probabilities) <= 10 * TOLERANCE
    mean = fc6.mean(axis=0, dtype=np.float64)
    assert features.video_feature == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert np.linalg.norm(features.video_feature) == pytest.approx(1.0, abs=1e-6)
    assert answer.top[0].index == probabilities.mean(axis=0).argmax()
