"""Lengths, frames and clips: as the client cuts them, and spread as they are asked to be."""

import math

import numpy as np
import pytest
from c3d_client import ClipWindow
from c3d_pipelines.estimates.footage import clip_counts, spread_lengths
from c3d_pipelines.estimates.workload import typical_workload


class TestClips:
    @pytest.mark.parametrize("tail", ["drop", "pad"])
    @pytest.mark.parametrize("short", ["error", "loop"])
    @pytest.mark.parametrize(("stride", "step"), [(8, 1), (1, 1), (16, 2), (40, 1), (5, 3)])
    def test_are_counted_as_the_client_cuts_them(self, stride, step, tail, short):
        window = ClipWindow(stride=stride, frame_step=step, tail=tail, short=short)
        frames = np.arange(1.0, 200)
        expected = [window.count(int(number)) for number in frames]
        assert clip_counts(frames, window).tolist() == expected

    def test_are_fewer_than_the_mean_length_would_give(self):
        short = typical_workload(10_000, mean_duration_s=1.2, spread=1.2)
        assert short.too_short > 2000
        mean_clips = ClipWindow().count(round(1.2 * 25)) * 10_000
        assert short.total("clips") != pytest.approx(mean_clips, rel=0.1)


class TestSpreadLengths:
    @pytest.mark.parametrize("videos", [1, 2, 1000, 1_000_000])
    @pytest.mark.parametrize("spread", [0, 1.2, 2])
    def test_have_the_mean(self, videos, spread):
        lengths, stands_for = spread_lengths(videos, mean_s=120, spread=spread)
        assert len(lengths) * stands_for == videos
        assert lengths.mean() == pytest.approx(120)

    def test_are_log_normal(self):
        lengths = np.log(spread_lengths(100_000, mean_s=120, spread=1.2)[0])
        assert lengths.std() == pytest.approx(1.2, rel=0.001)
        assert np.median(lengths) == pytest.approx(math.log(120) - 1.2**2 / 2, abs=0.01)

    def test_stand_for_more_where_there_are_very_many(self):
        lengths, stands_for = spread_lengths(4_000_000, mean_s=120, spread=1)
        assert (len(lengths), stands_for) == (1_000_000, 4)
        few = typical_workload(1_000_000, mean_duration_s=120)
        many = typical_workload(4_000_000, mean_duration_s=120)
        for what in ("videos", "frames", "clips", "size_bytes", "requests"):
            assert many.total(what) == pytest.approx(4 * few.total(what))
