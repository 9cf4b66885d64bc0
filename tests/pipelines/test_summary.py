"""The summary of a run: counts, failures, speed, times and advice."""

import json
import shlex

import numpy as np
import pytest
from c3d_client.core.contract import DEFAULT_TARGET
from c3d_client.core.provenance import Provenance
from c3d_pipelines.commands.run import run as run_command
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.compile import compiled_path
from c3d_pipelines.kubeflow.submit import Package
from c3d_pipelines.parameters import PARAMETERS, JobParameters
from c3d_pipelines.reports.advice import advice, retry_command
from c3d_pipelines.reports.page import to_html, to_markdown
from c3d_pipelines.reports.summary import DURATION_EDGES_S, Histogram, RunSummary
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import STATUSES
from c3d_pipelines.text import length, share, significant, size
from support.sample_shards import PROVENANCE, START
from support.sample_summary import index_row, plan_row, random_run, shard_report, summary


def test_every_input_is_counted_once_by_decision_and_by_status():
    run = summary(
        [
            plan_row("a"),
            plan_row("b"),
            plan_row("old", decision="done"),
            plan_row("short", decision="known_failure"),
            plan_row("again", decision="duplicate", duplicate_of="b"),
        ],
        [
            index_row("a"),
            index_row("b", "corrupt"),
            index_row("old", run="run-1", shard="x"),
            index_row("short", "too_short", run="run-1", shard="x"),
            index_row("again", duplicate_of="b", shard=""),
            index_row("another dataset's input"),
        ],
        [shard_report(0, ["ok", "corrupt"])],
    )
    none = dict.fromkeys(STATUSES, 0)
    assert run.counts == {
        "do": {**none, "ok": 1, "corrupt": 1},
        "done": {**none, "ok": 1},
        "known_failure": {**none, "too_short": 1},
        "duplicate": {**none, "corrupt": 1},  # like its original, whatever its own row has
    }
    assert (run.inputs, run.ok, run.unsuccessful) == (5, 2, 1)
    assert [(item.video_id, item.status, item.decision) for item in run.failures] == [
        ("b", "corrupt", "do"),
        ("short", "too_short", "known_failure"),
        ("again", "corrupt", "duplicate"),
    ]
    assert run.verdict == "2 of 5 videos have features; 3 do not"
    assert run.processed == 2
    assert run.bytes_in == 10_000_000


def test_duplicate_of_an_earlier_video_counts_like_it():
    planned = [plan_row("copy", decision="duplicate", duplicate_of="first")]
    assert (
        summary(planned, [index_row("first", "unreadable", run="run-1")]).ended("unreadable") == 1
    )
    assert summary(planned, [index_row("copy", run="run-1")]).ok == 1
    (failure,) = summary(planned, []).failures
    assert (failure.status, failure.error_type) == ("failed", "RowMissing")
    assert "first" in failure.error_message


def test_input_that_was_not_done_is_failed_whatever_an_earlier_run_did():
    planned = [plan_row(name, shard=shard) for name, shard in (("a", 0), ("b", 1), ("c", 2))]
    rows = [
        index_row("a", shard="s0"),
        index_row("b", run="run-1", shard="old", key="stat:before"),  # before it changed
        # A row of the index for an input that no shard did.
        index_row("c", "failed", shard="", error_type="ShardMissing", error_message="no end"),
    ]
    run = summary(planned, rows, [shard_report(0, ["ok"])], state="FAILED")
    assert [(item.video_id, item.status, item.error_type) for item in run.failures] == [
        ("b", "failed", "ShardMissing"),
        ("c", "failed", "ShardMissing"),
    ]
    assert run.unsuccessful == 2
    assert [shard.index for shard in run.missing_shards] == [1, 2]
    assert [(s.name, s.videos, s.ok) for s in run.shards] == [
        ("s0", 1, 1),
        ("", 1, 0),
        ("", 1, 0),
    ]
    assert run.processed == 1  # an input that no shard did is no work
    assert run.bytes_in == 5_000_000


def test_success_of_another_run_in_the_same_shard_is_no_work_of_this_run():
    rows = [index_row("a", run="run-6"), index_row("b", "failed", run="run-6")]
    run = summary(
        [plan_row("a"), plan_row("b")], rows, [shard_report(0, ["ok", "failed"], run="run-6")]
    )
    assert run.ok == 1
    assert run.failures[0].error_type == "ShardMissing"
    assert run.processed == run.clips == run.bytes_out == 0
    assert run.wall_s is None


def test_videos_that_another_run_did_meanwhile_are_done_in_whatever_shard_they_are():
    planned = [plan_row("a"), plan_row("b"), plan_row("c"), plan_row("d")]
    rows = [
        index_row("a", run="run-6", shard="theirs"),
        index_row("b", run="run-6", shard="theirs", key="stat:another"),
        index_row("c", "failed", run="run-6", shard="theirs"),
        index_row("d", run="run-6", shard="theirs", uri="/elsewhere/d"),
    ]
    run = summary(planned, rows, [shard_report(3, ["ok"] * 3 + ["failed"], run="run-6")])
    assert [failure.video_id for failure in run.failures] == ["b", "c", "d"]
    assert {failure.error_type for failure in run.failures} == {"ShardMissing"}
    assert (run.ok, run.ok_of_run, run.kept) == (1, 0, 2)
    assert [(shard.videos, shard.ok) for shard in run.shards] == [(4, 1)]


def test_shard_of_several_parts_is_counted_as_one():
    planned = [plan_row(name) for name in "abcd"] + [plan_row("e", shard=1)]
    rows = [
        *(index_row(name, shard="first") for name in "ab"),
        index_row("c", shard="second"),
        index_row("d", "failed", shard="", error_type="ShardMissing", error_message="no end"),
    ]
    parts = [
        shard_report(0, ["ok", "ok"], name="first", started_at=START, ended_at=START + 300),
        # After the first attempt's pod was killed; 40 of its 100 seconds are of the same time.
        shard_report(
            0, ["ok"], name="second", started_at=START + 260, ended_at=START + 360, retries=2
        ),
    ]
    run = summary(planned, rows, parts, state="FAILED")
    whole, missing = run.shards
    assert (whole.name, whole.videos, whole.ok, whole.retries) == ("first", 4, 3, 2)
    assert (whole.clips, whole.bytes) == (90, 3 * 540_000)
    assert whole.seconds == 360
    assert missing.missing
    assert (run.processed, run.clips, run.bytes_out, run.retries) == (3, 90, 3 * 540_000, 2)
    assert (run.started_at, run.ended_at) == (START, START + 360)
    assert [failure.video_id for failure in run.failures] == ["d", "e"]


def test_speed_is_measured_from_the_first_shards_start_to_the_last_shards_end():
    planned = [plan_row("a"), plan_row("b", shard=1), plan_row("c", shard=1)]
    rows = [index_row("a"), index_row("b", shard="s1"), index_row("c", "corrupt", shard="s1")]
    reports = [shard_report(0, ["ok"]), shard_report(1, ["ok", "corrupt"], retries=2)]
    run = summary(planned, rows, reports)
    assert (run.started_at, run.ended_at, run.wall_s) == (START, START + 11, 11)
    metrics = run.metrics()
    assert metrics["videos_per_s"] == pytest.approx(3 / 11)
    assert metrics["clips_per_s"] == pytest.approx(60 / 11)
    assert metrics["video_hours_per_hour"] == pytest.approx(20 / 11)
    assert run.seconds == {"decode_s": 1.0, "wire_s": 0.5, "queue_s": 0.25, "compute_s": 3.0}
    assert run.video_wall_s == 6.0
    assert metrics["retries"] == 2
    assert metrics["bytes_out"] == 3 * 40_000 + 2 * 500_000
    assert run.shards[1].seconds == 10
    assert all(type(value) is float for value in metrics.values())


def test_unreported_times_are_none_and_no_metric():
    silent = index_row("a", queue_s=None, compute_s=None)
    run = summary([plan_row("a")], [silent], [shard_report(0, ["ok"])])
    assert run.seconds["queue_s"] is run.seconds["compute_s"] is None
    assert run.seconds["decode_s"] == 0.5
    assert not {"queue_s", "compute_s"} & set(run.metrics())


def test_run_that_failed_before_its_plan_has_a_summary():
    run = summary([], [], state="FAILED", message="no videos there", provenance={})
    assert (run.inputs, run.unsuccessful, run.failures, run.shards) == (0, 0, (), ())
    assert run.verdict == "No videos were done: the run ended before there was a plan"
    assert run.metrics()["inputs"] == 0
    assert RunSummary.from_json(run.to_json()) == run


def test_verdict_is_one_sentence():
    for ok, lost, answer, verdict in [
        (1204, 6, "features", "1,204 of 1,210 videos have features; 6 do not"),
        (1, 1, "features", "1 of 2 videos has features; 1 does not"),
        (3, 0, "features", "All 3 videos have features"),
        (0, 3, "features", "None of the 3 videos has features"),
        (1, 0, "features", "The one video has features"),
        (0, 1, "features", "The one video does not have features"),
        (5, 1, "classes", "5 of 6 videos are classified; 1 is not"),
        (0, 1, "classes", "The one video is not classified"),
    ]:
        run = random_run(["ok"] * ok + ["corrupt"] * lost, shards=1, answer=answer)
        assert run.verdict == verdict, (ok, lost, answer)


def test_verdict_of_a_failed_run_says_what_it_added():
    earlier = plan_row("old", decision="done"), index_row("old", run="run-1", shard="x")
    for statuses, verdict in (
        (["ok", "ok"], "3 of 4 videos have features; 1 does not; this run added 2"),
        (["corrupt", "failed"], "1 of 4 videos has features; 3 do not; this run added none"),
    ):
        planned = [earlier[0], plan_row("a"), plan_row("b"), plan_row("c", shard=1)]
        rows = [earlier[1], index_row("a", statuses[0]), index_row("b", statuses[1])]
        for state in ("FAILED", "CANCELLED"):
            run = summary(planned, rows, [shard_report(0, statuses)], state=state)
            assert run.verdict == verdict
            assert run.metrics()["ok_in_this_run"] == statuses.count("ok")
    run = summary([plan_row("a")], [], state="FAILED")
    assert run.verdict == "The one video does not have features"


def test_verdict_of_a_run_without_a_plan_has_the_counts_of_the_dataset():
    none = dict.fromkeys(STATUSES, 0)
    for dataset, text in (
        ({**none, "ok": 40, "corrupt": 2}, "; the dataset has 40 of 42 videos with features"),
        ({**none, "corrupt": 1}, "; the dataset has 0 of 1 video with features"),
        (none, ""),
        (None, ""),
    ):
        run = summary([], [], state="FAILED", provenance={}, dataset=dataset)
        ended = "No videos were done: the run ended before there was a plan"
        assert run.verdict == ended + text
        assert RunSummary.from_json(run.to_json()) == run


def test_videos_whose_features_of_an_earlier_run_stay_are_not_without_features():
    def verdict(*kept, ok=(), lost=(), answer="features"):
        names = [*ok, *kept, *lost]
        rows = [index_row(name, run="run-1", shard="old", key="stat:before") for name in kept]
        rows += [index_row(name) for name in ok]
        planned = [plan_row(name, shard=int(name not in ok)) for name in names]
        reports = [shard_report(0, ["ok"] * len(ok))] if ok else []
        run = summary(planned, rows, reports, state="FAILED", answer=answer)
        assert run.unsuccessful == len(kept) + len(lost)
        assert run.kept == len(kept)
        return run.verdict

    earlier = "the features of an earlier run"
    assert verdict("a") == f"The one video was not done; it keeps {earlier}"
    assert verdict("a", "b") == f"None of the 2 videos was done; all keep {earlier}"
    assert verdict("a", lost="b") == (f"0 of 2 videos have features; 1 keeps {earlier}; 1 does not")
    assert verdict("a", ok="bc", lost="d") == (
        f"2 of 4 videos have features; 1 keeps {earlier}; 1 does not; this run added 2"
    )
    assert verdict("a", "b", answer="classes") == (
        "None of the 2 videos was done; all keep the classes of an earlier run"
    )


def test_run_whose_shards_another_run_made_added_none():
    planned = [plan_row("a"), plan_row("b"), plan_row("c", shard=1)]
    rows = [index_row("a", run="run-6"), index_row("b", run="run-6"), index_row("c", shard="s1")]
    reports = [shard_report(0, ["ok", "ok"], run="run-6"), shard_report(1, ["ok"])]
    run = summary(planned[:2], rows[:2], reports[:1])
    assert run.verdict == (
        "All 2 videos have features; this run added none: another run made 2 of them"
    )
    assert (run.ok, run.ok_of_run, run.unsuccessful) == (2, 0, 0)
    assert run.metrics()["ok_in_this_run"] == 0
    run = summary(planned, rows, reports)
    assert run.verdict == (
        "All 3 videos have features; this run added 1: another run made 2 of them"
    )


def test_run_whose_dataset_cannot_be_read_is_counted_by_its_plan():
    planned = [
        plan_row("old", decision="done"),
        plan_row("twin", decision="duplicate", duplicate_of="old"),
        plan_row("bad", decision="known_failure"),
        plan_row("new"),
    ]
    run = summary(planned, [], state="FAILED", readable=False)
    assert run.verdict == (
        "The dataset cannot be read; 2 of 4 videos have features as far as the plan shows"
    )
    reasons = {failure.video_id: failure.error_message for failure in run.failures}
    unknown = "the dataset cannot be read, so its result is not known"
    assert reasons == {"bad": unknown, "new": unknown}
    assert {failure.error_type for failure in run.failures} == {"RowMissing"}


def test_summary_of_release_0_1_0_has_no_counts_of_the_dataset():
    values = json.loads(random_run(["ok", "ok", "corrupt"], shards=1).to_json())
    for name in ("made", "kept", "readable", "dataset", "software"):
        del values[name]
    run = RunSummary.from_json(json.dumps(values))
    assert run.ok_of_run == 2
    assert run.verdict == "2 of 3 videos have features; 1 does not"
    assert (run.dataset_text, run.versions_note) == ("", "")


def test_verdict_mentions_that_nothing_was_to_do():
    run = summary([plan_row("a", decision="done")], [index_row("a", run="run-1")])
    assert run.verdict == "The one video has features; there was nothing left to do"
    assert run.shards == ()  # the plan's shard 0 exists only for Kubeflow
    assert run.wall_s is None
    assert run.unsuccessful == 0


def test_summary_has_no_secrets_of_addresses():
    url = "https://me:secret@host/a.mp4?token=secret"
    row = index_row("a", "unreadable", uri=url, error_message=f"{url}: HTTP 403")
    run = summary(
        [plan_row("a", uri=url)],
        [row],
        [shard_report(0, ["unreadable"])],
        out="s3://key:secret@videos/c3d",
        message=f"cannot read '{url}'",
        state="FAILED",
    )
    assert "secret" not in run.to_json()
    assert "https://***@host/a.mp4" in run.failures[0].uri


def test_summary_is_read_back_and_other_text_is_refused():
    run = random_run(["ok"] * 30 + ["corrupt", "failed"], shards=3, earlier=4, missing=(1,))
    assert RunSummary.from_json(run.to_json()) == run
    values = json.loads(run.to_json())
    del values["counts"]
    for text in ("", "[]", json.dumps(values), run.to_json().replace('"median"', '"middle"')):
        with pytest.raises(RunError, match="summary cannot be read"):
            RunSummary.from_json(text)


def test_histograms_are_of_all_inputs_without_duplicates():
    planned = [
        plan_row("a"),
        plan_row("old", decision="done"),
        plan_row("copy", decision="duplicate", duplicate_of="a"),
        plan_row("bad"),
    ]
    rows = [
        index_row("a", duration_s=3.0, n_clips=9),
        index_row("old", run="run-1", duration_s=4000.0, n_clips=12_000),
        index_row("copy", duplicate_of="a", duration_s=3.0, n_clips=9),
        index_row("bad", "too_short", duration_s=0.5, n_clips=0),
    ]
    run = summary(planned, rows, [shard_report(0, ["ok", "too_short"])])
    assert run.durations.count == 3
    assert [(bin_.low, bin_.high) for bin_ in run.durations.bins if bin_.count] == [
        (0, 1),
        (2, 5),
        (3600, 7200),
    ]
    assert len(run.durations.bins) == 14  # empty bins in between are kept for the scale
    assert run.clip_counts.total == 12_009


def test_value_at_an_edge_is_in_the_bin_that_begins_there():
    run = Histogram.of(np.array([1.0, 2.0, 1e9]), DURATION_EDGES_S)
    assert [bin_.low for bin_ in run.bins if bin_.count] == [1, 2, 14400]
    assert run.bins[-1].high is None
    assert (run.count, run.median, run.largest) == (3, 2.0, 1e9)
    assert Histogram.of(np.array([]), DURATION_EDGES_S).bins == ()


def test_each_kind_of_failure_has_advice_and_a_retry_command():
    run = random_run(
        ["ok"] * 8 + ["corrupt", "corrupt", "unreadable", "failed", "too_short", "ok"],
        shards=7,
        missing=(6,),
        out="/data/my videos",
        server="tf:8500",
        answer="classes",
        provenance={**PROVENANCE, "clips": {**PROVENANCE["clips"], "stride": 16, "fps": 25.0}},
    )
    repeated = (
        "c3d-pipelines run --videos '/data/my videos/runs/run-7/plan.parquet' --out "
        "'/data/my videos' --classify --server tf:8500 --stride 16 --fps 25.0"
    )
    commands = {item.kind: (item.count, item.command) for item in advice(run)}
    loop = repeated.replace("--out '/data/my videos'", "--out '/data/my videos-loop'")
    assert commands == {
        "failed": (1, repeated),
        "missing": (2, repeated),
        "unreadable": (1, repeated),
        "corrupt": (2, f"{repeated} --retry-failed"),
    }
    short = random_run(["too_short"], shards=1, provenance=run.provenance, out=run.out)
    (item,) = advice(short)
    loop = loop.replace(" --classify --server tf:8500", "")
    assert item.command == loop.replace(" --fps 25.0", " --short loop --fps 25.0")


def test_run_on_a_cluster_is_advised_to_be_sent_again_with_its_own_parameters():
    sent = {
        "videos": "s3://bucket/my videos",
        "out": "/data/it's features",
        "server": "tf:8500",
        "model_digest": "sha256:12",
        "stride": 16,
        "fps": 25.0,
        "any_file": True,
        "tail": "pad",
        "max_failed_share": 0.5,
    }
    statuses = ["ok", "corrupt", "unreadable", "failed", "ok"]
    run = random_run(statuses, shards=5, missing=(4,), out=sent["out"], sent=sent, server="tf:8500")
    assert run.on_cluster
    again = (
        "c3d-pipelines submit c3d-bulk-extraction --videos 's3://bucket/my videos' --out "
        """'/data/it'"'"'s features' --server tf:8500 --model-digest sha256:12 --param stride=16 """
        "--param fps=25.0 --param any_file=true --param tail=pad --param max_failed_share=0.5"
    )
    assert {item.kind: item.command for item in advice(run)} == {
        "failed": again,
        "missing": again,
        "unreadable": again,
        "corrupt": f"{again} --param retry_failed=true",
    }
    short = random_run(["too_short"], shards=1, out=sent["out"], sent=sent, answer="classes")
    (item,) = advice(short)
    assert item.command.startswith("c3d-pipelines submit c3d-bulk-classification --videos 's3:")
    assert shlex.split(item.command)[6] == "/data/it's features-loop"
    assert item.command.endswith(" --param short=loop")
    # A shell and the command read the parameters as they were sent, whatever is in them.
    words = shlex.split(again)
    given = dict(zip(words[3:11:2], words[4:12:2], strict=True))
    assert given == {f"--{name.replace('_', '-')}": sent[name] for name in list(sent)[:4]}
    parameters = dict(word.split("=", 1) for word in words[12::2])
    package = Package(compiled_path("c3d-bulk-extraction"))
    named = {name: value for name, value in sent.items() if name not in ("model_digest",)}
    assert package.arguments({**named, **parameters}) == named
    for text in (to_html(run), to_markdown(run)):
        assert "pods" not in text
        assert "--namespace" in text.replace("\\", "")
        assert "c3d-pipelines run " not in text
    assert "To read it in Python, where its volume is mounted:" in to_html(run)


def test_limit_of_failures_is_reported_where_it_is_known():
    for changes, text in (
        ({}, ""),
        ({"max_failed": 0}, "2 of 3 videos of this run did not end ok; 0 allowed"),
        ({"max_failed": -1}, "2 of 3 videos of this run did not end ok; any number allowed"),
        (
            # Of all inputs, 20: also those that were done earlier.
            {"max_failed": 1, "max_failed_share": 0.1},
            "2 of 3 videos of this run did not end ok; 2 allowed",
        ),
    ):
        run = random_run(["ok", "corrupt", "failed"], shards=1, earlier=17, **changes)
        assert run.gate_text == text, changes
        for page in (to_html(run), to_markdown(run)):
            assert text in page, changes
            assert text or "did not end ok" not in page, changes


def test_videos_that_need_too_much_memory_have_advice_of_their_own():
    rows = [index_row(name, "failed", error_type=name) for name in ("VideoTooLarge", "WorkerDied")]
    rows.append(index_row("other", "failed"))
    planned = [plan_row(row["video_id"]) for row in rows]
    for sent, text in ((None, "--workers 1"), ({"videos": "v", "out": "o"}, "--memory-limit")):
        run = summary(planned, rows, [shard_report(0, ["failed"] * 3)], sent=sent)
        failed, too_large = advice(run)
        assert (failed.kind, failed.count) == ("failed", 1)
        assert (too_large.kind, too_large.count) == ("too_large", 2)
        assert text in too_large.remedy
        assert "Too large: 2 videos" in to_html(run)
        assert "too large" in to_markdown(run)


def test_video_too_short_for_a_policy_is_not_advised_the_same_policy():
    clips = {**PROVENANCE["clips"], "short": "loop", "frame_step": 2}
    run = random_run(["too_short"], shards=1, provenance={**PROVENANCE, "clips": clips})
    (item,) = advice(run)
    assert item.command.endswith("--frame-step 2 --short loop --retry-failed")
    assert "31 that one clip spans" in item.meaning


def test_retry_command_has_the_runs_options():
    changed = {**PROVENANCE, "preprocessing": {"resize": "another"}, "model": {"name": "mine"}}
    run = random_run(["failed"], shards=1, provenance=changed)
    assert retry_command(run).endswith("--model mine --resize fast")
    without_provenance = random_run(["failed"], shards=1, provenance={})
    assert " --" not in retry_command(without_provenance).split("--out")[1]


def test_retry_command_has_all_parameters_of_a_run_that_ended_before_its_preflight():
    values = {
        **{"videos": "videos", "out": "/data/my videos", "server": "tf:8500", "model": "mine"},
        **{"model_version": "label:new", "model_digest": "sha256:1", "stride": 16},
        **{"frame_step": 2, "tail": "pad", "short": "loop", "fps": 25.0, "resize": "fast"},
        **{"damage": "skip", "pca": "/data/a b.npz", "any_file": True, "clip_rows": False},
        **{"keys": "content", "shard_mb": 5.0, "shard_minutes": 6.0, "max_shards": 7},
        **{"workers": 2, "batch_size": 4, "max_in_flight": 3, "timeout_s": 9.0},
        **{"patience_s": 8.0, "retry_failed": True, "max_failed": -1, "max_failed_share": 0.5},
    }
    assert values.keys() == PARAMETERS.keys()
    assert not [name for name, value in values.items() if value == PARAMETERS[name].default]
    for settings_values, changes in ((values, {}), ({"out": "out"}, {"server": DEFAULT_TARGET})):
        job = JobSettings.from_parameters(
            {**settings_values, **changes}, run="run-7", answer="features"
        )
        run = summary(
            [plan_row("a")],
            [],
            provenance=Provenance(),
            begun=False,
            state="FAILED",
            **{name: getattr(job, name) for name in ("out", "server", "given", "pca")},
        )
        run = RunSummary.from_json(run.to_json())
        (item,) = advice(run)
        program, command, *arguments = shlex.split(item.command)
        assert (program, command) == ("c3d-pipelines", "run")
        parsed = run_command.make_context("run", arguments).params
        for name in parsed.keys() & values.keys() - {"fps"}:
            assert parsed[name] == getattr(JobParameters.of(job.given), name), name
        assert (parsed["fps"] or 0.0) == job.given.get("fps", 0.0)


def test_retry_command_lists_the_inputs_again_unless_their_address_has_credentials():
    """A plan has the old keys of videos that were replaced, as the advice tells users to do."""
    for videos, shown in (
        ("/data/my videos", "'/data/my videos'"),
        ("https://user:secret@host/list.csv", "out/runs/run-7/plan.parquet"),
        ("https://host/list.csv?X-Amz-Signature=secret", "out/runs/run-7/plan.parquet"),
    ):
        job = JobSettings.from_parameters(
            {"videos": videos, "out": "out"}, run="r", answer="features"
        )
        run = random_run(["corrupt"], shards=1, out="out", given=job.given)
        (item,) = advice(run)
        assert item.command == f"c3d-pipelines run --videos {shown} --out out --retry-failed"
        assert "secret" not in run.to_json() + job.to_json()


def test_numbers_are_formatted_for_people():
    for formatted, text in [
        (significant(0.012345), "0.0123"),
        (significant(99.96), "100"),
        (significant(12_345.6), "12,346"),
        (size(999), "999 bytes"),
        (size(999_600), "1.00 MB"),
        (size(1_250_000), "1.25 MB"),
        (length(0.0123), "0.0123 s"),
        (length(59.96), "1 min"),
        (length(3599.6), "1 h"),
        (length(7260), "2 h 1 min"),
        (length(172_799), "2 d"),
        (length(200_000), "2 d 8 h"),
        (share(1, 100_000), "< 0.1 %"),
        (share(99_999, 100_000), "> 99.9 %"),
        (share(5, 5), "100 %"),
        (share(0, 5), "0 %"),
        (share(1, 3), "33.3 %"),
    ]:
        assert formatted == text, (formatted, text)
