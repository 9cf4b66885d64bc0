"""The demo's weights classify the motion of clips unlike those that they were fitted on."""

import dataclasses

import numpy as np
import pytest
from c3d_client.core.errors import C3DError
from c3d_export.architecture import build_c3d, set_weights
from c3d_export.errors import WeightsError
from c3d_export.graph import GraphServable
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.weights import demo
from fit_demo_weights import fit_fc8, main, ridge_classifier
from motion_clips import FITTED, MOTIONS, UNSEEN, motion_clips

LEFT, RIGHT, UP, DOWN, STILL = range(5)
PLAYED_BACKWARDS = np.array([RIGHT, LEFT, DOWN, UP, STILL])
MIRRORED = np.array([RIGHT, LEFT, UP, DOWN, STILL])
NARROW = 16  # a quarter of the filters, a fifteenth of the work


@pytest.fixture(scope="module")
def unseen():
    """A hundred clips, twenty of each motion, and their motions."""
    return motion_clips(100, seed=2, scenery=UNSEEN)


@pytest.fixture(scope="module")
def classify(demo_base):
    """The full network's probabilities for RGB clips: float32 ``[n, 5]``."""
    with GraphServable(demo_base / "1") as servable:

        def classify(clips):
            batches = [clips[start : start + 10] for start in range(0, len(clips), 10)]
            rows = [servable.run("classify", {"clips": batch}) for batch in batches]
            return np.concatenate([row["probabilities"] for row in rows])

        yield classify


@pytest.fixture(scope="module")
def probabilities(classify, unseen):
    """The probabilities for the hundred clips: float32 ``[100, 5]``."""
    return classify(unseen[0])


@pytest.mark.long
class TestFullWidth:
    def test_95_of_100_unseen_clips_are_right(self, probabilities, unseen):
        right = probabilities.argmax(axis=1) == unseen[1]
        assert right.mean() >= 0.95
        assert [right[unseen[1] == motion].mean() >= 0.85 for motion in range(5)] == [True] * 5

    def test_probabilities_are_high_but_not_one(self, probabilities):
        best = probabilities.max(axis=1)
        assert np.median(best) > 0.9
        assert best.max() < 1

    def test_time_reversed_clips_have_the_opposite_motion(self, classify, unseen):
        clips, motions = unseen[0][:10, ::-1], unseen[1][:10]
        answers = classify(clips).argmax(axis=1)
        assert (answers == PLAYED_BACKWARDS[motions]).sum() >= 9

    def test_mirrored_clips_exchange_left_and_right_only(self, classify, unseen):
        clips, motions = unseen[0][:10, :, :, ::-1], unseen[1][:10]
        answers = classify(clips).argmax(axis=1)
        assert (answers == MIRRORED[motions]).sum() >= 9

    def test_weights_are_a_whole_c3d_marked_as_a_demonstration(self):
        weights = demo.demo_weights()
        assert weights.width == 64
        assert weights.classes == len(demo.DEMO_LABELS) == len(MOTIONS)
        assert weights.parameters == 79_991_015 - (487 - 5) * 4097
        assert (weights.source, weights.format, weights.random) == ("demo", "demo", True)
        assert weights.labels == demo.DEMO_LABELS
        assert "demonstration" in weights.note
        # Pinned: the same weights in every release.
        assert weights.sha256.startswith("d54ceb1a503d7535")

    def test_fc8_of_other_filters_is_an_error(self, monkeypatch):
        filters = demo.demo_filters(64)
        filters["conv4b/kernel"] = 1.01 * filters["conv4b/kernel"]
        monkeypatch.setattr(demo, "demo_filters", lambda width: filters)
        with pytest.raises(WeightsError, match=r"python tools/fit_demo_weights\.py"):
            demo.demo_weights()

    def test_other_widths_are_an_error(self):
        for width in (0, 4, 128):
            with pytest.raises(C3DError, match=f"width is {width}; its last layer is fitted for"):
                demo.demo_weights(width=width)


@pytest.mark.long
class TestFitting:
    def test_9_of_10_unseen_clips_are_right_with_a_quarter_of_the_filters(self, unseen):
        arrays = demo.demo_filters(NARROW)
        arrays["fc8/kernel"], arrays["fc8/bias"] = fit_fc8(arrays, clips=300)
        network = build_c3d(width=NARROW, classes=len(MOTIONS))
        set_weights(network, arrays)
        mean = read_mean(SPORTS1M_SCALARS).bgr
        right = 0
        for start in range(0, 100, 10):
            clips, motions = unseen[0][start : start + 10], unseen[1][start : start + 10]
            answers = np.asarray(network(clips[..., ::-1] - mean, training=False))
            right += (answers.argmax(axis=1) == motions).sum()
        assert right >= 90

    def test_tool_writes_what_demo_weights_reads(self, tmp_path, capsys):
        path = tmp_path / "fc8.npz"
        main(["--width", "1", "--clips", "10", "--out", str(path)])
        assert capsys.readouterr().out == f"{path}: fitted on 10 clips\n"
        with np.load(path) as written, np.load(demo.STORED_FC8) as stored:
            assert set(written) == set(stored)
            for key in stored:
                assert written[key].shape == stored[key].shape, key
                assert written[key].dtype == stored[key].dtype, key
            assert np.array_equal(written["sample"], demo.filters_sample(demo.demo_filters(1)))

    def test_conv1_has_no_response_to_still_content_and_even_grey(self):
        kernel = demo.demo_filters(NARROW)["conv1/kernel"]
        assert np.abs(kernel.sum(axis=0)).max() < 1e-6
        assert np.abs(kernel.sum(axis=(1, 2))).max() < 1e-6

    def test_classifier_is_right_and_does_not_overfit(self):
        rng = np.random.default_rng(0)
        classes = np.arange(60) % 3
        features = np.eye(3)[classes] @ rng.normal(size=(3, 200)) + rng.normal(size=(60, 200))
        kernel, bias = ridge_classifier(features, classes)
        assert (kernel.shape, bias.shape, kernel.dtype) == ((200, 3), (3,), np.float32)
        assert ((features @ kernel + bias).argmax(axis=1) == classes).all()
        # Features without information about the classes lead to uncertain outputs.
        noise = rng.normal(size=(60, 200))
        kernel, bias = ridge_classifier(noise, classes)
        outputs = rng.normal(size=(500, 200)) @ kernel + bias
        powers = np.exp(outputs)
        assert np.median((powers / powers.sum(axis=1, keepdims=True)).max(axis=1)) < 0.7


class TestMotionClips:
    def test_clips_do_not_depend_on_how_many_are_rendered_together(self):
        clips, motions = motion_clips(4, seed=5)
        assert (clips.shape, clips.dtype) == ((4, 16, 112, 112, 3), np.uint8)
        later_clips, later_motions = motion_clips(2, seed=5, start=2)
        assert np.array_equal(later_clips, clips[2:])
        assert np.array_equal(later_motions, motions[2:])
        assert not np.array_equal(motion_clips(4, seed=6)[0], clips)

    def test_shapes_move_as_labelled(self):
        # One shape on an even background, whose position can be measured.
        plain = dataclasses.replace(FITTED, patterns=("plain",), sizes=((8, 10),))
        clips, motions = motion_clips(40, seed=5, scenery=plain)
        for pixels, motion in zip(clips.astype(float), motions, strict=True):
            first, last = (self.centre(pixels[number]) for number in (4, 11))
            down, right = last - first
            if motion == STILL:
                assert abs(down) + abs(right) < 1
                continue
            distance = down if motion in (UP, DOWN) else right
            assert (distance > 2) if motion in (RIGHT, DOWN) else (distance < -2)

    def test_fitted_and_unseen_clips_share_nothing(self):
        assert not set(FITTED.patterns) & set(UNSEEN.patterns)
        assert not set(FITTED.corners) & set(UNSEEN.corners)
        for name in ("sizes", "speeds", "hues"):
            for low, high in getattr(FITTED, name):
                assert all(high <= a or b <= low for a, b in getattr(UNSEEN, name)), name

    @staticmethod
    def centre(frame):
        """Return the centre, row and column, of the pixels that differ from the background."""
        weight = np.abs(frame - np.median(frame, axis=(0, 1))).sum(axis=2)
        weight[weight < 40] = 0
        positions = np.arange(112)
        return np.array([weight.sum(1) @ positions, weight.sum(0) @ positions]) / weight.sum()
