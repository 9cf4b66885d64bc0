"""Recommendations: the most useful change first, with the time that it would bring."""

import pytest
from c3d_pipelines.estimate.rates import Cluster, Rates
from c3d_pipelines.estimate.report import duration, recommend
from c3d_pipelines.estimate.simulate import Job, estimate
from c3d_pipelines.estimate.video_stats import ShardLimits, known_workload, typical_workload
from c3d_pipelines.inputs.manifest import ManifestRow

RATES = Rates(frames_per_core_s=350, clips_per_s=300)


def job(videos=100_000, **cluster):
    return Job(typical_workload(videos, mean_duration_s=120), RATES, Cluster(**cluster))


def recommended(job):
    return recommend(job, estimate(job))


def video(number, *, duration_s):
    return ManifestRow(f"v{number}", f"/v{number}.mp4", 0, duration_s)


@pytest.mark.long
def test_more_of_the_bottleneck_is_among_the_first():
    for cluster, text in (
        ({"pods": 100, "replicas": 1}, "replicas of the server instead of 1"),
        ({"pods": 2, "replicas": 40}, "pods at a time instead of 2"),
        ({"pods": 50, "replicas": 40, "network_gbit": 0.05}, "Gbit/s instead of 0.05"),
        ({"pods": 50, "replicas": 40, "storage_mb_per_s": 0.02}, "pods at a time instead of 50"),
    ):
        assert any(text in line for line in recommended(job(**cluster))[:2]), cluster


def test_more_cores_are_recommended_where_all_shards_run_at_once():
    lines = recommended(job(1000, pods=100, cores=2, replicas=9))
    assert "cores per pod instead of 2" in lines[0]
    assert not any("pods at a time" in line for line in lines)


def test_two_best_additions_are_listed():
    lines = recommended(job(pods=2, replicas=40))
    assert "pods at a time instead of 2" in lines[0]
    assert "cores per pod instead of 4" in lines[1]
    assert sum("instead of 35" in line for line in lines) == 2


@pytest.mark.long
def test_promised_time_is_the_estimate_after_the_change():
    line = recommended(job(pods=40, replicas=1))[0]
    replicas = int(line.split()[0])
    changed = estimate(job(pods=40, replicas=replicas))
    assert f": {duration(changed.wall_h.likely)} instead of" in line
    assert changed.bottleneck != "server"
    fewer = estimate(job(pods=40, replicas=replicas * 3 // 4))
    assert fewer.wall_h.likely > changed.wall_h.likely * 1.05


def test_idle_replicas_are_mentioned():
    lines = recommended(job(pods=8, replicas=30))
    assert any("the server is busy" in line for line in lines)


@pytest.mark.long
def test_long_starts_of_pods_are_mentioned():
    limits = ShardLimits(shard_minutes=5, max_shards=5000)
    work = typical_workload(10_000, mean_duration_s=120, limits=limits)
    lines = recommended(Job(work, RATES, Cluster(replicas=20, pod_start_s=30)))
    assert any("starting pods" in line and "larger shards" in line for line in lines)


@pytest.mark.long
def test_more_shards_than_a_cluster_runs_are_the_first_line():
    for most, is_named in ((200, False), (201, True)):
        limits = ShardLimits(shard_minutes=5, max_shards=most)
        work = typical_workload(10_000, mean_duration_s=120, limits=limits)
        lines = recommended(Job(work, RATES, Cluster()))
        assert ("201 shards, and a run with more than 200 is refused" in lines[0]) is is_named
        alone = recommended(Job(work, RATES, Cluster(pods=1, one_machine=True)))
        assert not any("refused" in line for line in alone)


def test_shard_that_outlasts_all_others_is_mentioned():
    rows = [[video(99, duration_s=500_000.0)]]
    rows += [[video(number, duration_s=600.0)] for number in range(20)]
    lines = recommended(Job(known_workload(rows), RATES, Cluster(replicas=20)))
    assert any("much longer" in line for line in lines)


def test_uneven_rounds_are_mentioned():
    rows = [[video(number, duration_s=60_000.0)] for number in range(9)]
    lines = recommended(Job(known_workload(rows), RATES, Cluster(replicas=40)))
    assert any("a multiple of the shards at a time" in line for line in lines)


@pytest.mark.long
def test_lost_shards_are_mentioned():
    lines = recommended(job(pods=50, replicas=40, preemptions_per_h=5))
    assert any("left for the next run" in line for line in lines)


def test_server_on_another_machine_is_recommended():
    lines = recommended(job(1000, pods=1, one_machine=True))
    assert "a server on its own machine" in lines[0]
    assert not any("replicas" in line for line in lines)


def test_durations_have_a_fitting_unit():
    for hours, text in (
        (0.001, "4 s"),
        (0.1, "6.0 min"),
        (0.5, "30 min"),
        (1, "1.0 h"),
        (71.9, "71.9 h"),
        (96, "4.0 days"),
    ):
        assert duration(hours) == text
