"""The full network behind gRPC computes the Keras model's numbers for real videos."""

import keras
import numpy as np
import pytest
from c3d_client import C3DClient, decode_frames, iter_clips
from support.measures import relative

TOLERANCE = 1e-5  # of the length of each row
LARGEST = 1e-5  # of the largest value: Winograd's convolution against Keras's direct one
STRIDE = 40  # a few clips are enough; each takes a fifth of a second, twice


@pytest.mark.long
@pytest.mark.parametrize("video", ["carphone", "bikes", "baseball"])
def test_features_and_probabilities_are_the_keras_models(
    full_server, full_mean, full_network, request, video
):
    path = request.getfixturevalue(video)
    with C3DClient(full_server.target, stride=STRIDE) as c3d:
        features = c3d.extract(path)
        classification = c3d.classify(path)
    clips = np.stack([clip.pixels for clip in iter_clips(decode_frames(path), c3d.window)])
    assert len(clips) >= 3
    outputs = [full_network.get_layer(name).output for name in ("fc6", "softmax")]
    model = keras.Model(full_network.input, outputs)
    fc6, probabilities = map(np.asarray, model(clips[..., ::-1] - full_mean.bgr, training=False))
    assert relative(features.clip_features, fc6) <= TOLERANCE
    assert np.abs(features.clip_features - fc6).max() <= LARGEST * fc6.max()
    # A softmax multiplies the difference by the size of fc8's values, here about 10.
    assert relative(classification.clip_probabilities, probabilities) <= 10 * TOLERANCE
    mean = fc6.mean(axis=0, dtype=np.float64)
    assert features.video_feature == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert np.linalg.norm(features.video_feature) == pytest.approx(1.0, abs=1e-6)
    assert classification.top[0].index == probabilities.mean(axis=0).argmax()
