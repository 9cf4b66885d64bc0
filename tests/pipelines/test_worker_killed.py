"""A worker that is killed at any moment: what is stored stays, and the next attempt does the rest.

The workers are real processes, killed by SIGKILL, by the kernel for their memory, or with PID 1.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from c3d_pipelines.dataset.index import load_index
from c3d_pipelines.inputs.plan import PlannedRow, write_plan
from c3d_pipelines.run.steps import begin_step, publish_step
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.shards.in_hand import deaths, read_in_hand
from c3d_pipelines.storage import Storage
from support.processes import LONG_S, wait_until
from support.shard_runs import VARYING_COLUMNS, files_in, job, mixed_rows, row, run_python
from support.videos import write_video

pytestmark = pytest.mark.faults

WORKER = r"""
import json, os, signal, sys, threading, time
import cv2
import pyarrow as pa
from c3d_client import C3DClient, decode_frames
from c3d_client.video import memory
from c3d_pipelines.shards import worker, writer as shard_writer
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.worker import do_shard
from support.shard_runs import mixed_rows, row

plain, videos = sys.argv[1], sys.argv[2:]
shard_writer._CLIP_GROUP_ROWS = 3  # files grow while videos are read, not only at the end
shard_writer._VIDEO_GROUP_ROWS = 2
rows = [row(path) for path in videos]
# Work of a second that each process would repeat: loading pandas, which Arrow does where it is
# installed, and finding out which way of resizing is exact.
pa.array([0])
cv2.setNumThreads(1)
for frame in decode_frames(rows[0].uri, threads=1):
    frame.picture.prepared()

class Steps:
    # A step is each video done, and each call that changes the dataset's folder.
    def __init__(self, out, kill_at):
        self.count, self.kill_at, self.out = 0, kill_at, out

    def take(self, *_):
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event, arguments):
        writes = event == "open" and str(arguments[1]).strip("bt+") in ("w", "x")
        if writes or event in ("os.rename", "os.remove", "os.mkdir"):
            if self.out in str(arguments[0]):
                self.take()

def attempt(out, kill_at, after_s, commit_s, workers, cgroup):
    # In a child process: an audit hook cannot be removed.
    reader, writer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        if cgroup:
            with open(cgroup, "w") as file:
                file.write(str(os.getpid()))
        extract = C3DClient.extract

        def record(self, source, **options):
            os.write(writer, f"tried {os.path.basename(source)}\n".encode())
            return extract(self, source, **options)

        C3DClient.extract = record
        memory.memory_limit = lambda: None  # else the video is refused before it is decoded
        worker._COMMIT_EVERY_S, worker._COMMIT_SHARE = commit_s, 0.0
        settings = {**json.loads(plain), "out": out, "workers": workers}
        steps = Steps(out, kill_at)
        sys.addaudithook(steps.hook)
        report = do_shard(
            JobSettings.from_json(json.dumps(settings)), rows, 0, on_progress=steps.take
        )
        os.write(writer, f"done {steps.count} {report.name} {report.videos}\n".encode())
        os._exit(0)
    os.close(writer)
    if after_s:
        timer = threading.Timer(after_s, os.kill, (child, signal.SIGKILL))
        timer.start()
    _, status = os.waitpid(child, 0)
    if after_s:
        timer.cancel()
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    return {
        "killed": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "tried": [line[6:] for line in lines if line.startswith("tried ")],
        "done": [line.split()[1:] for line in lines if line.startswith("done ")],
        "seconds": time.monotonic() - began,
    }

for line in sys.stdin:
    print(json.dumps(attempt(**json.loads(line))), flush=True)
"""


class Workers:
    """Workers of one shard, each a process of its own."""

    def __init__(self, process):
        self._process = process

    def attempt(self, out, *, kill_at=0, after_s=0.0, commit_s=300.0, workers=1, cgroup=""):
        """Do the shard, or what is left of it; return how the worker ended."""
        command = {
            "out": str(out),
            "kill_at": kill_at,
            "after_s": after_s,
            "commit_s": commit_s,
            "workers": workers,
            "cgroup": str(cgroup),
        }
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def worker_process(settings, rows):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, settings.to_json(), *(row.uri for row in rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    try:
        with process:
            yield Workers(process)
            process.stdin.close()
            assert process.wait(LONG_S) == 0
    finally:
        process.kill()


def features(request, rows, context):
    """Return numbers of the clips, so that no two clips have the same."""
    time.sleep(0.03)
    return rows.reshape(len(rows), -1)[:, ::147].astype("float32")


@pytest.fixture
def server(started):
    """A server with these features."""
    return started(features)


@contextlib.contextmanager
def holding(server, number):
    """Hold back the answer to a request of a server until the block ends, and those after it.

    Args:
        server: a :class:`FakeServing`.
        number: how many requests are answered first.
    """
    requests, released = itertools.count(), threading.Event()

    def held(*request):
        if next(requests) >= number:
            released.wait(LONG_S)
        return features(*request)

    server.on_predict = held
    try:
        yield
    finally:
        released.set()
        server.on_predict = features


@pytest.fixture
def rows(tmp_path):
    return mixed_rows(tmp_path / "videos")


@pytest.fixture
def workers(server, rows, tmp_path):
    with worker_process(job(tmp_path / "checked", server.target), rows) as workers:
        yield workers


def content(out):
    """Return each row of the index with its numbers and those of its clips, by video."""
    found = {}
    for video in load_index(Storage(out)).table.to_pylist():
        name, first = video.pop("shard"), video.pop("first_clip_row") or 0
        position = video.pop("row")
        for varying in VARYING_COLUMNS:
            del video[varying]
        stored = pq.read_table(out / "shards" / f"{name}.parquet")
        clips = pq.read_table(out / "clips" / f"{name}.parquet")
        own = clips.slice(first, video["n_clips"] or 0)
        assert set(own["video_id"].to_pylist()) <= {video["video_id"]}
        numbers = stored["feature"][position].as_py()
        found[video["video_id"]] = (video, numbers, own.drop_columns(["video_id"]).to_pylist())
    return found


def rows_stored(out):
    """Return how often each video is in a shard that is done."""
    storage, counts = Storage(out), Counter()
    for name in storage.names("shards"):
        report = name.endswith(".json") and read_report(
            storage, name.removeprefix("shards/").removesuffix(".json")
        )
        if report:
            table = pq.read_table(out / name.replace(".json", ".parquet"))
            counts.update(table["video_id"].to_pylist())
    return counts


def leftovers(out):
    return [name for name in files_in(out) if "/." in name or name.startswith("in_hand")]


@pytest.mark.parametrize(("commit_s", "every"), [(300.0, 1), (-1.0, 4)])
def test_worker_killed_at_any_step_loses_no_stored_video(workers, rows, tmp_path, commit_s, every):
    undisturbed = workers.attempt(tmp_path / "undisturbed", commit_s=commit_s)
    [[steps, name, videos]] = undisturbed["done"]
    assert videos == "7"
    assert undisturbed["tried"] == [Path(row.uri).name for row in rows]
    expected = content(tmp_path / "undisturbed")
    assert set(rows_stored(tmp_path / "undisturbed").values()) == {1}
    assert leftovers(tmp_path / "undisturbed") == []
    assert int(steps) >= (20 if commit_s > 0 else 50)
    for kill_at in range(1, int(steps) + 1, every):
        out = tmp_path / f"out-{kill_at}"
        killed = workers.attempt(out, kill_at=kill_at, commit_s=commit_s)["killed"]
        # The list of the videos in hand may be written a few times more or less.
        assert killed == signal.SIGKILL or kill_at > int(steps) - 9
        stored = rows_stored(out)
        again = workers.attempt(out, commit_s=commit_s)
        assert again["done"][0][1:] == [name, "7"], kill_at
        assert not stored.keys() & set(again["tried"]), kill_at
        assert stored.keys() | set(again["tried"]) == expected.keys(), kill_at
        assert content(out) == expected, kill_at
        assert set(rows_stored(out).values()) == {1}, kill_at
        assert leftovers(out) == [], kill_at


@pytest.mark.parametrize("seed", range(4))
def test_worker_killed_again_and_again_stores_every_video_once(server, workers, tmp_path, seed):
    rng, killed = random.Random(seed), 0
    first = workers.attempt(tmp_path / "undisturbed", workers=2, commit_s=0.05)
    expected = content(tmp_path / "undisturbed")
    for number in range(5):
        out, proven = tmp_path / f"out-{number}", set()
        for _ in range(rng.randrange(1, 4)):
            after_s = rng.uniform(0.1, 0.7) * first["seconds"]
            stored = rows_stored(out)
            # The last of the four good videos that are not stored has no answer, so that the
            # attempt does not end before it is killed.
            left = sum(expected[video][0]["status"] == "ok" for video in expected.keys() - stored)
            with holding(server, left - 1) if left else contextlib.nullcontext():
                ended = workers.attempt(out, workers=2, commit_s=0.05, after_s=after_s)
            killed += ended["killed"] == signal.SIGKILL
            assert not stored.keys() & set(ended["tried"])
            counts = deaths(read_in_hand(Storage(out)), run="run-1", shard=0)
            proven |= {video for (video, _), died in counts.items() if died.is_proof}
        last = workers.attempt(out, workers=2, commit_s=0.05)
        assert last["done"][0][2] == "7"
        found = content(out)
        failed = {video for video, (row, *_) in found.items() if row["error_type"] == "WorkerDied"}
        assert failed <= proven
        assert {video: row for video, row in found.items() if video not in failed} == {
            video: row for video, row in expected.items() if video not in failed
        }
        assert set(rows_stored(out).values()) == {1}
        assert leftovers(out) == []
    assert killed >= 5  # at least the first attempt at each data set


@contextlib.contextmanager
def memory_cgroup(limit_bytes):
    """Make a cgroup with a memory limit; yield the file that takes processes."""
    for base, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = base / f"c3d-killed-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                if (group / limit).exists():
                    (group / limit).write_text(str(limit_bytes))
                    with contextlib.suppress(OSError):  # without swap there is no such file
                        (group / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
                    yield group / "cgroup.procs"
                    return
            finally:
                group.rmdir()
    pytest.skip("no memory cgroup can be made here: workers that run out of memory not run")


def test_video_that_kills_its_worker_by_its_memory_fails_alone(server, rows, tmp_path):
    # 8192x8192: a decoded picture is 100 MB, and a decoder holds several.
    options = {"preset": "ultrafast", "x264-params": "threads=1:rc-lookahead=0:sync-lookahead=0"}
    bomb = write_video(
        tmp_path / "videos" / "bomb.mp4",
        17,
        width=8192,
        height=8192,
        draw=lambda number: _grey(number),
        options=options,
    )
    rows = [rows[0], row(bomb), *rows[2:5]]
    out = tmp_path / "out"
    with (
        worker_process(job(tmp_path / "checked", server.target), rows) as workers,
        memory_cgroup(300 << 20) as cgroup,
    ):
        attempts = [workers.attempt(out, workers=2, cgroup=cgroup) for _ in range(3)]
    assert [attempt["killed"] for attempt in attempts] == [signal.SIGKILL, signal.SIGKILL, 0]
    # The second attempt does the bomb last; the third one does not try it.
    assert attempts[1]["tried"][-1] == "bomb.mp4"
    assert "bomb.mp4" not in attempts[2]["tried"]
    tried = attempts[1]["tried"] + attempts[2]["tried"]
    assert Counter(tried) == Counter(Path(row.uri).name for row in rows)
    statuses = {video: row["error_type"] for video, (row, *_) in content(out).items()}
    assert statuses == {
        "a.mp4": "",
        "b.mp4": "",
        "bomb.mp4": "WorkerDied",
        "c.mp4": "",
        "damaged.mp4": "VideoDecodeError",
    }
    assert leftovers(out) == []


def _grey(number):
    import numpy as np

    return np.full((8192, 8192, 3), 100 + number, np.uint8)


PARENT = r"""
import os, signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:], start_new_session=True)

def end(number, frame):
    # As the pod's launcher: it dies at once, and its processes with it.
    os.killpg(child.pid, signal.SIGKILL)
    os._exit(143)

signal.signal(signal.SIGTERM, end)
os._exit(child.wait())
"""
STEP = r"""
import sys
from c3d_pipelines.run.steps import extract_step
from c3d_pipelines.shards import worker
worker._COMMIT_EVERY_S, worker._COMMIT_SHARE = -1.0, 0.0
plan, settings = sys.argv[1:]
extract_step(shard=0, model_digest="any", plan_path=plan, settings_path=settings, cores=1)
"""


def can_unshare():
    return (
        subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode == 0
    )


def test_step_that_ends_with_pid_1_is_continued(server, rows, tmp_path):
    if not can_unshare():
        pytest.skip("unshare --pid is not allowed here: the end of PID 1 not run")
    out = tmp_path / "out"
    settings = job(out, server.target, workers=1)
    (tmp_path / "settings.json").write_text(settings.to_json())
    write_plan(tmp_path / "plan.parquet", [PlannedRow(row, shard=0) for row in rows])
    command = [
        *("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", PARENT),
        *(sys.executable, "-c", STEP),
        *(str(tmp_path / "plan.parquet"), str(tmp_path / "settings.json")),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # The video after these has no answer. The one with which the first attempt ends comes last.
    for count, unanswered in ((2, "b.mp4"), (5, "z.mp4")):
        with holding(server, 1), subprocess.Popen(command, env=environment) as process:
            try:
                requests = len(server.requests)
                wait_until(lambda n=count: len(rows_stored(out)) == n)
                wait_until(lambda n=requests: len(server.requests) == n + 2)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
                os.kill(int(children.split()[0]), signal.SIGTERM)
                process.wait(LONG_S)
            finally:
                process.kill()
        # Nothing was tidied up, and the videos that the step was processing are known.
        attempts = read_in_hand(Storage(out))
        assert unanswered in [video.video_id for each in attempts for video in each.videos]
        assert len(rows_stored(out)) == count
    requests = len(server.requests)
    with subprocess.Popen(command, env=environment) as process:
        assert process.wait(LONG_S) == 0
    assert len(server.requests) > requests
    assert set(rows_stored(out).values()) == {1}
    assert rows_stored(out).keys() == {row.video_id for row in rows}
    assert leftovers(out) == []


DEADLY = r"""
import os, signal, sys
from c3d_client import C3DClient
from c3d_pipelines.run.steps import extract_step
from c3d_pipelines.shards import worker
worker._COMMIT_EVERY_S, worker._COMMIT_SHARE = -1.0, 0.0
extract = C3DClient.extract

def die(self, source, **options):
    if source.endswith("c.mp4"):
        os.kill(os.getpid(), signal.SIGKILL)
    return extract(self, source, **options)

C3DClient.extract = die
shard, plan, settings = sys.argv[1:]
extract_step(shard=int(shard), model_digest="any", plan_path=plan, settings_path=settings)
"""


def test_runs_that_a_video_kills_end_with_one_failed_video(server, rows, tmp_path):
    out, ended, statuses = tmp_path / "out", [], []
    for run in ("run-1", "run-2", "run-3", "run-4"):
        plan, settings = tmp_path / f"{run}.parquet", tmp_path / f"{run}.json"
        count = begin_step(
            answer="features",
            videos=str(tmp_path / "videos"),
            server=server.target,
            out=str(out),
            run=run,
            model_digest="any",
            workers=1.0,
            plan_path=str(plan),
            settings_path=str(settings),
            shards_path=str(tmp_path / "shards.json"),
        )
        codes = []
        for shard in range(count):
            with run_python(DEADLY, shard, plan, settings) as process:
                process.communicate(timeout=LONG_S)
            codes.append(process.returncode)
        ended.append(codes)
        publish_step(plan_path=str(plan), settings_path=str(settings))
        table = load_index(Storage(out)).table.to_pylist()
        statuses.append(
            {row["video_id"]: row["error_type"] for row in table if row["status"] == "failed"}
        )
        for attempt in read_in_hand(Storage(out)):  # time passes
            past = replace(attempt, written_at=attempt.written_at - 600)
            Storage(out).write_small(past.file, past.to_json())
    killed = -signal.SIGKILL
    # The first worker dies with what it has not stored; the second one with the video alone; the
    # third one does not try it; the fourth one has no reason not to.
    assert ended == [[killed], [0, killed], [0], [killed]]
    assert statuses[0]["c.mp4"] == "ShardMissing"
    assert set(statuses[0].values()) == {"ShardMissing"}
    assert statuses[1] == {"c.mp4": "ShardMissing"}
    assert statuses[2] == {"c.mp4": "WorkerDied"}
    assert statuses[3] == {"c.mp4": "ShardMissing"}
