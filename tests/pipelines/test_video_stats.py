"""Lengths, frames and clips of videos, and their shards: as the client and a plan cut them."""

import math

import numpy as np
import pytest
from c3d_client import ClipWindow
from c3d_client.core.errors import UsageError
from c3d_pipelines.estimate.video_stats import (
    ShardLimits,
    VideoStats,
    known_workload,
    read_shards,
    spread_lengths,
    typical_workload,
)
from c3d_pipelines.inputs.manifest import ManifestRow, write_manifest
from c3d_pipelines.inputs.plan import DONE, PlannedRow, cut_into_shards, write_plan


def video(number, *, duration_s=0.0, size_bytes=0):
    return ManifestRow(f"v{number}", f"/v{number}.mp4", size_bytes, duration_s)


def clips(work):
    return work.total(work.stats.clips(work.lengths))


class TestClips:
    def test_are_counted_as_the_client_cuts_them(self):
        frames = np.arange(1.0, 200)
        for stride, step in ((8, 1), (1, 1), (16, 2), (40, 1), (5, 3)):
            for short in ("error", "loop"):
                for tail in ("drop", "pad"):
                    window = ClipWindow(stride=stride, frame_step=step, tail=tail, short=short)
                    expected = [window.count(int(number)) for number in frames]
                    counts = VideoStats(fps=1, window=window).clips(frames)
                    assert counts.tolist() == expected, window

    def test_are_fewer_than_the_mean_length_has(self):
        short = typical_workload(10_000, mean_duration_s=1.2, spread=1.2)
        assert (short.stats.clips(short.lengths) == 0).sum() > 2000
        mean_clips = ClipWindow().count(round(1.2 * 25)) * 10_000
        assert clips(short) != pytest.approx(mean_clips, rel=0.1)


class TestSpreadLengths:
    def test_have_the_mean(self):
        for videos in (1, 2, 1000, 1_000_000):
            for spread in (0, 1.2, 2):
                lengths, weight = spread_lengths(videos, mean_s=120, spread=spread)
                assert len(lengths) * weight == videos
                assert lengths.mean() == pytest.approx(120), (videos, spread)

    def test_are_log_normal(self):
        lengths = np.log(spread_lengths(100_000, mean_s=120, spread=1.2)[0])
        assert lengths.std() == pytest.approx(1.2, rel=0.001)
        assert np.median(lengths) == pytest.approx(math.log(120) - 1.2**2 / 2, abs=0.01)

    def test_a_sample_represents_very_many_videos(self):
        lengths, weight = spread_lengths(4_000_000, mean_s=120, spread=1)
        assert (len(lengths), weight) == (1_000_000, 4)
        few = typical_workload(1_000_000, mean_duration_s=120)
        many = typical_workload(4_000_000, mean_duration_s=120)
        assert clips(many) == pytest.approx(4 * clips(few))
        assert many.total(many.sizes) == pytest.approx(4 * few.total(few.sizes))
        assert many.per_shard(many.lengths).sum() == pytest.approx(4_000_000 * 120)


class TestShards:
    def test_are_cut_as_a_plan_cuts_them(self):
        lengths = spread_lengths(3000, mean_s=120, spread=1.2)[0]
        rows = [video(number, duration_s=length) for number, length in enumerate(lengths)]
        for minutes, most in ((240, 200), (20, 200), (20, 17), (3, 5000), (1e6, 200)):
            plan = cut_into_shards(rows, shard_mb=1e9, shard_minutes=minutes, max_shards=most)
            work = typical_workload(
                3000, mean_duration_s=120, spread=1.2, limits=ShardLimits(1e9, minutes, most)
            )
            case = (minutes, most)
            # A plan counts milliseconds.
            assert len(work.ends) == pytest.approx(len(plan), abs=1 + 0.005 * len(plan)), case
            longest = max(shard.duration_s for shard in plan)
            assert work.per_shard(work.lengths).max() == pytest.approx(longest, rel=0.01), case
            assert work.per_shard(work.lengths).sum() == pytest.approx(3000 * 120), case

    def test_end_at_their_megabytes_if_that_is_sooner(self):
        stats = VideoStats(bytes_per_s=1e6)
        limits = ShardLimits(shard_mb=1200, shard_minutes=240)
        work = typical_workload(100, mean_duration_s=120, spread=0, stats=stats, limits=limits)
        assert work.per_shard(np.ones(100)).tolist() == [10] * 10
        assert work.per_shard(work.sizes)[0] == pytest.approx(1.2e9)

    def test_other_lengths_are_drawn_and_cut_by_seed(self):
        work = typical_workload(5000, mean_duration_s=120, limits=ShardLimits(shard_minutes=60))
        first, same, other = (work.resample(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first.lengths, same.lengths)
        assert not np.array_equal(first.lengths, other.lengths)
        assert first.lengths.mean() == pytest.approx(120, rel=0.1)
        assert len(first.ends) == pytest.approx(len(work.ends), rel=0.1)
        assert first.per_shard(first.lengths).max() <= 3600 * 1.001

    def test_known_lengths_are_not_drawn(self):
        work = known_workload([[video(0, duration_s=10.0), video(1, duration_s=70.0)]])
        assert work.resample(np.random.default_rng(0)) is work


class TestKnownWorkload:
    def test_counts_each_video(self):
        work = known_workload(
            [[video(0, duration_s=10.0), video(1, duration_s=0.4)], [], [video(2, duration_s=4)]]
        )
        frames, counts = work.stats.frames(work.lengths), work.stats.clips(work.lengths)
        assert work.ends.tolist() == [2, 3]
        assert work.per_shard(frames).tolist() == [260, 100]
        assert counts.tolist() == [(250 - 16) // 8 + 1, 0, (100 - 16) // 8 + 1]
        assert work.notes == ()

    def test_computes_lengths_from_sizes_and_notes_it(self):
        stats = VideoStats(bytes_per_s=1000)
        work = known_workload([[video(0, size_bytes=60_000)]], stats=stats)
        assert (work.lengths.tolist(), work.sizes.tolist()) == ([60], [60_000])
        assert "from sizes, at 0.008 Mbit/s: 1 of 1" in work.notes[0]

    def test_uses_the_mean_where_nothing_is_known_and_notes_it(self):
        work = known_workload([[video(0), video(1, duration_s=10.0)]], mean_duration_s=30)
        assert work.lengths.tolist() == [30, 10]
        assert "assumed to be 30 s: 1 of 2" in work.notes[0]

    def test_refuses_videos_of_which_nothing_is_known(self):
        with pytest.raises(UsageError, match="2 videos have neither length nor size.* v1;"):
            known_workload([[video(0, duration_s=1.0), video(1), video(2)]])

    def test_refuses_a_run_without_videos(self):
        for shards in ([], [[]], [[], []]):
            with pytest.raises(UsageError, match="no video to be done"):
                known_workload(shards)


class TestReadShards:
    def test_reads_what_is_left_to_do_of_a_plan(self, tmp_path):
        rows = [video(number, duration_s=60.0) for number in range(4)]
        planned = [
            PlannedRow(rows[0], shard=1),
            PlannedRow(rows[1], DONE),
            PlannedRow(rows[2], shard=0),
            PlannedRow(rows[3], shard=1),
        ]
        write_plan(tmp_path / "plan.parquet", planned)
        shards = read_shards(str(tmp_path / "plan.parquet"))
        assert [[row.video_id for row in shard] for shard in shards] == [["v2"], ["v0", "v3"]]

    def test_cuts_a_manifest_as_a_plan_would(self, tmp_path):
        rows = [video(number, duration_s=600.0, size_bytes=5) for number in range(12)]
        for suffix in ("csv", "jsonl", "parquet"):
            path = tmp_path / f"m.{suffix}"
            write_manifest(path, rows)
            shards = read_shards(str(path), limits=ShardLimits(shard_minutes=40))
            assert [len(shard) for shard in shards] == [4, 4, 4], suffix
