"""Files of other releases: unknown fields and columns are kept, later fields have a default."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.dataset.card import read_card
from c3d_pipelines.dataset.index import INDEX_FILE, load_index, read_index, write_index
from c3d_pipelines.dataset.merge import merge
from c3d_pipelines.errors import RunError, ShardError
from c3d_pipelines.inputs.plan import PlannedRow, read_plan, write_plan
from c3d_pipelines.records import Record, added
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.run.publish import publish
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import ShardReport, report_file
from c3d_pipelines.storage import Storage
from support.sample_shards import START, A, B, commit, settings, to_do, video
from support.sample_summary import random_run, shard_report

LATER = {"borders": "black", "nested": {"x": [1, None]}}
RECORDS = {
    JobSettings: (settings("out"), UsageError),
    ShardReport: (shard_report(0, ["ok", "failed"]), ShardError),
    RunSummary: (random_run(["ok", "failed", "corrupt"], shards=1), RunError),
}


def with_later_fields(value):
    """Return JSON values with fields of a later release in every object that has fixed fields."""
    if isinstance(value, list):
        return [with_later_fields(item) for item in value]
    if isinstance(value, dict) and {"video_id", "low", "bins", "retries", "stride"} & set(value):
        return {name: with_later_fields(item) for name, item in value.items()} | LATER
    return value


@pytest.mark.parametrize("kind", RECORDS)
def test_unknown_fields_are_ignored_and_written_again(kind):
    record, _ = RECORDS[kind]
    values = {
        name: with_later_fields(value) if name != "provenance" else {**value, **LATER}
        for name, value in json.loads(record.to_json()).items()
    } | LATER
    read = kind.from_json(json.dumps(values))
    assert json.loads(read.to_json()) == values
    assert read.unknown["borders"] == "black"
    for name, value in vars(record).items():
        if name in ("run", "answer", "counts", "window", "state"):
            assert getattr(read, name) == value, name
    assert json.loads(replace(read, run="other").to_json()) == {**values, "run": "other"}


@pytest.mark.parametrize("kind", RECORDS)
def test_record_is_written_as_the_first_release_wrote_it(kind):
    record, _ = RECORDS[kind]
    text = record.to_json()
    assert "unknown" not in json.loads(text)
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True)
    assert kind.from_json(text) == record


@pytest.mark.parametrize("kind", RECORDS)
def test_damaged_or_foreign_record_is_one_line(kind):
    record, error = RECORDS[kind]
    whole = record.to_json()
    damaged = ["", "[]", "null", "3", "{}", '{"name": 3', whole[:-9], "\x00"]
    # Fields of the first release; later ones may be missing.
    for name in set(json.loads(whole)) - {field.name for field in fields(kind) if field.metadata}:
        damaged.append(json.dumps({k: v for k, v in json.loads(whole).items() if k != name}))
    for text in damaged:
        with pytest.raises(error, match="cannot be read") as caught:
            kind.from_json(text)
        assert "\n" not in str(caught.value), text


@dataclass(frozen=True)
class Grown(Record):
    """A record with a field that the first release lacks."""

    name: str
    damage: str = added("error")


def test_field_that_an_older_file_lacks_has_the_older_releases_value():
    assert Grown.from_dict({"name": "a"}) == Grown("a", "error")
    assert Grown.from_dict({"name": "a", "damage": "keep"}).damage == "keep"
    with pytest.raises(ValueError, match="lacks name"):
        Grown.from_dict({"damage": "keep"})


def test_plan_keeps_unknown_columns(tmp_path):
    write_plan(tmp_path / "old.parquet", to_do(A, B))
    table = pq.read_table(tmp_path / "old.parquet")
    pq.write_table(table.append_column("priority", pa.array([7, None])), tmp_path / "new.parquet")
    planned = read_plan(tmp_path / "new.parquet")
    assert [item.row for item in planned] == [A, B]
    assert planned[0] == PlannedRow(A, "do", 0, "", {"priority": 7})
    write_plan(tmp_path / "again.parquet", planned)
    assert pq.read_table(tmp_path / "again.parquet")["priority"].to_pylist() == [7, None]
    assert read_plan(tmp_path / "again.parquet") == planned


def add_column(path, name: str) -> None:
    """Add a column of a later release to an index: the id of each video."""
    table = pq.read_table(path)
    pq.write_table(table.append_column(name, table["video_id"]), path)


def test_index_keeps_unknown_columns_of_the_rows_that_stay(tmp_path):
    storage = Storage(tmp_path / "out")
    for run, row in (("run-1", A), ("run-2", B)):
        commit(settings(storage.uri, run), [row])
        publish(settings(storage.uri, run), to_do(row))
    before = read_index(storage)
    add_column(storage.path_of(INDEX_FILE), "codec")
    assert read_index(storage).equals(before)
    write_index(storage, load_index(storage))
    assert pq.read_table(storage.path_of(INDEX_FILE))["codec"].to_pylist() == ["a.mp4", "b.mp4"]
    # The new result of a video is another row, without the values of the replaced row.
    changed = video("a.mp4", "sha256:changed")
    commit(settings(storage.uri, "run-3"), [changed], done_at=START + 9)
    publish(settings(storage.uri, "run-3"), to_do(changed))
    assert pq.read_table(storage.path_of(INDEX_FILE))["codec"].to_pylist() == [None, "b.mp4"]
    merge([tmp_path / "out"], tmp_path / "merged")
    merged = pq.read_table(tmp_path / "merged" / INDEX_FILE)
    assert merged["codec"].to_pylist() == [None, "b.mp4"]


def test_index_without_a_later_nullable_column_is_read(tmp_path):
    storage = Storage(tmp_path)
    commit(settings(tmp_path), [A])
    publish(settings(tmp_path), to_do(A))
    before = read_index(storage)
    path = storage.path_of(INDEX_FILE)
    pq.write_table(pq.read_table(path).drop_columns(["top_label"]), path)
    assert read_index(storage).equals(before)


def test_card_and_reports_of_a_later_release_keep_their_fields_when_published_again(tmp_path):
    storage = Storage(tmp_path)
    report = commit(settings(tmp_path), [A])
    publish(settings(tmp_path), to_do(A))
    for name in ("dataset.json", report_file(report.name)):
        values = json.loads(storage.read(name))
        storage.write(name, json.dumps({**values, **LATER}))
    assert read_card(storage).unknown == LATER
    publish(settings(tmp_path, "run-2"), [PlannedRow(A, "done")])
    assert json.loads(storage.read("dataset.json"))["borders"] == "black"
    merge([tmp_path], tmp_path / "merged")
    copied = json.loads(Storage(tmp_path / "merged").read(report_file(report.name)))
    assert copied["nested"] == LATER["nested"]
