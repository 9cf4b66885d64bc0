"""Publishing a run: one row for every input, and the dataset's files."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from c3d_client.core.errors import ProvenanceError
from c3d_pipelines.errors import RunError, ShardError, StorageError
from c3d_pipelines.inputs.plan import PlannedRow, read_plan
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.run.publish import publish
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.commits import name_of, names_of
from c3d_pipelines.shards.in_hand import InHand, VideoInHand
from c3d_pipelines.shards.schema import clip_file, report_file, video_file
from c3d_pipelines.storage import Storage
from support.sample_dataset import file_digests, indexed
from support.sample_shards import (
    CHANGED,
    NEWER,
    OTHER,
    PROVENANCE,
    START,
    A,
    B,
    C,
    D,
    commit,
    duplicate,
    settings,
    to_do,
    video,
)


class TestEveryInputHasOneRow:
    def test_input_has_the_row_of_its_shard(self, out):
        job = settings(out)
        commit(job, [A, B], statuses={"b.mp4": "too_short"})
        commit(job, [C], index=1, statuses={"c.mp4": "unreadable"})
        summary = publish(job, [*to_do(A, B), *to_do(C, shard=1)])
        assert indexed(out) == {"a.mp4": ("ok",), "b.mp4": ("too_short",), "c.mp4": ("unreadable",)}
        assert (summary.inputs, summary.ok, summary.unsuccessful) == (3, 1, 2)
        assert [item.missing for item in summary.shards] == [False, False]

    def test_done_input_has_the_row_of_an_earlier_run(self, out):
        first, second = settings(out), settings(out, "run-2")
        commit(first, [A, B], statuses={"b.mp4": "corrupt"})
        publish(first, to_do(A, B))
        commit(second, [C], done_at=START + 9)
        plan = [PlannedRow(A, "done"), PlannedRow(B, "known_failure"), *to_do(C)]
        summary = publish(second, plan)
        assert indexed(out, "status", "run") == {
            "a.mp4": ("ok", "run-1"),
            "b.mp4": ("corrupt", "run-1"),
            "c.mp4": ("ok", "run-2"),
        }
        assert (summary.inputs, summary.ok, summary.unsuccessful) == (3, 2, 0)

    def test_run_with_nothing_to_do_has_all_earlier_rows(self, out):
        commit(settings(out), [A])
        publish(settings(out), to_do(A))
        before = indexed(out, "status", "shard", "row", "run")
        summary = publish(settings(out, "run-2"), [PlannedRow(A, "done")])
        assert indexed(out, "status", "shard", "row", "run") == before
        assert summary.unsuccessful == 0

    def test_input_of_a_missing_shard_is_failed_until_a_run_does_it(self, out):
        job = settings(out)
        commit(job, [A])
        plan = [*to_do(A), *to_do(B, C, shard=1)]
        summary = publish(job, plan, state="FAILED", message="a pod was lost")
        assert indexed(out, "status", "error_type", "shard", "row")["b.mp4"] == (
            *("failed", "ShardMissing"),
            *("", -1),
        )
        assert "the next run does it" in indexed(out, "error_message")["c.mp4"][0]
        assert (summary.inputs, summary.ok, summary.unsuccessful) == (3, 1, 2)
        assert [item.missing for item in summary.shards] == [False, True]
        assert (summary.state, summary.message) == ("FAILED", "a pod was lost")

        commit(job, [B, C], index=1, done_at=START + 9)
        assert publish(job, plan).ok == 3
        assert set(indexed(out).values()) == {("ok",)}

    def test_input_has_a_row_even_where_the_only_shard_is_missing(self, out):
        publish(settings(out), to_do(A, B))
        assert indexed(out) == {"a.mp4": ("failed",), "b.mp4": ("failed",)}

    def test_missing_shard_does_not_hide_an_earlier_success(self, out):
        commit(settings(out), [A])
        publish(settings(out), to_do(A))
        publish(settings(out, "run-2"), to_do(A, B))
        assert indexed(out, "status", "run")["a.mp4"] == ("ok", "run-1")
        publish(settings(out, "run-3"), to_do(CHANGED, B))
        assert indexed(out, "status", "error_type", "key")["a.mp4"] == (
            *("failed", "ShardMissing"),
            CHANGED.key,
        )

    def test_duplicate_has_the_result_of_its_original(self, out):
        job = settings(out)
        twins = [video(f"twin of {name}.mp4", f"sha256:{name}.mp4") for name in "ab"]
        commit(job, [A, B], statuses={"b.mp4": "corrupt"})
        plan = [duplicate(twins[0], "a.mp4"), *to_do(A, B)]
        plan.append(duplicate(twins[1], "b.mp4"))
        summary = publish(job, plan)
        columns = ("status", "shard", "row", "first_clip_row", "n_clips", "duration_s")
        rows = indexed(out, *columns)
        assert rows["twin of a.mp4"] == rows["a.mp4"]
        assert rows["twin of b.mp4"] == rows["b.mp4"]
        inputs = indexed(out, "uri", "duplicate_of", "wall_s")
        assert inputs["twin of a.mp4"] == (twins[0].uri, "a.mp4", None)
        assert inputs["a.mp4"] == (A.uri, "", 0.5)
        assert summary.counts["duplicate"]["ok"] == 1
        assert summary.counts["duplicate"]["corrupt"] == 1

    def test_duplicate_of_an_earlier_video_has_its_result(self, out):
        commit(settings(out), [A])
        publish(settings(out), to_do(A))
        twin = video("twin.mp4", A.key)
        plan = [PlannedRow(A, "done"), duplicate(twin, "a.mp4")]
        publish(settings(out, "run-2"), plan)
        rows = indexed(out, "status", "shard", "row")
        assert rows["twin.mp4"] == rows["a.mp4"]
        assert indexed(out, "run")["twin.mp4"] == ("run-2",)

    def test_duplicate_of_a_replaced_video_waits_for_the_next_run(self, out):
        # The worker records the key of what it read, which differs from the planned key.
        report = commit(settings(out), [CHANGED])
        renamed = replace(report, name=name_of(settings(out), [A]))
        for file in (video_file, clip_file):
            (out / file(report.name)).rename(out / file(renamed.name))
        (out / report_file(renamed.name)).write_text(renamed.to_json())
        (out / report_file(report.name)).unlink()
        twin, same_file = video("twin.mp4", A.key), video("again.mp4", A.key, uri=f"file://{A.uri}")
        plan = [
            *to_do(A),
            *(duplicate(row, "a.mp4") for row in (twin, same_file)),
        ]
        publish(settings(out), plan)
        rows = indexed(out, "status", "error_type", "key")
        assert rows["a.mp4"] == ("ok", "", CHANGED.key)
        assert rows["again.mp4"] == ("ok", "", CHANGED.key)  # the same file
        assert rows["twin.mp4"] == ("failed", "ShardMissing", A.key)
        assert "was replaced after" in indexed(out, "error_message")["twin.mp4"][0]

    def test_video_that_changed_back_has_its_first_numbers(self, out):
        commit(settings(out), [A])
        publish(settings(out), to_do(A))
        commit(settings(out, "run-2"), [CHANGED], done_at=START + 9)
        publish(settings(out, "run-2"), to_do(CHANGED))
        # Its shard is the first run's, which is not done again.
        publish(settings(out, "run-3"), to_do(A))
        assert indexed(out, "key", "run")["a.mp4"] == (A.key, "run-1")

    def test_plan_that_refers_to_missing_rows_is_refused(self, out):
        with pytest.raises(ShardError, match=r"1 have none \(a.mp4\); make a new plan"):
            publish(settings(out), [PlannedRow(A, "done"), *to_do(B)])
        assert not (out / "index.parquet").exists()

    def test_input_that_is_planned_twice_is_refused(self, out):
        with pytest.raises(ShardError, match="some come twice"):
            publish(settings(out), [*to_do(A), *to_do(A, shard=1)])


class TestPartsOfShards:
    """A worker commits the videos that it has finished as a shard of their own."""

    def test_input_has_the_row_of_its_part(self, out):
        job = settings(out)
        commit(job, [A, B], statuses={"b.mp4": "failed"})
        commit(job, [C], done_at=START + 300)
        summary = publish(job, to_do(A, B, C, D), state="FAILED", message="a pod was lost")
        assert indexed(out, "status", "error_type", "run") == {
            "a.mp4": ("ok", "", "run-1"),
            "b.mp4": ("failed", "VideoDecodeError", "run-1"),
            "c.mp4": ("ok", "", "run-1"),
            "d.mp4": ("failed", "ShardMissing", "run-1"),
        }
        assert (summary.ok, summary.processed, summary.unsuccessful) == (2, 3, 2)
        (shard,) = summary.shards
        assert (shard.videos, shard.ok, shard.clips) == (4, 2, 4)

        commit(job, [D], done_at=START + 600)
        summary = publish(job, to_do(A, B, C, D))
        assert indexed(out)["d.mp4"] == ("ok",)
        assert (summary.ok, summary.processed) == (3, 4)

    def test_later_part_of_a_run_counts_for_a_video_that_is_in_two(self, out):
        job = settings(out)
        # The parts' names sort in either order.
        for first, second in ((B, C), (C, D)):
            commit(job, [A, first], statuses={"a.mp4": "failed"})
            later = commit(job, [A, second], statuses={"a.mp4": "corrupt"}, done_at=START + 9)
            publish(job, to_do(A, first, second))
            assert indexed(out, "status", "shard")["a.mp4"] == ("corrupt", later.name)

    def test_result_of_this_run_counts_whatever_another_run_did_meanwhile(self, out):
        job = settings(out)
        commit(job, [A])
        commit(settings(out, "run-2"), [CHANGED, B], done_at=START + 9)
        publish(settings(out, "run-2"), to_do(CHANGED, B))
        publish(job, to_do(A, C))
        assert indexed(out, "status", "run", "key")["a.mp4"] == ("ok", "run-1", A.key)

    def test_video_that_changed_back_has_its_first_numbers_in_a_part(self, out):
        plan = to_do(A, B)
        for number, row in ((1, A), (2, CHANGED)):
            job = settings(out, f"run-{number}")
            part = commit(job, [row], done_at=START + number)
            # The worker stores it as a part of the shard of both videos.
            named = replace(part, name=f"{name_of(job, [row, B])}-{part.name}")
            for file in (video_file, clip_file):
                (out / file(part.name)).rename(out / file(named.name))
            (out / report_file(part.name)).unlink()
            (out / report_file(named.name)).write_text(named.to_json())
            publish(job, to_do(row, B))
        publish(settings(out, "run-3"), plan)
        assert indexed(out, "status", "run", "key") == {
            "a.mp4": ("ok", "run-1", A.key),
            "b.mp4": ("failed", "run-3", B.key),
        }

    def test_video_that_another_run_did_meanwhile_is_not_missing(self, out):
        first, second = settings(out), settings(out, "run-2")
        commit(second, [B, C], done_at=START + 9)
        summary = publish(first, to_do(A, B))
        assert indexed(out, "status", "run") == {
            "a.mp4": ("failed", "run-1"),
            "b.mp4": ("ok", "run-2"),
            "c.mp4": ("ok", "run-2"),
        }
        assert (summary.ok, summary.ok_of_run, summary.unsuccessful) == (1, 0, 1)

    def test_failure_or_another_content_of_another_run_is_no_result(self, out):
        commit(settings(out, "run-2"), [CHANGED, B], statuses={"b.mp4": "failed"})
        unknown = video("c.mp4")
        unknown = replace(unknown, key="")  # it may have changed
        commit(settings(out, "run-3"), [unknown])
        summary = publish(settings(out), to_do(A, B, unknown))
        assert (summary.ok, summary.unsuccessful) == (0, 3)
        assert indexed(out, "status", "run")["a.mp4"] == ("failed", "run-1")

    def test_parts_of_a_run_that_never_published_are_taken_by_a_run_with_nothing_to_do(self, out):
        broken, later = settings(out), settings(out, "run-2")
        commit(broken, [A])
        commit(broken, [B], done_at=START + 300)
        summary = publish(later, [PlannedRow(A, "done"), PlannedRow(B, "done")])
        assert indexed(out, "status", "run") == {"a.mp4": ("ok", "run-1"), "b.mp4": ("ok", "run-1")}
        assert (out / "dataset.json").exists()
        assert (summary.ok, summary.processed, summary.shards) == (2, 0, ())


class TestVideosInHandOfDeadWorkers:
    def dead(self, out, *rows, at: float) -> Path:
        """Write what a worker leaves that was killed with these videos; return its file."""
        videos = tuple(VideoInHand(row.video_id, row.uri, row.key) for row in rows)
        record = InHand("run-0", 0, f"{len(rows)}", False, videos, at)
        Storage(out).write(record.file, record.to_json())
        return out / record.file

    def test_file_goes_when_all_its_videos_have_newer_rows(self, out):
        one, both = self.dead(out, A, at=START - 1), self.dead(out, A, B, at=START - 1)
        newer = self.dead(out, A, C, CHANGED, at=START + 1)
        job = settings(out)
        commit(job, [A])
        publish(job, to_do(A, B, C))
        assert [path.exists() for path in (one, both, newer)] == [False, True, True]
        commit(job, [B, C], statuses={"b.mp4": "failed"}, done_at=START + 2)
        publish(job, to_do(A, B, C))
        assert [path.exists() for path in (both, newer)] == [False, True]

    def test_file_of_a_living_worker_stays(self, out):
        living = self.dead(out, A, at=time.time() - 200)
        job = settings(out)
        commit(job, [A], done_at=time.time())
        publish(job, to_do(A))
        assert living.exists()


class TestRunsAfterEachOther:
    def test_two_runs_are_both_in_the_index(self, out):
        for number, row in enumerate([A, B]):
            job = settings(out, f"run-{number}")
            commit(job, [row], done_at=START + number)
            publish(job, to_do(row))
        assert indexed(out, "run") == {"a.mp4": ("run-0",), "b.mp4": ("run-1",)}

    def test_two_runs_are_both_in_the_index_though_one_overwrote_the_other(self, out):
        jobs = [settings(out, f"run-{number}") for number in range(2)]
        for job, row in zip(jobs, [A, B], strict=True):
            commit(job, [row])
            publish(job, to_do(row))
            if job is jobs[0]:
                first = (out / "index.parquet").read_bytes()
        (out / "index.parquet").write_bytes(first)  # the slower run wrote last
        assert indexed(out, "run") == {"a.mp4": ("run-0",), "b.mp4": ("run-1",)}
        publish(settings(out, "run-3"), [])
        assert indexed(out, "run") == {"a.mp4": ("run-0",), "b.mp4": ("run-1",)}

    def test_former_input_keeps_its_row(self, out):
        commit(settings(out), [A, B])
        publish(settings(out), to_do(A, B))
        summary = publish(settings(out, "run-2"), [PlannedRow(B, "done")])
        assert indexed(out) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}
        assert summary.inputs == 1

    def test_run_that_was_killed_before_publishing_is_not_lost(self, out):
        commit(settings(out), [A])
        commit(settings(out, "run-2"), [B])
        publish(settings(out, "run-2"), to_do(B))
        assert indexed(out) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}

    def test_failure_that_succeeds_in_the_same_shard_is_ok(self, out):
        commit(settings(out), [A, B], statuses={"a.mp4": "failed"})
        publish(settings(out), to_do(A, B))
        commit(settings(out, "run-2"), [A, B], done_at=START + 9, reverse=True)
        publish(settings(out, "run-2"), to_do(A, B))
        assert indexed(out, "status", "row") == {"a.mp4": ("ok", 1), "b.mp4": ("ok", 0)}

    def test_publishing_again_writes_the_same_bytes(self, out):
        job = settings(out)
        commit(job, [A, B], statuses={"b.mp4": "corrupt"})
        twin = video("twin.mp4", A.key)
        plan = [
            *to_do(A, B),
            *to_do(C, shard=1),
            duplicate(twin, "a.mp4"),
        ]
        publish(job, plan)
        before = file_digests(out)
        assert publish(job, plan).inputs == 4
        assert file_digests(out) == before


class TestShardsOfRelease010:
    """That release named a shard by a digest that depends on the versions of the software."""

    def test_shard_that_is_done_under_its_former_name_is_published(self, out):
        job = settings(out)
        report = commit(job, [A], former_name=True)
        commit(job, [B], index=1)
        assert report.name == names_of(job, [A])[1] != name_of(job, [A])
        summary = publish(job, [*to_do(A), *to_do(B, shard=1)])
        assert indexed(out) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}
        assert [shard.name for shard in summary.shards] == [report.name, name_of(job, [B])]

    def test_shard_that_was_done_again_counts_under_its_new_name(self, out):
        row = replace(A, key="")  # it may have changed, so every run does it again
        for number in (1, 2):
            job = settings(out, f"run-{number}")
            commit(job, [row], former_name=number == 1, done_at=START + number)
            summary = publish(job, to_do(row))
        assert indexed(out, "status", "run") == {"a.mp4": ("ok", "run-2")}
        assert [shard.name for shard in summary.shards] == [name_of(job, [row])]


class TestFiles:
    def test_run_writes_its_plan_settings_summary_and_report(self, out):
        job = settings(out)
        commit(job, [A])
        plan = [*to_do(A), *to_do(B, shard=1)]
        summary = publish(job, plan)
        run = out / "runs/run-1"
        assert read_plan(run / "plan.parquet") == plan
        assert JobSettings.from_json((run / "settings.json").read_text()) == job
        assert RunSummary.from_json((run / "summary.json").read_text()) == summary
        assert "b.mp4" in (run / "report.html").read_text()
        assert "1 of 2 videos" in (run / "report.md").read_text()

    def test_card_counts_the_whole_dataset(self, out):
        commit(settings(out), [A, B], statuses={"b.mp4": "corrupt"})
        publish(settings(out), to_do(A, B))
        commit(settings(out, "run-2"), [C, D], done_at=START + 9)
        twin = video("twin.mp4", C.key)
        publish(
            settings(out, "run-2"),
            [*to_do(C, D), duplicate(twin, "c.mp4")],
        )
        card = json.loads((out / "dataset.json").read_text())
        assert card["videos"] == {
            **{"ok": 4, "too_short": 0, "corrupt": 1},
            **{"unreadable": 0, "failed": 0},
        }
        assert (card["clips"], card["clip_rows"], card["shards"]) == (6, 6, 2)
        assert (card["duplicates"], card["size"], card["labels"]) == (1, 4096, [])
        assert card["duration_s"] == pytest.approx(3 * 0.96)
        assert card["newest_at"] == START + 9
        assert card["provenance"] == PROVENANCE

    def test_card_is_written_last(self, out):
        job = settings(out)
        commit(job, [A])
        (out / "README.md").mkdir()  # cannot be written
        with pytest.raises(StorageError, match="README.md"):
            publish(job, to_do(A))
        assert not (out / "dataset.json").exists()
        (out / "README.md").rmdir()
        publish(job, to_do(A))
        assert (out / "dataset.json").exists()

    def test_index_has_no_secrets_of_addresses(self, out):
        signed = video("a.mp4", uri="https://me:hush@host/a.mp4?signature=hush")
        twin = video("b.mp4", signed.key, uri="https://host/b.mp4?signature=hush")
        publish(settings(out), [*to_do(signed), duplicate(twin, "a.mp4")])
        assert indexed(out, "uri") == {
            "a.mp4": ("https://***@host/a.mp4?signature=***",),
            "b.mp4": ("https://host/b.mp4?signature=***",),
        }

    def test_empty_plan_is_a_dataset_too(self, out):
        assert publish(settings(out), []).inputs == 0
        assert indexed(out) == {}


class TestRefusals:
    def test_numbers_that_were_made_differently_are_refused(self, out):
        commit(settings(out), [A])
        publish(settings(out), to_do(A))
        before = file_digests(out)
        for other, message in (
            ({"provenance": OTHER}, "model.precision: 'float32' against 'bfloat16'"),
            ({"answer": "classes"}, "answer: 'features' against 'classes'"),
        ):
            with pytest.raises(ProvenanceError, match=message):
                publish(settings(out, "run-2", **other), to_do(B))
            assert file_digests(out) == before, message

    def test_numbers_that_differ_from_a_killed_runs_are_refused(self, out):
        commit(settings(out), [A])
        before = file_digests(out)
        with pytest.raises(ProvenanceError, match="model.precision"):
            publish(settings(out, "run-2", provenance=OTHER), to_do(B))
        assert file_digests(out) == before

    def test_shards_of_another_model_in_the_dataset_are_refused(self, out):
        commit(settings(out), [A])
        publish(settings(out), to_do(A))
        commit(settings(out, "run-2", provenance=OTHER), [B])
        before = file_digests(out)
        with pytest.raises(ProvenanceError, match="run-2"):
            publish(settings(out, "run-3"), to_do(C))
        assert file_digests(out) == before

    def test_another_version_number_of_the_same_model_is_accepted(self, out):
        commit(settings(out), [A])
        publish(settings(out), to_do(A))
        newer = {**PROVENANCE, "model": {**PROVENANCE["model"], "version": 4}}
        job = settings(out, "run-2", provenance=newer)
        commit(job, [B], done_at=START + 9)
        publish(job, to_do(B))
        assert indexed(out) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}
        assert json.loads((out / "dataset.json").read_text())["provenance"] == PROVENANCE

    def test_other_versions_of_the_software_are_accepted_and_listed(self, out):
        commit(settings(out), [A])
        first = publish(settings(out), to_do(A))
        assert first.versions_note == ""
        job = settings(out, "run-2", provenance=NEWER)
        commit(job, [B], done_at=START + 9)
        summary = publish(job, [PlannedRow(A, "done"), *to_do(B)])
        assert indexed(out) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}
        versions = {
            "c3d_client": ["0.1.0"],
            "libavcodec": ["62"],
            "opencv": ["5.0.0", "5.1.0"],
            "pyav": ["17.1.0", "18.0.0"],
        }
        card = json.loads((out / "dataset.json").read_text())
        assert card["software"] == summary.software == versions
        assert card["provenance"] == PROVENANCE
        assert "- pyav: 17.1.0, 18.0.0\n" in (out / "README.md").read_text()
        note = (
            "made with several versions, which may be used together: opencv 5.0.0 and 5.1.0; "
            "pyav 17.1.0 and 18.0.0"
        )
        assert summary.versions_note == note
        assert note in (out / "runs/run-2/report.html").read_text()
        assert "pyav 17\\.1\\.0 and 18\\.0\\.0" in (out / "runs/run-2/report.md").read_text()
        # A third run of the first versions keeps the list.
        summary = publish(settings(out, "run-3"), [PlannedRow(A, "done")])
        assert summary.software == versions
        assert json.loads((out / "dataset.json").read_text())["software"] == versions

    def test_run_without_provenance_is_refused(self, out):
        with pytest.raises(RunError, match="run preflight before"):
            publish(settings(out, provenance={}), to_do(A))

    def test_row_of_a_missing_shard_is_failed_again(self, out):
        report = commit(settings(out), [A])
        publish(settings(out), to_do(A))
        (out / report_file(report.name)).unlink()
        summary = publish(settings(out, "run-2"), [PlannedRow(A, "done")])
        assert indexed(out, "status", "error_type")["a.mp4"] == ("failed", "ShardMissing")
        assert summary.ok == 0
