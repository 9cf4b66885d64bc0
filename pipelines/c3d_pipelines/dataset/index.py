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
from c3d_client.core.errors import ProvenanceError
from c3d_client.core.provenance import differences, provenance_digest
from c3d_client.core.uri import redact

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.uris import same_place
from c3d_pipelines.reports.summary import SHARD_MISSING
from c3d_pipelines.shards import commits as shards
from c3d_pipelines.shards.reader import damaged, parquet_file
from c3d_pipelines.shards.schema import FAILED, OK, VIDEO_FIELDS, ShardReport, video_file
from c3d_pipelines.storage import Storage

# The videos' columns, and where the numbers are: `row` in the file of videos of `shard`; -1 and
# empty where there are none. A duplicate has its original's. The last two are of classes only.
INDEX_SCHEMA = pa.schema(
    [
        *VIDEO_FIELDS,
        pa.field("duplicate_of", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("top_label", pa.string()),
        pa.field("top_probability", pa.float64()),
    ]
)
# A row without a shard is older than all others; what a run has just made is newer.
OLDEST, NEWEST = float("-inf"), float("inf")
_TIME = "_time"
# What is an input's own, whatever became of it.
OWN = ("video_id", "uri", "key", "size_bytes", "run", "duplicate_of")
# What is of the work, not of the video: a duplicate took none.
_WORK = ("wall_s", "decode_s", "wire_s", "queue_s", "compute_s")


def newest(parts: Sequence[pa.Table]) -> pa.Table:
    """One row a video of tables of :func:`timed` rows, sorted by ``video_id``.

    The newest row says what the video is; of all rows of that same content, the newest that is ok
    is taken, or else the newest. Of rows of one time, the later part's is taken.
    """
    table = pa.concat_tables(parts).combine_chunks()
    count = len(table)
    if not count:
        return table.drop_columns([_TIME])
    order = pc.sort_indices(table, sort_keys=[("video_id", "ascending"), (_TIME, "ascending")])
    ids = table["video_id"].take(order)
    ends = np.append(
        pc.not_equal(ids.slice(0, count - 1), ids.slice(1)).to_numpy().astype(bool), True
    )
    chosen = order.to_numpy()
    if not ends.all():
        group = np.cumsum(np.append(0, ends[:-1]))
        its_newest = pa.array(np.flatnonzero(ends)[group])
        key, uri = table["key"].take(order), table["uri"].take(order)
        # Without a key, it is known by its place alone.
        known = pc.or_(pc.not_equal(key, ""), pc.equal(uri, uri.take(its_newest)))
        same = pc.and_(pc.equal(key, key.take(its_newest)), known).to_numpy().astype(int)
        well = pc.equal(table["status"].take(order), OK).to_numpy().astype(int)
        best = np.lexsort((np.arange(count), same * (1 + well), group))
        chosen = chosen[best[ends]]
    return table.take(pa.array(chosen)).drop_columns([_TIME])


def timed(table: pa.Table, time: float | pa.Array) -> pa.Table:
    """Rows of the index with the time that each was made at, seconds since 1970, for `newest`."""
    values = pa.repeat(time, len(table)) if isinstance(time, float) else time
    return table.append_column(_TIME, values)


def times(table: pa.Table, reports: Mapping[str, ShardReport]) -> pa.Array:
    """When each row of an index was made; rows without a shard are older than all others."""
    names = pa.array(list(reports), pa.string())
    ended = pa.array([one.ended_at for one in reports.values()], pa.float64())
    at = pc.index_in(table["shard"], value_set=names)
    return pc.fill_null(ended.take(at.combine_chunks()), OLDEST)


def missing_rows(videos: pa.Table, *, message: str) -> pa.Table:
    """Rows of the index for videos whose shard is not there: ``failed``, ShardMissing.

    Args:
        videos: ``video_id``, ``uri``, ``key``, ``size_bytes``, ``run`` and ``duplicate_of``.
        message: why it is not there.
    """
    count = len(videos)
    given: dict[str, Any] = {
        **{name: videos[name] for name in OWN},
        "status": pa.repeat(FAILED, count),
        "error_type": pa.repeat(SHARD_MISSING, count),
        "error_message": pa.repeat(message, count),
        "shard": pa.repeat("", count),
        "row": pa.repeat(-1, count),
    }
    made = [given.get(one.name, pa.nulls(count, one.type)) for one in INDEX_SCHEMA]
    return pa.table(made, names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)


def copies_of(duplicates: pa.Table, among: pa.Table, *, message: str) -> pa.Table:
    """Rows of duplicates: what became of their originals, under their own names.

    Args:
        duplicates: ``video_id``, ``uri``, ``key``, ``size_bytes``, ``duplicate_of`` and ``run``.
        among: the index, with the originals.
        message: why there is none, for those whose original has no row, or is of other content by
            now and in another place.

    Returns:
        INDEX_SCHEMA; ``failed``, ShardMissing where there is none.
    """
    at = pc.index_in(duplicates["duplicate_of"], value_set=among["video_id"])
    rows = among.take(at)
    same_key = pc.fill_null(pc.equal(rows["key"], duplicates["key"]), False)
    places = [
        [redact(same_place(uri)) if uri else uri for uri in table["uri"].to_pylist()]
        for table in (rows, duplicates)
    ]
    # A video that is in the list twice is the same even if it was replaced meanwhile.
    in_one_place = pa.array([one == other for one, other in zip(*places, strict=True)], pa.bool_())
    there = pc.or_(same_key, pa.chunked_array([in_one_place]))
    own, rows = duplicates.filter(there), rows.filter(there)
    for name in ("video_id", "uri", "size_bytes", "duplicate_of", "run"):
        rows = _with(rows, name, own[name])
    for name in _WORK:
        rows = _with(rows, name, pa.nulls(len(rows), pa.float64()))
    alone = missing_rows(duplicates.filter(pc.invert(there)), message=message)
    return pa.concat_tables([rows, alone])


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    at = INDEX_SCHEMA.get_field_index(name)
    return table.set_column(at, INDEX_SCHEMA.field(name), values)


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


def read_index(storage: Storage) -> pa.Table:
    """What is known of every input ever planned into a dataset; INDEX_SCHEMA, one row each.

    Raises:
        ShardError: the index or a committed shard is damaged.
        StorageError: the place cannot be read.
        ProvenanceError: shards there were made differently.
    """
    return load_index(storage).table


def load_index(storage: Storage, *, first: Collection[str] = ()) -> Index:
    """The same, with the reports of the committed shards.

    The newest result of a video wins, but for one: a failure does not take the place of a success
    with the same content. A row whose shard is gone becomes ``failed``, ShardMissing.

    Args:
        storage: the dataset.
        first: names of shards that count as the newest, where they are committed.

    Raises:
        ShardError, StorageError, ProvenanceError: as :func:`read_index`.
    """
    reports = committed_shards(storage)
    table, known = published(storage)
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
        found = pool.map(lambda name: shard_table(storage, reports[name]), fresh)
        for name, rows in zip(fresh, found, strict=True):
            parts.append(timed(rows, NEWEST if name in first else reports[name].ended_at))
    merged = newest(parts)
    copies = table.filter(pc.and_(pc.or_(gone, read_again), copied))
    if len(copies):
        again = copies_of(copies, merged, message=_GONE)
        merged = newest([timed(again, OLDEST), timed(merged, times(merged, reports))])
    return Index(merged, reports)


def published(storage: Storage) -> tuple[pa.Table, dict[str, tuple[float, int, int]]]:
    """``index.parquet`` as it is: its rows, and by name when each shard was done, videos and clips.

    Without one, no rows.

    Raises:
        ShardError: it is damaged, or is not an index.
        StorageError: it cannot be read.
    """
    if storage.size(INDEX_FILE) is None:
        return INDEX_SCHEMA.empty_table(), {}
    with parquet_file(storage, INDEX_FILE) as file:
        schema = file.schema_arrow
        if not schema.remove_metadata().equals(INDEX_SCHEMA):
            raise ShardError(
                f"{redact(storage.uri_of(INDEX_FILE))}: is not the index of a dataset of this "
                f"version; its columns are {', '.join(schema.names)}"
            )
        table = file.read()
    said = (schema.metadata or {}).get(_SHARDS, b"{}")
    known = {name: (at, videos, clips) for name, (at, videos, clips) in json.loads(said).items()}
    return table.replace_schema_metadata(None).combine_chunks(), known


def write_index(storage: Storage, index: Index) -> None:
    """Write ``index.parquet``; the same index is the same bytes.

    Raises:
        StorageError: it cannot be written.
    """
    known = {
        name: (report.ended_at, report.videos, report.clips)
        for name, report in sorted(index.shards.items())
    }
    said = {_SHARDS: json.dumps(known).encode()}
    with storage.writing(INDEX_FILE) as path:
        pq.write_table(
            index.table.replace_schema_metadata(said),
            path,
            compression="zstd",
            write_page_checksum=True,
        )


def committed_shards(storage: Storage) -> dict[str, ShardReport]:
    """The reports of all shards that are done, by name.

    Raises:
        StorageError: the place cannot be read.
        ProvenanceError: two of them were made differently, or hold different answers.
    """
    ending = ".json"
    files = [name for name in storage.names("shards") if name.endswith(ending)]
    names = [file.removeprefix("shards/").removesuffix(ending) for file in files]
    with ThreadPoolExecutor(_READERS) as pool:
        reports = pool.map(lambda name: shards.read_report(storage, name), names)
        found = {name: one for name, one in zip(names, reports, strict=True) if one is not None}
    _require_alike(storage, list(found.values()))
    return found


def shard_table(storage: Storage, report: ShardReport) -> pa.Table:
    """The rows of a committed shard as rows of the index.

    Raises:
        ShardError: the shard is damaged.
        StorageError: it cannot be read.
    """
    name = video_file(report.name)
    with parquet_file(storage, name) as file:
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
        raise damaged(storage, name, error) from error


def _among(column: pa.ChunkedArray, names: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(list(names), pa.string()))


def _require_alike(storage: Storage, reports: Sequence[ShardReport]) -> None:
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
        f"{redact(storage.uri)}: its shards {one.name} (of run {one.run}) and {other.name} (of run "
        f"{other.run}) were made differently: {'; '.join(found)}; keep each in a place of its own"
    )
