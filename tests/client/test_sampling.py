"""Frames at a fixed rate: what a viewer sees at each tick."""

from fractions import Fraction

import numpy as np
import pytest
from c3d_client.core.errors import UsageError
from c3d_client.video.clips import resample
from c3d_client.video.decode import Frame, decode_frames
from support.films import write_timed

NTSC = Fraction(30000, 1001)


def film(stamps_s, *, last_s=0.04):
    """Frames shown from these times on, each with its own picture."""
    ends = [*stamps_s[1:], stamps_s[-1] + last_s]
    for index, (start, end) in enumerate(zip(stamps_s, ends, strict=True)):
        pixels = np.full((2, 2, 3), index % 256, np.uint8)
        yield Frame.from_pixels(index, float(start), float(end - start), pixels)


def shown(frames, fps):
    """Which frame of the film each frame of the result shows."""
    return [int(frame.pixels[0, 0, 0]) for frame in resample(frames, fps=fps)]


def regular(count, fps):
    return [float(number / Fraction(fps)) for number in range(count)]


def test_a_frame_is_shown_from_its_time_until_the_next_ones():
    stamps = [0, 0.05, 0.10, 0.31, 0.40]
    assert shown(film(stamps, last_s=0.2), 10) == [0, 2, 2, 2, 4, 4]


@pytest.mark.parametrize("fps", [25, 25.0, 29.97, NTSC, 12.5, 240])
def test_a_films_own_rate_changes_nothing(fps):
    exact = Fraction(str(fps)) if isinstance(fps, float) else Fraction(fps)
    frames = film(regular(200, exact), last_s=float(1 / exact))
    assert shown(frames, fps) == list(range(200))


@pytest.mark.parametrize("rounded", [np.round, np.floor, np.ceil])
def test_stamps_in_whole_milliseconds_neither_repeat_nor_lose_a_frame(rounded):
    stamps = [float(rounded(number * 1001 / 30) / 1000) for number in range(250)]
    assert shown(film(stamps, last_s=0.033), NTSC) == list(range(250))


def test_half_the_rate_takes_every_other_and_twice_the_rate_doubles():
    assert shown(film(regular(10, 30), last_s=1 / 30), 15) == [0, 2, 4, 6, 8]
    assert shown(film(regular(3, 30), last_s=1 / 30), 60) == [0, 0, 1, 1, 2, 2]


def test_frames_are_counted_and_timed_anew():
    frames = list(resample(film(regular(30, 30), last_s=1 / 30), fps=8))
    assert [frame.index for frame in frames] == list(range(8))
    assert [frame.time_s for frame in frames] == [number / 8 for number in range(8)]
    assert {frame.duration_s for frame in frames} == {1 / 8}


def test_hours_bring_no_drift():
    # Three hours of one still picture, then another.
    hours_s = 10_800.0
    for frame in resample(film([0, hours_s], last_s=0.1), fps=NTSC):
        assert frame.time_s == frame.index * 1001 / 30000
    assert frame.time_s == pytest.approx(hours_s + 0.1, abs=0.04)


def test_repeated_frames_share_one_picture_and_dropped_ones_make_no_pixels():
    frames = list(resample(film([0, 0.01, 0.02, 0.1], last_s=0.1), fps=20))
    pictures = [frame.picture for frame in frames]
    assert len(pictures) == 4
    assert pictures[0] is not pictures[1]
    assert pictures[2] is pictures[3]


def test_frames_come_as_soon_as_they_are_known():
    taken = []

    def watched():
        for frame in film(regular(100, 25)):
            taken.append(frame.index)
            yield frame

    first = next(resample(watched(), fps=25))
    assert (first.index, taken) == (0, [0, 1])


@pytest.mark.parametrize("frames", [[], list(film([0], last_s=0.0005)), list(film([0], last_s=0))])
def test_nothing_stays_nothing_and_a_moment_one_frame(frames):
    assert shown(iter(frames), 25) == [0] * len(frames)


@pytest.mark.parametrize("fps", [0, -1, 0.001, 1001, float("nan"), float("inf"), "25", None, True])
def test_a_rate_out_of_range_is_refused_at_once(fps):
    with pytest.raises(UsageError, match="fps is .*; give a number"):
        resample(film([0]), fps=fps)


def test_a_film_of_variable_rate_becomes_one_of_fixed_rate(tmp_path):
    path = write_timed(tmp_path / "a.mkv", [0, 40, 45, 200, 1000, 1040])
    original = list(decode_frames(path))
    frames = list(resample(decode_frames(path), fps=10))
    assert len(frames) == 11
    expected = [0, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    for frame, number in zip(frames, expected, strict=True):
        assert np.array_equal(frame.pixels, original[number].pixels)
