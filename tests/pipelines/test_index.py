"""The index has one row for every input ever planned, of the newest result, from what is there."""

from __future__ import annotations

import random
from pathlib import Path

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
from c3d_pipelines.run.publish import publish
from c3d_pipelines.shards.schema import report_file, video_file
from c3d_pipelines.storage import Storage
from support.sample_shards import OTHER, START, commit, settings, to_do, video

A, B, C = video("a.mp4"), video("b.mp4"), video("c.mp4")
CHANGED = video("a.mp4", "sha256:changed")


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path / "out")


def told(storage: Storage, *columns: str) -> dict[str, tuple]:
    """By video, its status or some columns of its row in the index."""
    rows = read_index(storage).select(["video_id", *(columns or ("status",))]).to_pylist()
    assert len({row["video_id"] for row in rows}) == len(rows)
    return {row.pop("video_id"): tuple(row.values()) for row in rows}


def keep(storage: Storage) -> None:
    write_index(storage, load_index(storage))


class TestWhatIsCommitted:
    def test_a_place_with_nothing_in_it_has_no_rows(self, storage):
        table = read_index(storage)
        assert len(table) == 0
        assert table.schema.equals(INDEX_SCHEMA)

    def test_rows_of_committed_shards_are_known_before_anybody_published_them(self, storage):
        report = commit(settings(storage.uri), [B, A], statuses={"a.mp4": "corrupt"})
        table = read_index(storage)
        assert table.schema.equals(INDEX_SCHEMA)
        bad, good = table.to_pylist()
        assert (bad["video_id"], bad["status"], bad["row"]) == ("a.mp4", "corrupt", 1)
        assert bad["error_message"] == "/films/a.mp4: is corrupt"
        assert (good["video_id"], good["status"], good["row"]) == ("b.mp4", "ok", 0)
        assert good["key"] == "sha256:b.mp4"
        assert {row["shard"] for row in (good, bad)} == {report.name}
        assert {row["run"] for row in (good, bad)} == {"run-1"}
        assert good["top_label"] is None

    def test_the_best_class_is_in_the_index(self, storage):
        commit(settings(storage.uri, answer="classes"), [A])
        [row] = read_index(storage).to_pylist()
        assert row["top_label"]
        assert 1 / 3 < row["top_probability"] < 1

    @pytest.mark.parametrize("part", ["report", "videos"])
    def test_a_shard_without_a_report_that_fits_does_not_exist(self, storage, part):
        report = commit(settings(storage.uri), [A])
        if part == "report":
            storage.remove(report_file(report.name))
        else:
            storage.write(video_file(report.name), b"half of it")
        assert told(storage) == {}

    def test_an_index_that_is_written_says_the_same_and_is_the_same_bytes(self, storage):
        commit(settings(storage.uri), [A, B], statuses={"b.mp4": "too_short"})
        before = read_index(storage)
        keep(storage)
        first = storage.read(INDEX_FILE)
        assert read_index(storage).equals(before)
        keep(storage)
        assert storage.read(INDEX_FILE) == first


class TestWhichRowCounts:
    def test_the_newest_result_of_a_video_wins_whatever_the_shards_are_called(self, storage):
        for number, at in enumerate([START + 5, START + 9, START]):
            others = [video(f"{number}.mp4")]
            commit(settings(storage.uri, f"run-{number}"), [A, *others], at=at)
        assert told(storage, "run")["a.mp4"] == ("run-1",)

    def test_a_failure_does_not_replace_a_success_of_the_same_content(self, storage):
        commit(settings(storage.uri), [A])
        keep(storage)
        commit(settings(storage.uri, "run-2"), [A, B], statuses={"a.mp4": "failed"}, at=START + 9)
        assert told(storage, "status", "run") == {
            "a.mp4": ("ok", "run-1"),
            "b.mp4": ("ok", "run-2"),
        }

    def test_a_failure_replaces_a_success_of_what_the_video_was_before(self, storage):
        commit(settings(storage.uri), [A])
        keep(storage)
        commit(
            settings(storage.uri, "run-2"), [CHANGED], statuses={"a.mp4": "failed"}, at=START + 9
        )
        assert told(storage, "status", "key") == {"a.mp4": ("failed", "sha256:changed")}

    def test_without_a_key_a_video_is_known_by_its_place(self, storage):
        here, there = video("a.mp4", " "), video("a.mp4", " ", uri="/elsewhere/a.mp4")
        here, there = (type(one)(one.video_id, one.uri) for one in (here, there))
        commit(settings(storage.uri), [here])
        keep(storage)
        failed = {"statuses": {"a.mp4": "failed"}, "at": START + 9}
        commit(settings(storage.uri, "run-2"), [here, B], **failed)
        assert told(storage)["a.mp4"] == ("ok",)
        commit(settings(storage.uri, "run-3"), [there, C], **failed | {"at": START + 10})
        assert told(storage)["a.mp4"] == ("failed",)

    def test_a_success_replaces_a_failure(self, storage):
        commit(settings(storage.uri), [A], statuses={"a.mp4": "unreadable"})
        keep(storage)
        commit(settings(storage.uri, "run-2"), [A, B], at=START + 9)
        assert told(storage)["a.mp4"] == ("ok",)

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
        for _, row in sorted(zip(times, rows, strict=True), key=lambda one: one[0]):
            expected.setdefault(row["video_id"], []).append(row)
        for video_id, results in expected.items():
            last = results[-1]
            alike = [
                one
                for one in results
                if one["key"] == last["key"] and (one["key"] or one["uri"] == last["uri"])
            ]
            well = [one for one in alike if one["status"] == "ok"]
            expected[video_id] = (well or alike)[-1]["size_bytes"]
        schema = pa.schema([INDEX_SCHEMA.field(name) for name in rows[0]])
        half = len(rows) // 2
        parts = [
            timed(pa.Table.from_pylist(some, schema=schema), pa.array(when))
            for some, when in ((rows[:half], times[:half]), (rows[half:], times[half:]))
        ]
        found = newest(parts)
        assert found["video_id"].to_pylist() == sorted(expected)
        told = found.select(["video_id", "size_bytes"]).to_pylist()
        assert {row["video_id"]: row["size_bytes"] for row in told} == expected


class TestShardsThatChange:
    def test_a_shard_that_was_done_again_is_read_again(self, storage):
        job = settings(storage.uri)
        commit(job, [A, B], statuses={"a.mp4": "unreadable"})
        keep(storage)
        commit(settings(storage.uri, "run-2"), [A, B], at=START + 9, reverse=True)
        assert told(storage, "status", "row", "run") == {
            "a.mp4": ("ok", 1, "run-2"),
            "b.mp4": ("ok", 0, "run-2"),
        }

    def test_what_was_superseded_does_not_come_back(self, storage):
        commit(settings(storage.uri), [A])
        commit(settings(storage.uri, "run-2"), [CHANGED], at=START + 9)
        keep(storage)
        assert told(storage, "key") == {"a.mp4": ("sha256:changed",)}
        keep(storage)
        assert told(storage, "key") == {"a.mp4": ("sha256:changed",)}

    def test_rows_of_a_shard_that_is_gone_are_failed_and_say_why(self, storage):
        report = commit(settings(storage.uri), [A])
        commit(settings(storage.uri), [B], index=1)
        keep(storage)
        storage.remove(report_file(report.name))
        assert told(storage, "status", "error_type", "shard", "row") == {
            "a.mp4": ("failed", "ShardMissing", "", -1),
            "b.mp4": ("ok", "", *told(storage, "shard", "row")["b.mp4"]),
        }
        assert "not there any more" in told(storage, "error_message")["a.mp4"][0]
        assert told(storage, "key", "uri")["a.mp4"] == (A.key, A.uri)

    def test_a_shard_that_comes_late_takes_the_place_of_its_absence(self, storage):
        own = {"video_id": A.video_id, "uri": A.uri, "key": A.key, "size_bytes": 1000}
        absent = missing_rows(
            pa.Table.from_pylist([own | {"run": "run-1", "duplicate_of": ""}]), message="not yet"
        )
        write_index(storage, Index(absent, {}))
        assert told(storage) == {"a.mp4": ("failed",)}
        commit(settings(storage.uri), [A])
        assert told(storage) == {"a.mp4": ("ok",)}

    def test_a_duplicate_follows_its_original_s_shard(self, storage):
        from c3d_pipelines.inputs.plan import PlannedRow

        job, twin = settings(storage.uri), video("twin.mp4", A.key)
        report = commit(job, [A, B])
        publish(job, [*to_do(A, B), PlannedRow(twin, "duplicate", duplicate_of="a.mp4")])
        assert told(storage, "row")["twin.mp4"] == (0,)
        commit(settings(storage.uri, "run-2"), [A, B], at=START + 9, reverse=True)
        assert told(storage, "row", "duplicate_of", "uri")["twin.mp4"] == (1, "a.mp4", twin.uri)
        storage.remove(report_file(report.name))
        assert told(storage, "status", "error_type")["twin.mp4"] == ("failed", "ShardMissing")


class TestRefusals:
    def test_shards_that_were_made_differently_are_never_read_together(self, storage):
        commit(settings(storage.uri), [A])
        commit(settings(storage.uri, "run-2", provenance=OTHER), [B])
        with pytest.raises(ProvenanceError, match="model.precision: '.*float.*' against") as failed:
            read_index(storage)
        assert "run-1" in str(failed.value)
        assert "run-2" in str(failed.value)

    def test_features_and_classes_are_never_read_together(self, storage):
        commit(settings(storage.uri), [A])
        commit(settings(storage.uri, answer="classes"), [B])
        with pytest.raises(ProvenanceError, match="answer: '(features|classes)' against"):
            read_index(storage)

    @pytest.mark.parametrize("damage", ["cut", "other bytes"])
    def test_an_index_that_is_damaged_is_one_clear_line(self, storage, damage):
        commit(settings(storage.uri), [A])
        keep(storage)
        whole = storage.read(INDEX_FILE)
        storage.write(INDEX_FILE, whole[:-20] if damage == "cut" else b"PAR1 not so PAR1")
        with pytest.raises(ShardError, match=r"index.parquet: is damaged \(.*take it away") as told:
            read_index(storage)
        assert "\n" not in str(told.value)

    def test_another_table_in_its_place_is_refused(self, storage):
        storage.write("x", b"")
        pq.write_table(pa.table({"video": ["a"]}), Path(storage.uri) / INDEX_FILE)
        with pytest.raises(ShardError, match="is not the index of a dataset .* columns are video"):
            read_index(storage)

    def test_a_shard_whose_bytes_rotted_is_one_clear_line(self, storage):
        report = commit(settings(storage.uri), [A])
        path = Path(storage.uri) / video_file(report.name)
        whole = bytearray(path.read_bytes())
        whole[20:60] = bytes(40)
        path.write_bytes(whole)
        with pytest.raises(ShardError, match=f"{report.name}.parquet: is damaged"):
            read_index(storage)
