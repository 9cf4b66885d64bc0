"""What a pod does: checks what it is handed, calls the package, leaves results and reasons."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from c3d_client.core.errors import C3DError, ProvenanceError, UsageError
from c3d_pipelines.dataset.index import read_index
from c3d_pipelines.errors import ManifestError, RunError
from c3d_pipelines.inputs.plan import read_plan
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.run import steps
from c3d_pipelines.run.errors import failing_in_one_line, reasons
from c3d_pipelines.run.finish import final_state, report_step
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import Storage
from support.films import write_film

DEFAULTS = {
    **{"answer": "features", "model": "c3d", "model_version": "newest", "stride": 8.0},
    **{"frame_step": 1.0, "tail": "drop", "short": "error", "fps": 0.0, "resize": "exact"},
    **{"clip_rows": True, "keys": "quick", "shard_mb": 4000.0, "shard_minutes": 240.0},
    **{"max_shards": 200.0, "workers": 0.0, "batch_size": 8.0, "max_in_flight": 16.0},
    **{"timeout_s": 20.0, "patience_s": 5.0, "retry_failed": False},
}


class Run:
    """A run's steps, done here one after the other as Kubeflow would have pods do them."""

    def __init__(self, folder: Path, target: str, *, name: str = "run-1") -> None:
        self.videos, self.out, self.name, self.target = folder / "v", folder / "out", name, target
        self.artifacts = folder / name
        self.given = {"out": str(self.out), "run": name}

    def path(self, name: str) -> str:
        return str(self.artifacts / name)

    def plan(self, **changes) -> list[str]:
        self.artifacts.mkdir(exist_ok=True)
        given = {**DEFAULTS, **self.given, "videos": str(self.videos), "server": self.target}
        return steps.plan_step(
            **{**given, **changes},
            plan_path=self.path("plan"),
            settings_path=self.path("settings"),
        )

    def preflight(self, model_digest: str = "any") -> str:
        return steps.preflight_step(
            **self.given,
            model_digest=model_digest,
            settings_path=self.path("settings"),
            checked_path=self.path("checked"),
        )

    def extract(self, shard: str, model_digest: str = "any") -> str:
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
            **self.given,
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
    made = Run(tmp_path, narrow_server.target)
    made.videos.mkdir()
    write_film(made.videos / "a.mp4", 24)
    (made.videos / "b.mp4").write_bytes(b"no video" * 100)
    return made


class TestPlan:
    def test_gives_a_word_a_shard_and_leaves_plan_and_settings(self, run):
        words = run.plan(shard_mb=0.001)
        assert [re.sub(r"-[0-9a-f]{16}$", "", word) for word in words] == ["0", "1"]
        for path in (run.path("plan"), run.out / "runs/run-1/plan.parquet"):
            assert [one.row.video_id for one in read_plan(path)] == ["a.mp4", "b.mp4"]
        assert Path(run.path("settings")).read_text() == run.read("settings.json")

    def test_numbers_come_as_floats_and_0_says_what_has_no_other_word(self, run):
        run.plan(stride=16.0, workers=0.0, fps=0.0)
        job = JobSettings.from_json(run.read("settings.json"))
        assert (job.window.stride, job.workers, job.window.fps) == (16, 0, None)
        assert isinstance(job.window.stride, int)
        run.plan(fps=12.5)
        assert JobSettings.from_json(run.read("settings.json")).window.fps == 12.5

    def test_with_nothing_to_do_there_is_one_empty_shard(self, run):
        for word in run.plan():
            run.preflight()
            run.extract(word)
        run.publish()
        later = Run(run.videos.parent, run.target, name="run-2")
        (word,) = later.plan()
        assert word.startswith("0-")
        later.preflight()
        later.extract(word)
        assert later.publish()[0] == 0
        assert read_index(Storage(str(run.out))).num_rows == 2

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"stride": 1.5}, "stride is 1.5; give a whole number"),
            ({"tail": "cut"}, "tail is 'cut'"),
            ({"batch_size": 0.0}, "batch"),
            ({"max_shards": 0.0}, "max_shards"),
            ({"model_version": "latest"}, "model_version is 'latest'"),
        ],
    )
    def test_a_parameter_out_of_its_range_is_named_before_anything_else(self, run, changes, told):
        with pytest.raises(UsageError, match=re.escape(told)):
            run.plan(**changes)
        assert told in run.read("error-plan.txt")

    def test_a_run_without_a_name_is_refused(self, run):
        with pytest.raises(UsageError, match="run is"):
            run.plan(run="{{$.pipeline_job_uuid}}")

    def test_a_place_without_videos_is_an_error_that_the_report_knows(self, run):
        with pytest.raises(ManifestError):
            run.plan(videos=str(run.videos.parent / "none"))
        assert reasons(Storage(str(run.out)), "run-1").startswith("plan: ")


class TestServer:
    def test_is_the_one_that_is_given(self, monkeypatch):
        monkeypatch.setenv("C3D_SERVER", "other:1")
        assert steps.server_address("here:8500") == "here:8500"

    def test_is_the_one_of_the_pods_environment_where_none_is_given(self, monkeypatch):
        monkeypatch.setenv("C3D_SERVER", "dns:///mine:8500\n")
        assert steps.server_address("configured") == "dns:///mine:8500"

    def test_is_the_bundles_where_nobody_names_one(self, monkeypatch):
        monkeypatch.delenv("C3D_SERVER", raising=False)
        assert steps.server_address("configured") == steps.CLUSTER_SERVER


class TestPreflight:
    def test_says_which_model_it_is_and_takes_no_other(self, run):
        (word,) = run.plan()
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
            run.extract(word, other)


class TestTheWholeRun:
    def test_accounts_for_every_video(self, run):
        for word in run.plan(shard_mb=0.001):
            run.preflight()
            assert (run.out / "shards" / f"{run.extract(word)}.json").is_file()
        failed, metrics = run.publish()
        assert failed == 1
        assert metrics["ok"] == 1
        assert Path(run.path("published/page")).read_text() == run.read("report.html")
        assert Path(run.path("published/text")).read_text() == run.read("report.md")
        with pytest.raises(RunError, match=r"1 videos did not end ok, and max_failed is 0; .*html"):
            steps.gate_step(unsuccessful=1.0, max_failed=0.0, **run.given)
        summary = run.report(message="Kubeflow's own words")
        assert (summary.state, summary.ok, summary.unsuccessful) == ("FAILED", 1, 1)
        assert summary.message.startswith("gate: 1 videos did not end ok")
        assert "gate: 1 videos did not end ok" in Path(run.path("reported/page")).read_text()

    def test_a_gate_lets_so_many_fail_or_any_number(self, run):
        run.out.mkdir()
        steps.gate_step(unsuccessful=1.0, max_failed=1.0, **run.given)
        steps.gate_step(unsuccessful=7.0, max_failed=-1.0, **run.given)
        with pytest.raises(RunError):
            steps.gate_step(unsuccessful=2.0, max_failed=1.0, **run.given)


class TestReport:
    def test_tells_of_a_run_that_had_no_plan(self, run):
        with pytest.raises(ManifestError):
            run.plan(videos=str(run.videos.parent / "none"))
        summary = run.report()
        assert summary.inputs == 0
        assert summary.message.startswith("plan: ")
        assert summary.message in run.read("summary.json")
        assert not (run.out / "dataset.json").exists()

    def test_tells_of_a_run_whose_server_was_never_there(self, run):
        run.plan()
        summary = run.report(message="task preflight\nfailed")
        assert (summary.inputs, summary.unsuccessful) == (2, 2)
        assert summary.message == "task preflight failed"
        assert summary.server == run.target

    def test_publishes_what_there_is_where_a_shard_failed(self, run):
        words = run.plan(shard_mb=0.001)
        run.preflight()
        run.extract(words[0])
        summary = run.report()
        assert (summary.ok, summary.unsuccessful) == (1, 1)
        statuses = read_index(Storage(str(run.out)))["status"].to_pylist()
        assert sorted(statuses) == ["failed", "ok"]

    def test_tells_of_a_dataset_that_cannot_be_published_and_fails(self, run):
        run.plan()
        run.preflight()
        (run.out / "index.parquet").write_bytes(b"no index")
        with pytest.raises(C3DError, match="index.parquet"):
            run.report("SUCCEEDED")
        summary = RunSummary.from_json(run.read("summary.json"))
        assert summary.state == "FAILED"
        assert "index.parquet" in summary.message


class TestState:
    """Of a run, in the words of kfp.local and of backends of several ages."""

    @pytest.fixture
    def storage(self, tmp_path) -> Storage:
        return Storage(str(tmp_path))

    @pytest.mark.parametrize(
        ("word", "state"),
        [
            ("SUCCEEDED", "SUCCEEDED"),
            ("COMPLETE", "SUCCEEDED"),
            ("FAILED", "FAILED"),
            ("CANCELED", "CANCELLED"),
            ("CANCELLED", "CANCELLED"),
            ("RUNNING", "FAILED"),
            ("", "FAILED"),
        ],
    )
    def test_is_what_kubeflow_says_and_failed_where_it_says_nothing(self, storage, word, state):
        assert final_state(storage, "run-1", word, "") == state

    def test_is_failed_where_a_step_says_so(self, storage):
        assert final_state(storage, "run-1", "COMPLETE", "gate: too many") == "FAILED"
        assert final_state(storage, "run-1", "CANCELED", "plan: stopped") == "CANCELLED"

    def test_is_well_while_it_runs_where_its_publishing_went_well(self, run):
        for word in run.plan():
            run.preflight()
            run.extract(word)
        run.publish()
        assert run.report("RUNNING").state == "SUCCEEDED"
        assert run.report("FAILED", "").message.startswith("a step ended without a word")
        assert run.report("RUNNING").state == "FAILED"


class TestErrors:
    def test_of_ours_are_left_in_one_line(self, tmp_path):
        given = {"out": str(tmp_path), "run": "r"}
        with pytest.raises(RunError), failing_in_one_line("gate", **given):
            raise RunError("two\n  lines")
        assert (tmp_path / "runs/r/error-gate.txt").read_text() == "two lines"

    def test_of_others_are_left_without_what_they_say(self, tmp_path):
        given = {"out": str(tmp_path), "run": "r"}
        with pytest.raises(OSError, match="hunter2"), failing_in_one_line("publish", **given):
            raise OSError("password hunter2")
        left = reasons(Storage(str(tmp_path)), "r")
        assert left == "publish: stopped by an unexpected OSError; the step's log tells where"

    def test_keep_their_own_words_where_the_place_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        given = {"out": str(tmp_path / "file" / "out"), "run": "r"}
        with pytest.raises(RunError, match="mine"), failing_in_one_line("gate", **given):
            raise RunError("mine")

    def test_end_a_process_with_one_line(self):
        code = (
            "from c3d_pipelines.run.errors import in_one_line\n"
            "from c3d_client.core.errors import RunError\n"
            "with in_one_line(): raise RunError('two\\nlines') from ValueError('cause')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, "c3d-pipelines: two lines\n")

    def test_of_others_keep_their_traceback(self):
        code = (
            "from c3d_pipelines.run.errors import in_one_line\n"
            "with in_one_line(): raise KeyError('x')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "Traceback" in done.stderr


def test_a_pod_that_is_told_to_go_leaves_nothing_half_written(run):
    film = write_film(run.videos / "long.mp4", 2000).read_bytes()
    for number in range(30):
        (run.videos / f"long-{number}.mp4").write_bytes(film)
    (word,) = run.plan(workers=1.0, batch_size=1.0)
    run.preflight()
    code = (
        "import sys\n"
        "from c3d_pipelines.run.steps import extract_step\n"
        "extract_step(shard=sys.argv[1], model_digest='any', plan_path=sys.argv[2],"
        " settings_path=sys.argv[3])\n"
    )
    pod = subprocess.Popen(
        [sys.executable, "-c", code, word, run.path("plan"), run.path("checked")],
        stderr=subprocess.PIPE,
        text=True,
    )
    began = time.monotonic()
    while not list((run.out / "shards").glob(".c3d-*")) and time.monotonic() < began + 30:
        time.sleep(0.05)
    pod.send_signal(signal.SIGTERM)
    _, told = pod.communicate(timeout=30)
    assert pod.returncode == 128 + signal.SIGTERM
    assert told.strip().splitlines()[-1].startswith("c3d-pipelines: told to go (SIGTERM)")
    assert "Traceback" not in told
    assert not [path for path in (run.out / "shards").rglob("*") if path.is_file()]
