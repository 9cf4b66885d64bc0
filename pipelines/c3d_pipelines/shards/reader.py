"""Reader of a dataset's Parquet files: some columns of all rows, or the numbers of some rows.

A file that is damaged, or missing although the index names it, is a ShardError of one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.shards.schema import report_file
from c3d_pipelines.storage import Storage

_RUN_AGAIN = "run the pipeline again: it makes what is missing"


@contextlib.contextmanager
def parquet_file(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of a dataset; the checksums of its pages are verified.

    Read it with ``use_threads=False``, as it is opened here without reading ahead: a thread of
    Arrow that frees a part of a Python file while the process ends aborts it or waits for ever.

    Raises:
        ShardError: the file is missing or damaged.
        StorageError: the file cannot be read.
    """
    try:
        with (
            storage.reading(name) as file,
            _damage_errors(storage, name),
            pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as parquet,
        ):
            yield parquet
    except StorageError:
        if storage.size(name) is None:
            raise ShardError(
                f"{storage.uri_of(name)}: is missing, though the index names it; {_RUN_AGAIN}"
            ) from None
        raise


@contextlib.contextmanager
def _damage_errors(storage: Storage, name: str) -> Iterator[None]:
    """Raise Arrow's errors for invalid bytes as ShardErrors of one line."""
    try:
        yield
    except pa.ArrowException as error:
        raise damaged(storage, name, error) from error
    except OSError as error:
        # Arrow's own OSError has no number; errors of disks and stores have one, or a subclass.
        if type(error) is OSError and error.errno is None:
            raise damaged(storage, name, error) from error
        raise


def damaged(storage: Storage, name: str, reason: object) -> ShardError:
    """Return the error of a file with invalid bytes."""
    message = " ".join(str(reason).split())
    shard = name.partition("/")[2].removesuffix(".parquet")
    files = f"it and {report_file(shard)}" if shard else "it"
    return ShardError(
        f"{storage.uri_of(name)}: is damaged ({message}); remove {files} and {_RUN_AGAIN}"
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
    """Yield the numbers of some rows of a file of videos or clips, one row group at a time.

    Args:
        storage: the dataset.
        name: the file.
        rows: int64 ``[n]``, ascending, with repetitions or without.
        column: the column of the numbers.
        size: numbers in a row.
        ids: the ``video_id`` that each row must have, ``[n]``.

    Yields:
        Positions in ``rows``, int64 ``[m]``, and their numbers, float32 ``[m, size]``.

    Raises:
        ShardError: a row does not exist, is another video's, or has no numbers.
        StorageError: the file cannot be read.
    """
    with parquet_file(storage, name) as file:
        for positions, table, local in _groups(storage, name, file, rows, ["video_id", column]):
            part = table.take(pa.array(local))
            owners = part["video_id"].to_pylist()
            for position, video_id in zip(positions, owners, strict=True):
                if video_id != ids[position]:
                    raise _changed(
                        storage,
                        name,
                        f"row {rows[position]} is {video_id!r}, not {ids[position]!r}",
                    )
            if part[column].null_count:
                row = part[column].is_null().to_pylist().index(True)
                raise _changed(storage, name, f"{owners[row]!r} has no numbers")
            numbers = part[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            if len(numbers) != len(positions) * size:
                raise _changed(storage, name, f"its rows do not have {size} numbers each")
            yield positions, np.asarray(numbers, np.float32).reshape(-1, size)


def columns_of(
    storage: Storage, name: str, rows: npt.NDArray[np.int64], columns: Sequence[str]
) -> pa.Table:
    """Return some columns of some rows of a file.

    Args:
        storage: the dataset.
        name: the file.
        rows: int64 ``[n]``, ascending.
        columns: the names of the columns.

    Raises:
        ShardError: a row does not exist.
        StorageError: the file cannot be read.
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
    """Yield each row group that holds rows: positions in ``rows``, the group, rows in it."""
    if len(rows) and rows[-1] >= file.metadata.num_rows:
        raise _changed(storage, name, f"it has {file.metadata.num_rows} rows and no row {rows[-1]}")
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(rows, (start, end))
        if last > first:
            positions = np.arange(first, last)
            table = file.read_row_group(group, columns=columns, use_threads=False)
            yield positions, table, rows[first:last] - start
        start = end


def _changed(storage: Storage, name: str, difference: str) -> ShardError:
    return ShardError(
        f"{storage.uri_of(name)}: is not the shard that the index describes ({difference}); a run "
        "has written it since: wait until that run has published, or run the pipeline again"
    )
