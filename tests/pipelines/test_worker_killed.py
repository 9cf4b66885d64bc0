"""A worker that is killed at any moment and called again makes the same shard."""

import json
import signal

import pytest
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.storage import Storage
from support.shard_runs import VARYING_COLUMNS, job, mixed_rows, run_python, stable_content

pytestmark = pytest.mark.faults

KILLED = r"""
import json, os, signal, sys
import cv2
import pyarrow as pa
from c3d_client import decode_frames
from c3d_pipelines.shards import writer as shard_writer
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.worker import do_shard
from support.shard_runs import mixed_rows

base, videos, plain = sys.argv[1:]
shard_writer._CLIP_GROUP_ROWS = 3  # files grow while videos are read, not only at the end
shard_writer._VIDEO_GROUP_ROWS = 2
rows = mixed_rows(videos)
# Work of a second that each process would repeat: loading pandas, which Arrow does where it is
# installed, and finding out which way of resizing is exact.
pa.array([0])
cv2.setNumThreads(1)
for frame in decode_frames(rows[0].uri, threads=1):
    frame.picture.prepared()

def settings(out):
    return JobSettings.from_json(json.dumps({**json.loads(plain), "out": out}))

class Steps:
    # A step is each video done, and each call that changes the dataset's folder.
    def __init__(self, kill_at):
        self.count, self.kill_at = 0, kill_at

    def take(self, *_):
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event, arguments):
        writes = event == "open" and str(arguments[1]).strip("bt+") in ("w", "x")
        if writes or event in ("os.rename", "os.remove", "os.mkdir"):
            if base in str(arguments[0]):
                self.take()

def run(out, kill_at=0):
    # In a child process: an audit hook cannot be removed.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        steps = Steps(kill_at)
        sys.addaudithook(steps.hook)
        report = do_shard(settings(out), rows, 0, on_progress=steps.take)
        os.write(writer, json.dumps([report.name, steps.count]).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    return json.loads(text) if text else ["", os.WTERMSIG(status)]

name, steps = run(f"{base}/undisturbed")
ended = []
for kill_at in range(1, steps + 1):
    out = f"{base}/{kill_at}"
    ended.append(run(out, kill_at)[1])
    assert run(out)[0] == name
print(json.dumps([name, ended]))
"""


def test_worker_killed_at_any_moment_makes_the_same_shard_when_called_again(started, tmp_path):
    videos, base = tmp_path / "videos", tmp_path / "out"
    mixed_rows(videos)
    settings = job(base, started().target, workers=1)
    with run_python(KILLED, base, videos, settings.to_json()) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    name, ended = json.loads(output)
    assert len(ended) >= 15
    assert set(ended) == {signal.SIGKILL}
    undisturbed = read_report(Storage(base / "undisturbed"), name)
    expected = stable_content(base / "undisturbed", undisturbed)
    for kill_at in range(1, len(ended) + 1):
        out = base / str(kill_at)
        report = read_report(Storage(out), name)
        assert stable_content(out, report) == expected
        assert report.counts == undisturbed.counts
        visible = Storage(out).names()
        assert visible == Storage(base / "undisturbed").names()
    assert set(VARYING_COLUMNS) == set(undisturbed.timings)
