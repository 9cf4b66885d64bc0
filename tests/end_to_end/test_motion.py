"""The example's video, served with the demo's weights: the motion over time is right."""

import sys
from pathlib import Path

import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_export.local_server import LocalServer
from c3d_export.weights.demo import DEMO_LABELS
from support.videos import write_video

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
LEFT, RIGHT, UP, DOWN, STILL = DEMO_LABELS


@pytest.fixture(scope="module")
def moving_square():
    """The module that draws the example's video."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import moving_square
    finally:
        sys.path.pop(0)
    return moving_square


@pytest.fixture(scope="module")
def c3d(demo_base):
    """A client of the full network with the demo's weights."""
    server = LocalServer(demo_base)
    server.start()
    with C3DClient(server.target) as client:
        yield client
    server.stop(5)


def labels_by_third(classification, frames):
    """Return the best labels of the clips that lie within each third of a video."""
    labels = np.array(classification.labels)[classification.clip_probabilities.argmax(axis=1)]
    # A clip across a turn has both motions. One with a single frame of another third is counted.
    thirds = [(number * frames / 3, (number + 1) * frames / 3) for number in range(3)]
    starts = classification.clip_starts
    return [
        labels[(starts >= begin - 1) & (starts + 16 <= end + 1)].tolist() for begin, end in thirds
    ]


def test_video_moves_right_then_down_then_left(c3d, moving_square, tmp_path):
    moving_square.render(tmp_path / "video.mp4")
    classification = c3d.classify(tmp_path / "video.mp4")
    labels = labels_by_third(classification, moving_square.FPS * moving_square.SECONDS)
    assert [set(third) for third in labels] == [{RIGHT}, {DOWN}, {LEFT}]
    assert min(map(len, labels)) >= 4
    assert classification.clip_probabilities.max(axis=1).max() < 1


def test_video_played_backwards_moves_right_then_up_then_left(c3d, moving_square, tmp_path):
    frames = moving_square.FPS * moving_square.SECONDS
    path = write_video(
        tmp_path / "back.mp4", frames, draw=lambda n: moving_square.frame(frames - 1 - n)
    )
    labels = labels_by_third(c3d.classify(path), frames)
    assert [set(third) for third in labels] == [{RIGHT}, {UP}, {LEFT}]


def test_video_of_one_repeated_frame_is_still(c3d, moving_square, tmp_path):
    path = write_video(tmp_path / "still.mp4", 24, draw=lambda n: moving_square.frame(30))
    assert c3d.classify(path, top_k=1).top[0].label == STILL


def test_model_card_describes_a_demonstration(c3d):
    weights = c3d.model_info().card["weights"]
    assert weights["source"] == "demo"
    assert "demonstration" in weights["note"]
