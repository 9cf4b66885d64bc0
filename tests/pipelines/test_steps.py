"""The steps of a bulk run: checks of parameters, results for the next step, reasons of failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from c3d_client import Cancelled
from c3d_client.core.errors import C3DError, ProvenanceError, UsageError
from c3d_client.core.files import atomic_file
from c3d_pipelines import storage
from c3d_pipelines.dataset.index import read_index
from c3d_pipelines.errors import ManifestError, RunError
from c3d_pipelines.inputs.plan import read_notes, read_plan
from c3d_pipelines.parameters import POD_TIMEOUT_VARIABLE
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.run import steps
from c3d_pipelines.run.errors import failure_reasons, recorded_failure
from c3d_pipelines.run.finish import final_state, report_step
from c3d_pipelines.shards import worker
from c3d_pipelines.shards.in_hand import InHand, VideoInHand, read_in_hand
from c3d_pipelines.storage import Storage
from support.processes import LONG_S, wait_until
from support.videos import write_video

# Numbers as Kubeflow passes them.
PARAMETERS = {"stride": 8.0, "workers": 0.0, "fps": 0.0} | {
    "timeout_s": LONG_S,
    "patience_s": LONG_S,
}


class Run:
    """A run's steps, called one after the other as the pods of a cluster call them."""

    def __init__(self, folder: Path, target: str, *, name: str = "run-1") -> None:
        self.videos, self.out, self.name, self.target = folder / "v", folder / "out", name, target
        self.artifacts = folder / name
        self.identity = {"out": str(self.out), "run": name}

    def path(self, name: str) -> str:
        return str(self.artifacts / name)

    def plan(self, **changes) -> list[int]:
        self.artifacts.mkdir(exist_ok=True)
        values = {"answer": "features", "videos": str(self.videos), "server": self.target}
        return steps.plan_step(
            **{**PARAMETERS, **self.identity, **values, **changes},
            plan_path=self.path("plan"),
            settings_path=self.path("settings"),
        )

    def begin(self, **changes) -> list[int]:
        self.artifacts.mkdir(exist_ok=True)
        values = {"answer": "features", "videos": str(self.videos), "server": self.target}
        count = steps.begin_step(
            **{**PARAMETERS, **self.identity, **values, "model_digest": "any", **changes},
            plan_path=self.path("plan"),
            settings_path=self.path("checked"),
            shards_path=self.path("shards"),
        )
        shards = json.loads(Path(self.path("shards")).read_text())
        assert len(shards) == count
        return shards

    def end(self, *, max_failed: float = 0.0, max_failed_share: float = 0.01) -> int:
        return steps.end_step(
            max_failed=max_failed,
            max_failed_share=max_failed_share,
            plan_path=self.path("plan"),
            settings_path=self.path("checked"),
        )

    def preflight(self, model_digest: str = "any") -> str:
        return steps.preflight_step(
            **self.identity,
            model_digest=model_digest,
            settings_path=self.path("settings"),
            checked_path=self.path("checked"),
        )

    def extract(self, shard: float, model_digest: str = "any") -> str:
        return steps.extract_step(
            shard=shard,
            model_digest=model_digest,
            plan_path=self.path("plan"),
            settings_path=self.path("checked"),
        )

    def publish(self) -> tuple[int, dict[str, float]]:
        return steps.publish_step(
            plan_path=self.path("plan"),
            settings_path=self.path("checked"),
            page_path=self.path("published/page"),
            text_path=self.path("published/text"),
        )

    def report(self, state: str = "FAILED", message: str = "") -> RunSummary:
        self.metrics = report_step(
            **self.identity,
            state=state,
            message=message,
            page_path=self.path("reported/page"),
            text_path=self.path("reported/text"),
        )
        return RunSummary.from_json(self.read("summary.json"))

    def read(self, name: str) -> str:
        return (self.out / "runs" / self.name / name).read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path, narrow_server) -> Run:
    run = Run(tmp_path, narrow_server.target)
    run.videos.mkdir()
    write_video(run.videos / "a.mp4", 24)
    (run.videos / "b.mp4").write_bytes(b"no video" * 100)
    return run


def test_temporary_files_of_every_step_carry_the_run(run, monkeypatch):
    written = []

    def record(path, **options):
        written.append((os.path.basename(path), options.get("prefix", "")))
        return atomic_file(path, **options)

    monkeypatch.setattr(storage, "atomic_file", record)
    for shard in run.begin():
        run.extract(shard)
    with pytest.raises(RunError):
        run.end(max_failed_share=0.0)
    run.report()
    names = {name for name, _ in written}
    assert {"plan.parquet", "index.parquet", "dataset.json", "summary.json"} <= names
    assert [name for name, prefix in written if not prefix.startswith(".c3d-run-1~")] == []


def test_run_in_parts_counts_every_video_once(run, monkeypatch):
    for name in ("c", "d", "e"):
        write_video(run.videos / f"{name}.mp4", 24)
    monkeypatch.setattr(worker, "_COMMIT_SHARE", 0.0)
    summaries = []
    for commit_s, name in ((300.0, "run-1"), (-1.0, "run-2")):
        monkeypatch.setattr(worker, "_COMMIT_EVERY_S", commit_s)
        each = Run(run.videos.parent, run.target, name=name)
        each.out = run.videos.parent / f"out of {name}"
        each.identity["out"] = str(each.out)
        for shard in each.begin():
            each.extract(shard)
        each.end(max_failed=1)
        summaries.append(each.report("SUCCEEDED"))
        assert len(Storage(each.out).names("clips")) == (1 if commit_s > 0 else 5)
    whole, parts = summaries
    for name in ("inputs", "ok", "processed", "clips", "made", "counts", "retries", "video_s"):
        assert getattr(parts, name) == getattr(whole, name), name
    assert [(shard.videos, shard.clips) for shard in parts.shards] == [
        (shard.videos, shard.clips) for shard in whole.shards
    ]
    # The next run finds everything done.
    later = Run(run.videos.parent, run.target, name="run-3")
    later.identity["out"] = parts.out
    assert later.begin() == []


class TestPlan:
    def test_plan_returns_the_shards_and_writes_plan_and_settings(self, run):
        assert run.plan(shard_mb=0.001) == [0, 1]
        for path in (run.path("plan"), run.out / "runs/run-1/plan.parquet"):
            assert [planned.row.video_id for planned in read_plan(path)] == ["a.mp4", "b.mp4"]
        assert Path(run.path("settings")).read_text() == run.read("settings.json")

    def test_plan_with_nothing_to_do_has_one_empty_shard(self, run):
        for shard in run.plan():
            run.preflight()
            run.extract(shard)
        run.publish()
        later = Run(run.videos.parent, run.target, name="run-2")
        assert later.plan() == [0]
        later.preflight()
        later.extract(0.0)
        assert later.publish()[0] == 0
        assert read_index(Storage(str(run.out))).num_rows == 2

    def test_parameter_out_of_its_range_is_named_before_anything_else(self, run):
        for changes, message in (
            ({"stride": 1.5}, "stride is 1.5; give a whole number"),
            ({"tail": "cut"}, "tail is 'cut'"),
            ({"batch_size": 0.0}, "batch"),
            ({"max_shards": 0.0}, "max_shards"),
            ({"model_version": "latest"}, "model_version is 'latest'"),
            ({"strode": 4.0}, "strode: not a parameter of a bulk run"),
        ):
            with pytest.raises(UsageError, match=re.escape(message)):
                run.plan(**changes)
            assert message in run.read("error-plan.txt"), changes

    def test_run_on_a_cluster_has_as_many_shards_as_kubernetes_can_store(self, run, monkeypatch):
        assert run.plan(shard_mb=0.001, max_shards=201.0) == [0, 1]
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        for plan in (run.plan, run.begin):
            with pytest.raises(UsageError, match="max_shards is 201; give 200 or fewer: at about"):
                plan(max_shards=201.0)

    def test_shards_that_take_too_long_for_their_pods_are_in_the_log_and_the_report(
        self, run, monkeypatch, caplog
    ):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(POD_TIMEOUT_VARIABLE, "0.000001")
        (shard,) = run.plan()
        note = "more than half of the 1e-06 s that its pod may run"
        assert note in caplog.text
        run.preflight()
        run.extract(shard)
        run.publish()
        run.report("SUCCEEDED")
        assert "its pod may run" in run.read("report.md")
        assert "its pod may run" in run.read("report.html")
        assert note in read_notes(run.out / "runs/run-1/plan.parquet")[0]
        caplog.clear()
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
        Run(run.videos.parent, run.target, name="run-2").plan()
        assert "its pod may run" not in caplog.text

    def test_run_without_a_name_is_refused(self, run):
        with pytest.raises(UsageError, match="run is"):
            run.plan(run="{{$.pipeline_job_uuid}}")

    def test_missing_folder_is_an_error_that_the_report_reads(self, run):
        with pytest.raises(ManifestError):
            run.plan(videos=str(run.videos.parent / "none"))
        assert list(failure_reasons(Storage(str(run.out)), "run-1")) == ["plan"]


class TestPreflight:
    def test_preflight_returns_the_models_digest_and_refuses_another_model(self, run):
        (shard,) = run.plan()
        served = run.preflight()
        assert re.fullmatch("sha256:[0-9a-f]{64}", served)
        assert run.preflight(served) == served
        other = "sha256:" + "0" * 64
        with pytest.raises(ProvenanceError, match=served):
            run.preflight(other)
        assert other in run.read("error-preflight.txt")
        run.preflight()
        assert run.read("error-preflight.txt") == ""
        with pytest.raises(ProvenanceError, match=served):
            run.extract(shard, other)


class TestTheWholeRun:
    def test_run_accounts_for_every_video(self, run):
        for shard in run.plan(shard_mb=0.001):
            run.preflight()
            assert (run.out / "shards" / f"{run.extract(shard)}.json").is_file()
        failed, metrics = run.publish()
        assert failed == 1
        assert metrics["ok"] == 1
        assert Path(run.path("published/page")).read_text() == run.read("report.html")
        assert Path(run.path("published/text")).read_text() == run.read("report.md")
        refusal = r"1 video did not end ok; 0 allowed \(max_failed=0, .*\); .*html"
        with pytest.raises(RunError, match=refusal):
            steps.gate_step(unsuccessful=1.0, max_failed=0.0, **run.identity)
        summary = run.report(message="Kubeflow's message")
        assert (summary.state, summary.ok, summary.unsuccessful) == ("FAILED", 1, 1)
        assert summary.message.startswith("gate: 1 video did not end ok")
        assert "gate: 1 video did not end ok" in Path(run.path("reported/page")).read_text()
        assert run.metrics == metrics

    def test_a_task_that_begins_and_a_task_that_ends_do_the_same(self, run):
        shards = run.begin(shard_mb=0.001, max_failed=0.0)
        assert shards == [0, 1]
        assert Path(run.path("checked")).read_text() == run.read("settings.json")
        for shard in shards:
            run.extract(shard)
        with pytest.raises(RunError, match="1 video did not end ok; 0 allowed"):
            run.end()
        # All is published before the failure, and a retry fails at once for the same reason.
        assert read_index(Storage(str(run.out))).num_rows == 2
        (run.out / "index.parquet").unlink()
        with pytest.raises(RunError, match="1 video did not end ok; 0 allowed"):
            run.end()
        assert not (run.out / "index.parquet").exists()
        summary = run.report("RUNNING")
        assert (summary.state, summary.ok, summary.allowed) == ("FAILED", 1, 0)
        assert summary.message.startswith("gate: 1 video did not end ok")
        assert (run.metrics["inputs"], run.metrics["unsuccessful"]) == (2, 1)
        text = Path(run.path("reported/text")).read_text()
        assert "1 of 2 videos of this run did not end ok; 0 allowed" in text
        assert "1 of 2 videos of this run did not end ok; 0 allowed" in run.read("report.html")

    def test_each_of_two_steps_in_one_task_has_its_own_name_in_messages(self, run):
        absent = str(run.videos.parent / "none")
        with pytest.raises(ManifestError):  # before the server, which does not answer either
            run.begin(videos=absent, server="localhost:1", patience_s=0.1)
        with pytest.raises(C3DError):
            run.begin(server="localhost:1", patience_s=0.1)
        assert list(failure_reasons(Storage(str(run.out)), "run-1")) == ["preflight"]
        (shard,) = run.begin()
        run.extract(shard)
        (run.out / "index.parquet").write_bytes(b"no index")
        with pytest.raises(C3DError):
            run.end()
        assert list(failure_reasons(Storage(str(run.out)), "run-1")) == ["publish"]
        (run.out / "index.parquet").unlink()
        with pytest.raises(RunError):
            run.end()
        assert list(failure_reasons(Storage(str(run.out)), "run-1")) == ["gate"]

    def test_run_with_nothing_to_do_is_published_by_its_report(self, run):
        for shard in run.begin(keys="content"):
            run.extract(shard)
        assert run.end(max_failed=1.0) == 1
        run.report("COMPLETE")
        later = Run(run.videos.parent, run.target, name="run-2")
        (run.videos / "copy.mp4").hardlink_to(run.videos / "a.mp4")
        assert later.begin(keys="content") == []
        # Kubeflow has not counted the tasks again after the condition that is false.
        summary = later.report("RUNNING")
        assert (summary.state, summary.message) == ("SUCCEEDED", "")
        assert (summary.processed, summary.ok, summary.inputs) == (0, 2, 3)
        assert later.metrics["duplicates"] == 1
        rows = {row["video_id"]: row for row in read_index(Storage(str(run.out))).to_pylist()}
        assert rows["copy.mp4"]["duplicate_of"] == "a.mp4"

    def test_run_that_ended_in_its_first_task_did_not_succeed(self, run):
        run.plan()  # and was killed before the server was checked
        assert run.report("RUNNING").state == "FAILED"

    def test_gate_allows_the_larger_of_a_number_and_a_share(self, run, caplog):
        run.out.mkdir()
        caplog.set_level("INFO")
        for failed, least, share, inputs, allowed in (
            (1, 1, 0.0, 0, 1),
            (7, -1, 0.0, 0, "any number"),
            (0, 0, 0.0, 0, 0),
            (1, 0, 0.01, 100, 1),
            (1, 0, 0.01, 199, 1),
            (29, 0, 0.29, 100, 29),  # 28 in binary arithmetic
            (3, 3, 0.01, 100, 3),
            (100, 0, 1, 100, 100),
        ):
            case = (failed, least, share, inputs)
            limits = {"max_failed": float(least), "max_failed_share": share}
            counts = {"unsuccessful": float(failed), "inputs": float(inputs)}
            caplog.clear()
            steps.gate_step(**counts, **limits, **run.identity)
            assert f"{failed} video" in caplog.text, case
            assert f"; {allowed} allowed " in caplog.text, case
            if least >= 0:
                counts["unsuccessful"] += 1
                with pytest.raises(RunError, match=f"{failed + 1} video.*; {allowed} allowed"):
                    steps.gate_step(**counts, **limits, **run.identity)
                assert f"max_failed={least}, max_failed_share=" in run.read("error-gate.txt"), case
        # Pipelines compiled before there was the share do not pass it.
        with pytest.raises(RunError):
            steps.gate_step(unsuccessful=1.0, max_failed=0.0, **run.identity)

    def test_share_out_of_its_range_is_refused_by_the_plan(self, run):
        for share in (-0.01, 1.01, float("nan")):
            with pytest.raises(UsageError, match=r"max_failed_share is .*; give 0 to 1"):
                run.begin(max_failed_share=share)


class TestRunAfterOneThatEnded:
    def test_what_an_ended_run_stored_is_reported_by_the_plan_and_published_by_the_run(
        self, run, caplog
    ):
        shards = run.plan(shard_mb=0.001)
        run.preflight()
        run.extract(shards[0])
        # Its second shard was killed with a video in hand, and nothing was left to report.
        video = read_plan(run.path("plan"))[1].row
        in_hand = InHand("run-1", 1, "0", True, (VideoInHand(video.video_id, "", video.key),), 1.0)
        storage = Storage(str(run.out))
        storage.write(in_hand.file, in_hand.to_json())
        for path in run.out.rglob("*.*"):
            os.utime(path, (1e9, 1e9))
        later = Run(run.videos.parent, run.target, name="run-2")
        assert later.plan() == [0]
        note = (
            "run run-1 was ended from outside: it wrote nothing after 2001-09-09 01:46:40 UTC; its"
        )
        assert note in caplog.text
        assert RunSummary.from_json(run.read("summary.json")).verdict == (
            "1 of 2 videos has features; 1 does not; this run added 1"
        )
        assert not (run.out / "index.parquet").exists()
        later.preflight()
        later.extract(0)
        assert later.publish()[0] == 1
        summary = later.report("SUCCEEDED")
        assert (summary.ok, summary.ok_of_run, summary.unsuccessful) == (1, 0, 1)
        assert note in summary.notes[0]
        assert storage.names("in_hand") == []
        # The ended run lives after all: its report step publishes it.
        assert run.report("FAILED", "its pods waited").message == "its pods waited"

    def test_run_with_nothing_to_do_publishes_what_an_ended_run_stored(self, run):
        (shard,) = run.plan()
        run.preflight()
        run.extract(shard)
        later = Run(run.videos.parent, run.target, name="run-2")
        later.plan()
        later.preflight()
        summary = later.report("SUCCEEDED")
        assert (summary.ok, summary.processed) == (1, 0)
        assert read_index(Storage(str(run.out))).num_rows == 2
        assert (run.out / "index.parquet").exists()
        assert not (run.out / "runs/run-1/summary.json").exists(), "it may be in progress"


class TestReport:
    def test_run_without_a_plan_is_reported(self, run):
        with pytest.raises(ManifestError):
            run.plan(videos=str(run.videos.parent / "none"))
        summary = run.report()
        assert summary.inputs == 0
        assert summary.message.startswith("plan: ")
        assert summary.message in run.read("summary.json")
        assert not (run.out / "dataset.json").exists()

    def test_run_whose_server_never_answered_is_reported(self, run):
        run.plan()
        summary = run.report(message="task preflight\nfailed")
        assert (summary.inputs, summary.unsuccessful) == (2, 2)
        assert summary.message == "task preflight failed"
        assert summary.server == run.target

    @pytest.mark.long
    def test_run_that_failed_in_preflight_says_what_the_dataset_has(self, run):
        (shard,) = run.plan()
        run.preflight()
        run.extract(shard)
        run.publish()
        before = (run.out / "index.parquet").read_bytes()
        write_video(run.videos / "new.mp4", 24)
        later = Run(run.videos.parent, "localhost:1", name="run-2")
        later.plan(patience_s=0.1)
        with pytest.raises(C3DError):
            later.preflight()
        summary = later.report()
        assert summary.verdict == "1 of 3 videos has features; 2 do not; this run added none"
        assert (summary.ok, summary.ok_of_run, summary.unsuccessful) == (1, 0, 1)
        reasons = {failure.video_id: failure.error_message for failure in summary.failures}
        assert set(reasons) == {"b.mp4", "new.mp4"}
        assert reasons["new.mp4"] == (
            "its shard 0 does not exist: the run ended before its shards began"
        )
        assert "cannot be opened as a video" in reasons["b.mp4"]
        assert "1 of 2 videos with features" in later.read("report.md")
        assert "1 of 2 videos with features" in later.read("report.html")
        assert (run.out / "index.parquet").read_bytes() == before

    def test_run_that_failed_in_its_plan_says_what_the_dataset_has(self, run):
        (shard,) = run.plan()
        run.preflight()
        run.extract(shard)
        run.publish()
        later = Run(run.videos.parent, run.target, name="run-2")
        with pytest.raises(ProvenanceError, match="clips.stride: 8 there, 16 requested"):
            later.plan(stride=16)
        assert later.report().verdict == (
            "No videos were done: the run ended before there was a plan; the dataset has 1 of 2 "
            "videos with features"
        )

    def test_run_whose_dataset_has_a_damaged_shard_says_what_can_be_read(self, run):
        write_video(run.videos / "c.mp4", 24)
        (shard,) = run.plan()
        run.preflight()
        run.extract(shard)
        run.publish()
        write_video(run.videos / "d.mp4", 24)
        write_video(run.videos / "e.mp4", 24)
        later = Run(run.videos.parent, run.target, name="run-2")
        shards = later.plan(shard_mb=0.001)
        later.preflight()
        damaged, whole = (later.extract(shard) for shard in shards)
        path = run.out / "shards" / f"{damaged}.parquet"
        content = bytearray(path.read_bytes())
        content[4:100] = bytes(96)
        path.write_bytes(content)
        with pytest.raises(C3DError, match=damaged):
            later.report("SUCCEEDED")
        summary = RunSummary.from_json(later.read("summary.json"))
        assert summary.verdict == "3 of 5 videos have features; 2 do not; this run added 1"
        assert whole in [shard.name for shard in summary.shards]

    def test_shards_that_are_done_are_published_when_another_failed(self, run):
        shards = run.plan(shard_mb=0.001)
        run.preflight()
        run.extract(shards[0])
        summary = run.report()
        assert (summary.ok, summary.unsuccessful) == (1, 1)
        statuses = read_index(Storage(str(run.out)))["status"].to_pylist()
        assert sorted(statuses) == ["failed", "ok"]

    def test_cancelled_run_says_what_it_added(self, run):
        shards = run.plan(shard_mb=0.001)
        run.preflight()
        run.extract(shards[0])
        for state in ("CANCELED", "CANCELLED"):
            summary = run.report(state, "cancelled by a person")
            assert summary.state == "CANCELLED"
            assert summary.verdict == "1 of 2 videos has features; 1 does not; this run added 1"
            assert "1 of 2 videos with features" in run.read("report.md")

    def test_dataset_that_cannot_be_published_is_reported_and_fails(self, run):
        run.plan()
        run.preflight()
        (run.out / "index.parquet").write_bytes(b"no index")
        with pytest.raises(C3DError, match="index.parquet"):
            run.report("SUCCEEDED")
        summary = RunSummary.from_json(run.read("summary.json"))
        assert summary.state == "FAILED"
        assert "index.parquet" in summary.message


class TestState:
    """The state of a run, as kfp.local and several releases of the backend name it."""

    @pytest.fixture
    def storage(self, tmp_path) -> Storage:
        return Storage(str(tmp_path))

    def test_state_is_kubeflows_or_failed_where_kubeflows_is_not_final(self, storage):
        for reported, state in (
            ("SUCCEEDED", "SUCCEEDED"),
            ("COMPLETE", "SUCCEEDED"),
            ("FAILED", "FAILED"),
            ("CANCELED", "CANCELLED"),
            ("CANCELLED", "CANCELLED"),
            ("RUNNING", "FAILED"),
            ("", "FAILED"),
        ):
            assert final_state(storage, "run-1", reported, "") == state, reported

    def test_state_is_failed_when_a_step_wrote_a_reason(self, storage):
        assert final_state(storage, "run-1", "COMPLETE", "gate: too many") == "FAILED"
        assert final_state(storage, "run-1", "CANCELED", "plan: stopped") == "CANCELLED"

    def test_state_of_a_running_run_is_succeeded_once_it_is_published(self, run):
        for shard in run.plan():
            run.preflight()
            run.extract(shard)
        run.publish()
        assert run.report("RUNNING").state == "SUCCEEDED"
        assert run.report("FAILED", "").message.startswith("a step ended without a message")
        assert run.report("RUNNING").state == "FAILED"


class TestErrors:
    def test_reason_of_a_c3d_error_is_written_in_one_line(self, tmp_path):
        identity = {"out": str(tmp_path), "run": "r"}
        with pytest.raises(RunError), recorded_failure("gate", **identity):
            raise RunError("two\n  lines")
        assert (tmp_path / "runs/r/error-gate.txt").read_text() == "two lines"

    def test_reason_is_written_whatever_it_holds(self, tmp_path):
        identity = {"out": str(tmp_path), "run": "r"}
        reason = "caf\udce9\0\x1b[31m\ud800 " + "m" * 10**6
        with pytest.raises(RunError), recorded_failure("gate", **identity):
            raise RunError(reason)
        written = failure_reasons(Storage(str(tmp_path)), "r")["gate"]
        assert written.startswith(r"caf\xe9\x00\x1b[31m\ud800 mmm")
        assert len(written) == 4000

    def test_reason_of_another_error_is_written_without_its_message(self, tmp_path):
        identity = {"out": str(tmp_path), "run": "r"}
        with pytest.raises(OSError, match="hunter2"), recorded_failure("publish", **identity):
            raise OSError("password hunter2")
        reasons = failure_reasons(Storage(str(tmp_path)), "r")
        message = "stopped by an unexpected OSError; the step's log tells where"
        assert reasons == {"publish": message}

    def test_cancelled_step_has_no_reason(self, tmp_path):
        identity = {"out": str(tmp_path), "run": "r"}
        with pytest.raises(Cancelled), recorded_failure("extract-0", **identity):
            raise Cancelled
        assert list(tmp_path.iterdir()) == []

    def test_error_is_raised_also_when_its_reason_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        identity = {"out": str(tmp_path / "file" / "out"), "run": "r"}
        with pytest.raises(RunError, match="reason"), recorded_failure("gate", **identity):
            raise RunError("reason")

    def test_c3d_error_ends_a_process_with_one_line(self):
        code = (
            "from c3d_pipelines.run.errors import one_line_errors\n"
            "from c3d_pipelines.errors import RunError\n"
            "with one_line_errors(): raise RunError('two\\nlines') from ValueError('cause')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, "c3d-pipelines: two lines\n")

    def test_other_error_keeps_its_traceback(self):
        code = (
            "from c3d_pipelines.run.errors import one_line_errors\n"
            "with one_line_errors(): raise KeyError('x')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "Traceback" in done.stderr


@pytest.mark.long
def test_step_that_receives_sigterm_leaves_no_file(run):
    video = write_video(run.videos / "long.mp4", 2000).read_bytes()
    for number in range(30):
        (run.videos / f"long-{number}.mp4").write_bytes(video)
    (shard,) = run.plan(workers=1.0, batch_size=1.0)
    run.preflight()
    code = (
        "import sys\n"
        "from c3d_pipelines.run.steps import extract_step\n"
        "extract_step(shard=int(sys.argv[1]), model_digest='any', plan_path=sys.argv[2],"
        " settings_path=sys.argv[3])\n"
    )
    pod = subprocess.Popen(
        [sys.executable, "-c", code, str(shard), run.path("plan"), run.path("checked")],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: any(r.videos for r in read_in_hand(Storage(run.out))))
        pod.send_signal(signal.SIGTERM)
        _, output = pod.communicate(timeout=LONG_S)
    finally:
        pod.kill()
    assert pod.returncode == 128 + signal.SIGTERM
    assert output.strip().splitlines()[-1].startswith("c3d-pipelines: stopped by SIGTERM")
    assert "Traceback" not in output
    folders = [path.name for path in run.out.iterdir()]
    assert sorted(folders) == ["clips", "runs", "shards"]
    assert not [path for path in (run.out / "shards").rglob("*") if path.is_file()]
