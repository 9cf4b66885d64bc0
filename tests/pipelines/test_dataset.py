"""The reader of a dataset: rows, matrix, clips and classes, damaged shards, and buckets."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import UsageError
from c3d_client.outputs import write_features
from c3d_pipelines import dataset
from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.inputs.manifest import write_manifest
from c3d_pipelines.inputs.plan import shard_rows, write_plan
from c3d_pipelines.run.plan import make_plan
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.schema import clip_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.processes import LONG_S
from support.s3_server import s3_server
from support.sample_dataset import BAD, CHANGED, CURRENT, OK, ROWS, TWIN, two_runs
from support.sample_features import sample_features
from support.sample_shards import (
    LABELS,
    commit,
    feature_of,
    numbers_of,
    settings,
    to_do,
)
from support.shard_runs import run_python


@pytest.fixture
def published(tmp_path) -> Path:
    """A dataset for one test to damage."""
    two_runs(tmp_path / "published")
    return tmp_path / "published"


def shard_of(folder: Path, video_id: str) -> str:
    return dataset.open(folder).row(video_id).shard


class TestRows:
    def test_every_video_is_yielded_once_whatever_its_status(self, opened):
        rows = {row.video_id: row for row in opened}
        assert len(opened) == len(rows) == len(list(opened)) == 9
        assert {name: row.status for name, row in rows.items()} == {
            **dict.fromkeys(OK, "ok"),
            **BAD,
        }
        for name in OK:
            assert rows[name].feature.dtype == np.float32
            assert np.array_equal(rows[name].feature, feature_of(CURRENT[name]))
            assert rows[name].probabilities is None
        assert rows["2.mp4"].feature is None
        assert rows["2.mp4"].error_message == "/videos/2.mp4: is corrupt"
        assert rows["twin.mp4"].duplicate_of == "5.mp4"
        assert (rows["1.mp4"].run, rows["0.mp4"].run) == ("run-2", "run-1")

    def test_row_is_read_by_its_id(self, opened):
        for name in ["0.mp4", "1.mp4", "2.mp4", "4.mp4", "twin.mp4"]:
            row = opened.row(name)
            assert row.video_id == name, name
            if name in OK:
                assert np.array_equal(row.feature, feature_of(CURRENT[name])), name
            else:
                assert row.feature is None, name
        with pytest.raises(UsageError, match=r"has no video 'x'; index.parquet lists"):
            opened.row("x")

    def test_ids_are_sorted_and_of_one_status(self, opened):
        assert opened.ids() == OK
        assert opened.ids("corrupt") == ["2.mp4"]
        assert opened.ids("too_short") == []
        assert opened.ids(None) == sorted([*OK, *BAD])
        with pytest.raises(UsageError, match="status is 'good'; give one of ok, "):
            opened.ids("good")

    def test_table_is_the_index(self, features_dataset, opened):
        assert opened.table().equals(
            pq.read_table(features_dataset / "index.parquet").replace_schema_metadata()
        )


class TestMatrix:
    def test_matrix_has_the_newest_numbers_in_the_order_of_the_ids(self, opened):
        ids, matrix = opened.matrix()
        assert ids == opened.ids() == OK
        assert (matrix.dtype, matrix.shape) == (np.float32, (7, 4096))
        assert np.array_equal(matrix, [feature_of(CURRENT[name]) for name in OK])
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1)

    def test_matrix_is_written_to_a_memory_mapped_file(self, opened, tmp_path):
        ids, mapped = opened.matrix(tmp_path / "features.npy")
        assert ids == OK
        assert isinstance(mapped, np.memmap)
        assert np.array_equal(mapped, opened.matrix()[1])
        assert np.array_equal(np.load(tmp_path / "features.npy"), mapped)
        assert os.listdir(tmp_path) == ["features.npy"]

    def test_file_that_cannot_be_written_is_one_line(self, opened, tmp_path):
        with pytest.raises(StorageError, match="cannot be written"):
            opened.matrix(tmp_path / "no" / "features.npy")

    def test_file_has_its_space_on_the_disk_before_it_is_filled(
        self, opened, tmp_path, monkeypatch
    ):
        """Otherwise a disk that becomes full ends the process with SIGBUS."""
        statuses = []

        def fill(*_):
            statuses.extend(path.stat() for path in tmp_path.iterdir())

        monkeypatch.setattr(opened, "_fill", fill)
        opened.matrix(tmp_path / "features.npy")
        [status] = statuses
        assert status.st_blocks * 512 >= status.st_size > 7 * 4096 * 4

    def test_matrix_of_a_dataset_without_ok_videos_is_empty(self, tmp_path):
        publish(settings(tmp_path / "out"), to_do(ROWS[0]))
        opened = dataset.open(tmp_path / "out")
        assert opened.matrix()[1].shape == (0, 4096)
        assert opened.matrix(tmp_path / "x.npy")[1].shape == (0, 4096)
        assert opened.files() == []
        assert opened.file_rows().tolist() == []
        assert [row.error_type for row in opened] == ["ShardMissing"]


class TestClips:
    def test_clips_are_those_of_the_video(self, opened):
        for name in OK:
            clips = opened.clips(name)
            assert clips.video_id == name, name
            assert np.array_equal(clips.clip_features, numbers_of(CURRENT[name])), name
            assert clips.clip_starts.tolist() == [0, 8], name
            assert clips.clip_starts.dtype == np.int64, name
            assert np.allclose(clips.clip_times_s, [[0, 16 / 25], [8 / 25, 24 / 25]]), name
            assert clips.clip_probabilities is None, name

    def test_clips_of_a_video_that_is_not_ok_are_refused_with_its_reason(self, opened):
        with pytest.raises(UsageError, match="2.mp4 has no clips; it is corrupt: /videos/2.mp4"):
            opened.clips("2.mp4")

    def test_clips_that_are_not_stored_are_refused(self, tmp_path):
        job = settings(tmp_path, clip_rows=False)
        commit(job, ROWS)
        publish(job, to_do(*ROWS))
        opened = dataset.open(tmp_path)
        assert opened.card.clip_rows == 0
        with pytest.raises(UsageError, match="0.mp4: its clips are not stored"):
            opened.clips("0.mp4")


class TestClasses:
    def test_rows_have_probabilities_and_the_best_class(self, classes_dataset):
        opened = dataset.open(classes_dataset)
        assert opened.labels == LABELS
        row = opened.row("1.mp4")
        expected = feature_of(CHANGED, size=3)
        assert np.array_equal(row.probabilities, expected)
        assert row.feature is None
        assert row.top_label == LABELS[expected.argmax()]
        assert row.top_probability == pytest.approx(expected.max())
        assert opened.row("2.mp4").top_label is None

    def test_matrix_has_a_column_per_class(self, classes_dataset):
        ids, matrix = dataset.open(classes_dataset).matrix()
        assert np.array_equal(matrix, [feature_of(CURRENT[name], size=3) for name in ids])

    def test_clips_have_probabilities(self, classes_dataset):
        clips = dataset.open(classes_dataset).clips("twin.mp4")
        assert np.array_equal(clips.clip_probabilities, numbers_of(TWIN, size=3))
        assert clips.clip_features is None

    def test_classes_have_no_neighbours(self, classes_dataset):
        with pytest.raises(UsageError, match="holds classes, and no features"):
            dataset.open(classes_dataset).nearest("1.mp4")


class TestDamage:
    def test_folder_without_a_dataset_is_one_line(self, tmp_path):
        with pytest.raises(StorageError, match="is not a dataset: it has no dataset.json"):
            dataset.open(tmp_path)

    def test_missing_index_is_one_line(self, published):
        (published / "index.parquet").unlink()
        with pytest.raises(
            ShardError, match="index.parquet: is missing, though dataset.json exists"
        ):
            dataset.open(published)

    def test_missing_shard_is_one_line(self, published):
        name = video_file(shard_of(published, "1.mp4"))
        (published / name).unlink()
        opened = dataset.open(published)
        message = f"{name}: is missing, though the index.*run the pipeline again"
        for read in (
            opened.matrix,
            lambda: opened.row("1.mp4"),
            lambda: list(opened),
            lambda: opened.nearest("0.mp4"),
        ):
            with pytest.raises(ShardError, match=message):
                read()

    @pytest.mark.parametrize("damage", ["cut", "rotted"])
    def test_damaged_shard_is_one_line(self, published, damage):
        path = published / video_file(shard_of(published, "1.mp4"))
        data = path.read_bytes()
        middle = len(data) // 2
        rotted = data[:middle] + bytes(64) + data[middle + 64 :]
        path.write_bytes(data[:-100] if damage == "cut" else rotted)
        with pytest.raises(ShardError, match=r"parquet: is damaged \(.*remove .*json") as caught:
            dataset.open(published).matrix()
        assert "\n" not in str(caught.value)

    def test_failed_matrix_writes_no_file(self, published, tmp_path):
        (published / video_file(shard_of(published, "1.mp4"))).unlink()
        with pytest.raises(ShardError):
            dataset.open(published).matrix(tmp_path / "x.npy")
        assert sorted(os.listdir(tmp_path)) == ["published"]

    def test_shard_that_was_done_again_is_detected(self, published):
        opened = dataset.open(published)
        commit(settings(published), ROWS[:5], reverse=True)
        with pytest.raises(ShardError, match="is not the shard that the index describes"):
            opened.row("0.mp4")
        with pytest.raises(ShardError, match="the index names|is not the shard"):
            opened.clips("0.mp4")

    def test_video_that_lost_its_numbers_is_detected(self, published):
        opened = dataset.open(published)
        commit(settings(published), ROWS[:5], statuses={"0.mp4": "failed"})
        with pytest.raises(ShardError, match="'0.mp4' has no numbers"):
            opened.row("0.mp4")

    def test_shard_that_became_shorter_is_detected(self, published):
        opened = dataset.open(published)
        path = published / video_file(opened.row("4.mp4").shard)
        pq.write_table(pq.read_table(path).slice(0, 4), path)
        with pytest.raises(ShardError, match="it has 4 rows and no row 4"):
            opened.matrix()

    def test_missing_clips_are_one_line(self, published):
        name = clip_file(shard_of(published, "1.mp4"))
        (published / name).unlink()
        with pytest.raises(ShardError, match=f"{name}: is missing"):
            dataset.open(published).clips("1.mp4")


@pytest.mark.long
class TestInABucket:
    def test_dataset_in_a_bucket_is_published_and_read(self, tmp_path, monkeypatch):
        pytest.importorskip("s3fs", reason="s3fs is not installed: datasets on S3 not run")
        with s3_server(tmp_path) as server:
            server.use(monkeypatch)
            server.file_system().mkdir("bucket")
            out = "s3://bucket/my videos"
            two_runs(out)
            opened = dataset.open(out)
            ids, matrix = opened.matrix()
            assert np.array_equal(matrix, [feature_of(CURRENT[name]) for name in ids])
            assert np.array_equal(opened.clips("1.mp4").clip_features, numbers_of(CHANGED))
            assert opened.nearest("5.mp4", k=1)[0].video_id == "twin.mp4"
            name = video_file(opened.row("1.mp4").shard)
            assert f"{out}/{name}" in opened.files()
            Storage(out).remove(name)
            with pytest.raises(ShardError, match=f"^{out}/{name}: is missing"):
                opened.matrix()


@pytest.mark.long
class TestWithThePipelineItself:
    """The pipeline's own functions with real videos and a real server."""

    @pytest.fixture(params=["features", "classes"])
    def answer(self, request) -> str:
        return request.param

    def test_published_numbers_are_those_of_the_client(
        self, narrow_server, bikes, carphone, tmp_path, answer
    ):
        folder = tmp_path / "videos"
        folder.mkdir()
        for name, source in (("a.mp4", carphone), ("b.mp4", bikes), ("twin.mp4", carphone)):
            shutil.copy(source, folder / name)
        (folder / "broken.mp4").write_bytes(b"not a video")
        runs = [self.run(narrow_server, folder, tmp_path / "out", f"run-{n}", answer) for n in "12"]
        assert [(run.inputs, run.ok, run.decided("do")) for run in runs] == [(4, 3, 3), (4, 3, 0)]

        read = dataset.open(tmp_path / "out")
        assert {row.video_id: row.status for row in read}["broken.mp4"] == "corrupt"
        with C3DClient(narrow_server.target) as c3d:
            if answer == "features":
                result = c3d.extract(carphone)
                numbers, expected_clips = result.video_feature, result.clip_features
                assert read.nearest(result, k=2)[1].video_id == "twin.mp4"
            else:
                result = c3d.classify(carphone)
                numbers, expected_clips = result.probabilities, result.clip_probabilities
                assert read.labels == result.labels
                assert read.row("a.mp4").top_label == result.top[0].label
        for name in ("a.mp4", "twin.mp4"):
            row, clips = read.row(name), read.clips(name)
            numbers_read = row.feature if answer == "features" else row.probabilities
            assert np.array_equal(numbers_read, numbers.astype(np.float32))
            clip_numbers = clips.clip_features if answer == "features" else clips.clip_probabilities
            assert np.array_equal(clip_numbers, expected_clips)
            assert np.array_equal(clips.clip_starts, result.clip_starts)
            assert np.array_equal(clips.clip_times_s, result.clip_times_s)

    def run(self, server, folder: Path, out: Path, run: str, answer: str):
        plan = make_plan(str(folder), str(out), answer=answer, keys="content")
        requested = settings(out, run, server=server.target, answer=answer, provenance={})
        job = preflight(requested)
        for shard in {item.shard for item in plan if item.shard >= 0}:
            do_shard(job, shard_rows(plan, shard), shard)
        return publish(job, plan)


_READ = """
import os, sys
import c3d_pipelines.dataset.index  # libraries start threads of their own when they are imported
import numpy as np
import pyarrow.parquet
from c3d_client.outputs import read_features
from c3d_pipelines import dataset
from c3d_pipelines.inputs.manifest import read_manifest
from c3d_pipelines.inputs.plan import read_plan
from c3d_pipelines.shards.reader import columns_of
from c3d_pipelines.storage import Storage

def threads():
    return len(os.listdir("/proc/self/task"))

folder, plan, manifest, features = sys.argv[1:]
before = threads()
assert list(dataset.open(folder))
names = [name for name in Storage(folder).names("shards") if name.endswith(".parquet")]
assert names
for name in names:
    columns_of(Storage(folder), name, np.arange(1), ["video_id"])
with open(plan, "rb") as file:
    assert read_plan(file)
assert read_manifest(manifest)
read_features(features)
assert threads() == before, threads()
"""


def test_readers_of_parquet_start_no_thread(tmp_path):
    """A thread that frees a part of a Python file while the process ends aborts the process."""
    out = tmp_path / "out"
    two_runs(str(out))
    write_plan(tmp_path / "plan.parquet", to_do(*ROWS))
    write_manifest(tmp_path / "manifest.parquet", ROWS)
    write_features(tmp_path / "features.parquet", sample_features())
    paths = [tmp_path / f"{name}.parquet" for name in ("plan", "manifest", "features")]
    process = run_python(_READ, out, *paths)
    process.communicate(timeout=LONG_S)
    assert process.returncode == 0
