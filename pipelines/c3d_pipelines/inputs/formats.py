"""The files that a manifest can be kept in: their bytes as records, and records as files.

Stands below `manifest.py`, which says what the values mean. A record that is damaged alone is told
as one; what stops the reading of all that follows is a `FormatError`.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from c3d_client.stores import display

COLUMNS = ("video_id", "uri", "size_bytes", "duration_s", "key")
SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")

# Where a record stands, for people; and its values by column, or what is wrong with it.
Record: TypeAlias = "tuple[str, Mapping[str, Any] | str]"


class FormatError(ValueError):
    """A file that is not of its format, from here on."""


def suffix(name: str) -> str:
    """A file name's suffix in lower case, of a path or of a URL."""
    return posixpath.splitext(name)[1].lower()


def records(data: bytes, kind: str) -> Iterator[Record]:
    """A manifest's records, in order; the empty ones are left out.

    Args:
        data: the file, whole.
        kind: one of :data:`SUFFIXES`.

    Raises:
        FormatError: it is not of that format, or has no column ``uri``.
    """
    if kind == ".parquet":
        return _parquet(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wrong = data[error.start]
        raise FormatError(f"is not UTF-8 text (byte 0x{wrong:02x} in line {line})") from error
    return _csv(text) if kind == ".csv" else _json_lines(text)


def write(path: Path, kind: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, values in the order of :data:`COLUMNS`.

    Raises:
        OSError: the file cannot be written.
    """
    if kind == ".parquet":
        _write_parquet(path, rows)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == ".csv":
            # With quotes around all text, a space after a comma in other people's files is no part
            # of a name, and one at the beginning of a name in ours is.
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)
        else:
            for row in rows:
                record = dict(zip(COLUMNS, row, strict=True))
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _csv(text: str) -> Iterator[Record]:
    # Strict: a quote that nothing closes would swallow the rest of the file without a word.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    header: list[str] | None = None
    last = 0
    try:
        for values in reader:
            where = f"line {last + 1}"  # the record's first, where a value has line breaks
            last = reader.line_num
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = [value.strip() for value in values]
                _check_columns(header)
            elif len(values) != len(header):
                which = "more" if len(values) > len(header) else "fewer"
                yield where, f"{which} fields ({len(values)}) than the header ({len(header)})"
            else:
                yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise FormatError(f"line {last + 1}: cannot be read as CSV ({error})") from error
    if header is None:
        raise FormatError("has no header; a line that names the columns expected, one of them uri")


def _check_columns(names: Sequence[str]) -> None:
    if "uri" not in names:
        # Without a header this is a video's row, perhaps with a password in it.
        shown = ", ".join(display(name)[:40] for name in names[:10])
        raise FormatError(f"has no column uri; the columns that it names are: {shown}")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise FormatError(f"its column {name} comes twice")


def _json_lines(text: str) -> Iterator[Record]:
    # Not splitlines(): it also splits at marks that JSON allows inside of text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, f"is not JSON ({_said(error)})"
            continue
        if isinstance(record, dict):
            yield where, record
        else:
            yield where, 'is not a JSON object such as {"uri": "a.mp4"}'


def _said(error: Exception) -> str:
    # As if the line were the whole text, else: "line 1 column 5" of line 12.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, at character {error.colno}"
    return str(error)


def _parquet(data: bytes) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = file.schema_arrow.names
        _check_columns(names)
        columns = [name for name in COLUMNS if name in names]
        for batch in file.iter_batches(columns=columns):
            parts = [batch.column(name).to_pylist() for name in columns]
            for values in zip(*parts, strict=True):
                row += 1
                if any(value is not None for value in values):
                    yield f"row {row}", dict(zip(columns, values, strict=True))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise FormatError(f"cannot be read as Parquet ({said})") from error


def _write_parquet(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.string(), pa.string(), pa.int64(), pa.float64(), pa.string())
    fields = [
        pa.field(name, type_, nullable=False) for name, type_ in zip(COLUMNS, types, strict=True)
    ]
    schema = pa.schema(fields)
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)
