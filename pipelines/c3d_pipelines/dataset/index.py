"""The index of a dataset: one row for every input that was ever planned into it.

``index.parquet`` is sorted by ``video_id``. :func:`load_index` also reads the shards that were
committed since it was written, by runs that did not publish, and marks the rows of shards that are
gone. All work is done on columns: an index may have millions of rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from c3d_client.core.errors import ProvenanceError
from c3d_client.core.uri import Uri

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.plan import DO, PlannedRow
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.shards.reader import damaged, parquet_file
from c3d_pipelines.shards.schema import (
    FAILED,
    OK,
    SHARD_MISSING,
    STATUSES,
    VIDEO_FIELDS,
    ShardReport,
    differences,
    video_file,
)
from c3d_pipelines.storage import Storage

INDEX_FILE = "index.parquet"
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
# The times of rows without a shard, and of rows that a run has just made.
OLDEST, NEWEST = float("-inf"), float("inf")
# The columns that describe an input, whatever its result.
INPUT_COLUMNS = ("video_id", "uri", "key", "size_bytes", "run", "duplicate_of")
# The columns that decide whether a row is a result of a run.
RESULT_COLUMNS = ("video_id", "uri", "key", "status", "run", "duplicate_of", "shard")

_TIME = "_time"
# The columns that describe the work of a video; a duplicate has none.
_WORK = ("wall_s", "decode_s", "wire_s", "queue_s", "compute_s")
# A row of another release's index is the same row while these columns are the same.
_IDENTITY = ("video_id", "run", "key")
# Key of the file's metadata: the shards of the index, each with the time when it was done, its
# videos and its clips.
_SHARDS = b"shards"
_GONE = "the shard that held it does not exist any more; the next run makes it again"
_READERS = 8  # threads, which mostly wait for a bucket


@dataclass(frozen=True)
class Index:
    """An index and the shards that its rows refer to.

    Args:
        table: INDEX_SCHEMA, sorted by ``video_id``, which is unique.
        shards: the reports of the committed shards, by name; the table's shards are among them.
        unknown: the columns that this release does not know, with the columns that identify their
            rows; None without any.
    """

    table: pa.Table = field(default_factory=INDEX_SCHEMA.empty_table)
    shards: Mapping[str, ShardReport] = field(default_factory=dict)
    unknown: pa.Table | None = None


@dataclass(frozen=True)
class Published:
    """The content of ``index.parquet``.

    Args:
        table: INDEX_SCHEMA; without rows where there is no index.
        shards: by name the time when each shard was done, in seconds since 1970, its videos and its
            clips.
        unknown: as in :class:`Index`.
    """

    table: pa.Table
    shards: Mapping[str, tuple[float, int, int]]
    unknown: pa.Table | None


def read_index(storage: Storage) -> pa.Table:
    """Return one row for every input that was ever planned into a dataset, as INDEX_SCHEMA.

    Raises:
        ShardError: the index or a committed shard is damaged.
        StorageError: the dataset's folder cannot be read.
        ProvenanceError: its shards were made differently.
    """
    return load_index(storage).table


def load_index(storage: Storage, *, first: Collection[str] = (), run: str = "") -> Index:
    """Return the index with the rows of all committed shards, and the reports of the shards.

    The newest result of a video wins, but a failure does not replace a success with the same
    content. A row whose shard is gone becomes ``failed``, ShardMissing.

    Args:
        storage: the dataset.
        first: names of shards that count as the newest, where they are committed.
        run: a run whose shards all count as the newest.

    Raises:
        ShardError, StorageError, ProvenanceError: as :func:`read_index`.
    """
    reports = committed_shards(storage)
    first = {*first, *(name for name, report in reports.items() if run and report.run == run)}
    published = read_published(storage)
    table, known = published.table, published.shards
    fresh = sorted(
        (
            name
            for name, report in reports.items()
            if name in first or name not in known or known[name][0] != report.ended_at
        ),
        # Of two shards of one run with the same video, the later one counts.
        key=lambda name: (reports[name].ended_at, name),
    )
    is_gone = pc.and_(
        pc.not_equal(table["shard"], ""), pc.invert(_is_among(table["shard"], reports))
    )
    is_fresh = _is_among(table["shard"], fresh)
    is_copy = pc.not_equal(table["duplicate_of"], "")
    # The rows of a shard that is read again come from the shard.
    unchanged = table.filter(pc.invert(pc.or_(is_gone, is_fresh)))
    lost = table.filter(pc.and_(is_gone, pc.invert(is_copy)))
    parts = [
        timed(unchanged, times(unchanged, reports)),
        timed(missing_rows(lost, message=_GONE), OLDEST),
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        tables = pool.map(lambda name: shard_table(storage, reports[name]), fresh)
        for name, rows in zip(fresh, tables, strict=True):
            parts.append(timed(rows, NEWEST if name in first else reports[name].ended_at))
    merged = newest(parts)
    copies = table.filter(pc.and_(pc.or_(is_gone, is_fresh), is_copy))
    if len(copies):
        renewed = copies_of(copies, merged, message=_GONE)
        merged = newest([timed(renewed, OLDEST), timed(merged, times(merged, reports))])
    return Index(merged, reports, published.unknown)


def read_published(storage: Storage) -> Published:
    """Read ``index.parquet``, without the shards that were committed since.

    Raises:
        ShardError: the file is damaged, or is not an index.
        StorageError: the file cannot be read.
    """
    if storage.size(INDEX_FILE) is None:
        return Published(INDEX_SCHEMA.empty_table(), {}, None)
    with parquet_file(storage, INDEX_FILE) as file:
        schema = file.schema_arrow
        required = {column.name for column in INDEX_SCHEMA if not column.nullable}
        is_known = all(
            schema.field(column.name).type == column.type
            for column in INDEX_SCHEMA
            if column.name in schema.names
        )
        if not (required <= set(schema.names) and is_known):
            raise ShardError(
                f"{storage.uri_of(INDEX_FILE)}: is not the index of a dataset of this "
                f"version; its columns are {', '.join(schema.names)}"
            )
        table = file.read(use_threads=False)
    metadata = (schema.metadata or {}).get(_SHARDS, b"{}")
    shards = {name: tuple(values) for name, values in json.loads(metadata).items()}
    table = table.replace_schema_metadata(None).combine_chunks()
    unknown = [name for name in table.column_names if name not in INDEX_SCHEMA.names]
    return Published(
        _with_schema({name: table[name] for name in table.column_names}, len(table)),
        shards,
        table.select([*_IDENTITY, *unknown]) if unknown else None,
    )


def write_index(storage: Storage, index: Index) -> None:
    """Write ``index.parquet``; the same index always has the same bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    known = {
        name: (report.ended_at, report.videos, report.clips)
        for name, report in sorted(index.shards.items())
    }
    table = index.table
    if index.unknown is not None:
        position = pc.index_in(_identity(table), value_set=_identity(index.unknown))
        columns = index.unknown.drop_columns(list(_IDENTITY)).take(position)
        for name in columns.column_names:
            table = table.append_column(name, columns[name])
    with storage.writing(INDEX_FILE) as path:
        pq.write_table(
            table.replace_schema_metadata({_SHARDS: json.dumps(known).encode()}),
            path,
            compression="zstd",
            write_page_checksum=True,
        )


def committed_shards(storage: Storage, *, alike: bool = True) -> dict[str, ShardReport]:
    """Return the reports of all shards that are done, by name.

    Args:
        storage: the dataset.
        alike: require that all were made in the same way.

    Raises:
        StorageError: the dataset's folder cannot be read.
        ProvenanceError: two shards were made differently, or hold different answers.
    """
    suffix = ".json"
    files = [name for name in storage.names("shards") if name.endswith(suffix)]
    names = [file.removeprefix("shards/").removesuffix(suffix) for file in files]
    with ThreadPoolExecutor(_READERS) as pool:
        all_reports = pool.map(lambda name: read_report(storage, name), names)
        reports = {
            name: report
            for name, report in zip(names, all_reports, strict=True)
            if report is not None
        }
    if alike:
        _require_alike(storage, list(reports.values()))
    return reports


def shard_table(storage: Storage, report: ShardReport) -> pa.Table:
    """Return the rows of a committed shard as rows of the index.

    Raises:
        ShardError: the shard is damaged.
        StorageError: the shard cannot be read.
    """
    name = video_file(report.name)
    with parquet_file(storage, name) as file:
        stored = set(file.schema_arrow.names)
        wanted = [column.name for column in INDEX_SCHEMA if column.name in stored]
        table = file.read(wanted, use_threads=False)
    count = len(table)
    columns = {
        "duplicate_of": pa.repeat("", count),
        "shard": pa.repeat(report.name, count),
        "row": pa.array(np.arange(count)),
        "run": pa.repeat(report.run, count),
        **{column: table[column] for column in table.column_names},
    }
    try:
        return _with_schema(columns, count)
    except (ValueError, pa.ArrowException) as error:
        raise damaged(storage, name, error) from error


def newest(parts: Sequence[pa.Table]) -> pa.Table:
    """Return one row per video of tables of :func:`timed` rows, sorted by ``video_id``.

    The newest row decides what the video's content is. Of all rows with that content, the newest ok
    row wins, or else the newest row. Of rows of the same time, the row of the later part wins.
    """
    table = pa.concat_tables(parts).combine_chunks()
    count = len(table)
    if not count:
        return table.drop_columns([_TIME])
    order = pc.sort_indices(table, sort_keys=[("video_id", "ascending"), (_TIME, "ascending")])
    ids = table["video_id"].take(order)
    is_last = np.append(
        pc.not_equal(ids.slice(0, count - 1), ids.slice(1)).to_numpy().astype(bool), True
    )
    chosen = order.to_numpy()
    if not is_last.all():
        group = np.cumsum(np.append(0, is_last[:-1]))
        last_of_group = pa.array(np.flatnonzero(is_last)[group])
        key, uri = table["key"].take(order), table["uri"].take(order)
        # Without a key, the uri alone identifies the content.
        is_known = pc.or_(pc.not_equal(key, ""), pc.equal(uri, uri.take(last_of_group)))
        is_same = pc.and_(pc.equal(key, key.take(last_of_group)), is_known).to_numpy().astype(int)
        is_ok = pc.equal(table["status"].take(order), OK).to_numpy().astype(int)
        best = np.lexsort((np.arange(count), is_same * (1 + is_ok), group))
        chosen = chosen[best[is_last]]
    return table.take(pa.array(chosen)).drop_columns([_TIME])


def status_counts(table: pa.Table) -> dict[str, int]:
    """Return the number of rows of an index by status, with all five statuses."""
    counts = {
        counted["values"]: counted["counts"]
        for counted in pc.value_counts(table["status"]).to_pylist()
    }
    return {status: counts.get(status, 0) for status in STATUSES}


def timed(table: pa.Table, time: float | pa.Array) -> pa.Table:
    """Return rows of the index with the times when they were made, for :func:`newest`.

    Args:
        table: the rows.
        time: seconds since 1970, for all rows or for each.
    """
    values = pa.repeat(time, len(table)) if isinstance(time, float) else time
    return table.append_column(_TIME, values)


def times(table: pa.Table, reports: Mapping[str, ShardReport]) -> pa.Array:
    """Return when each row of an index was made; rows without a shard are older than all others."""
    names = pa.array(list(reports), pa.string())
    ended = pa.array([report.ended_at for report in reports.values()], pa.float64())
    position = pc.index_in(table["shard"], value_set=names)
    return pc.fill_null(ended.take(position.combine_chunks()), OLDEST)


def rows_of(table: pa.Table, planned: Sequence[PlannedRow]) -> pa.Table:
    """Return the index's row of each input, in the plan's order; nulls where there is none."""
    ids = pa.array([item.row.video_id for item in planned], pa.string())
    return table.take(pc.index_in(ids, value_set=table["video_id"]))


def made_by(rows: pa.Table, run: str) -> npt.NDArray[np.bool_]:
    """Return for each row of an index ``[n]`` whether a shard of a run holds it."""
    return _flags(pc.and_(pc.equal(rows["run"], run), pc.not_equal(rows["shard"], "")))


def have_results(rows: pa.Table, planned: Sequence[PlannedRow], run: str) -> npt.NDArray[np.bool_]:
    """Return for each input ``[n]`` that a run was to do whether its row is a result for the run.

    That is a row of the run, or an ok row of the same file and content, which another run made
    meanwhile. A video without a key may have changed.

    Args:
        rows: of :func:`rows_of`; the columns RESULT_COLUMNS.
        planned: the inputs. Those that were not to be done have no result of the run.
        run: the run's name.
    """
    is_to_do = np.array([item.decision == DO for item in planned], bool)
    own = made_by(rows, run)
    keys = pa.array([item.row.key for item in planned], pa.string())
    is_same = pc.and_(pc.equal(rows["key"], keys), pc.not_equal(keys, ""))
    is_ok = pc.and_(pc.equal(rows["status"], OK), pc.equal(rows["duplicate_of"], ""))
    of_others = is_to_do & ~own & _flags(pc.and_(is_same, is_ok))
    candidates = np.flatnonzero(of_others)
    # Compared redacted: the index holds URLs without their signatures.
    for index, uri in zip(
        candidates.tolist(), rows["uri"].take(pa.array(candidates)).to_pylist(), strict=True
    ):
        planned_uri = planned[index].row.uri
        of_others[index] = str(Uri(uri).canonical()) == str(Uri(planned_uri).canonical())
    return (is_to_do & own) | of_others


def made_at(index: Index, ids: Collection[str]) -> dict[str, float]:
    """Return when the rows of some videos were made, as far as a shard holds them.

    Args:
        index: of the dataset.
        ids: of the videos.

    Returns:
        Seconds since 1970, by id.
    """
    rows = index.table.filter(_is_among(index.table["video_id"], ids))
    made = zip(rows["video_id"].to_pylist(), times(rows, index.shards).to_pylist(), strict=True)
    return {video_id: time for video_id, time in made if time > OLDEST}


def missing_rows(videos: pa.Table, *, message: str) -> pa.Table:
    """Return rows of the index for videos without a shard: ``failed``, ShardMissing.

    Args:
        videos: the columns INPUT_COLUMNS.
        message: why the shard does not exist.
    """
    count = len(videos)
    columns: dict[str, Any] = {
        **{name: videos[name] for name in INPUT_COLUMNS},
        "status": pa.repeat(FAILED, count),
        "error_type": pa.repeat(SHARD_MISSING, count),
        "error_message": pa.repeat(message, count),
        "shard": pa.repeat("", count),
        "row": pa.repeat(-1, count),
    }
    return _with_schema(columns, count)


def copies_of(duplicates: pa.Table, among: pa.Table, *, message: str) -> pa.Table:
    """Return the rows of duplicates: the results of their originals, under their own ids.

    Args:
        duplicates: the columns INPUT_COLUMNS.
        among: the index, with the originals.
        message: the error of a duplicate whose original has no row, or has other content by now
            and another uri.

    Returns:
        INDEX_SCHEMA; ``failed``, ShardMissing for a duplicate without an original.
    """
    rows = among.take(pc.index_in(duplicates["duplicate_of"], value_set=among["video_id"]))
    same_key = pc.fill_null(pc.equal(rows["key"], duplicates["key"]), False)
    originals, copies = (
        [str(Uri(uri).canonical()) if uri else uri for uri in table["uri"].to_pylist()]
        for table in (rows, duplicates)
    )
    # An input that is listed twice is the same video even if it was replaced meanwhile.
    same_uri = pa.array(
        [original == copy for original, copy in zip(originals, copies, strict=True)], pa.bool_()
    )
    has_original = pc.or_(same_key, pa.chunked_array([same_uri]))
    inputs, rows = duplicates.filter(has_original), rows.filter(has_original)
    for name in ("video_id", "uri", "size_bytes", "duplicate_of", "run"):
        rows = _replace_column(rows, name, inputs[name])
    for name in _WORK:
        rows = _replace_column(rows, name, pa.nulls(len(rows), pa.float64()))
    missing = missing_rows(duplicates.filter(pc.invert(has_original)), message=message)
    return pa.concat_tables([rows, missing])


def _with_schema(columns: Mapping[str, Any], count: int) -> pa.Table:
    """Return columns as INDEX_SCHEMA, null where there is no such column."""
    arrays = [columns.get(column.name, pa.nulls(count, column.type)) for column in INDEX_SCHEMA]
    return pa.table(arrays, names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)


def _replace_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    position = INDEX_SCHEMA.get_field_index(name)
    return table.set_column(position, INDEX_SCHEMA.field(name), values)


def _identity(table: pa.Table) -> pa.ChunkedArray:
    columns = [table[name].combine_chunks() for name in _IDENTITY]
    return pc.binary_join_element_wise(*columns, "\0")


def _flags(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.array(pc.fill_null(values, False).to_numpy(zero_copy_only=False), bool)


def _is_among(column: pa.ChunkedArray, names: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(list(names), pa.string()))


def _require_alike(storage: Storage, reports: Sequence[ShardReport]) -> None:
    kinds: dict[tuple[str, str], ShardReport] = {}
    for report in reports:
        kinds.setdefault((report.answer, report.provenance.digest()), report)
    if len(kinds) < 2:
        return
    first, other = list(kinds.values())[:2]
    texts = differences(first.answer, first.provenance, other.answer, other.provenance)
    raise ProvenanceError(
        f"{storage.uri}: its shards {first.name} (of run {first.run}) and {other.name} (of run "
        f"{other.run}) were made differently: {'; '.join(texts)}; keep each in a separate dataset"
    )
