"""Figures of an estimate: counts, bytes, cost, their order, and the refusal of invalid numbers."""

import itertools
import math

import numpy as np
import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.estimate.rates import Cluster, Rates
from c3d_pipelines.estimate.simulate import Job, estimate
from c3d_pipelines.estimate.video_stats import typical_workload

RATES = Rates(frames_per_core_s=350, clips_per_s=300)


def job(videos=1000, *, rates=RATES, failure_rate=0.01, spread=1.2, **cluster):
    work = typical_workload(videos, mean_duration_s=120, spread=spread)
    return Job(work, rates, Cluster(**cluster), failure_rate=failure_rate)


class TestEstimate:
    def test_counts_pods_and_bytes(self):
        result = estimate(job(failure_rate=0))
        assert result.pods == 3 * result.shards + 10
        assert result.bytes_wire == pytest.approx(result.clips * 16 * 112 * 112 * 3)
        assert result.bytes_in == pytest.approx(1000 * 120 * 2.7e6 / 8)
        written = result.videos - result.too_short
        assert result.bytes_out == pytest.approx((written + result.clips) * 4096 * 4)

    def test_videos_alone_or_classes_need_fewer_bytes(self):
        with_clips = estimate(job(failure_rate=0))
        videos = estimate(job(failure_rate=0), clip_rows=False)
        assert videos.bytes_out == pytest.approx((1000 - videos.too_short) * 4096 * 4)
        classes = estimate(job(failure_rate=0), answer="classes")
        assert classes.bytes_out == pytest.approx(with_clips.bytes_out * 487 / 4096)

    def test_reduced_features_need_bytes_for_their_dimensions(self):
        whole, reduced = estimate(job()), estimate(job(), pca_dim=500)
        assert reduced.bytes_out == pytest.approx(whole.bytes_out * 500 / 4096)
        assert reduced.wall_h == whole.wall_h

    def test_failed_videos_have_no_rows_and_half_their_frames(self):
        result, sound = estimate(job(failure_rate=1.0)), estimate(job(failure_rate=0))
        assert result.bytes_out == 0
        assert result.failed == 1000
        assert result.frames == pytest.approx(sound.frames / 2)
        assert result.clips == pytest.approx(sound.clips / 2)

    def test_hours_of_machines(self):
        result = estimate(job(cores=2, pods=4, replicas=3, gpus_per_replica=2, spread=0))
        assert result.gpu_h.likely == pytest.approx(result.wall_h.likely * 6)
        # Pods hold their cores while they start and work.
        pods_h = result.stages_h["decode"] * 4 + result.shards * 10 / 3600
        assert result.cpu_h.likely == pytest.approx(2 * pods_h, rel=0.02)

    def test_parts_of_the_run(self):
        result = estimate(job(100_000, pods=10, replicas=40, pod_start_s=20))
        assert result.bottleneck == "decode"
        expected_h = result.stages_h["decode"] + result.starts_h + result.tail_h
        assert result.wall_h.likely == pytest.approx(expected_h, rel=0.02)
        starts = 12.5 + 3 * result.shards / 10
        assert result.starts_h == pytest.approx(starts * 20 / 3600)
        assert result.tail_h < 0.05 * result.wall_h.likely

    def test_a_server_that_limits_the_run_is_busy(self):
        result = estimate(job(pod_start_s=0))
        assert result.bottleneck == "server"
        assert result.server_busy == pytest.approx(1, abs=0.05)
        idle = estimate(job(pod_start_s=0, replicas=30))
        assert idle.server_busy < 0.2

    def test_low_likely_high_are_in_order(self):
        for cluster in ({}, {"preemptions_per_h": 1}, {"pods": 1}):
            result = estimate(job(**cluster), gpu_hour=2.0, cpu_hour=0.05)
            for values in (result.wall_h, result.cpu_h, result.gpu_h, result.cost):
                assert 0 < values.low < values.likely < values.high, (cluster, values)

    def test_range_has_the_error_of_the_rates(self):
        wall_h = estimate(job(100_000, pod_start_s=0, spread=0, failure_rate=0)).wall_h
        assert wall_h.low / wall_h.likely == pytest.approx(1 / 1.09, rel=0.01)
        assert wall_h.high / wall_h.likely == pytest.approx(1 / 0.91, rel=0.01)

    def test_range_is_wider_for_few_videos_with_uneven_lengths(self):
        few, many = (estimate(job(count, pod_start_s=0)).wall_h for count in (30, 100_000))
        assert (few.high - few.low) / few.likely > 2 * (many.high - many.low) / many.likely
        assert few.high / few.likely > 1.2 * many.high / many.likely

    def test_cost_is_hours_times_prices(self):
        result = estimate(job(), gpu_hour=2.5, cpu_hour=0.04)
        expected = 2.5 * result.gpu_h.likely + 0.04 * result.cpu_h.likely
        assert result.cost.likely == pytest.approx(expected, rel=0.01)
        assert estimate(job(), gpu_hour=2).cost.likely == 2 * result.gpu_h.likely
        assert estimate(job()).cost is None

    def test_preemption_takes_longer_and_shards_may_be_lost(self):
        calm, rough = estimate(job()), estimate(job(preemptions_per_h=5))
        assert rough.wall_h.likely > calm.wall_h.likely
        assert rough.pods > calm.pods
        assert rough.preempted > 1
        assert 0 < rough.lost_shards < rough.shards

    @pytest.mark.long
    def test_more_of_anything_is_never_slower(self):
        base = {"pods": 8, "cores": 4, "replicas": 2}
        for name, amounts in (
            ("pods", (1, 2, 4, 8, 16, 32)),
            ("cores", (1, 2, 3, 4, 8, 16)),
            ("replicas", (1, 2, 3, 4, 8, 30)),
            ("network_gbit", (0.1, 1, 10, 100)),
            ("storage_mb_per_s", (0.1, 1, 10, 100)),
        ):
            times = [
                estimate(job(1000, **{**base, name: amount})).wall_h.likely for amount in amounts
            ]
            for fewer, more in itertools.pairwise(times):
                assert more <= fewer * 1.01, (name, times)
            assert times[-1] < times[0], (name, times)
        for slower, faster in (
            (Rates(100, 300), Rates(350, 300)),
            (Rates(350, 30), RATES),
            (Rates(350, 300, request_s=0.1), RATES),
            (Rates(350, 300, video_s=5), RATES),
        ):
            hours = [estimate(job(rates=rates)).wall_h.likely for rates in (slower, faster)]
            assert hours[1] < hours[0], slower

    def test_more_videos_take_longer(self):
        times = [estimate(job(videos)).wall_h.likely for videos in (1, 10, 100, 1000, 10_000)]
        assert times == sorted(times)
        assert np.diff(times).min() > 0

    def test_invalid_numbers_are_refused(self):
        """Those that the command cannot set; test_estimate_command.py has the others."""
        for name, value in (("retries", -1), ("failure_rate", -0.1), ("failure_rate", math.nan)):
            with pytest.raises(UsageError, match=f"^{name} is .*; give [^\n]*$"):
                job(**{name: value})
        for name, value in (("request_s", -1), ("video_s", math.nan)):
            with pytest.raises(UsageError, match=f"^{name} is .*; give [^\n]*$"):
                Rates(**{"frames_per_core_s": 1, "clips_per_s": 1, name: value})
        with pytest.raises(UsageError, match="answer is 'rows'; give features or classes"):
            estimate(job(), answer="rows")
        for value in (0, 4097):
            with pytest.raises(UsageError, match=f"pca_dim is {value}; give 1 to 4096"):
                estimate(job(), pca_dim=value)
        with pytest.raises(UsageError, match="pca_dim is 500 and the answer classes; leave out"):
            estimate(job(), pca_dim=500, answer="classes")
