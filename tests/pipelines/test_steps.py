"""The steps of a bulk run: checks of parameters, results for the next step, reasons of failures."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from c3d_client import Cancelled
from c3d_client.core.errors import C3DError, ProvenanceError, UsageError
from c3d_pipelines.dataset.index import read_index
from c3d_pipelines.errors import ManifestError, RunError
from c3d_pipelines.inputs.plan import read_plan
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.run import steps
from c3d_pipelines.run.errors import failure_reasons, recorded_failure
from c3d_pipelines.run.finish import final_state, report_step
from c3d_pipelines.storage import Storage
from support.videos import write_video

# Numbers as Kubeflow passes them.
PARAMETERS = {"stride": 8.0, "workers": 0.0, "fps": 0.0, "timeout_s": 20.0, "patience_s": 5.0}


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
        report_step(
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
        with pytest.raises(RunError, match=r"1 videos did not end ok, and max_failed is 0; .*html"):
            steps.gate_step(unsuccessful=1.0, max_failed=0.0, **run.identity)
        summary = run.report(message="Kubeflow's message")
        assert (summary.state, summary.ok, summary.unsuccessful) == ("FAILED", 1, 1)
        assert summary.message.startswith("gate: 1 videos did not end ok")
        assert "gate: 1 videos did not end ok" in Path(run.path("reported/page")).read_text()

    def test_gate_allows_max_failed_or_any_number(self, run):
        run.out.mkdir()
        steps.gate_step(unsuccessful=1.0, max_failed=1.0, **run.identity)
        steps.gate_step(unsuccessful=7.0, max_failed=-1.0, **run.identity)
        with pytest.raises(RunError):
            steps.gate_step(unsuccessful=2.0, max_failed=1.0, **run.identity)


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

    def test_run_that_failed_in_preflight_says_what_the_dataset_has(self, run):
        (shard,) = run.plan()
        run.preflight()
        run.extract(shard)
        run.publish()
        before = (run.out / "index.parquet").read_bytes()
        write_video(run.videos / "new.mp4", 24)
        later = Run(run.videos.parent, "localhost:1", name="run-2")
        later.plan()
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
    began = time.monotonic()
    while not list((run.out / "shards").glob(".c3d-*")) and time.monotonic() < began + 30:
        time.sleep(0.05)
    pod.send_signal(signal.SIGTERM)
    _, output = pod.communicate(timeout=30)
    assert pod.returncode == 128 + signal.SIGTERM
    assert output.strip().splitlines()[-1].startswith("c3d-pipelines: stopped by SIGTERM")
    assert "Traceback" not in output
    assert not [path for path in (run.out / "shards").rglob("*") if path.is_file()]
