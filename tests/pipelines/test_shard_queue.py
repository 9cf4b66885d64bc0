"""The estimate agrees with runs that are played through event by event."""

import dataclasses
import statistics

import numpy as np
import pytest
from c3d_pipelines.estimates.course import Job
from c3d_pipelines.estimates.estimate import estimate
from c3d_pipelines.estimates.footage import Footage
from c3d_pipelines.estimates.rates import Cluster, Rates
from c3d_pipelines.estimates.workload import ShardLimits, known_workload, typical_workload
from c3d_pipelines.inputs.manifest import ManifestRow
from support.shard_queue import CLIP_BYTES, Machines, Shard, _Queue, played, shard_needs

MEAN_S, SPREAD = 120.0, 1.2
RATES = Rates(frames_per_core_s=350, clips_per_s=300)
MILLION = 1_000_000
NEAR = 0.2  # what is asked for; most come within a tenth of that


def log_normal(videos, *, seed=1):
    chance = np.random.default_rng(seed)
    return chance.lognormal(np.log(MEAN_S) - SPREAD**2 / 2, SPREAD, videos)


def pareto(videos, *, seed=1):
    return (np.random.default_rng(seed).pareto(1.7, videos) + 1) * MEAN_S * 0.7 / 1.7


def cut(lengths, shards):
    """Consecutive videos, as many seconds in each shard as can be."""
    upto = np.cumsum(lengths)
    ends = np.searchsorted(upto, upto[-1] * np.arange(1, shards) / shards)
    return [part for part in np.split(lengths, ends) if len(part)]


def rows(shards):
    return [
        [ManifestRow(f"{number}-{place}", "film", 0, float(s)) for place, s in enumerate(shard)]
        for number, shard in enumerate(shards)
    ]


def machines(job):
    cluster = {
        field.name: getattr(job.cluster, field.name)
        for field in dataclasses.fields(Machines)
        if hasattr(job.cluster, field.name)
    }
    rates = {name: getattr(job.rates, name) for name in ("video_s", "core_share")}
    return Machines(job.rates.frames_per_core_s, job.rates.clips_per_s, **cluster, **rates)


def ratios(job, shards, *, seeds=(0,), **footage):
    """Estimated over played: wall time, CPU-hours, GPU-hours, clips; the median of the seeds."""
    found = estimate(job)
    runs = [
        played(shards, machines(job), seed=seed, failure_rate=job.failure_rate, **footage)
        for seed in seeds
    ]
    return [
        statistics.median(values)
        for values in zip(
            *(
                (
                    found.wall_h.likely * 3600 / run.wall_s,
                    found.cpu_h.likely * 3600 / run.cpu_s,
                    found.gpu_h.likely * 3600 / run.gpu_s,
                )
                for run in runs
            ),
            strict=True,
        )
    ]


@pytest.fixture(scope="module")
def million():
    lengths = log_normal(MILLION)
    return {shards: cut(lengths, shards) for shards in (13, 200, 2000)}


class TestAMillionVideos:
    """Their number and mean length is all that the estimate knows."""

    @pytest.mark.parametrize(
        ("what", "shards", "cluster", "near"),
        [
            ("decode", 200, Cluster(pods=50, replicas=40), 0.05),
            ("decode", 2000, Cluster(pods=64, cores=8, replicas=90), 0.05),
            ("server", 200, Cluster(pods=50, replicas=3), 0.05),
            ("server", 2000, Cluster(pods=100, replicas=10), 0.05),
            ("decode", 200, Cluster(pods=50, replicas=26), 0.05),  # the server all but as slow
            ("decode", 13, Cluster(pods=10, replicas=10), 0.05),  # ten, and then three
            ("server", 13, Cluster(pods=10, replicas=2), 0.05),
            ("wire", 200, Cluster(pods=20, replicas=40, network_gbit=0.5), 0.05),
            ("wire", 200, Cluster(pods=50, replicas=5, network_gbit=1), 0.05),
            ("storage", 200, Cluster(pods=10, replicas=40, storage_mb_per_s=0.5), 0.05),
            ("decode", 200, Cluster(pods=48, replicas=40, pod_start_s=300), 0.1),
        ],
    )
    def test_take_as_long_as_when_played(self, million, what, shards, cluster, near):
        limits = ShardLimits(1e9, 1e9, shards)
        limits = dataclasses.replace(limits, shard_minutes=MILLION * MEAN_S / 60 / shards * 1.001)
        work = typical_workload(MILLION, mean_duration_s=MEAN_S, spread=SPREAD, limits=limits)
        job = Job(work, RATES, cluster)
        assert len(work.shards) == pytest.approx(shards, abs=1 + shards * 0.01)
        assert estimate(job).bottleneck == what
        for ratio in ratios(job, million[shards]):
            assert ratio == pytest.approx(1, abs=near)
            assert near <= NEAR

    @pytest.mark.parametrize(
        ("shards", "cluster"),
        [
            (200, Cluster(pods=50, replicas=40, preemptions_per_h=0.005)),
            (200, Cluster(pods=50, replicas=40, preemptions_per_h=0.05)),
            (200, Cluster(pods=44, replicas=40, preemptions_per_h=0.02)),
            (200, Cluster(pods=50, replicas=3, preemptions_per_h=0.005)),
            (2000, Cluster(pods=100, replicas=60, preemptions_per_h=0.3)),
            (13, Cluster(pods=20, replicas=40, preemptions_per_h=0.005)),
        ],
    )
    def test_take_as_long_with_preemption(self, million, shards, cluster):
        limits = ShardLimits(1e9, MILLION * MEAN_S / 60 / shards * 1.001, shards)
        work = typical_workload(MILLION, mean_duration_s=MEAN_S, spread=SPREAD, limits=limits)
        for ratio in ratios(Job(work, RATES, cluster), million[shards], seeds=range(3)):
            assert ratio == pytest.approx(1, abs=NEAR)


class TestKnownVideos:
    @pytest.mark.parametrize("cluster", [Cluster(replicas=20), Cluster(pods=20, replicas=1)])
    @pytest.mark.parametrize("lengths", [log_normal, pareto])
    def test_take_as_long_as_when_played(self, lengths, cluster):
        shards = cut(lengths(20_000), 60)
        job = Job(known_workload(rows(shards)), RATES, cluster)
        assert ratios(job, shards) == pytest.approx([1, 1, 1], abs=0.05)

    @pytest.mark.parametrize("replicas", [1, 20])
    def test_one_huge_video_holds_up_the_rest(self, replicas):
        lengths = np.concatenate([log_normal(3000), [200_000.0], log_normal(1000, seed=2)])
        shards = cut(lengths, 36)
        job = Job(known_workload(rows(shards)), RATES, Cluster(pods=10, replicas=replicas))
        assert estimate(job).tail_h > 0.1 * estimate(job).wall_h.likely
        assert ratios(job, shards) == pytest.approx([1, 1, 1], abs=0.1)

    def test_small_shards_start_while_others_use_the_server(self):
        shards = cut(log_normal(5000), 1000)
        job = Job(known_workload(rows(shards)), RATES, Cluster(pods=20, replicas=2))
        assert estimate(job).bottleneck == "server"
        assert ratios(job, shards) == pytest.approx([1, 1, 1], abs=0.1)

    @pytest.mark.parametrize("cores", [1, 4, 16])
    def test_the_longest_video_of_a_shard_has_one_core(self, cores):
        # Alone it takes about as long as all others, side by side, and begins anywhere.
        chance = np.random.default_rng(0)
        shards = [np.full(60, 60.0) for _ in range(400)]
        for shard in shards:
            shard[chance.integers(len(shard))] = 60.0 * 60 / cores
        cluster = Cluster(pods=5, cores=cores, replicas=100, pod_start_s=0)
        job = Job(known_workload(rows(shards)), RATES, cluster, failure_rate=0)
        assert ratios(job, shards) == pytest.approx([1, 1, 1], abs=0.1)

    @pytest.mark.parametrize("videos", [1, 2, 3, 5, 8, 9])
    def test_few_videos_share_the_cores(self, videos):
        shards = [np.full(videos, 600.0) for _ in range(20)]
        cluster = Cluster(pods=5, cores=8, replicas=100, pod_start_s=0)
        job = Job(known_workload(rows(shards)), RATES, cluster, failure_rate=0)
        assert ratios(job, shards) == pytest.approx([1, 1, 1], abs=NEAR)

    def test_short_videos_give_the_clips_that_they_give(self):
        shards = cut(np.random.default_rng(3).uniform(0.2, 2.5, 5000), 20)
        job = Job(known_workload(rows(shards)), RATES, Cluster(pods=4, cores=16))
        needs = [
            shard_needs(
                shard,
                machines(job),
                np.random.default_rng(0),
                failure_rate=0,
                fps=25,
                stride=8,
                bytes_per_s=1,
            )
            for shard in shards
        ]
        assert job.workload.total("clips") == sum(need.clips for need in needs)
        assert job.workload.too_short > 500
        # The mean's clips, so many times, are a tenth too many.
        mean = np.concatenate(shards).mean()
        assert ((mean * 25 - 16) // 8 + 1) * 5000 > 1.03 * job.workload.total("clips")

    def test_what_waits_for_an_answer_counts_for_each_video(self):
        shards = cut(np.full(20_000, 4.0), 40)
        rates = dataclasses.replace(RATES, video_s=0.3)
        job = Job(known_workload(rows(shards)), rates, Cluster(replicas=9))
        assert ratios(job, shards) == pytest.approx([1, 1, 1], abs=0.05)

    def test_videos_that_fail_half_way_are_half_the_work(self):
        shards = cut(np.full(20_000, 60.0), 40)
        job = Job(known_workload(rows(shards)), RATES, Cluster(replicas=9), failure_rate=0.6)
        assert ratios(job, shards) == pytest.approx([1, 1, 1], abs=0.05)


def test_what_is_played_lies_between_low_and_high():
    inside = 0
    limits = ShardLimits(1e9, 100_000 * MEAN_S / 60 / 200 * 1.001, 200)
    work = typical_workload(100_000, mean_duration_s=MEAN_S, spread=SPREAD, limits=limits)
    job = Job(work, RATES, Cluster(pods=40, replicas=40, preemptions_per_h=0.1))
    found = estimate(job)
    for seed in range(20):
        run = played(cut(log_normal(100_000, seed=seed), 200), machines(job), seed=seed)
        inside += found.wall_h.low <= run.wall_s / 3600 <= found.wall_h.high
    assert inside >= 18


def test_as_many_pods_are_taken_away_as_when_played():
    shards = cut(log_normal(20_000), 100)
    cluster = Cluster(pods=10, replicas=20, preemptions_per_h=3, retries=2)
    job = Job(known_workload(rows(shards)), RATES, cluster)
    runs = [played(shards, machines(job), seed=seed) for seed in range(8)]
    found = estimate(job)
    assert found.preempted == pytest.approx(np.mean([run.preempted for run in runs]), rel=0.1)
    assert found.lost_shards == pytest.approx(np.mean([run.lost for run in runs]), rel=0.4)
    held = np.mean([run.cpu_s for run in runs])
    assert found.cpu_h.likely * 3600 == pytest.approx(held, rel=0.05)
    ends = np.mean([run.wall_s for run in runs])
    assert found.wall_h.likely * 3600 == pytest.approx(ends, rel=0.1)
    calm = estimate(dataclasses.replace(job, cluster=Cluster(pods=10, replicas=20)))
    assert found.cpu_h.likely > 1.15 * calm.cpu_h.likely


class TestThePlayedRun:
    """The simulation itself, where the answer is known."""

    def test_an_ideal_run_takes_what_arithmetic_says(self):
        job = Job(
            known_workload(rows([[100.0] * 40] * 12)),
            Rates(250, 1e6, video_s=0, core_share=1),
            Cluster(pods=6, cores=4, pod_start_s=0),
            failure_rate=0,
        )
        run = played([[100.0] * 40] * 12, machines(job), seed=0, failure_rate=0)
        assert run.wall_s == pytest.approx(12 * 40 * 2500 / 250 / 4 / 6)
        assert run.cpu_s == pytest.approx(12 * 40 * 2500 / 250)

    def test_the_server_is_never_faster_than_it_is(self):
        shards = [[100.0] * 40] * 12
        slow = Machines(1e6, 50, pods=6, cores=4, replicas=2, video_s=0, pod_start_s=0)
        run = played(shards, slow, seed=0, failure_rate=0)
        assert run.clips == pytest.approx(12 * 40 * ((2500 - 16) // 8 + 1))
        assert run.wall_s == pytest.approx(run.clips / 100)

    def test_a_slow_pod_leaves_its_part_of_the_server_to_others(self):
        shards = [Shard(10.0, 100.0), Shard(1.0, 900.0)]
        server = Machines(1, 100, pods=2, cores=1, pod_start_s=0)
        queue = _Queue(shards, server, np.random.default_rng(0))
        queue.shard[:] = [0, 1]
        assert queue._speeds(np.array([0, 1])) * [100, 900] == pytest.approx([10, 90])

    def test_a_narrow_network_is_shared_too(self):
        shards = [Shard(1.0, 100.0), Shard(1.0, 100.0)]
        server = Machines(1, 1e9, pods=2, cores=1, network_gbit=10 * CLIP_BYTES * 8 / 1e9)
        queue = _Queue(shards, server, np.random.default_rng(0))
        queue.shard[:] = [0, 1]
        assert queue._speeds(np.array([0, 1])) * 100 == pytest.approx([5, 5])

    def test_the_same_seed_is_the_same_run(self):
        shards, lively = cut(log_normal(2000), 30), Machines(350, 50, 8, 4, preemptions_per_h=1)
        assert played(shards, lively, seed=4) == played(shards, lively, seed=4)
        assert played(shards, lively, seed=4) != played(shards, lively, seed=5)


def test_footage_of_the_played_run_is_the_default():
    assert (Footage().fps, Footage().window.stride) == (25, 8)
    assert Footage().bytes_per_s == 2.7e6 / 8
