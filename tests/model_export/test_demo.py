"""The demo's weights: right about the motion of clips unlike those that they were fitted on."""

import dataclasses

import numpy as np
import pytest
from c3d_export.architecture import build_c3d, set_weights
from c3d_export.errors import WeightsError
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.weights import demo
from c3d_export.weights.canonical import turned_to_rgb
from c3d_export.weights.motion_clips import MOTIONS, SEEN, UNSEEN, motion_clips
from c3d_export.weights.motion_fit import ridge_classifier

LEFT, RIGHT, UP, DOWN, STILL = range(5)
PLAYED_BACKWARDS = np.array([RIGHT, LEFT, DOWN, UP, STILL])
IN_A_MIRROR = np.array([RIGHT, LEFT, UP, DOWN, STILL])
NARROW = 16  # a quarter of the filters, a fifteenth of the work


def probabilities(weights, clips):
    """What the network says of RGB clips, a few at a time: float32 ``[n, 5]``."""
    network = build_c3d(width=weights.width, classes=weights.classes)
    set_weights(network, turned_to_rgb(weights.arrays))
    mean = read_mean(SPORTS1M_SCALARS).bgr[..., ::-1]
    batches = [clips[start : start + 10] for start in range(0, len(clips), 10)]
    return np.concatenate([np.asarray(network(batch - mean, training=False)) for batch in batches])


@pytest.fixture(scope="module")
def unseen():
    """A hundred clips, twenty of each motion, and their motions."""
    return motion_clips(100, seed=2, scenery=UNSEEN)


@pytest.fixture(scope="module")
def full():
    return demo.demo_weights()


@pytest.fixture(scope="module")
def narrow():
    return demo.demo_weights(width=NARROW)


@pytest.fixture(scope="module")
def answers(full, unseen):
    """What the full width says of the hundred clips: float32 ``[100, 5]``."""
    return probabilities(full, unseen[0])


class TestFullWidth:
    def test_95_of_100_unseen_clips_are_right(self, answers, unseen):
        right = answers.argmax(axis=1) == unseen[1]
        assert right.mean() >= 0.95
        assert [right[unseen[1] == motion].mean() >= 0.85 for motion in range(5)] == [True] * 5

    def test_probabilities_are_sure_and_yet_not_certain(self, answers):
        best = answers.max(axis=1)
        assert np.median(best) > 0.9
        assert best.max() < 1

    def test_played_backwards_left_is_right_and_up_is_down(self, full, unseen):
        clips, motions = unseen[0][:10, ::-1], unseen[1][:10]
        answers = probabilities(full, clips).argmax(axis=1)
        assert (answers == PLAYED_BACKWARDS[motions]).sum() >= 9

    def test_in_a_mirror_left_is_right_and_up_stays_up(self, full, unseen):
        clips, motions = unseen[0][:10, :, :, ::-1], unseen[1][:10]
        answers = probabilities(full, clips).argmax(axis=1)
        assert (answers == IN_A_MIRROR[motions]).sum() >= 9

    def test_it_is_a_whole_c3d_and_says_that_it_is_a_demonstration(self, full):
        assert full.width == 64
        assert full.classes == len(demo.DEMO_LABELS) == len(MOTIONS)
        assert full.parameters == 79_991_015 - (487 - 5) * 4097
        assert (full.source, full.format, full.random) == ("demo", "demo", True)
        assert full.labels == demo.DEMO_LABELS
        assert "demonstration" in full.note

    def test_an_fc8_for_other_filters_is_refused(self, full, monkeypatch):
        filters = {**full.arrays, "conv4b/kernel": 1.01 * full.arrays["conv4b/kernel"]}
        monkeypatch.setattr(demo, "demo_filters", lambda width: filters)
        with pytest.raises(WeightsError, match=r"python -m c3d_export\.weights\.motion_fit"):
            demo.demo_weights()


class TestFitting:
    def test_9_of_10_unseen_clips_are_right_with_a_quarter_of_the_filters(self, narrow, unseen):
        answers = probabilities(narrow, unseen[0]).argmax(axis=1)
        assert (answers == unseen[1]).mean() >= 0.9

    def test_conv1_says_nothing_of_what_stands_still_nor_of_even_grey(self, narrow):
        kernel = narrow.arrays["conv1/kernel"]
        assert np.abs(kernel.sum(axis=0)).max() < 1e-6
        assert np.abs(kernel.sum(axis=(1, 2))).max() < 1e-6

    def test_a_classifier_is_right_and_as_sure_as_the_rows_that_it_left_out(self):
        rng = np.random.default_rng(0)
        classes = np.arange(60) % 3
        features = np.eye(3)[classes] @ rng.normal(size=(3, 200)) + rng.normal(size=(60, 200))
        kernel, bias = ridge_classifier(features, classes)
        assert (kernel.shape, bias.shape, kernel.dtype) == ((200, 3), (3,), np.float32)
        assert ((features @ kernel + bias).argmax(axis=1) == classes).all()
        # Of rows that say nothing of their classes it is unsure: it learns none by heart.
        noise = rng.normal(size=(60, 200))
        kernel, bias = ridge_classifier(noise, classes)
        outputs = rng.normal(size=(500, 200)) @ kernel + bias
        powers = np.exp(outputs)
        assert np.median((powers / powers.sum(axis=1, keepdims=True)).max(axis=1)) < 0.7

    def test_a_width_below_1_is_refused(self):
        with pytest.raises(WeightsError, match="must be 1 or more"):
            demo.demo_weights(width=0)


class TestMotionClips:
    def test_clips_are_the_same_whether_made_together_or_apart(self):
        clips, motions = motion_clips(4, seed=5)
        assert (clips.shape, clips.dtype) == ((4, 16, 112, 112, 3), np.uint8)
        later, moving = motion_clips(2, seed=5, start=2)
        assert np.array_equal(later, clips[2:])
        assert np.array_equal(moving, motions[2:])
        assert not np.array_equal(motion_clips(4, seed=6)[0], clips)

    def test_what_moves_goes_where_its_label_says(self):
        # One shape on an even ground: where it is can be measured.
        plain = dataclasses.replace(SEEN, patterns=("plain",), sizes=((8, 10),))
        clips, motions = motion_clips(40, seed=5, scenery=plain)
        for pixels, motion in zip(clips.astype(float), motions, strict=True):
            first, last = (self.middle(pixels[number]) for number in (4, 11))
            down, right = last - first
            if motion == STILL:
                assert abs(down) + abs(right) < 1
                continue
            along = down if motion in (UP, DOWN) else right
            assert (along > 2) if motion in (RIGHT, DOWN) else (along < -2)

    def test_seen_and_unseen_share_nothing(self):
        assert not set(SEEN.patterns) & set(UNSEEN.patterns)
        assert not set(SEEN.corners) & set(UNSEEN.corners)
        for name in ("sizes", "speeds", "hues"):
            for low, high in getattr(SEEN, name):
                assert all(high <= a or b <= low for a, b in getattr(UNSEEN, name))

    @staticmethod
    def middle(frame):
        """The centre, row and column, of what differs from the ground at the frame's corner."""
        weight = np.abs(frame - np.median(frame, axis=(0, 1))).sum(axis=2)
        weight[weight < 40] = 0
        places = np.arange(112)
        return np.array([weight.sum(1) @ places, weight.sum(0) @ places]) / weight.sum()
