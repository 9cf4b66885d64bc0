"""One Parquet file, written a row group at a time, so that memory does not grow with its rows.

The worker's two files are such files; `writer.py` says what is in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client.errors import StorageError


class RowGroups:
    """A Parquet file that is written a row group at a time. Close it, finished or not.

    Args:
        path: to write it to.
        schema: of its rows.
        group_rows: how many are held.
        shown: what it is called where it cannot be written.
        here: said before the disk's word.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, group_rows: int, *, shown: str, here: str
    ) -> None:
        self.path = path
        self._shown = shown
        self._here = here
        self._schema = schema
        self._group_rows = group_rows
        self._held: list[dict[str, Any]] = []
        self._held_rows = 0
        # Through Python's own file: its errors say what the disk said, and no more.
        self._file = path.open("wb")
        plain = [one.name for one in schema if not pa.types.is_nested(one.type)]
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression="zstd",
            # Numbers of a network hardly repeat, and their least and greatest say nothing.
            use_dictionary=[one for one in plain if pa.types.is_string(schema.field(one).type)],
            write_statistics=plain,
            write_page_checksum=True,
        )

    def add(self, columns: dict[str, Any], rows: int) -> None:
        """Add rows, by column; the numbers as ``[rows, size]``, or a list with None where none."""
        self._held.append(columns)
        self._held_rows += rows
        if self._held_rows >= self._group_rows:
            self._write()

    def finish(self) -> None:
        """Write what is left and the file's end."""
        self._write()
        with self._named():
            self._writer.close()
            self._file.close()

    def close(self) -> None:
        """Let go of the file, finished or not."""
        if not self._file.closed:
            # It is thrown away; and on a full disk, its end cannot be written either.
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            with contextlib.suppress(OSError):
                self._file.close()

    def _write(self) -> None:
        if self._held:
            columns = [self._column(one) for one in self._schema]
            self._held, self._held_rows = [], 0
            with self._named():
                self._writer.write_table(pa.table(columns, schema=self._schema))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        # Else the one file would be blamed for the other: their blocks lie in each other.
        try:
            yield
        except OSError as error:
            said = f"{self._here}{error.strerror or error}"
            raise StorageError(self._shown, f"cannot be written ({said})") from error

    def _column(self, field: pa.Field) -> pa.Array:
        parts = [held.get(field.name, [None]) for held in self._held]
        if not pa.types.is_nested(field.type):
            return pa.array([value for part in parts for value in part], field.type)
        if pa.types.is_fixed_size_list(field.type):
            flat = np.concatenate(parts).reshape(-1)
            return pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        rows = [row for part in parts for row in part]
        lengths = [0 if row is None else len(row) for row in rows]
        flat = np.concatenate([np.zeros(0, np.float32), *(row for row in rows if row is not None)])
        return pa.ListArray.from_arrays(
            pa.array(np.cumsum([0, *lengths]), pa.int32()),
            pa.array(flat, pa.float32()),
            type=field.type,
            mask=pa.array([row is None for row in rows]),
        )
