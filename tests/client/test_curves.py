"""What timeline and page draw: which classes, points and bands, colours, and times as text."""

import itertools

import numpy as np
import pytest
from c3d_client.core.errors import UsageError
from c3d_client.views import curves
from support.sample_classification import classified, random_probabilities


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_films_best_classes_are_drawn_best_first():
    rows = random_probabilities(9, 30)
    drawn = curves.best_curves(classified(rows), top_k=4)
    best = np.argsort(-rows.mean(axis=0, dtype=np.float64))[:4]
    assert [curve.score.index for curve in drawn] == best.tolist()
    for curve in drawn:
        np.testing.assert_array_equal(curve.mean[1:-1], rows[:, curve.score.index])
        np.testing.assert_array_equal(curve.low, curve.high)
        np.testing.assert_allclose(curve.times_s[1:-1], 0.32 * np.arange(9) + 0.32)


def test_one_clip_is_a_line_over_its_span():
    (curve,) = curves.best_curves(classified([[0.25, 0.75]]), top_k=1)
    assert curve.times_s.tolist() == [0, 0.32, 0.64]
    assert curve.mean.tolist() == [0.75] * 3


def test_a_point_of_many_clips_is_their_mean_lowest_and_highest():
    rows = random_probabilities(1003, 3)
    curve = curves.best_curves(classified(rows), top_k=1)[0]
    assert curves.clips_a_point(1003) == 3
    assert len(curve.times_s) == 335 + 2
    clip = rows[:, curve.score.index].astype(np.float64)
    assert curve.mean[1] == pytest.approx(clip[:3].mean())
    assert (curve.low[2], curve.high[2]) == (clip[3:6].min(), clip[3:6].max())
    assert curve.mean[-2] == clip[1002]  # the last point has what is left
    assert curve.times_s[1] == pytest.approx(0.64)
    assert (np.diff(curve.times_s) > 0).all()


def test_every_curve_of_twenty_four_has_its_own_look_and_no_more_are_drawn():
    drawn = curves.best_curves(classified(random_probabilities(2, 40)), top_k=30)
    assert len({(curve.hue, curve.dash) for curve in drawn}) == len(drawn) == 24


def test_no_classes_are_refused():
    with pytest.raises(UsageError, match="top_k is 0"):
        curves.best_curves(classified([[1.0]]), top_k=0)


@pytest.mark.parametrize(("hues", "ground"), [(curves.LIGHT, "#ffffff"), (curves.DARK, "#14181d")])
def test_every_colour_stands_out_from_its_ground(hues, ground):
    for hue in hues:
        low, high = sorted((luminance(hue), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3
    assert len(hues) == len(set(hues)) == len(curves.LIGHT)


@pytest.mark.parametrize(
    ("time_s", "end_s", "digits", "text"),
    [
        (0.32, 10, 2, "0.32 s"),
        (61, 119, 0, "61 s"),
        (61, 600, 0, "1:01"),
        (59.97, 600, 1, "1:00.0"),
        (3599.96, 4000, 1, "1:00:00.0"),
        (3661.5, 4000, 1, "1:01:01.5"),
    ],
)
def test_times_read_as_people_write_them(time_s, end_s, digits, text):
    assert curves.clock(time_s, end_s=end_s, digits=digits) == text


@pytest.mark.parametrize("end_s", [0.04, 0.64, 1, 9.92, 10, 60, 599, 3600, 86400, 1e6])
def test_ticks_are_few_even_and_all_different(end_s):
    marks = curves.ticks(end_s)
    assert 1 <= len(marks) <= 11
    assert marks[0][0] == 0
    assert marks[-1][0] <= end_s + 1e-9
    assert len({text for _, text in marks}) == len(marks)
    steps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(marks)]
    assert np.ptp(steps or [0]) < 1e-9


@pytest.mark.parametrize(
    ("highest", "top"), [(1, 1), (0.51, 1), (0.5, 0.5), (0.2, 0.25), (0.003, 0.005)]
)
def test_the_axis_ends_at_a_round_number_not_below_the_curves(highest, top):
    rows = np.full((3, 2), [highest, 0])
    assert curves.ceiling(curves.best_curves(classified(rows), top_k=1)) == top


def test_the_axis_of_time_ends_with_the_film_or_the_last_clip():
    film = classified([[1.0], [1.0]])
    assert curves.end_s(film, 0.0) == pytest.approx(0.96)
    assert curves.end_s(film, 1.2) == 1.2


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/films/a b.mp4", "a b.mp4"),
        ("film.mp4", "film.mp4"),
        ("https://host/films/a.mp4?signature=secret#t=1", "a.mp4"),
        ("s3://bucket/deep/a.mp4", "a.mp4"),
        ("two\nlines.mp4", "two lines.mp4"),
        ("not \udcff utf.mp4", "not ? utf.mp4"),
        ("", "film"),
    ],
)
def test_a_film_is_called_by_the_last_part_of_its_path_and_no_secret(source, name):
    assert curves.film_name(source) == name


def test_a_label_without_anything_to_see_is_shown_by_its_index():
    assert curves.label_text(" \n", 12) == "class 12"
    assert curves.label_text("ice\u202e skating", 12) == "ice skating"
