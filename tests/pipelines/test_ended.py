"""Runs that ended without a report: the next run's plan tidies up after them and reports them."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from c3d_pipelines.dataset.index import read_index
from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.plan import write_plan
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.submit import submit
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.run import ended
from c3d_pipelines.run.ended import settle_ended_runs
from c3d_pipelines.run.publish import publish
from c3d_pipelines.storage import PLAN, SETTINGS, SUMMARY, Storage, run_file, temporary_prefix
from support.processes import LONG_S
from support.s3_server import s3_server
from support.sample_dataset import file_digests
from support.sample_shards import A, B, C, D, commit, settings, to_do
from support.shard_runs import run_python

PARAMETERS = {"videos": "s3://b/videos", "out": "s3://b/out"}
MINUTE = 60.0
# A worker: it lists a video, begins a file, and is then killed or lives on.
WORKER = """
import sys, time
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards.in_hand import InHandFile
from c3d_pipelines.storage import Storage, temporary_prefix

out, run = sys.argv[1:]
storage = Storage(out, temporary=temporary_prefix(run, 0))
video = ManifestRow("d.mp4", "/videos/d.mp4", 1000, 0.0, "sha256:d.mp4")
with InHandFile(storage, run=run, shard=0, is_only_video=False) as in_hand:
    with in_hand.holding(video), storage.writing("shards/0.parquet") as path:
        path.write_bytes(b"half")
        print("begun", flush=True)
        time.sleep(600)
"""


@pytest.fixture(autouse=True)
def no_api(monkeypatch):
    """An environment as outside of a cluster."""
    for name in ("KF_PIPELINES_ENDPOINT", "ML_PIPELINE_SERVICE_HOST", "KF_PIPELINES_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ended, "_API_S", LONG_S)


@pytest.fixture
def storage(out) -> Storage:
    return Storage(out)


def begin(storage: Storage, run: str, *, committed=(A, B)) -> None:
    """Write what a run has that stored some of its videos and then no more."""
    job = settings(storage.uri, run)
    storage.write(run_file(run, SETTINGS), job.to_json())
    with storage.writing(run_file(run, PLAN)) as path:
        write_plan(path, [*to_do(A, B, C), *to_do(D, shard=1)], notes=["3 files left out"])
    if committed:
        commit(job, committed)


def age(out: Path, run: str, minutes: float) -> None:
    """Make everything that a run wrote older."""
    at = time.time() - minutes * MINUTE
    for path in out.rglob("*"):
        if path.is_file() and run in str(path.relative_to(out)):
            os.utime(path, (at, at))


def summary(storage: Storage, run: str) -> RunSummary:
    return RunSummary.from_json(storage.read(run_file(run, SUMMARY)))


def has_report(storage: Storage, run: str) -> bool:
    names = {f"runs/{run}/{name}" for name in (SUMMARY, "report.html", "report.md")}
    found = names & set(storage.names("runs"))
    assert found in (set(), names)
    return bool(found)


def hidden(out: Path) -> list[str]:
    return sorted(path.name for path in out.rglob(".c3d-*"))


class TestReport:
    def test_run_that_ended_is_reported_and_not_published(self, storage, out):
        begin(storage, "run-1")
        storage.write("runs/run-1/error-extract-1.txt", "the server went away")
        age(out, "run-1", 16)
        lines = settle_ended_runs(storage, run="run-2")
        assert list(lines) == ["run-1"]
        assert lines["run-1"].startswith(
            "run run-1 was ended from outside: it wrote nothing after 20"
        )
        assert lines["run-1"].endswith(" UTC; its report is in the dataset now")
        report = summary(storage, "run-1")
        assert report.state == "FAILED"
        assert report.message.startswith("was ended from outside: ")
        assert report.message.endswith("; extract-1: the server went away")
        assert report.verdict == "2 of 4 videos have features; 2 do not; this run added 2"
        assert (report.processed, report.notes) == (2, ("3 files left out",))
        assert [shard.missing for shard in report.shards] == [False, True]
        assert "was ended from outside" in (out / "runs/run-1/report.md").read_text()
        assert has_report(storage, "run-1")
        assert not (out / "index.parquet").exists()
        assert not (out / "dataset.json").exists()
        before = file_digests(out)
        assert settle_ended_runs(storage, run="run-3") == {}
        assert file_digests(out) == before

    def test_run_that_ended_before_its_preflight_is_reported(self, storage, out):
        begin(storage, "run-1", committed=())
        job = settings(storage.uri, "run-1", provenance={})
        storage.write(run_file("run-1", SETTINGS), job.to_json())
        age(out, "run-1", 16)
        assert settle_ended_runs(storage, run="run-2")
        assert summary(storage, "run-1").verdict == "None of the 4 videos has features"

    def test_run_that_lives_replaces_the_report_that_was_written_for_it(self, storage, out):
        begin(storage, "run-1")
        age(out, "run-1", 16)  # its pods waited for a node
        assert settle_ended_runs(storage, run="run-2")
        job = settings(storage.uri, "run-1")
        commit(job, [C, D])
        publish(job, [*to_do(A, B, C), *to_do(D, shard=1)])
        assert summary(storage, "run-1").state == "SUCCEEDED"
        assert summary(storage, "run-1").ok == 4

    def test_report_that_the_run_writes_meanwhile_stays(self, storage, out, monkeypatch):
        begin(storage, "run-1")
        age(out, "run-1", 16)
        look = ended.summary_of

        def slow(*args, **options):
            publish(settings(storage.uri, "run-1"), to_do(A, B))
            return look(*args, **options)

        monkeypatch.setattr(ended, "summary_of", slow)
        assert settle_ended_runs(storage, run="run-2") == {}
        assert summary(storage, "run-1").state == "SUCCEEDED"

    def test_runs_without_a_plan_with_a_report_or_in_progress_are_left(self, storage, out):
        storage.write(run_file("no-plan", SETTINGS), "{}")
        begin(storage, "reported")
        publish(settings(storage.uri, "reported"), to_do(A, B))
        begin(storage, "own")
        for run in ("no-plan", "reported", "own"):
            age(out, run, 1000)
        begin(storage, "new")
        age(out, "new", 14)
        before = file_digests(out)
        assert settle_ended_runs(storage, run="own") == {}
        assert file_digests(out) == before

    def test_run_with_unusable_files_does_not_prevent_the_reports_of_others(
        self, storage, out, caplog
    ):
        for run in ("run-1", "run-2", "run-3"):
            begin(storage, run, committed=())
        storage.write(run_file("run-2", PLAN), b"no plan")
        for minutes, run in enumerate(("run-3", "run-2", "run-1")):
            age(out, run, 16 + minutes)
        assert list(settle_ended_runs(storage, run="run-4")) == ["run-3", "run-1"]
        assert [has_report(storage, f"run-{n}") for n in (1, 2, 3)] == [True, False, True]
        assert "run run-2 was ended from outside" in caplog.text
        assert "it is not reported: " in caplog.text

    def test_dataset_that_cannot_be_read_is_logged(self, storage, out, caplog, monkeypatch):
        begin(storage, "run-1")

        def fail(*args):
            raise StorageError("runs", "cannot be listed (the disk is away)")

        monkeypatch.setattr(Storage, "times", fail)
        assert settle_ended_runs(storage, run="run-2") == {}
        assert "the disk is away" in caplog.text
        monkeypatch.undo()
        age(out, "run-1", 16)
        storage.write(run_file("run-1", PLAN), b"no plan")
        age(out, "run-1", 16)
        assert settle_ended_runs(storage, run="run-2") == {}
        assert "the plan cannot be read" in caplog.text


class TestFiles:
    @pytest.fixture
    def workers(self):
        """Processes by their runs, which are killed after the test."""
        workers = dict.fromkeys(("dead", "live"))
        yield workers
        for process in filter(None, workers.values()):
            with process:
                process.kill()

    def test_files_of_a_killed_worker_are_removed_and_those_of_a_live_one_stay(
        self, storage, out, workers
    ):
        for run in workers:
            begin(storage, run, committed=())
            workers[run] = run_python(WORKER, out, run)
            assert workers[run].stdout.readline() == "begun\n"
        workers["dead"].kill()
        workers["dead"].communicate()
        assert len(hidden(out)) == 2
        assert settle_ended_runs(storage, run="next") == {}
        assert len(hidden(out)) == 2, "nobody knows yet that it is dead"
        age(out, "dead", 16)
        # All of the live run is old, but its worker renews the file of its videos in hand.
        age(out, "live", 1000)
        for path in (out / "in_hand").glob("live-*"):
            os.utime(path)
        assert list(settle_ended_runs(storage, run="next")) == ["dead"]
        assert not has_report(storage, "live")
        (left,) = hidden(out)
        assert left.startswith(temporary_prefix("live", 0))
        assert workers["live"].poll() is None

    def test_files_of_a_run_with_a_report_are_removed_when_they_are_old(self, storage, out):
        begin(storage, "run-1")
        publish(settings(storage.uri, "run-1"), to_do(A, B))
        age(out, "run-1", 1000)
        for name in ("shards", "clips"):
            (out / name / f"{temporary_prefix('run-1', 3)}0123").write_bytes(b"half")
        assert settle_ended_runs(storage, run="run-2") == {}
        assert len(hidden(out)) == 2
        age(out, "run-1", 16)
        assert settle_ended_runs(storage, run="run-2") == {}
        assert hidden(out) == []


class TestApi:
    """The state of a run that Kubeflow Pipelines has started."""

    @pytest.fixture
    def sent(self, kfp, bulk) -> str:
        backend = Backend(ClusterAccess(kfp.url))
        run = submit(backend, bulk, PARAMETERS).run_id
        kfp.requests.clear()
        return run

    def test_run_that_the_api_calls_ended_has_ended_at_once(
        self, storage, out, kfp, sent, monkeypatch
    ):
        host, _, port = kfp.url.removeprefix("http://").partition(":")
        monkeypatch.setenv("ML_PIPELINE_SERVICE_HOST", host)
        monkeypatch.setenv("ML_PIPELINE_SERVICE_PORT", port)
        begin(storage, sent)
        begin(storage, "20261130-060000-ab12")  # a run on one machine
        kfp.progress[sent].states = ["FAILED"]
        lines = settle_ended_runs(storage, run="run-2")
        assert list(lines) == [sent]
        assert "Kubeflow Pipelines calls it FAILED" in summary(storage, sent).message
        assert kfp.requests == [f"GET /apis/v2beta1/runs/{sent}"]

    def test_run_that_the_api_calls_running_lives_however_silent_it_is(
        self, storage, out, kfp, sent, monkeypatch
    ):
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url + "/")
        begin(storage, sent)
        age(out, sent, 10_000)
        for state in ("PENDING", "RUNNING", "CANCELING", "PAUSED"):
            kfp.progress[sent].states = [state]
            assert settle_ended_runs(storage, run="run-2") == {}, state
        assert not has_report(storage, sent)

    def test_silence_decides_where_the_api_does_not(self, storage, out, kfp, sent, monkeypatch):
        unknown = "01234567-89ab-cdef-0123-456789abcdef"
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)
        begin(storage, unknown)
        assert settle_ended_runs(storage, run="run-2") == {}
        age(out, unknown, 16)
        begin(storage, sent)
        age(out, sent, 17)
        kfp.progress[sent].states = ["RUNNING"]
        assert list(settle_ended_runs(storage, run="run-2")) == [unknown]
        kfp.tokens = {"someone's": set()}  # 401
        assert list(settle_ended_runs(storage, run="run-2")) == [sent]

    def test_api_that_does_not_answer_is_asked_once(self, storage, out, monkeypatch):
        runs = [f"01234567-89ab-cdef-0123-456789abcde{number}" for number in range(3)]
        for run in runs:
            begin(storage, run, committed=())
            age(out, run, 16)
        monkeypatch.setattr(ended, "_API_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv(
                "KF_PIPELINES_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
            )
            assert set(settle_ended_runs(storage, run="run-2")) == set(runs)
            silent.settimeout(0.1)
            silent.accept()[0].close()
            with pytest.raises(TimeoutError):
                silent.accept()


class TestCost:
    def test_thousand_runs_cost_two_listings(self, storage, out, monkeypatch):
        begin(storage, "run-0000")
        publish(settings(storage.uri, "run-0000"), to_do(A, B))
        (files,) = [list((out / "runs/run-0000").iterdir())]
        for number in range(1, 1000):
            folder = out / "runs" / f"run-{number:04}"
            folder.mkdir()
            for file in files:
                (folder / file.name).hardlink_to(file)
        begin(storage, "ended", committed=())
        age(out, "ended", 16)
        calls: list[str] = []

        def counted(name):
            call = getattr(Storage, name)

            def count(self, *args, **options):
                calls.append(f"{name} {args[0]}")
                return call(self, *args, **options)

            monkeypatch.setattr(Storage, name, count)

        for name in ("names", "times", "read", "size"):
            counted(name)
        assert list(settle_ended_runs(storage, run="new")) == ["ended"]
        assert [call for call in calls if "run-" in call] == []
        assert [call for call in calls if call.startswith("times")] == [
            "times runs",
            "times in_hand",
        ]

    def test_newest_runs_are_reported_first_and_a_few_at_a_time(self, storage, out):
        for number in range(12):
            begin(storage, f"run-{number:02}", committed=())
            age(out, f"run-{number:02}", 100 - number)
        assert list(settle_ended_runs(storage, run="new")) == [
            f"run-{number:02}" for number in range(11, 1, -1)
        ]
        assert list(settle_ended_runs(storage, run="new")) == ["run-01", "run-00"]


@pytest.mark.long
def test_run_that_ended_is_reported_in_a_bucket(tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed: ended runs on S3 not run")
    with s3_server(tmp_path) as server:
        server.use(monkeypatch)
        server.file_system().mkdir("data")
        storage = Storage("s3://data/out")
        assert settle_ended_runs(storage, run="run-2") == {}
        before = time.time()
        begin(storage, "run-1")
        written = storage.times("runs")
        assert sorted(written) == ["runs/run-1/plan.parquet", "runs/run-1/settings.json"]
        assert all(before - 2 < at < time.time() + 2 for at in written.values())
        assert settle_ended_runs(storage, run="run-2", now=before + 14 * MINUTE) == {}
        lines = settle_ended_runs(storage, run="run-2", now=time.time() + 16 * MINUTE)
        assert list(lines) == ["run-1"]
        assert summary(storage, "run-1").verdict == (
            "2 of 4 videos have features; 2 do not; this run added 2"
        )
        assert len(read_index(storage)) == 2
