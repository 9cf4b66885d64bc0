"""Curves of the timeline and the page: classes, points and bands, colours, and times as text."""

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


def test_best_classes_of_the_video_are_drawn_best_first():
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


def test_point_of_several_clips_is_their_mean_with_minimum_and_maximum():
    rows = random_probabilities(1003, 3)
    curve = curves.best_curves(classified(rows), top_k=1)[0]
    assert curves.clips_per_point(1003) == 3
    assert len(curve.times_s) == 335 + 2
    clip = rows[:, curve.score.index].astype(np.float64)
    assert curve.mean[1] == pytest.approx(clip[:3].mean())
    assert (curve.low[2], curve.high[2]) == (clip[3:6].min(), clip[3:6].max())
    assert curve.mean[-2] == clip[1002]  # the last point has the one remaining clip
    assert curve.times_s[1] == pytest.approx(0.64)
    assert (np.diff(curve.times_s) > 0).all()


def test_at_most_twenty_four_curves_of_different_styles_are_drawn():
    drawn = curves.best_curves(classified(random_probabilities(2, 40)), top_k=30)
    assert len({(curve.hue, curve.dash) for curve in drawn}) == len(drawn) == 24


def test_zero_classes_are_refused():
    with pytest.raises(UsageError, match="top_k is 0"):
        curves.best_curves(classified([[1.0]]), top_k=0)


def test_colours_contrast_with_their_background():
    for hues, background in ((curves.LIGHT, "#ffffff"), (curves.DARK, "#14181d")):
        for hue in hues:
            low, high = sorted((luminance(hue), luminance(background)))
            assert (high + 0.05) / (low + 0.05) >= 3, hue
        assert len(hues) == len(set(hues)) == len(curves.LIGHT)


def test_times_are_written_as_people_write_them():
    for time_s, end_s, digits, text in (
        (0.32, 10, 2, "0.32 s"),
        (61, 119, 0, "61 s"),
        (61, 600, 0, "1:01"),
        (59.97, 600, 1, "1:00.0"),
        (3599.96, 4000, 1, "1:00:00.0"),
        (3661.5, 4000, 1, "1:01:01.5"),
    ):
        assert curves.time_text(time_s, end_s=end_s, digits=digits) == text


def test_ticks_are_few_even_and_all_different():
    for end_s in (0.04, 0.64, 1, 9.92, 10, 60, 599, 3600, 86400, 1e6):
        ticks = curves.time_ticks(end_s)
        assert 1 <= len(ticks) <= 11, end_s
        assert ticks[0][0] == 0
        assert ticks[-1][0] <= end_s + 1e-9
        assert len({text for _, text in ticks}) == len(ticks), end_s
        steps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(ticks)]
        assert np.ptp(steps or [0]) < 1e-9, end_s


def test_probability_axis_ends_at_a_round_number_not_below_the_curves():
    for highest, maximum in ((1, 1), (0.51, 1), (0.5, 0.5), (0.2, 0.25), (0.003, 0.005)):
        rows = np.full((3, 2), [highest, 0])
        drawn = curves.best_curves(classified(rows), top_k=1)
        assert curves.axis_maximum(drawn) == maximum, highest


def test_time_axis_ends_with_the_video_or_the_last_clip():
    classification = classified([[1.0], [1.0]])
    assert curves.axis_end_s(classification, 0.0) == pytest.approx(0.96)
    assert curves.axis_end_s(classification, 1.2) == 1.2


def test_title_is_the_last_part_of_the_path_without_secrets():
    for source, title in (
        ("/films/a b.mp4", "a b.mp4"),
        ("video.mp4", "video.mp4"),
        ("https://host/films/a.mp4?signature=secret#t=1", "a.mp4"),
        ("s3://bucket/deep/a.mp4", "a.mp4"),
        ("two\nlines.mp4", "two lines.mp4"),
        ("not \udcff utf.mp4", r"not \xff utf.mp4"),
        ("", "video"),
    ):
        assert curves.video_title(source) == title


def test_label_without_visible_characters_is_shown_by_its_index():
    assert curves.label_text(" \n", 12) == "class 12"
    assert curves.label_text("ice\u202e skating", 12) == "ice skating"
