"""The dataset's index: one row an input ever planned into it, whichever run made it.

``index.parquet`` is written by `publish.py`, sorted by ``video_id``. Whoever plans the next run
wants more: also the rows of shards that were committed since, by a run that did not come to its
end; and none of shards that are gone. All of it is done in columns: there may be millions of rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from c3d_client.errors import ProvenanceError, ShardError
from c3d_client.provenance import differences, provenance_digest
from c3d_client.stores import display

from c3d_pipelines.dataset.index_rows import (
    INDEX_SCHEMA,
    NEWEST,
    OLDEST,
    copies_of,
    missing_rows,
    newest,
    timed,
    times,
)
from c3d_pipelines.place import Place
from c3d_pipelines.shards import committed as shards
from c3d_pipelines.shards.format import video_file
from c3d_pipelines.shards.reader import damaged, parquet_file
from c3d_pipelines.shards.report import ShardReport

__all__ = ["INDEX_SCHEMA", "Index", "load_index", "read_index", "write_index"]

INDEX_FILE = "index.parquet"

# In the file's own metadata: the shards that it knows, each with the time it was done, its videos
# and its clips.
_SHARDS = b"shards"
_GONE = "the shard that held it is not there any more; the next run makes it anew"
# Waiting for a bucket, mostly.
_READERS = 8


@dataclass(frozen=True)
class Index:
    """An index and the shards that its rows lie in.

    Args:
        table: INDEX_SCHEMA, sorted by ``video_id``, which is unique.
        shards: the committed ones, by name; the table's are among them.
    """

    table: pa.Table = field(default_factory=INDEX_SCHEMA.empty_table)
    shards: Mapping[str, ShardReport] = field(default_factory=dict)


def read_index(place: Place) -> pa.Table:
    """What is known of every input ever planned into a dataset; INDEX_SCHEMA, one row each.

    Raises:
        ShardError: the index or a committed shard is damaged.
        StorageError: the place cannot be read.
        ProvenanceError: shards there were made differently.
    """
    return load_index(place).table


def load_index(place: Place, *, first: Collection[str] = ()) -> Index:
    """The same, with the reports of the committed shards.

    The newest result of a video wins, but for one: a failure does not take the place of a success
    with the same content. A row whose shard is gone becomes ``failed``, ShardMissing.

    Args:
        place: the dataset.
        first: names of shards that count as the newest, where they are committed.

    Raises:
        ShardError, StorageError, ProvenanceError: as :func:`read_index`.
    """
    reports = committed_shards(place)
    table, known = published(place)
    fresh = sorted(
        name
        for name, report in reports.items()
        if name in first or name not in known or known[name][0] != report.ended_at
    )
    gone = pc.and_(pc.not_equal(table["shard"], ""), pc.invert(_among(table["shard"], reports)))
    read_again = _among(table["shard"], fresh)
    copied = pc.not_equal(table["duplicate_of"], "")
    # What stands in a shard that is read again is taken from there.
    kept = table.filter(pc.invert(pc.or_(gone, read_again)))
    lost = table.filter(pc.and_(gone, pc.invert(copied)))
    parts = [timed(kept, times(kept, reports)), timed(missing_rows(lost, message=_GONE), OLDEST)]
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda name: shard_table(place, reports[name]), fresh)
        for name, rows in zip(fresh, found, strict=True):
            parts.append(timed(rows, NEWEST if name in first else reports[name].ended_at))
    merged = newest(parts)
    copies = table.filter(pc.and_(pc.or_(gone, read_again), copied))
    if len(copies):
        again = copies_of(copies, merged, message=_GONE)
        merged = newest([timed(again, OLDEST), timed(merged, times(merged, reports))])
    return Index(merged, reports)


def published(place: Place) -> tuple[pa.Table, dict[str, tuple[float, int, int]]]:
    """``index.parquet`` as it is: its rows, and by name when each shard was done, videos and clips.

    Without one, no rows.

    Raises:
        ShardError: it is damaged, or is not an index.
        StorageError: it cannot be read.
    """
    if place.size(INDEX_FILE) is None:
        return INDEX_SCHEMA.empty_table(), {}
    with parquet_file(place, INDEX_FILE) as file:
        schema = file.schema_arrow
        if not schema.remove_metadata().equals(INDEX_SCHEMA):
            raise ShardError(
                f"{display(place.uri_of(INDEX_FILE))}: is not the index of a dataset of this "
                f"version; its columns are {', '.join(schema.names)}"
            )
        table = file.read()
    said = (schema.metadata or {}).get(_SHARDS, b"{}")
    known = {name: (at, videos, clips) for name, (at, videos, clips) in json.loads(said).items()}
    return table.replace_schema_metadata(None).combine_chunks(), known


def write_index(place: Place, index: Index) -> None:
    """Write ``index.parquet``; the same index is the same bytes.

    Raises:
        StorageError: it cannot be written.
    """
    known = {
        name: (report.ended_at, report.videos, report.clips)
        for name, report in sorted(index.shards.items())
    }
    said = {_SHARDS: json.dumps(known).encode()}
    with place.writing(INDEX_FILE) as path:
        pq.write_table(
            index.table.replace_schema_metadata(said),
            path,
            compression="zstd",
            write_page_checksum=True,
        )


def committed_shards(place: Place) -> dict[str, ShardReport]:
    """The reports of all shards that are done, by name.

    Raises:
        StorageError: the place cannot be read.
        ProvenanceError: two of them were made differently, or hold different answers.
    """
    ending = ".json"
    files = [name for name in place.names("shards") if name.endswith(ending)]
    names = [file.removeprefix("shards/").removesuffix(ending) for file in files]
    with ThreadPoolExecutor(_READERS) as pool:
        reports = pool.map(lambda name: shards.read_report(place, name), names)
        found = {name: one for name, one in zip(names, reports, strict=True) if one is not None}
    _require_alike(place, list(found.values()))
    return found


def shard_table(place: Place, report: ShardReport) -> pa.Table:
    """The rows of a committed shard as rows of the index.

    Raises:
        ShardError: the shard is damaged.
        StorageError: it cannot be read.
    """
    name = video_file(report.name)
    with parquet_file(place, name) as file:
        there = set(file.schema_arrow.names)
        table = file.read([one.name for one in INDEX_SCHEMA if one.name in there])
    count = len(table)
    given: dict[str, Any] = {
        "duplicate_of": pa.repeat("", count),
        "shard": pa.repeat(report.name, count),
        "row": pa.array(np.arange(count)),
        "run": pa.repeat(report.run, count),
    }
    columns = [
        table[one.name] if one.name in there else given.get(one.name, pa.nulls(count, one.type))
        for one in INDEX_SCHEMA
    ]
    try:
        return pa.table(columns, names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    except (ValueError, pa.ArrowException) as error:
        raise damaged(place, name, error) from error


def _among(column: pa.ChunkedArray, names: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(list(names), pa.string()))


def _require_alike(place: Place, reports: Sequence[ShardReport]) -> None:
    seen: dict[tuple[str, str], ShardReport] = {}
    for report in reports:
        seen.setdefault((report.answer, provenance_digest(report.provenance)), report)
    if len(seen) < 2:
        return
    one, other = list(seen.values())[:2]
    found = differences(one.provenance, other.provenance)
    if one.answer != other.answer:
        found = [f"answer: {one.answer!r} against {other.answer!r}", *found]
    raise ProvenanceError(
        f"{display(place.uri)}: its shards {one.name} (of run {one.run}) and {other.name} (of run "
        f"{other.run}) were made differently: {'; '.join(found)}; keep each in a place of its own"
    )
