"""The example's film, served with the demo's weights: what moves where, over time, is right."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_export.local_server import LocalServer
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights.demo import DEMO_LABELS, demo_weights
from support.films import write_film

ROOT = Path(__file__).parents[2]
LEFT, RIGHT, UP, DOWN, STILL = DEMO_LABELS


@pytest.fixture(scope="module")
def film():
    """The module that draws the example's film."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import film
    finally:
        sys.path.pop(0)
    return film


@pytest.fixture(scope="module")
def c3d(tmp_path_factory):
    """A client of the whole network with the demo's weights."""
    base = tmp_path_factory.mktemp("demo") / "c3d"
    spec = ServableSpec(
        weights=demo_weights(),
        mean=read_mean(SPORTS1M_SCALARS),
        labels=DEMO_LABELS,
        batch_sizes=(1,),
    )
    build(spec, base)
    server = LocalServer(base)
    server.start()
    with C3DClient(server.target) as client:
        yield client
    server.stop(5)
    shutil.rmtree(base)


def said_over_time(answer, frames):
    """The best label of each clip that lies within one third of a film, third by third."""
    labels = np.array(answer.labels)[answer.clip_probabilities.argmax(axis=1)]
    # Round a turn, and in a third's first and last frame, both motions are in the clip.
    thirds = [(number * frames / 3, (number + 1) * frames / 3) for number in range(3)]
    starts = answer.clip_starts
    return [
        labels[(starts >= begin - 1) & (starts + 16 <= end + 1)].tolist() for begin, end in thirds
    ]


def test_the_film_moves_right_then_down_then_left(c3d, film, tmp_path):
    film.render(tmp_path / "film.mp4")
    answer = c3d.classify(tmp_path / "film.mp4")
    said = said_over_time(answer, film.FPS * film.SECONDS)
    assert [set(labels) for labels in said] == [{RIGHT}, {DOWN}, {LEFT}]
    assert min(map(len, said)) >= 4
    assert answer.clip_probabilities.max(axis=1).max() < 1


def test_the_film_played_backwards_moves_right_then_up_then_left(c3d, film, tmp_path):
    frames = film.FPS * film.SECONDS
    path = write_film(tmp_path / "back.mp4", frames, draw=lambda n: film.frame(frames - 1 - n))
    said = said_over_time(c3d.classify(path), frames)
    assert [set(labels) for labels in said] == [{RIGHT}, {UP}, {LEFT}]


def test_a_film_of_one_picture_stands_still(c3d, film, tmp_path):
    path = write_film(tmp_path / "still.mp4", 24, draw=lambda n: film.frame(30))
    assert c3d.classify(path, top_k=1).top[0].label == STILL


def test_the_model_card_says_that_it_is_a_demonstration(c3d):
    weights = c3d.model_info().card["weights"]
    assert weights["source"] == "demo"
    assert "demonstration" in weights["note"]
