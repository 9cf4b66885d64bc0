"""A dataset is read by us: as rows, matrix, clips and classes, whole, damaged, or in a bucket."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import UsageError
from c3d_client.video import stores
from c3d_pipelines import dataset
from c3d_pipelines.dataset import Dataset
from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.inputs.plan import shard_rows
from c3d_pipelines.run.plan import make_plan
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.schema import clip_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.s3_server import s3_server
from support.sample_dataset import BAD, CHANGED, CURRENT, OK, ROWS, TWIN, two_runs
from support.sample_shards import (
    LABELS,
    commit,
    feature_of,
    numbers_of,
    settings,
    to_do,
)


@pytest.fixture
def out(features_dataset) -> Path:
    return features_dataset


@pytest.fixture
def films(out) -> Dataset:
    return dataset.open(out)


@pytest.fixture
def classified(classes_dataset) -> Path:
    return classes_dataset


@pytest.fixture
def own(tmp_path) -> Path:
    """A dataset of its own, for one test to damage."""
    two_runs(tmp_path / "own")
    return tmp_path / "own"


def shard_of(folder: Path, video_id: str) -> str:
    return dataset.open(folder).row(video_id).shard


class TestRows:
    def test_every_video_is_given_once_whatever_became_of_it(self, films):
        rows = {row.video_id: row for row in films}
        assert len(films) == len(rows) == len(list(films)) == 9
        assert {name: row.status for name, row in rows.items()} == {
            **dict.fromkeys(OK, "ok"),
            **BAD,
        }
        for name in OK:
            assert rows[name].feature.dtype == np.float32
            assert np.array_equal(rows[name].feature, feature_of(CURRENT[name]))
            assert rows[name].probabilities is None
        assert rows["2.mp4"].feature is None
        assert rows["2.mp4"].error_message == "/films/2.mp4: is corrupt"
        assert rows["twin.mp4"].duplicate_of == "5.mp4"
        assert (rows["1.mp4"].run, rows["0.mp4"].run) == ("run-2", "run-1")

    @pytest.mark.parametrize("name", ["0.mp4", "1.mp4", "2.mp4", "4.mp4", "twin.mp4"])
    def test_one_is_found_by_its_id(self, films, name):
        row = films.row(name)
        assert row.video_id == name
        if name in OK:
            assert np.array_equal(row.feature, feature_of(CURRENT[name]))
        else:
            assert row.feature is None

    def test_an_id_that_is_not_there_is_one_clear_line(self, films):
        with pytest.raises(UsageError, match=r"has no video 'x'; ids\(None\) lists"):
            films.row("x")

    def test_ids_are_those_of_a_status_and_sorted(self, films):
        assert films.ids() == OK
        assert films.ids("corrupt") == ["2.mp4"]
        assert films.ids("too_short") == []
        assert films.ids(None) == sorted([*OK, *BAD])
        with pytest.raises(UsageError, match="status is 'good'; give one of ok, "):
            films.ids("good")

    def test_the_table_is_the_index(self, out, films):
        assert films.table().equals(pq.read_table(out / "index.parquet").replace_schema_metadata())


class TestMatrix:
    def test_has_the_newest_numbers_in_the_order_of_the_ids(self, films):
        ids, matrix = films.matrix()
        assert ids == films.ids() == OK
        assert (matrix.dtype, matrix.shape) == (np.float32, (7, 4096))
        assert np.array_equal(matrix, [feature_of(CURRENT[name]) for name in OK])
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1)

    def test_goes_to_a_file_where_memory_is_too_small(self, films, tmp_path):
        ids, mapped = films.matrix(tmp_path / "features.npy")
        assert ids == OK
        assert isinstance(mapped, np.memmap)
        assert np.array_equal(mapped, films.matrix()[1])
        assert np.array_equal(np.load(tmp_path / "features.npy"), mapped)
        assert os.listdir(tmp_path) == ["features.npy"]

    def test_a_file_that_cannot_be_written_is_one_clear_line(self, films, tmp_path):
        with pytest.raises(StorageError, match="cannot be written"):
            films.matrix(tmp_path / "no" / "features.npy")

    def test_of_a_dataset_where_nothing_is_ok_is_empty(self, tmp_path):
        publish(settings(tmp_path / "out"), to_do(ROWS[0]))
        films = dataset.open(tmp_path / "out")
        assert films.matrix()[1].shape == (0, 4096)
        assert films.matrix(tmp_path / "x.npy")[1].shape == (0, 4096)
        assert films.files() == []
        assert films.file_rows().tolist() == []
        assert [row.error_type for row in films] == ["ShardMissing"]


class TestClips:
    @pytest.mark.parametrize("name", OK)
    def test_are_those_of_the_video(self, films, name):
        clips = films.clips(name)
        assert clips.video_id == name
        assert np.array_equal(clips.clip_features, numbers_of(CURRENT[name]))
        assert clips.clip_starts.tolist() == [0, 8]
        assert clips.clip_starts.dtype == np.int64
        assert np.allclose(clips.clip_times_s, [[0, 16 / 25], [8 / 25, 24 / 25]])
        assert clips.clip_probabilities is None

    def test_of_a_video_that_is_not_ok_are_refused_with_its_reason(self, films):
        with pytest.raises(UsageError, match="2.mp4 has no clips; it is corrupt: /films/2.mp4"):
            films.clips("2.mp4")

    def test_that_were_not_kept_are_refused(self, tmp_path):
        job = settings(tmp_path, clip_rows=False)
        commit(job, ROWS)
        publish(job, to_do(*ROWS))
        films = dataset.open(tmp_path)
        assert films.card.clip_rows == 0
        with pytest.raises(UsageError, match="0.mp4: its clips were not kept"):
            films.clips("0.mp4")


class TestClasses:
    def test_rows_have_probabilities_and_the_best_class(self, classified):
        films = dataset.open(classified)
        assert films.labels == LABELS
        row = films.row("1.mp4")
        expected = feature_of(CHANGED, size=3)
        assert np.array_equal(row.probabilities, expected)
        assert row.feature is None
        assert row.top_label == LABELS[expected.argmax()]
        assert row.top_probability == pytest.approx(expected.max())
        assert films.row("2.mp4").top_label is None

    def test_the_matrix_has_a_column_a_class(self, classified):
        ids, matrix = dataset.open(classified).matrix()
        assert np.array_equal(matrix, [feature_of(CURRENT[name], size=3) for name in ids])

    def test_clips_have_theirs(self, classified):
        clips = dataset.open(classified).clips("twin.mp4")
        assert np.array_equal(clips.clip_probabilities, numbers_of(TWIN, size=3))
        assert clips.clip_features is None

    def test_have_no_neighbours(self, classified):
        with pytest.raises(UsageError, match="holds classes, and no features"):
            dataset.open(classified).nearest("1.mp4")


class TestDamage:
    def test_a_place_without_a_dataset_is_one_clear_line(self, tmp_path):
        with pytest.raises(StorageError, match="is not a dataset: it has no dataset.json"):
            dataset.open(tmp_path)

    def test_an_index_that_is_gone_is_one_clear_line(self, own):
        (own / "index.parquet").unlink()
        with pytest.raises(ShardError, match="index.parquet: is not there, though dataset.json is"):
            dataset.open(own)

    @pytest.mark.parametrize(
        "read",
        [
            lambda films: films.matrix(),
            lambda films: films.row("1.mp4"),
            lambda films: list(films),
            lambda films: films.nearest("0.mp4"),
        ],
    )
    def test_a_shard_that_is_gone_is_one_clear_line(self, own, read):
        name = video_file(shard_of(own, "1.mp4"))
        (own / name).unlink()
        with pytest.raises(ShardError, match=f"{name}: is not there, though the index") as told:
            read(dataset.open(own))
        assert "run the pipeline again" in str(told.value)

    @pytest.mark.parametrize("damage", ["cut", "rotted"])
    def test_a_shard_that_is_damaged_is_one_clear_line(self, own, damage):
        path = own / video_file(shard_of(own, "1.mp4"))
        whole = path.read_bytes()
        middle = len(whole) // 2
        rotted = whole[:middle] + bytes(64) + whole[middle + 64 :]
        path.write_bytes(whole[:-100] if damage == "cut" else rotted)
        with pytest.raises(ShardError, match=r"parquet: is damaged \(.*json away") as told:
            dataset.open(own).matrix()
        assert "\n" not in str(told.value)

    def test_a_matrix_that_fails_leaves_no_file(self, own, tmp_path):
        (own / video_file(shard_of(own, "1.mp4"))).unlink()
        with pytest.raises(ShardError):
            dataset.open(own).matrix(tmp_path / "x.npy")
        assert sorted(os.listdir(tmp_path)) == ["own"]

    def test_a_shard_that_was_done_again_meanwhile_is_not_mistaken(self, own):
        films = dataset.open(own)
        commit(settings(own), ROWS[:5], reverse=True)
        with pytest.raises(ShardError, match="is not the shard that the index means"):
            films.row("0.mp4")
        with pytest.raises(ShardError, match="the index says|is not the shard"):
            films.clips("0.mp4")

    def test_a_video_that_lost_its_numbers_is_not_taken_for_one_that_has_them(self, own):
        films = dataset.open(own)
        commit(settings(own), ROWS[:5], statuses={"0.mp4": "failed"})
        with pytest.raises(ShardError, match="'0.mp4' has no numbers"):
            films.row("0.mp4")

    def test_a_shard_that_became_shorter_is_not_mistaken(self, own):
        films = dataset.open(own)
        path = own / video_file(films.row("4.mp4").shard)
        pq.write_table(pq.read_table(path).slice(0, 4), path)
        with pytest.raises(ShardError, match="it has 4 rows and no row 4"):
            films.matrix()

    def test_clips_that_are_gone_are_one_clear_line(self, own):
        name = clip_file(shard_of(own, "1.mp4"))
        (own / name).unlink()
        with pytest.raises(ShardError, match=f"{name}: is not there"):
            dataset.open(own).clips("1.mp4")


class TestInABucket:
    def test_a_dataset_is_published_and_read(self, tmp_path, monkeypatch):
        fsspec = pytest.importorskip("fsspec")
        pytest.importorskip("s3fs", reason="s3fs is not installed: datasets on S3 not run")
        with s3_server(tmp_path) as server:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(stores, "_OPENED", {})
            at = {"endpoint_url": server.endpoint, "key": server.access_key}
            fsspec.filesystem("s3", secret=server.secret_key, **at).mkdir("bucket")
            out = "s3://bucket/my films"
            two_runs(out)
            films = dataset.open(out)
            ids, matrix = films.matrix()
            assert np.array_equal(matrix, [feature_of(CURRENT[name]) for name in ids])
            assert np.array_equal(films.clips("1.mp4").clip_features, numbers_of(CHANGED))
            assert films.nearest("5.mp4", k=1)[0].video_id == "twin.mp4"
            name = video_file(films.row("1.mp4").shard)
            assert f"{out}/{name}" in films.files()
            Storage(out).remove(name)
            with pytest.raises(ShardError, match=f"^{out}/{name}: is not there"):
                films.matrix()


class TestWithThePipelineItself:
    """Real films, the real network behind a real port, and what plan and worker really leave."""

    @pytest.fixture(params=["features", "classes"])
    def answer(self, request) -> str:
        return request.param

    def test_what_is_planned_done_and_published_is_what_the_client_gives(
        self, narrow_server, bikes, carphone, tmp_path, answer
    ):
        films = tmp_path / "films"
        films.mkdir()
        for name, film in (("a.mp4", carphone), ("b.mp4", bikes), ("twin.mp4", carphone)):
            shutil.copy(film, films / name)
        (films / "broken.mp4").write_bytes(b"not a film")
        runs = [self.run(narrow_server, films, tmp_path / "out", f"run-{n}", answer) for n in "12"]
        assert [(run.inputs, run.ok, run.decided("do")) for run in runs] == [(4, 3, 3), (4, 3, 0)]

        read = dataset.open(tmp_path / "out")
        assert {row.video_id: row.status for row in read}["broken.mp4"] == "corrupt"
        with C3DClient(narrow_server.target) as c3d:
            if answer == "features":
                given = c3d.extract(carphone)
                numbers, of_clips = given.video_feature, given.clip_features
                assert read.nearest(given, k=2)[1].video_id == "twin.mp4"
            else:
                given = c3d.classify(carphone)
                numbers, of_clips = given.probabilities, given.clip_probabilities
                assert read.labels == given.labels
                assert read.row("a.mp4").top_label == given.top[0].label
        for name in ("a.mp4", "twin.mp4"):
            row, clips = read.row(name), read.clips(name)
            found = row.feature if answer == "features" else row.probabilities
            assert np.array_equal(found, numbers.astype(np.float32))
            kept = clips.clip_features if answer == "features" else clips.clip_probabilities
            assert np.array_equal(kept, of_clips)
            assert np.array_equal(clips.clip_starts, given.clip_starts)
            assert np.array_equal(clips.clip_times_s, given.clip_times_s)

    def run(self, server, films: Path, out: Path, run: str, answer: str):
        plan = make_plan(str(films), str(out), answer=answer, keys="content")
        asked = settings(out, run, server=server.target, answer=answer, provenance={})
        job = preflight(asked)
        for shard in {one.shard for one in plan if one.shard >= 0}:
            do_shard(job, shard_rows(plan, shard), shard)
        return publish(job, plan)
