"""What there is to do: counted video by video, cut as a plan cuts, nothing guessed unsaid."""

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.estimates.footage import Footage, spread_lengths
from c3d_pipelines.estimates.workload import (
    ShardLimits,
    known_workload,
    read_shards,
    typical_workload,
)
from c3d_pipelines.inputs.manifest import ManifestRow, write_manifest
from c3d_pipelines.inputs.plan import DONE, PlannedRow, cut_into_shards, write_plan


def film(number, *, duration_s=0.0, size_bytes=0):
    return ManifestRow(f"v{number}", f"/v{number}.mp4", size_bytes, duration_s)


class TestShards:
    @pytest.mark.parametrize(
        ("minutes", "most"), [(240, 200), (20, 200), (20, 17), (3, 5000), (1e6, 200)]
    )
    def test_are_cut_as_a_plan_cuts_them(self, minutes, most):
        lengths = spread_lengths(3000, mean_s=120, spread=1.2)[0]
        rows = [film(number, duration_s=length) for number, length in enumerate(lengths)]
        plan = cut_into_shards(rows, shard_mb=1e9, shard_minutes=minutes, max_shards=most)
        work = typical_workload(
            3000, mean_duration_s=120, spread=1.2, limits=ShardLimits(1e9, minutes, most)
        )
        # A plan counts milliseconds.
        assert len(work.shards) == pytest.approx(len(plan), abs=1 + 0.005 * len(plan))
        longest = max(shard.duration_s for shard in plan)
        assert work.each("duration_s").max() == pytest.approx(longest, rel=0.01)
        assert work.each("duration_s").sum() == pytest.approx(3000 * 120)

    def test_end_where_their_megabytes_do_if_that_is_sooner(self):
        footage = Footage(bytes_per_s=1e6)
        limits = ShardLimits(shard_mb=1200, shard_minutes=240)
        work = typical_workload(100, mean_duration_s=120, spread=0, footage=footage, limits=limits)
        assert [shard.videos for shard in work.shards] == [10] * 10
        assert work.shards[0].size_bytes == pytest.approx(1.2e9)


class TestKnownWorkload:
    def test_counts_each_video(self):
        work = known_workload(
            [[film(0, duration_s=10.0), film(1, duration_s=0.4)], [], [film(2, duration_s=4)]]
        )
        assert [shard.videos for shard in work.shards] == [2, 1]
        assert work.shards[0].frames == 260
        assert work.each("clips").tolist() == [(250 - 16) // 8 + 1, (100 - 16) // 8 + 1]
        assert work.each("requests").tolist() == [4, 2]
        assert work.shards[0].longest_frames == 250
        assert (work.too_short, work.error, work.notes) == (1, 0, ())

    def test_reckons_lengths_from_sizes_and_says_so(self):
        footage = Footage(bytes_per_s=1000)
        work = known_workload([[film(0, size_bytes=60_000)]], footage=footage)
        assert work.total("duration_s") == 60
        assert work.total("size_bytes") == 60_000
        assert "from sizes, at 0.008 Mbit/s: 1 of 1" in work.notes[0]

    def test_takes_the_mean_where_nothing_is_known(self):
        work = known_workload([[film(0), film(1, duration_s=10.0)]], mean_duration_s=30)
        assert work.total("duration_s") == 40
        assert "taken to be 30 s: 1 of 2" in work.notes[0]

    def test_refuses_to_guess(self):
        with pytest.raises(UsageError, match="2 videos have neither length nor size.* v1;"):
            known_workload([[film(0, duration_s=1.0), film(1), film(2)]])

    def test_reads_what_a_plan_has_left_to_do(self, tmp_path):
        rows = [film(number, duration_s=60.0) for number in range(4)]
        planned = [
            PlannedRow(rows[0], shard=1),
            PlannedRow(rows[1], DONE),
            PlannedRow(rows[2], shard=0),
            PlannedRow(rows[3], shard=1),
        ]
        write_plan(tmp_path / "plan.parquet", planned)
        shards = read_shards(str(tmp_path / "plan.parquet"))
        assert [[row.video_id for row in shard] for shard in shards] == [["v2"], ["v0", "v3"]]

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
    def test_cuts_a_manifest_as_a_plan_would(self, tmp_path, suffix):
        rows = [film(number, duration_s=600.0, size_bytes=5) for number in range(12)]
        write_manifest(tmp_path / f"m.{suffix}", rows)
        shards = read_shards(str(tmp_path / f"m.{suffix}"), limits=ShardLimits(shard_minutes=40))
        assert [len(shard) for shard in shards] == [4, 4, 4]
