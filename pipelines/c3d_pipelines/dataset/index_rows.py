"""Rows of the dataset's index: which of several counts, and those that nobody made.

Worked on as columns: there may be millions. Used by `index.py`, `publish.py` and `merge.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.stores import display

from c3d_pipelines.inputs.uris import same_place
from c3d_pipelines.reports.run_summary import SHARD_MISSING
from c3d_pipelines.shards.format import FAILED, OK, VIDEO_FIELDS
from c3d_pipelines.shards.report import ShardReport

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
        [display(same_place(uri)) if uri else uri for uri in table["uri"].to_pylist()]
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
