"""A run, counted: every input once, failures with reasons, speed, and where the time went."""

import json

import numpy as np
import pytest
from c3d_pipelines.errors import RunError
from c3d_pipelines.reports.advice import advice, retry_command
from c3d_pipelines.reports.summary import DURATION_EDGES_S, Histogram, RunSummary
from c3d_pipelines.shards.schema import STATUSES
from c3d_pipelines.text import length, share, significant, size
from support.sample_summary import (
    PROVENANCE,
    START,
    drawn_run,
    index_row,
    plan_row,
    shard_report,
    summary,
)


def test_every_input_is_counted_once_by_decision_and_by_status():
    made = summary(
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
    assert made.counts == {
        "do": {**none, "ok": 1, "corrupt": 1},
        "done": {**none, "ok": 1},
        "known_failure": {**none, "too_short": 1},
        "duplicate": {**none, "corrupt": 1},  # as its original, not as its own row says
    }
    assert (made.inputs, made.ok, made.unsuccessful) == (5, 2, 1)
    assert [(one.video_id, one.status, one.decision) for one in made.failures] == [
        ("b", "corrupt", "do"),
        ("short", "too_short", "known_failure"),
        ("again", "corrupt", "duplicate"),
    ]
    assert made.verdict == "2 of 5 videos have features; 3 do not"
    assert made.processed == 2
    assert made.bytes_in == 10_000_000


def test_duplicate_of_an_earlier_video_counts_like_it():
    planned = [plan_row("copy", decision="duplicate", duplicate_of="first")]
    assert (
        summary(planned, [index_row("first", "unreadable", run="run-1")]).ended("unreadable") == 1
    )
    assert summary(planned, [index_row("copy", run="run-1")]).ok == 1
    (lost,) = summary(planned, []).failures
    assert (lost.status, lost.error_type) == ("failed", "RowMissing")
    assert "first" in lost.error_message


def test_input_that_was_not_done_is_failed_whatever_an_earlier_run_did():
    planned = [plan_row(name, shard=shard) for name, shard in (("a", 0), ("b", 1), ("c", 2))]
    rows = [
        index_row("a", shard="s0"),
        index_row("b", run="run-1", shard="gone"),  # of the film that it was before it changed
        # As the index has it for what nobody did.
        index_row("c", "failed", shard="", error_type="ShardMissing", error_message="no end"),
    ]
    made = summary(planned, rows, [shard_report(0, ["ok"])], state="FAILED")
    assert [(one.video_id, one.status, one.error_type) for one in made.failures] == [
        ("b", "failed", "ShardMissing"),
        ("c", "failed", "ShardMissing"),
    ]
    assert made.unsuccessful == 2
    assert [shard.index for shard in made.missing_shards] == [1, 2]
    assert [(s.name, s.videos, s.ok) for s in made.shards] == [("s0", 1, 1), ("", 1, 0), ("", 1, 0)]
    assert made.processed == 1  # what nobody did is no work
    assert made.bytes_in == 5_000_000


def test_success_of_another_run_in_the_same_shard_is_no_work_of_this_run():
    rows = [index_row("a", run="run-6"), index_row("b", "failed", run="run-6")]
    made = summary(
        [plan_row("a"), plan_row("b")], rows, [shard_report(0, ["ok", "failed"], run="run-6")]
    )
    assert made.ok == 1
    assert made.failures[0].error_type == "ShardMissing"
    assert made.processed == made.clips == made.bytes_out == 0
    assert made.wall_s is None


def test_speed_is_measured_from_the_first_shards_start_to_the_last_shards_end():
    planned = [plan_row("a"), plan_row("b", shard=1), plan_row("c", shard=1)]
    rows = [index_row("a"), index_row("b", shard="s1"), index_row("c", "corrupt", shard="s1")]
    reports = [shard_report(0, ["ok"]), shard_report(1, ["ok", "corrupt"], retries=2)]
    made = summary(planned, rows, reports)
    assert (made.started_at, made.ended_at, made.wall_s) == (START, START + 11, 11)
    metrics = made.metrics()
    assert metrics["videos_per_s"] == pytest.approx(3 / 11)
    assert metrics["clips_per_s"] == pytest.approx(60 / 11)
    assert metrics["video_hours_per_hour"] == pytest.approx(20 / 11)
    assert made.seconds == {"decode_s": 1.0, "wire_s": 0.5, "queue_s": 0.25, "compute_s": 3.0}
    assert made.video_wall_s == 6.0
    assert metrics["retries"] == 2
    assert metrics["bytes_out"] == 3 * 40_000 + 2 * 500_000
    assert made.shards[1].seconds == 10
    assert all(type(value) is float for value in metrics.values())


def test_unreported_times_are_none_and_no_metric():
    silent = index_row("a", queue_s=None, compute_s=None)
    made = summary([plan_row("a")], [silent], [shard_report(0, ["ok"])])
    assert made.seconds["queue_s"] is made.seconds["compute_s"] is None
    assert made.seconds["decode_s"] == 0.5
    assert not {"queue_s", "compute_s"} & set(made.metrics())


def test_run_that_failed_before_its_plan_has_a_summary():
    made = summary([], [], state="FAILED", message="no videos there", provenance={})
    assert (made.inputs, made.unsuccessful, made.failures, made.shards) == (0, 0, (), ())
    assert made.verdict == "No videos were done: the run ended before there was a plan"
    assert made.metrics()["inputs"] == 0
    assert RunSummary.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("ok", "lost", "answer", "verdict"),
    [
        (1204, 6, "features", "1,204 of 1,210 videos have features; 6 do not"),
        (1, 1, "features", "1 of 2 videos has features; 1 does not"),
        (3, 0, "features", "All 3 videos have features"),
        (0, 3, "features", "None of the 3 videos has features"),
        (1, 0, "features", "The one video has features"),
        (0, 1, "features", "The one video does not have features"),
        (5, 1, "classes", "5 of 6 videos are classified; 1 is not"),
        (0, 1, "classes", "The one video is not classified"),
    ],
)
def test_verdict_is_one_sentence(ok, lost, answer, verdict):
    assert drawn_run(["ok"] * ok + ["corrupt"] * lost, shards=1, answer=answer).verdict == verdict


def test_verdict_mentions_that_nothing_was_to_do():
    made = summary(
        [plan_row("a", decision="done")], [index_row("a", run="run-1")], [shard_report(0, [])]
    )
    assert made.verdict == "The one video has features; there was nothing left to do"
    assert made.shards == ()  # the plan's shard 0 is there for Kubeflow alone
    assert made.wall_s is None
    assert made.unsuccessful == 0


def test_summary_has_no_secrets_of_addresses():
    url = "https://me:secret@host/a.mp4?token=secret"
    row = index_row("a", "unreadable", uri=url, error_message=f"{url}: HTTP 403")
    made = summary(
        [plan_row("a", uri=url)],
        [row],
        [shard_report(0, ["unreadable"])],
        out="s3://key:secret@films/c3d",
        message=f"cannot read '{url}'",
        state="FAILED",
    )
    assert "secret" not in made.to_json()
    assert "https://***@host/a.mp4" in made.failures[0].uri


def test_summary_is_read_back_and_other_text_is_refused():
    made = drawn_run(["ok"] * 30 + ["corrupt", "failed"], shards=3, earlier=4, missing=(1,))
    assert RunSummary.from_json(made.to_json()) == made
    values = json.loads(made.to_json())
    del values["counts"]
    for text in ("", "[]", json.dumps(values), made.to_json().replace('"median"', '"middle"')):
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
    made = summary(planned, rows, [shard_report(0, ["ok", "too_short"])])
    assert made.durations.count == 3
    assert [(bin_.low, bin_.high) for bin_ in made.durations.bins if bin_.count] == [
        (0, 1),
        (2, 5),
        (3600, 7200),
    ]
    assert len(made.durations.bins) == 14  # those between are there, so that it has one scale
    assert made.clip_counts.total == 12_009


def test_value_at_an_edge_is_in_the_bin_that_begins_there():
    made = Histogram.of(np.array([1.0, 2.0, 1e9]), DURATION_EDGES_S)
    assert [bin_.low for bin_ in made.bins if bin_.count] == [1, 2, 14400]
    assert made.bins[-1].high is None
    assert (made.count, made.median, made.largest) == (3, 2.0, 1e9)
    assert Histogram.of(np.array([]), DURATION_EDGES_S).bins == ()


def test_each_kind_of_failure_has_advice_and_a_retry_command():
    made = drawn_run(
        ["ok"] * 8 + ["corrupt", "corrupt", "unreadable", "failed", "too_short", "ok"],
        shards=7,
        missing=(6,),
        out="/data/my films",
        server="tf:8500",
        answer="classes",
        provenance={**PROVENANCE, "clips": {**PROVENANCE["clips"], "stride": 16, "fps": 25.0}},
    )
    again = (
        "c3d-pipelines run --videos '/data/my films/runs/run-7/plan.parquet' --out "
        "'/data/my films' --classify --server tf:8500 --stride 16 --fps 25.0"
    )
    told = {one.kind: (one.count, one.command) for one in advice(made)}
    loop = again.replace("--out '/data/my films'", "--out '/data/my films-loop'")
    assert told == {
        "failed": (1, again),
        "missing": (2, again),
        "unreadable": (1, again),
        "corrupt": (2, f"{again} --retry-failed"),
    }
    short = drawn_run(["too_short"], shards=1, provenance=made.provenance, out=made.out)
    (one,) = advice(short)
    assert one.command == f"{loop} --short loop".replace(" --classify --server tf:8500", "")


def test_video_too_short_for_a_policy_is_not_advised_that_policy():
    clips = {**PROVENANCE["clips"], "short": "loop", "frame_step": 2}
    made = drawn_run(["too_short"], shards=1, provenance={**PROVENANCE, "clips": clips})
    (one,) = advice(made)
    assert one.command.endswith("--frame-step 2 --short loop --retry-failed")
    assert "31 that one clip spans" in one.meaning


def test_retry_command_has_the_runs_options():
    changed = {**PROVENANCE, "preprocessing": {"resize": "another"}, "model": {"name": "mine"}}
    made = drawn_run(["failed"], shards=1, provenance=changed)
    assert retry_command(made).endswith("--model mine --resize fast")
    assert (
        " --" not in retry_command(drawn_run(["failed"], shards=1, provenance={})).split("--out")[1]
    )


@pytest.mark.parametrize(
    ("made", "text"),
    [
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
    ],
)
def test_numbers_are_formatted_for_people(made, text):
    assert made == text
