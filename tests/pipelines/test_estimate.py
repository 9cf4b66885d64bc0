"""Hours, pods, bytes and money: derived by hand, in order, and out of range refused."""

import math

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.estimates.course import PODS_AROUND, PODS_PER_SHARD, Job
from c3d_pipelines.estimates.estimate import Prices, estimate
from c3d_pipelines.estimates.rates import Cluster, Rates
from c3d_pipelines.estimates.workload import Workload, known_workload, typical_workload
from c3d_pipelines.inputs.manifest import ManifestRow

RATES = Rates(frames_per_core_s=350, clips_per_s=300)


def film(number, *, duration_s=0.0, size_bytes=0):
    return ManifestRow(f"v{number}", f"/v{number}.mp4", size_bytes, duration_s)


def job(videos=1000, *, cluster=None, rates=RATES, spread=1.2, **changes):
    work = typical_workload(videos, mean_duration_s=120, spread=spread)
    return Job(work, rates, cluster or Cluster(), **changes)


class TestEstimate:
    def test_counts_pods_and_bytes(self):
        found = estimate(job(failure_rate=0))
        assert found.pods == PODS_PER_SHARD * found.shards + PODS_AROUND
        assert found.bytes_wire == pytest.approx(found.clips * 16 * 112 * 112 * 3)
        assert found.bytes_in == pytest.approx(1000 * 120 * 2.7e6 / 8)
        good = found.videos - found.too_short
        assert found.bytes_out == pytest.approx((good + found.clips) * 4096 * 4)

    def test_videos_alone_or_classes_are_written_in_less(self):
        with_clips = estimate(job(failure_rate=0))
        videos = estimate(job(failure_rate=0), clip_rows=False)
        assert videos.bytes_out == pytest.approx((1000 - videos.too_short) * 4096 * 4)
        classes = estimate(job(failure_rate=0), answer="classes")
        assert classes.bytes_out == pytest.approx(with_clips.bytes_out * 487 / 4096)

    def test_videos_that_fail_leave_no_rows(self):
        found = estimate(job(failure_rate=1.0))
        assert found.bytes_out == 0
        assert found.failed == 1000

    def test_is_derived_by_hand(self):
        # 64 equal videos of 100 s in 8 shards, on 4 pods of 2 cores: two rounds.
        rows = [[film(8 * s + n, duration_s=100.0) for n in range(8)] for s in range(8)]
        rates = Rates(100, 1e9, video_s=1, core_share=0.9)
        cluster = Cluster(pods=4, cores=2, replicas=3, gpus_per_replica=2, pod_start_s=10)
        found = estimate(Job(known_workload(rows), rates, cluster, failure_rate=0))
        core_s = 8 * (2500 / 90 + 1)
        longest = (2500 / 90 + 1) / 2  # less than the others' time: (1/2)^2 / 2 of it, over theirs
        shard_s = core_s / 2 + longest**2 / 2 / ((core_s - 2 * longest) / 2)
        wall_s = PODS_AROUND * 10 + 2 * (30 + shard_s)
        assert found.wall_h.likely * 3600 == pytest.approx(wall_s)
        assert found.cpu_h.likely * 3600 == pytest.approx(8 * (10 + shard_s) * 2)
        assert found.gpu_h.likely == pytest.approx(found.wall_h.likely * 6)

    def test_a_server_alone_takes_its_clips_and_requests(self):
        rows = [[film(0, duration_s=1000.0)]]
        rates = Rates(1e9, 100, request_s=0.5, video_s=0)
        found = estimate(Job(known_workload(rows), rates, Cluster(pod_start_s=0), failure_rate=0))
        clips = (25_000 - 16) // 8 + 1
        server_s = clips / 100 + math.ceil(clips / 8) * 0.5
        assert found.wall_h.likely * 3600 == pytest.approx(server_s)
        assert found.bottleneck == "server"
        assert found.server_busy == pytest.approx(1)

    def test_on_one_machine_decoding_and_computing_add_up(self):
        alone = Cluster(pods=1, cores=2, pod_start_s=0, one_machine=True)
        found = estimate(job(cluster=alone))
        stages = found.stages_h
        assert found.wall_h.likely == pytest.approx(stages["decode"] + stages["server"], rel=0.01)

    @pytest.mark.parametrize("cluster", [Cluster(), Cluster(preemptions_per_h=1), Cluster(pods=1)])
    def test_low_likely_high_are_in_order(self, cluster):
        found = estimate(job(cluster=cluster), prices=Prices(2.0, 0.05))
        for three in (found.wall_h, found.cpu_h, found.gpu_h, found.cost):
            assert 0 < three.low < three.likely < three.high

    def test_a_mean_of_few_heavy_tailed_videos_tells_less(self):
        few, many = estimate(job(30)), estimate(job(100_000))
        assert few.wall_h.high / few.wall_h.likely > 1.2 * many.wall_h.high / many.wall_h.likely

    def test_cost_is_hours_times_prices(self):
        found = estimate(job(), prices=Prices(gpu_hour=2.5, cpu_hour=0.04))
        expected = 2.5 * found.gpu_h.likely + 0.04 * found.cpu_h.likely
        assert found.cost.likely == pytest.approx(expected)
        assert estimate(job()).cost is None

    def test_preemption_makes_it_longer_and_shards_may_be_lost(self):
        calm = estimate(job())
        rough = estimate(job(cluster=Cluster(preemptions_per_h=2)))
        assert rough.wall_h.likely > calm.wall_h.likely
        assert rough.pods > calm.pods
        assert rough.preempted > 1
        assert 0 < rough.lost_shards < rough.shards

    @pytest.mark.parametrize(
        "changes",
        [
            {"failure_rate": -0.1},
            {"failure_rate": 1.1},
            {"failure_rate": math.nan},
            {"cluster": {"pods": 0}},
            {"cluster": {"cores": -1}},
            {"cluster": {"replicas": 0}},
            {"cluster": {"gpus_per_replica": -1}},
            {"cluster": {"pod_start_s": math.inf}},
            {"cluster": {"preemptions_per_h": -1}},
            {"cluster": {"retries": -1}},
            {"cluster": {"network_gbit": 0}},
            {"cluster": {"storage_mb_per_s": math.nan}},
            {"cluster": {"one_machine": True}},
            {"rates": {"frames_per_core_s": 0}},
            {"rates": {"clips_per_s": -3}},
            {"rates": {"request_s": -1}},
            {"rates": {"video_s": math.nan}},
            {"rates": {"core_share": 0}},
        ],
    )
    def test_numbers_out_of_range_are_refused(self, changes):
        (name, value), *_ = changes.items()
        word = next(iter(value)) if isinstance(value, dict) else name
        with pytest.raises(UsageError, match="one machine" if word == "one_machine" else word):
            job(
                cluster=Cluster(**changes.get("cluster", {})),
                rates=Rates(
                    **{"frames_per_core_s": 1, "clips_per_s": 1, **changes.get("rates", {})}
                ),
                failure_rate=changes.get("failure_rate", 0.0),
            )

    def test_nothing_to_do_is_nothing_to_estimate(self):
        with pytest.raises(UsageError, match="no video to be done"):
            known_workload([])
        with pytest.raises(UsageError, match="no video to be done"):
            Workload(())
