"""Several datasets become one: the newest of each video, and never what was made differently."""

from __future__ import annotations

import numpy as np
import pytest
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_pipelines import dataset
from c3d_pipelines.commands.dataset import merge as command
from c3d_pipelines.dataset.merge import merge
from c3d_pipelines.errors import ManifestError, StorageError
from c3d_pipelines.inputs.plan import PlannedRow
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.storage import Storage
from click.testing import CliRunner
from pipelines.test_publish import files, told
from support.sample_shards import (
    LABELS,
    OTHER,
    START,
    commit,
    feature_of,
    numbers_of,
    settings,
    to_do,
    video,
)

A, B, C, D = (video(f"{name}.mp4") for name in "abcd")
CHANGED = video("a.mp4", "sha256:changed")


def made(folder, rows, run: str, *, at: float = START, statuses={}, **kind):  # noqa: B006
    """A dataset of one run of one shard."""
    salt = kind.pop("salt", "")
    reverse = kind.pop("reverse", False)
    job = settings(folder, run, **kind)
    commit(job, rows, at=at, statuses=statuses, salt=salt, reverse=reverse)
    publish(job, to_do(*rows))
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


class TestWhatComesOut:
    def test_has_every_video_with_its_numbers_and_clips(self, tmp_path, out):
        one = made(tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "too_short"})
        two = made(tmp_path / "two", [C, D], "run-2")
        films = merge([one, two], out)
        assert told(out, "status", "run") == {
            "a.mp4": ("ok", "run-1"),
            "b.mp4": ("too_short", "run-1"),
            "c.mp4": ("ok", "run-2"),
            "d.mp4": ("ok", "run-2"),
        }
        ids, matrix = films.matrix()
        assert ids == ["a.mp4", "c.mp4", "d.mp4"]
        assert np.array_equal(matrix, [feature_of(row) for row in (A, C, D)])
        assert np.array_equal(films.clips("d.mp4").clip_features, numbers_of(D))
        assert films.card.videos == {**dict.fromkeys(films.card.videos, 0), "ok": 3, "too_short": 1}
        assert "features of 4 videos" in (out / "README.md").read_text()

    def test_keeps_the_runs_reports(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1")
        two = made(tmp_path / "two", [B], "run-2")
        merge([one, two], out)
        for folder, run in ((one, "run-1"), (two, "run-2")):
            assert files(out / "runs" / run) == files(folder / "runs" / run)

    def test_of_a_video_in_both_has_the_newest(self, tmp_path, out):
        one = made(tmp_path / "one", [A, B], "run-1", at=START + 9)
        two = made(tmp_path / "two", [CHANGED, C], "run-2")
        for order in ([one, two], [two, one]):
            merge(order, out / order[0].name)
            assert told(out / order[0].name, "key", "run") == {
                "a.mp4": (A.key, "run-1"),
                "b.mp4": (B.key, "run-1"),
                "c.mp4": (C.key, "run-2"),
            }

    def test_keeps_a_success_where_the_newest_is_a_failure(self, tmp_path, out):
        one = made(tmp_path / "one", [A, B], "run-1")
        two = made(
            tmp_path / "two", [A, C], "run-2", at=START + 9, statuses={"a.mp4": "unreadable"}
        )
        merge([one, two], out)
        assert told(out)["a.mp4"] == ("ok",)

    def test_has_a_result_rather_than_none(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1")
        publish(settings(tmp_path / "two", "run-2"), to_do(CHANGED, B))
        merge([one, tmp_path / "two"], out)
        assert told(out, "status", "key") == {
            "a.mp4": ("ok", A.key),
            "b.mp4": ("failed", B.key),
        }

    def test_leaves_out_shards_that_nothing_refers_to(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1")
        two = made(tmp_path / "two", [CHANGED], "run-2", at=START + 9)
        films = merge([one, two], out)
        assert [row.key for row in films] == [CHANGED.key]
        assert films.card.shards == len(list((out / "shards").glob("*.parquet"))) == 1
        assert len(list((out / "clips").iterdir())) == 1

    def test_keeps_two_shards_of_the_same_videos_apart(self, tmp_path, out):
        one = made(tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "failed"}, salt="one")
        two = made(
            tmp_path / "two",
            [A, B],
            "run-2",
            at=START + 9,
            statuses={"a.mp4": "failed"},
            salt="two",
            reverse=True,
        )
        for order in ([one, two], [two, one]):
            target = out / order[0].name
            films = merge(order, target)
            assert np.array_equal(films.row("a.mp4").feature, feature_of(A, salt="one"))
            assert np.array_equal(films.row("b.mp4").feature, feature_of(B, salt="two"))
            assert np.array_equal(films.clips("a.mp4").clip_features, numbers_of(A, salt="one"))
            shards = {films.row(name).shard for name in ("a.mp4", "b.mp4")}
            assert len(shards) == films.card.shards == 2
            assert all(read_report(Storage(target), name).name == name for name in shards)

    def test_has_duplicates_with_their_originals_numbers(self, tmp_path, out):
        job, twin = settings(tmp_path / "one"), video("twin.mp4", A.key)
        commit(job, [A])
        publish(job, [*to_do(A), PlannedRow(twin, "duplicate", duplicate_of="a.mp4")])
        two = made(tmp_path / "two", [B], "run-2")
        films = merge([tmp_path / "one", two], out)
        assert films.row("twin.mp4").duplicate_of == "a.mp4"
        assert np.array_equal(films.row("twin.mp4").feature, feature_of(A))

    def test_has_shards_that_nobody_published_yet(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1")
        commit(settings(one, "run-2"), [B])
        assert sorted(row.video_id for row in merge([one], out)) == ["a.mp4", "b.mp4"]

    def test_of_classes_has_the_labels(self, tmp_path, out):
        folders = [
            made(tmp_path / row.video_id, [row], row.video_id, answer="classes") for row in (A, B)
        ]
        films = merge(folders, out)
        assert films.labels == LABELS
        assert np.array_equal(films.row("b.mp4").probabilities, feature_of(B, size=3))

    def test_may_be_published_into_by_a_later_run(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1")
        merge([one], out)
        made(out, [B], "run-2", at=START + 9)
        assert told(out) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}


class TestDoneAgain:
    def test_it_changes_nothing(self, tmp_path, out):
        one = made(tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "failed"}, salt="one")
        two = made(tmp_path / "two", [A, B], "run-2", at=START + 9, statuses={"a.mp4": "failed"})
        merge([one, two], out)
        before = files(out)
        merge([one, two], out)
        assert files(out) == before
        merge([out, two, one], out)
        assert files(out) == before

    def test_it_finishes_what_was_interrupted(self, tmp_path, out):
        one = made(tmp_path / "one", [A, B], "run-1")
        two = made(tmp_path / "two", [C, D], "run-2")
        (out / "README.md").mkdir(parents=True)  # cannot be written
        with pytest.raises(StorageError):
            merge([one, two], out)
        assert not (out / "dataset.json").exists()
        (out / "README.md").rmdir()
        assert len(merge([one, two], out)) == 4

    def test_it_adds_to_what_is_there(self, tmp_path, out):
        made(out, [A], "run-1")
        merge([made(tmp_path / "two", [B], "run-2")], out)
        assert told(out, "run") == {"a.mp4": ("run-1",), "b.mp4": ("run-2",)}

    def test_the_sources_stay_as_they_are(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1")
        before = files(one)
        merge([one], out)
        assert files(one) == before


class TestRefusals:
    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"provenance": OTHER}, "model.precision: 'float32' against 'bfloat16'"),
            ({"answer": "classes"}, "answer: 'features' against 'classes'"),
        ],
    )
    def test_what_was_made_differently_is_never_merged(self, tmp_path, out, other, said):
        one = made(tmp_path / "one", [A], "run-1")
        two = made(tmp_path / "two", [B], "run-2", **other)
        with pytest.raises(ProvenanceError, match=f"one and .*two were made.*: {said}"):
            merge([one, two], out)
        assert not out.exists()

    @pytest.mark.parametrize("finished", [True, False])
    def test_nor_into_what_was_made_differently(self, tmp_path, out, finished):
        one = made(tmp_path / "one", [A], "run-1")
        commit(settings(out, provenance=OTHER), [B])
        if finished:
            publish(settings(out, provenance=OTHER), to_do(B))
        before = files(out)
        with pytest.raises(ProvenanceError, match="model.precision"):
            merge([one], out)
        assert files(out) == before

    def test_classes_of_other_labels_are_never_merged(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1", answer="classes")
        job = settings(tmp_path / "two", "run-2", answer="classes")
        commit(job, [B], labels=["x", "y", "z"])
        publish(job, to_do(B))
        with pytest.raises(ProvenanceError, match="different labels"):
            merge([one, tmp_path / "two"], out)

    def test_one_id_of_two_videos_is_refused_and_both_are_named(self, tmp_path, out):
        other = video("a.mp4", uri="s3://me:secret@elsewhere/a.mp4")
        one = made(tmp_path / "one", [A, B], "run-1")
        two = made(tmp_path / "two", [other, B], "run-2")
        with pytest.raises(ManifestError, match="^1 id is .*: 'a.mp4' is /films/a.mp4 in ") as no:
            merge([one, two], out)
        assert "s3://***@elsewhere/a.mp4 in " in str(no.value)
        assert "secret" not in str(no.value)
        assert not out.exists()

    def test_all_such_ids_are_counted(self, tmp_path, out):
        rows = [video(f"{number}.mp4") for number in range(8)]
        moved = [video(row.video_id, row.key, uri=f"/moved/{row.video_id}") for row in rows]
        one, two = made(tmp_path / "one", rows, "run-1"), made(tmp_path / "two", moved, "run-2")
        with pytest.raises(ManifestError, match="8 ids are .*'4.mp4' is .*; and 3 more; give each"):
            merge([one, two], out)

    def test_a_place_without_a_dataset_is_refused(self, tmp_path, out):
        one = made(tmp_path / "one", [A], "run-1")
        with pytest.raises(StorageError, match="two: is not a dataset: it has no dataset.json"):
            merge([one, tmp_path / "two"], out)

    def test_nothing_to_merge_is_refused(self, out):
        with pytest.raises(UsageError, match="merge of no datasets"):
            merge([], out)


def test_the_command_says_what_there_is_now(tmp_path, out):
    one = made(tmp_path / "one", [A, B], "run-1", statuses={"b.mp4": "corrupt"})
    two = made(tmp_path / "two", [C], "run-2")
    said = CliRunner().invoke(command, [str(one), str(two), "--out", str(out)])
    assert said.output == f"{out}: 3 videos (2 ok, 1 corrupt), 2 shards\n"
    assert len(dataset.open(out)) == 3
