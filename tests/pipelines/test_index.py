"""The index of a dataset: one row for every input ever planned, with its newest result."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client.core.errors import ProvenanceError
from c3d_pipelines.dataset.index import (
    INDEX_FILE,
    INDEX_SCHEMA,
    Index,
    load_index,
    missing_rows,
    newest,
    read_index,
    timed,
    write_index,
)
from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.schema import report_file, video_file
from c3d_pipelines.storage import Storage
from support.sample_dataset import indexed
from support.sample_shards import (
    CHANGED,
    NEWER,
    OTHER,
    START,
    A,
    B,
    C,
    commit,
    duplicate,
    settings,
    to_do,
    video,
)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path / "out")


def rewrite(storage: Storage) -> None:
    write_index(storage, load_index(storage))


class TestWhatIsCommitted:
    def test_empty_folder_has_no_rows(self, storage):
        table = read_index(storage)
        assert len(table) == 0
        assert table.schema.equals(INDEX_SCHEMA)

    def test_index_has_rows_of_committed_shards_before_they_are_published(self, storage):
        report = commit(settings(storage.uri), [B, A], statuses={"a.mp4": "corrupt"})
        table = read_index(storage)
        assert table.schema.equals(INDEX_SCHEMA)
        bad, good = table.to_pylist()
        assert (bad["video_id"], bad["status"], bad["row"]) == ("a.mp4", "corrupt", 1)
        assert bad["error_message"] == "/videos/a.mp4: is corrupt"
        assert (good["video_id"], good["status"], good["row"]) == ("b.mp4", "ok", 0)
        assert good["key"] == "sha256:b.mp4"
        assert {row["shard"] for row in (good, bad)} == {report.name}
        assert {row["run"] for row in (good, bad)} == {"run-1"}
        assert good["top_label"] is None

    def test_index_has_the_best_class(self, storage):
        commit(settings(storage.uri, answer="classes"), [A])
        [row] = read_index(storage).to_pylist()
        assert row["top_label"]
        assert 1 / 3 < row["top_probability"] < 1

    @pytest.mark.parametrize("part", ["report", "videos"])
    def test_shard_without_a_fitting_report_is_ignored(self, storage, part):
        report = commit(settings(storage.uri), [A])
        if part == "report":
            storage.remove(report_file(report.name))
        else:
            storage.write(video_file(report.name), b"half of it")
        assert indexed(storage) == {}

    def test_written_index_has_the_same_rows_and_bytes(self, storage):
        commit(settings(storage.uri), [A, B], statuses={"b.mp4": "too_short"})
        before = read_index(storage)
        rewrite(storage)
        first = storage.read(INDEX_FILE)
        assert read_index(storage).equals(before)
        rewrite(storage)
        assert storage.read(INDEX_FILE) == first


class TestWhichRowWins:
    def test_newest_result_of_a_video_wins_whatever_the_shards_names(self, storage):
        for number, done_at in enumerate([START + 5, START + 9, START]):
            others = [video(f"{number}.mp4")]
            commit(settings(storage.uri, f"run-{number}"), [A, *others], done_at=done_at)
        assert indexed(storage, "run")["a.mp4"] == ("run-1",)

    def test_newer_result_replaces_all_but_a_success_of_the_same_content(self, tmp_path):
        for number, (earlier, row, later, expected) in enumerate(
            (
                ("ok", A, "failed", ("ok", "run-1", A.key)),
                ("ok", CHANGED, "failed", ("failed", "run-2", CHANGED.key)),
                ("unreadable", A, "ok", ("ok", "run-2", A.key)),
            )
        ):
            storage = Storage(tmp_path / str(number))
            commit(settings(storage.uri), [A], statuses={"a.mp4": earlier})
            rewrite(storage)
            job = settings(storage.uri, "run-2")
            commit(job, [row, B], statuses={"a.mp4": later}, done_at=START + 9)
            rows = indexed(storage, "status", "run", "key")
            assert rows == {"a.mp4": expected, "b.mp4": ("ok", "run-2", B.key)}, (earlier, later)

    def test_video_without_a_key_is_identified_by_its_uri(self, storage):
        original = ManifestRow("a.mp4", "/videos/a.mp4")
        moved = ManifestRow("a.mp4", "/elsewhere/a.mp4")
        commit(settings(storage.uri), [original])
        rewrite(storage)
        failed = {"statuses": {"a.mp4": "failed"}, "done_at": START + 9}
        commit(settings(storage.uri, "run-2"), [original, B], **failed)
        assert indexed(storage)["a.mp4"] == ("ok",)
        commit(settings(storage.uri, "run-3"), [moved, C], **failed | {"done_at": START + 10})
        assert indexed(storage)["a.mp4"] == ("failed",)

    def test_many_rows_are_merged_as_one_by_one(self):
        dice = random.Random(7)
        rows = [
            {
                "video_id": f"v{dice.randrange(200)}",
                "uri": f"/{dice.randrange(2)}",
                "key": dice.choice(["", "k", "l"]),
                "size_bytes": number,
                "status": dice.choice(["ok", "failed"]),
            }
            for number in range(2000)
        ]
        times = [float(dice.randrange(50)) for _ in rows]
        expected = {}
        for _, row in sorted(zip(times, rows, strict=True), key=lambda timed_row: timed_row[0]):
            expected.setdefault(row["video_id"], []).append(row)
        for video_id, results in expected.items():
            last = results[-1]
            same_content = [
                row
                for row in results
                if row["key"] == last["key"] and (row["key"] or row["uri"] == last["uri"])
            ]
            ok_rows = [row for row in same_content if row["status"] == "ok"]
            expected[video_id] = (ok_rows or same_content)[-1]["size_bytes"]
        schema = pa.schema([INDEX_SCHEMA.field(name) for name in rows[0]])
        half = len(rows) // 2
        parts = [
            timed(pa.Table.from_pylist(rows[part], schema=schema), pa.array(times[part]))
            for part in (slice(half), slice(half, None))
        ]
        merged = newest(parts)
        assert merged["video_id"].to_pylist() == sorted(expected)
        sizes = merged.select(["video_id", "size_bytes"]).to_pylist()
        assert {row["video_id"]: row["size_bytes"] for row in sizes} == expected


class TestShardsThatChange:
    def test_shard_that_was_done_again_is_read_again(self, storage):
        job = settings(storage.uri)
        commit(job, [A, B], statuses={"a.mp4": "unreadable"})
        rewrite(storage)
        commit(settings(storage.uri, "run-2"), [A, B], done_at=START + 9, reverse=True)
        assert indexed(storage, "status", "row", "run") == {
            "a.mp4": ("ok", 1, "run-2"),
            "b.mp4": ("ok", 0, "run-2"),
        }

    def test_superseded_row_does_not_come_back(self, storage):
        commit(settings(storage.uri), [A])
        commit(settings(storage.uri, "run-2"), [CHANGED], done_at=START + 9)
        rewrite(storage)
        assert indexed(storage, "key") == {"a.mp4": ("sha256:changed",)}
        rewrite(storage)
        assert indexed(storage, "key") == {"a.mp4": ("sha256:changed",)}

    def test_rows_of_a_missing_shard_are_failed_with_a_reason(self, storage):
        report = commit(settings(storage.uri), [A])
        commit(settings(storage.uri), [B], index=1)
        rewrite(storage)
        storage.remove(report_file(report.name))
        assert indexed(storage, "status", "error_type", "shard", "row") == {
            "a.mp4": ("failed", "ShardMissing", "", -1),
            "b.mp4": ("ok", "", *indexed(storage, "shard", "row")["b.mp4"]),
        }
        assert "does not exist any more" in indexed(storage, "error_message")["a.mp4"][0]
        assert indexed(storage, "key", "uri")["a.mp4"] == (A.key, A.uri)

    def test_late_shard_replaces_its_missing_row(self, storage):
        values = {"video_id": A.video_id, "uri": A.uri, "key": A.key, "size_bytes": 1000}
        absent = missing_rows(
            pa.Table.from_pylist([values | {"run": "run-1", "duplicate_of": ""}]), message="not yet"
        )
        write_index(storage, Index(absent, {}))
        assert indexed(storage) == {"a.mp4": ("failed",)}
        commit(settings(storage.uri), [A])
        assert indexed(storage) == {"a.mp4": ("ok",)}

    def test_duplicate_follows_its_originals_shard(self, storage):
        job, twin = settings(storage.uri), video("twin.mp4", A.key)
        report = commit(job, [A, B])
        publish(job, [*to_do(A, B), duplicate(twin, "a.mp4")])
        assert indexed(storage, "row")["twin.mp4"] == (0,)
        commit(settings(storage.uri, "run-2"), [A, B], done_at=START + 9, reverse=True)
        assert indexed(storage, "row", "duplicate_of", "uri")["twin.mp4"] == (1, "a.mp4", twin.uri)
        storage.remove(report_file(report.name))
        assert indexed(storage, "status", "error_type")["twin.mp4"] == ("failed", "ShardMissing")


class TestRefusals:
    def test_shards_that_were_made_differently_are_refused(self, storage):
        commit(settings(storage.uri), [A])
        commit(settings(storage.uri, "run-2", provenance=OTHER), [B])
        with pytest.raises(ProvenanceError, match="model.precision: '.*float.*' against") as caught:
            read_index(storage)
        assert "run-1" in str(caught.value)
        assert "run-2" in str(caught.value)

    def test_shards_of_other_versions_are_accepted(self, storage):
        commit(settings(storage.uri), [A])
        commit(settings(storage.uri, provenance=NEWER), [B])
        assert indexed(storage) == {"a.mp4": ("ok",), "b.mp4": ("ok",)}

    def test_features_and_classes_together_are_refused(self, storage):
        commit(settings(storage.uri), [A])
        commit(settings(storage.uri, answer="classes"), [B])
        with pytest.raises(ProvenanceError, match="answer: '(features|classes)' against"):
            read_index(storage)

    @pytest.mark.parametrize("damage", ["cut", "other bytes"])
    def test_damaged_index_is_one_line(self, storage, damage):
        commit(settings(storage.uri), [A])
        rewrite(storage)
        data = storage.read(INDEX_FILE)
        storage.write(INDEX_FILE, data[:-20] if damage == "cut" else b"PAR1 not so PAR1")
        with pytest.raises(ShardError, match=r"index.parquet: is damaged \(.*remove it") as caught:
            read_index(storage)
        assert "\n" not in str(caught.value)

    def test_foreign_table_is_refused(self, storage):
        storage.write("x", b"")
        pq.write_table(pa.table({"video": ["a"]}), storage.path_of(INDEX_FILE))
        with pytest.raises(ShardError, match="is not the index of a dataset .* columns are video"):
            read_index(storage)

    def test_corrupted_shard_is_one_line(self, storage):
        report = commit(settings(storage.uri), [A])
        path = storage.path_of(video_file(report.name))
        data = bytearray(path.read_bytes())
        data[20:60] = bytes(40)
        path.write_bytes(data)
        with pytest.raises(ShardError, match=f"{report.name}.parquet: is damaged"):
            read_index(storage)
