"""What a run is to do with each of its inputs: the manifest, decided; kept as one Parquet file.

The plan is what a run is counted against: one row here is one row in the dataset's index.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.errors import ManifestError

from c3d_pipelines.inputs.manifest import ManifestRow

# What is decided for an input: extract it; it has its row from an earlier run; it failed in an
# earlier run and is the same still; it is the same video as another input.
DO, DONE, KNOWN_FAILURE, DUPLICATE = "do", "done", "known_failure", "duplicate"
DECISIONS = (DO, DONE, KNOWN_FAILURE, DUPLICATE)

_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class PlannedRow:
    """One input and what is to be done with it.

    Args:
        row: the input.
        decision: ``do``, ``done``, ``known_failure`` or ``duplicate``.
        shard: which shard does it, from 0; -1 unless it is to be done.
        duplicate_of: the ``video_id`` of the input that it equals; empty unless a duplicate.

    Raises:
        ManifestError: these do not go together.
    """

    row: ManifestRow
    decision: str = DO
    shard: int = -1
    duplicate_of: str = ""

    def __post_init__(self) -> None:
        sound = (
            self.decision in DECISIONS
            and (self.shard >= 0) == (self.decision == DO)
            and bool(self.duplicate_of) == (self.decision == DUPLICATE)
        )
        if not sound:
            raise ManifestError(
                f"{self.row.video_id}: decision {self.decision!r}, shard {self.shard} and "
                f"duplicate of {self.duplicate_of!r} do not go together"
            )


def write_plan(path: str | os.PathLike[str], rows: Iterable[PlannedRow]) -> None:
    """Write a plan to a path on this machine.

    Raises:
        OSError: it cannot be written.
    """
    records = [
        {
            "video_id": one.row.video_id,
            "uri": one.row.uri,
            "size_bytes": one.row.size_bytes,
            "duration_s": one.row.duration_s,
            "key": one.row.key,
            "decision": one.decision,
            "shard": one.shard,
            "duplicate_of": one.duplicate_of,
        }
        for one in rows
    ]
    pq.write_table(pa.Table.from_pylist(records, schema=_SCHEMA), os.fspath(path))


def read_plan(source: Any) -> list[PlannedRow]:
    """Read a plan, from a path or an open file.

    Raises:
        ManifestError: it is not a plan.
    """
    try:
        table = pq.read_table(source)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{source}: the plan cannot be read ({error})") from error
    if table.schema.names != _SCHEMA.names:
        raise ManifestError(f"{source}: is not a plan; its columns are {table.schema.names}")
    return [
        PlannedRow(
            ManifestRow(
                one["video_id"], one["uri"], one["size_bytes"], one["duration_s"], one["key"]
            ),
            one["decision"],
            one["shard"],
            one["duplicate_of"],
        )
        for one in table.to_pylist()
    ]


def shard_rows(rows: Sequence[PlannedRow], index: int) -> list[ManifestRow]:
    """The inputs of one shard, in order; none where the plan has nothing left to do."""
    return [one.row for one in rows if one.shard == index]
