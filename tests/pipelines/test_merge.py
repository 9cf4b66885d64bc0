"""Merging datasets: the newest result of each video, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_pipelines import dataset
from c3d_pipelines.commands.dataset import merge as command
from c3d_pipelines.dataset import merge as merge_module
from c3d_pipelines.dataset.merge import merge
from c3d_pipelines.errors import ManifestError, StorageError
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.shards.schema import clip_file
from c3d_pipelines.storage import Storage
from click.testing import CliRunner
from support.sample_dataset import file_digests, indexed
from support.sample_shards import (
    CHANGED,
    LABELS,
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
    feature_of,
    numbers_of,
    settings,
    to_do,
    video,
)


def publish_dataset(folder, rows, run: str, *, job=None, **shard):
    """Publish a dataset of one run with one shard; job: changes of the run's settings."""
    changed = settings(folder, run, **(job or {}))
    commit(changed, rows, **shard)
    publish(changed, to_do(*rows))
    return folder


class TestMergedDataset:
    def test_merged_dataset_has_every_video_with_its_numbers_and_clips(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "too_short"})
        second = publish_dataset(tmp_path / "two", [C, D], "run-2")
        merged = merge([first, second], out)
        assert indexed(out, "status", "run") == {
            "a.mp4": ("ok", "run-1"),
            "b.mp4": ("too_short", "run-1"),
            "c.mp4": ("ok", "run-2"),
            "d.mp4": ("ok", "run-2"),
        }
        ids, matrix = merged.matrix()
        assert ids == ["a.mp4", "c.mp4", "d.mp4"]
        assert np.array_equal(matrix, [feature_of(row) for row in (A, C, D)])
        assert np.array_equal(merged.clips("d.mp4").clip_features, numbers_of(D))
        assert merged.card.videos == {
            **dict.fromkeys(merged.card.videos, 0),
            "ok": 3,
            "too_short": 1,
        }
        assert "features of 4 videos" in (out / "README.md").read_text()

    def test_reports_of_the_runs_are_copied(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        second = publish_dataset(tmp_path / "two", [B], "run-2")
        merge([first, second], out)
        for folder, run in ((first, "run-1"), (second, "run-2")):
            assert file_digests(out / "runs" / run) == file_digests(folder / "runs" / run)

    def test_newest_result_of_a_video_in_both_wins(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A, B], "run-1", done_at=START + 9)
        second = publish_dataset(tmp_path / "two", [CHANGED, C], "run-2")
        for order in ([first, second], [second, first]):
            merge(order, out / order[0].name)
            assert indexed(out / order[0].name, "key", "run") == {
                "a.mp4": (A.key, "run-1"),
                "b.mp4": (B.key, "run-1"),
                "c.mp4": (C.key, "run-2"),
            }

    def test_success_wins_over_a_newer_failure(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A, B], "run-1")
        second = publish_dataset(
            tmp_path / "two", [A, C], "run-2", done_at=START + 9, statuses={"a.mp4": "unreadable"}
        )
        merge([first, second], out)
        assert indexed(out)["a.mp4"] == ("ok",)

    def test_result_wins_over_a_missing_shard(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        publish(settings(tmp_path / "two", "run-2"), to_do(CHANGED, B))
        merge([first, tmp_path / "two"], out)
        assert indexed(out, "status", "key") == {
            "a.mp4": ("ok", A.key),
            "b.mp4": ("failed", B.key),
        }

    def test_unused_shards_are_not_copied(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        second = publish_dataset(tmp_path / "two", [CHANGED], "run-2", done_at=START + 9)
        merged = merge([first, second], out)
        assert [row.key for row in merged] == [CHANGED.key]
        assert merged.card.shards == len(list((out / "shards").glob("*.parquet"))) == 1
        assert len(list((out / "clips").iterdir())) == 1

    def test_two_shards_of_the_same_videos_are_both_copied(self, tmp_path, out):
        first = publish_dataset(
            tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "failed"}, salt="one"
        )
        second = publish_dataset(
            tmp_path / "two",
            [A, B],
            "run-2",
            done_at=START + 9,
            statuses={"a.mp4": "failed"},
            salt="two",
            reverse=True,
        )
        for order in ([first, second], [second, first]):
            target = out / order[0].name
            merged = merge(order, target)
            assert np.array_equal(merged.row("a.mp4").feature, feature_of(A, salt="one"))
            assert np.array_equal(merged.row("b.mp4").feature, feature_of(B, salt="two"))
            assert np.array_equal(merged.clips("a.mp4").clip_features, numbers_of(A, salt="one"))
            shards = {merged.row(name).shard for name in ("a.mp4", "b.mp4")}
            assert len(shards) == merged.card.shards == 2
            assert all(read_report(Storage(target), name).name == name for name in shards)

    def test_duplicates_have_their_originals_numbers(self, tmp_path, out):
        job, twin = settings(tmp_path / "one"), video("twin.mp4", A.key)
        commit(job, [A])
        publish(job, [*to_do(A), duplicate(twin, "a.mp4")])
        second = publish_dataset(tmp_path / "two", [B], "run-2")
        merged = merge([tmp_path / "one", second], out)
        assert merged.row("twin.mp4").duplicate_of == "a.mp4"
        assert np.array_equal(merged.row("twin.mp4").feature, feature_of(A))

    def test_unpublished_shards_are_merged(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        commit(settings(first, "run-2"), [B])
        assert sorted(row.video_id for row in merge([first], out)) == ["a.mp4", "b.mp4"]

    def test_classes_have_their_labels(self, tmp_path, out):
        folders = [
            publish_dataset(tmp_path / row.video_id, [row], row.video_id, job={"answer": "classes"})
            for row in (A, B)
        ]
        merged = merge(folders, out)
        assert merged.labels == LABELS
        assert np.array_equal(merged.row("b.mp4").probabilities, feature_of(B, size=3))

    def test_later_run_can_publish_into_a_merged_dataset(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        merge([first], out)
        publish_dataset(out, [B], "run-2", done_at=START + 9)
        assert indexed(out) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}


class TestRepeatedMerge:
    def test_repeated_merge_changes_nothing(self, tmp_path, out):
        first = publish_dataset(
            tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "failed"}, salt="one"
        )
        second = publish_dataset(
            tmp_path / "two", [A, B], "run-2", done_at=START + 9, statuses={"a.mp4": "failed"}
        )
        merge([first, second], out)
        before = file_digests(out)
        merge([first, second], out)
        assert file_digests(out) == before
        merge([out, second, first], out)
        assert file_digests(out) == before

    def test_interrupted_merge_is_finished_by_the_next(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A, B], "run-1")
        second = publish_dataset(tmp_path / "two", [C, D], "run-2")
        (out / "README.md").mkdir(parents=True)  # cannot be written
        with pytest.raises(StorageError):
            merge([first, second], out)
        assert not (out / "dataset.json").exists()
        (out / "README.md").rmdir()
        assert len(merge([first, second], out)) == 4

    def test_runs_of_an_interrupted_merge_are_completed(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        merge([first], out)
        (out / "runs" / "run-1" / "summary.json").unlink()  # the last file of a run
        merge([first], out)
        assert file_digests(out / "runs") == file_digests(first / "runs")

    def test_first_of_two_runs_with_the_same_name_stays_as_it_is(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        second = publish_dataset(tmp_path / "two", [B], "run-1")
        (first / "runs" / "run-1" / "summary.json").unlink()
        merge([first, second], out)
        assert file_digests(out / "runs") == file_digests(first / "runs")

    def test_merge_adds_to_an_existing_dataset(self, tmp_path, out):
        publish_dataset(out, [A], "run-1")
        merge([publish_dataset(tmp_path / "two", [B], "run-2")], out)
        assert indexed(out, "run") == {"a.mp4": ("run-1",), "b.mp4": ("run-2",)}

    def test_sources_are_not_changed(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        before = file_digests(first)
        merge([first], out)
        assert file_digests(first) == before


class TestRefusals:
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"provenance": OTHER}, "model.precision: 'float32' against 'bfloat16'"),
            ({"answer": "classes"}, "answer: 'features' against 'classes'"),
        ],
    )
    def test_datasets_that_were_made_differently_are_refused(self, tmp_path, out, other, message):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        second = publish_dataset(tmp_path / "two", [B], "run-2", job=other)
        with pytest.raises(ProvenanceError, match=f"one and .*two were made.*: {message}"):
            merge([first, second], out)
        assert not out.exists()

    def test_datasets_of_other_versions_are_merged_and_the_card_lists_all(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        second = publish_dataset(tmp_path / "two", [B], "run-2", job={"provenance": NEWER})
        merged = merge([first, second], out)
        assert merged.ids() == ["a.mp4", "b.mp4"]
        assert merged.card.versions["pyav"] == ["17.1.0", "18.0.0"]
        assert merged.card.versions["c3d_client"] == ["0.1.0"]
        assert merged.card.provenance == PROVENANCE

    @pytest.mark.parametrize("finished", [True, False])
    def test_target_that_was_made_differently_is_refused(self, tmp_path, out, finished):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        commit(settings(out, provenance=OTHER), [B])
        if finished:
            publish(settings(out, provenance=OTHER), to_do(B))
        before = file_digests(out)
        with pytest.raises(ProvenanceError, match="model.precision"):
            merge([first], out)
        assert file_digests(out) == before

    def test_datasets_with_different_labels_are_refused(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1", job={"answer": "classes"})
        job = settings(tmp_path / "two", "run-2", answer="classes")
        commit(job, [B], labels=["x", "y", "z"])
        publish(job, to_do(B))
        with pytest.raises(ProvenanceError, match="different labels"):
            merge([first, tmp_path / "two"], out)

    @pytest.mark.parametrize("finished", [True, False])
    def test_target_with_different_labels_is_refused(self, tmp_path, out, finished):
        first = publish_dataset(tmp_path / "one", [A], "run-1", job={"answer": "classes"})
        job = settings(out, "run-2", answer="classes")
        commit(job, [B], labels=["x", "y", "z"])
        if finished:
            publish(job, to_do(B))
        before = file_digests(out)
        with pytest.raises(ProvenanceError, match=r"labels \(class 0 is 'x' against 'archery'\)"):
            merge([first], out)
        assert file_digests(out) == before

    def test_same_id_of_two_videos_is_refused_with_both_uris(self, tmp_path, out):
        other = video("a.mp4", uri="s3://me:secret@elsewhere/a.mp4")
        first = publish_dataset(tmp_path / "one", [A, B], "run-1")
        second = publish_dataset(tmp_path / "two", [other, B], "run-2")
        message = "^1 id is .*: 'a.mp4' is /videos/a.mp4 in "
        with pytest.raises(ManifestError, match=message) as caught:
            merge([first, second], out)
        assert "s3://***@elsewhere/a.mp4 in " in str(caught.value)
        assert "secret" not in str(caught.value)
        assert not out.exists()

    def test_many_conflicting_ids_are_counted(self, tmp_path, out):
        rows = [video(f"{number}.mp4") for number in range(8)]
        moved = [video(row.video_id, row.key, uri=f"/moved/{row.video_id}") for row in rows]
        first = publish_dataset(tmp_path / "one", rows, "run-1")
        second = publish_dataset(tmp_path / "two", moved, "run-2")
        with pytest.raises(ManifestError, match="8 ids are .*'4.mp4' is .*; and 3 more; give each"):
            merge([first, second], out)

    def test_folder_without_a_dataset_is_refused(self, tmp_path, out):
        first = publish_dataset(tmp_path / "one", [A], "run-1")
        with pytest.raises(StorageError, match="two: is not a dataset: it has no dataset.json"):
            merge([first, tmp_path / "two"], out)

    def test_merge_of_no_datasets_is_refused(self, out):
        with pytest.raises(UsageError, match="merge of no datasets"):
            merge([], out)


def test_source_that_cannot_be_read_is_named_and_not_the_target(tmp_path, out, monkeypatch):
    def copy_broken(origin, name, *rest):
        path = origin.path_of(clip_file(name))
        path.unlink()
        path.symlink_to("/proc/self/mem")  # its first byte cannot be read
        copy_shard(origin, name, *rest)

    copy_shard = merge_module._copy_shard
    monkeypatch.setattr(merge_module, "_copy_shard", copy_broken)
    first = publish_dataset(tmp_path / "one", [A], "run-1")
    with pytest.raises(StorageError, match=r"one/clips/\w+\.parquet: cannot be read \(Input/out"):
        merge([first], out)
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_command_prints_the_merged_counts(tmp_path, out):
    first = publish_dataset(tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "corrupt"})
    second = publish_dataset(tmp_path / "two", [C], "run-2")
    result = CliRunner().invoke(command, [str(first), str(second), "--out", str(out)])
    assert result.output == f"{out}: 3 videos (2 ok, 1 corrupt), 2 shards\n"
    assert len(dataset.open(out)) == 3
