"""What is served is what Caffe would compute: the oracle, which shares no code with us, agrees.

Both start from the same bytes of a C3D-v1.0 file and the same films. The last tests show that the
agreement has teeth: each mistake that ports of C3D have made would break it.
"""

import keras
import numpy as np
import pytest
from c3d_client import C3DClient, decode_frames, iter_clips
from c3d_export.architecture import build_c3d, set_weights
from support import oracle
from support.measures import relative

TOLERANCE = 1e-4  # of the length of each row
STRIDE = 80  # a clip costs the oracle a second
VIDEOS = ["carphone", "bikes", "bunny"]


@pytest.fixture(scope="module")
def net(full_files):
    return oracle.parse_net(full_files["weights"].read_bytes())


@pytest.fixture(scope="module")
def mean(full_files):
    return oracle.parse_mean(full_files["mean"].read_bytes())


@pytest.mark.parametrize("video", VIDEOS)
def test_served_features_and_probabilities_are_the_oracles(full_server, net, mean, request, video):
    path = request.getfixturevalue(video)
    with C3DClient(full_server.target, stride=STRIDE) as c3d:
        features = c3d.extract(path)
        answer = c3d.classify(path)
    frames = oracle.decode(path)
    starts = range(0, len(frames) - 15, STRIDE)
    assert list(features.clip_starts) == list(starts)
    stages = [oracle.stages(oracle.preprocess(frames[s : s + 16], mean), net) for s in starts]
    assert relative(features.clip_features, np.stack([each["fc6"] for each in stages])) < TOLERANCE
    assert relative(answer.clip_probabilities, np.stack([s["prob"] for s in stages])) < TOLERANCE
    mean_fc6 = np.mean([each["fc6"] for each in stages], axis=0, dtype=np.float64)
    assert relative(features.video_feature, mean_fc6 / np.linalg.norm(mean_fc6)) < TOLERANCE


@pytest.mark.parametrize("video", VIDEOS)
def test_the_clips_on_the_wire_are_the_oracles_pixels(request, video):
    path = request.getfixturevalue(video)
    clip = next(iter_clips(decode_frames(path)))
    wire = [oracle.wire_frame(frame) for frame in oracle.decode(path, count=16)]
    assert np.array_equal(clip.pixels, np.stack(wire))


# ---- stage by stage: where a difference is, and not only that there is one


@pytest.fixture(scope="module")
def bikes_frames(bikes):
    return oracle.decode(bikes, count=16)


@pytest.fixture(scope="module")
def theirs(bikes_frames, net, mean):
    return oracle.stages(oracle.preprocess(bikes_frames, mean), net)


@pytest.fixture(scope="module")
def ours(full_weights, full_mean, bikes):
    model = build_c3d()
    set_weights(model, full_weights.arrays)
    pixels = next(iter_clips(decode_frames(bikes))).pixels
    outputs = {layer.name: layer.output for layer in model.layers[1:]}
    centred = pixels[None, ..., ::-1].astype(np.float32) - full_mean.bgr
    answers = keras.Model(model.input, outputs)(centred, training=False)
    return {"clips": centred, **{name: np.asarray(a) for name, a in answers.items()}}


def test_preprocessing_is_exactly_the_same(bikes_frames, mean, ours):
    theirs = oracle.preprocess(bikes_frames, mean)
    assert np.array_equal(ours["clips"][0].transpose(3, 0, 1, 2), theirs)


@pytest.mark.parametrize(
    "stage",
    ["conv1", "pool1", "conv2", "pool2", "conv3a", "conv3b", "pool3", "conv4a", "conv4b"]
    + ["pool4", "conv5a", "conv5b", "pool5"],
)
def test_each_volume_on_the_way_agrees(ours, theirs, stage):
    # Ours are time, row, column, channel; Caffe's are channel, time, row, column.
    volume = ours[stage][0].transpose(3, 0, 1, 2)
    assert volume.shape == theirs[stage].shape
    assert relative(volume.reshape(-1), theirs[stage].reshape(-1)) < 1e-5


@pytest.mark.parametrize(
    ("layer", "stage"), [("fc6", "fc6"), ("fc7", "fc7"), ("fc8", "fc8"), ("softmax", "prob")]
)
def test_each_vector_on_the_way_agrees(ours, theirs, layer, stage):
    assert relative(ours[layer][0], theirs[stage].reshape(-1)) < TOLERANCE


@pytest.fixture(scope="module")
def served(full_server, bunny):
    # 1280x720: a resize that antialiases shows only where there is much to shrink.
    with C3DClient(full_server.target, stride=1000) as c3d:
        return c3d.extract(bunny).clip_features


@pytest.fixture(scope="module")
def bunny_frames(bunny):
    return oracle.decode(bunny, count=16)


def test_without_a_mistake_the_oracle_agrees(served, bunny_frames, net, mean):
    features, _ = oracle.video_fc6(bunny_frames, net, mean)
    assert relative(served, features) < TOLERANCE


@pytest.mark.parametrize("mistake", oracle.MISTAKES)
def test_with_a_known_mistake_it_would_not(served, bunny_frames, net, mean, mistake):
    features, _ = oracle.video_fc6(bunny_frames, net, mean, mistake=mistake)
    assert relative(served, features) > 100 * TOLERANCE
