"""What to change: the right thing first, and as much as it then brings."""

import pytest
from c3d_pipelines.estimates.course import Job
from c3d_pipelines.estimates.estimate import estimate
from c3d_pipelines.estimates.rates import Cluster, Rates
from c3d_pipelines.estimates.remedies import hours, remedies
from c3d_pipelines.estimates.workload import ShardLimits, known_workload, typical_workload
from c3d_pipelines.inputs.manifest import ManifestRow

RATES = Rates(frames_per_core_s=350, clips_per_s=300)


def film(number, *, duration_s=0.0, size_bytes=0):
    return ManifestRow(f"v{number}", f"/v{number}.mp4", size_bytes, duration_s)


def job(videos=1000, *, cluster=None, rates=RATES, spread=1.2, **changes):
    work = typical_workload(videos, mean_duration_s=120, spread=spread)
    return Job(work, rates, cluster or Cluster(), **changes)


class TestRemedies:
    @pytest.mark.parametrize(
        ("cluster", "words"),
        [
            (Cluster(pods=100, replicas=1), "replicas of the server instead of 1"),
            (Cluster(pods=2, replicas=40), "pods at a time instead of 2"),
            (Cluster(pods=50, replicas=40, network_gbit=0.05), "Gbit/s instead of 0.05"),
            (Cluster(pods=50, replicas=40, storage_mb_per_s=0.02), "pods at a time instead of 50"),
        ],
    )
    def test_more_of_what_holds_it_up_comes_first(self, cluster, words):
        asked = job(100_000, cluster=cluster)
        said = remedies(asked, estimate(asked))
        assert words in said[0]

    def test_what_they_promise_is_what_the_estimate_then_says(self):
        asked = job(100_000, cluster=Cluster(pods=40, replicas=1))
        said = remedies(asked, estimate(asked))[0]
        replicas = int(said.split()[0])
        then = estimate(job(100_000, cluster=Cluster(pods=40, replicas=replicas)))
        assert f": {hours(then.wall_h.likely)} instead of" in said
        assert then.bottleneck != "server"
        fewer = estimate(job(100_000, cluster=Cluster(pods=40, replicas=replicas * 3 // 4)))
        assert fewer.wall_h.likely > then.wall_h.likely * 1.05

    def test_servers_that_idle_are_named(self):
        asked = job(100_000, cluster=Cluster(pods=8, replicas=30))
        said = remedies(asked, estimate(asked))
        assert any("the server is busy" in line for line in said)

    def test_pods_that_start_for_longer_than_they_work_are_named(self):
        work = typical_workload(
            10_000, mean_duration_s=120, limits=ShardLimits(shard_minutes=5, max_shards=5000)
        )
        asked = Job(work, RATES, Cluster(replicas=20))
        said = remedies(asked, estimate(asked))
        assert any("starting pods" in line and "larger shards" in line for line in said)

    def test_a_shard_that_outlasts_all_others_is_named(self):
        rows = [[film(9, duration_s=500_000.0)]]
        rows += [[film(n, duration_s=600.0)] for n in range(20)]
        asked = Job(known_workload(rows), RATES, Cluster(replicas=20))
        assert any("much longer" in line for line in remedies(asked, estimate(asked)))

    def test_shards_that_would_be_lost_are_named(self):
        asked = job(100_000, cluster=Cluster(pods=50, replicas=40, preemptions_per_h=5))
        assert any("left for the next run" in line for line in remedies(asked, estimate(asked)))
