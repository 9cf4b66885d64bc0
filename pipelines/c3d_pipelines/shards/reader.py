"""Reads what a shard's files hold: some columns of all rows, or the numbers of a few rows.

Used by the index and the dataset. A file that is damaged, or gone though the index names it, is one
clear line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.core.uri import redact

from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.shards.schema import report_file
from c3d_pipelines.storage import Storage

_AGAIN = "run the pipeline again: it makes anew what is not there"


@contextlib.contextmanager
def parquet_file(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of a dataset, opened; its pages are held against their checksums.

    Raises:
        ShardError: it is not there, or is damaged.
        StorageError: it cannot be read.
    """
    try:
        with (
            storage.reading(name) as file,
            _as_damage(storage, name),
            pq.ParquetFile(file, page_checksum_verification=True) as parquet,
        ):
            yield parquet
    except StorageError:
        if storage.size(name) is None:
            raise ShardError(
                f"{redact(storage.uri_of(name))}: is not there, though the index names it; {_AGAIN}"
            ) from None
        raise


@contextlib.contextmanager
def _as_damage(storage: Storage, name: str) -> Iterator[None]:
    """Arrow's words for bytes that make no sense as one line."""
    try:
        yield
    except pa.ArrowException as error:
        raise damaged(storage, name, error) from error
    except OSError as error:
        # Arrow's own has no number; those of disks and stores do, or are of a kind.
        if type(error) is OSError and error.errno is None:
            raise damaged(storage, name, error) from error
        raise


def damaged(storage: Storage, name: str, reason: object) -> ShardError:
    """The error of a file whose bytes make no sense."""
    said = " ".join(str(reason).split())
    shard = name.partition("/")[2].removesuffix(".parquet")
    what = f"it and {report_file(shard)}" if shard else "it"
    return ShardError(
        f"{redact(storage.uri_of(name))}: is damaged ({said}); take {what} away and {_AGAIN}"
    )


def numbers_of(
    storage: Storage,
    name: str,
    rows: npt.NDArray[np.int64],
    *,
    column: str,
    size: int,
    ids: Sequence[str],
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """The numbers of some rows of a file of videos or clips, one row group at a time.

    Args:
        storage: the dataset.
        name: the file.
        rows: int64 ``[n]``, ascending; one may come more than once.
        column: of the numbers.
        size: how many a row has.
        ids: whose each row must be, ``[n]``.

    Yields:
        Which of ``rows`` these are, int64 ``[m]``, and their numbers, float32 ``[m, size]``.

    Raises:
        ShardError: a row is not there, is another video's, or has no numbers.
        StorageError: it cannot be read.
    """
    with parquet_file(storage, name) as file:
        for at, table, local in _groups(storage, name, file, rows, ["video_id", column]):
            picked = table.take(pa.array(local))
            found = picked["video_id"].to_pylist()
            for position, video_id in zip(at, found, strict=True):
                if video_id != ids[position]:
                    raise _other(
                        storage,
                        name,
                        f"row {rows[position]} is {video_id!r}, not {ids[position]!r}",
                    )
            if picked[column].null_count:
                raise _other(
                    storage, name, f"{found[_first_null(picked[column])]!r} has no numbers"
                )
            numbers = picked[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            if len(numbers) != len(at) * size:
                raise _other(storage, name, f"its rows do not have {size} numbers each")
            yield at, np.asarray(numbers, np.float32).reshape(-1, size)


def columns_of(
    storage: Storage, name: str, rows: npt.NDArray[np.int64], columns: Sequence[str]
) -> pa.Table:
    """Some columns of some rows.

    Args:
        storage: the dataset.
        name: the file.
        rows: int64 ``[n]``, ascending.
        columns: which.

    Raises:
        ShardError: a row is not there.
        StorageError: it cannot be read.
    """
    with parquet_file(storage, name) as file:
        parts = [
            table.take(pa.array(local))
            for _, table, local in _groups(storage, name, file, rows, list(columns))
        ]
    return pa.concat_tables(parts)


def _groups(
    storage: Storage,
    name: str,
    file: pq.ParquetFile,
    rows: npt.NDArray[np.int64],
    columns: list[str],
) -> Iterator[tuple[npt.NDArray[np.int64], Any, npt.NDArray[np.int64]]]:
    """Each row group that is needed: which of the rows lie in it, it, and where in it they lie."""
    if len(rows) and rows[-1] >= file.metadata.num_rows:
        raise _other(storage, name, f"it has {file.metadata.num_rows} rows and no row {rows[-1]}")
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(rows, (start, end))
        if last > first:
            at = np.arange(first, last)
            yield at, file.read_row_group(group, columns=columns), rows[first:last] - start
        start = end


def _first_null(column: pa.ChunkedArray) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy())[0])


def _other(storage: Storage, name: str, what: str) -> ShardError:
    return ShardError(
        f"{redact(storage.uri_of(name))}: is not the shard that the index means ({what}); a run "
        "has written it since: wait until that run has published, or run the pipeline again"
    )
