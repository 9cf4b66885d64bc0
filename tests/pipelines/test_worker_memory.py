"""A video that needs more memory than the worker's container has fails alone."""

import json
import shutil

import pytest
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.storage import Storage
from support.cgroups import limited
from support.shard_runs import job, read_videos
from support.videos import write_grey, write_video

pytestmark = pytest.mark.faults

WORKER = """
import json, sys
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.worker import do_shard
from support.shard_runs import row

settings, *paths = sys.argv[1:]
report = do_shard(JobSettings.from_json(settings), [row(path) for path in paths], 0)
print(json.dumps([report.name, report.counts]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """H.264, 8192x8192, 16 frames."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    return write_grey(path, [(8192, 8192)], 16, options={"preset": "ultrafast"})


def test_large_videos_are_done_one_after_the_other_where_only_one_fits(started, tmp_path, large):
    paths = [shutil.copy(large, tmp_path / f"{number}.mp4") for number in range(3)]
    with limited(memory=1000 << 20) as group:
        settings = job(tmp_path / "out", started().target, workers=2)
        _, counts = json.loads(group.run(WORKER, settings.to_json(), *paths))
    assert (counts["ok"], sum(counts.values())) == (3, 3)


def test_video_of_8192x8192_pixels_fails_alone_under_a_limit_of_640_mib(started, tmp_path, large):
    assert large.stat().st_size < 200_000
    first = write_video(tmp_path / "0.mp4", 24)
    others = [shutil.copy(first, tmp_path / f"{number}.mp4") for number in range(1, 5)]
    paths = [first, *others[:2], large, *others[2:]]
    out = tmp_path / "out"
    with limited(cpus=2, memory=640 << 20) as group:
        settings = job(out, started().target, workers=0)
        name, counts = json.loads(group.run(WORKER, settings.to_json(), *paths))
    assert (counts["ok"], counts["failed"], sum(counts.values())) == (5, 1, 6)
    rows = read_videos(out, read_report(Storage(out), name))
    assert [item["status"] for item in rows] == ["ok"] * 3 + ["failed"] + ["ok"] * 2
    assert rows[3]["error_type"] == "VideoTooLarge"
    assert "has pictures of 8192x8192 pixels: decoding needs about " in rows[3]["error_message"]
    assert "MiB of the 640 MiB that this process may use" in rows[3]["error_message"]
