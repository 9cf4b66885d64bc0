"""The list of inputs of a bulk job, kept as a file: CSV, JSON lines or Parquet.

Every later step counts against this list: one row here is one row in the dataset, whatever happens
to the video.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import posixpath
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from c3d_client.core.uri import redact

from c3d_pipelines.errors import ManifestError
from c3d_pipelines.inputs.uris import absolute, local_path
from c3d_pipelines.storage import Storage

__all__ = [
    "COLUMNS",
    "ManifestRow",
    "check_name",
    "is_manifest",
    "read_manifest",
    "write_manifest",
]

_LARGEST_SIZE = 2**63 - 1  # what an int64 column holds
_MOST_NAMED = 20  # bad rows in one message; the rest are counted
_WHOLE = re.compile(r"([0-9]{1,19})(\.0*)?")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One input.

    Args:
        video_id: unique in the manifest; for a folder, the path below it with forward slashes.
        uri: where the video is.
        size_bytes: its size, for cutting into shards of equal work; 0 where nobody said.
        duration_s: its length in seconds, for the same; 0 where nobody said.
        key: what tells its content from another: ``sha256:…``, ``checksum:…``, ``etag:…``, or
            ``stat:…`` of a local file's size and time; empty where nothing could be asked.

    Raises:
        ManifestError: an empty id or uri, text that cannot be written as UTF-8, or a size or length
            that is negative or not a number.
    """

    video_id: str
    uri: str
    size_bytes: int = 0
    duration_s: float = 0.0
    key: str = ""

    def __post_init__(self) -> None:
        if not self.video_id.strip() or not self.uri.strip():
            raise ManifestError(
                f"video_id {self.video_id!r}, uri {redact(self.uri)!r}: neither may be empty"
            )
        for name, text in (("video_id", self.video_id), ("uri", self.uri), ("key", self.key)):
            if not _is_writable(text):
                raise ManifestError(f"{name} {redact(text)!r} is not text that can be written")
        if not 0 <= self.size_bytes <= _LARGEST_SIZE:
            raise ManifestError(f"{self.video_id}: size_bytes is {self.size_bytes}, not 0 or more")
        if not (math.isfinite(self.duration_s) and self.duration_s >= 0):
            raise ManifestError(f"{self.video_id}: duration_s is {self.duration_s}, not 0 or more")


def is_manifest(name: str) -> bool:
    """Whether a file is called as manifests are: .csv, .jsonl, .ndjson or .parquet."""
    return suffix(name) in SUFFIXES


def check_name(path: str) -> None:
    """See that a file is called as manifests are, before there is one.

    Raises:
        ManifestError: it is not.
    """
    if not is_manifest(path):
        raise ManifestError(
            f"{redact(path)}: is not called as a manifest is; {', '.join(SUFFIXES)} expected"
        )


def read_manifest(path: str | os.PathLike[str]) -> list[ManifestRow]:
    """Read a manifest: a path, ``file://``, ``s3://`` or ``gs://``; the suffix names the format.

    Only the column ``uri`` must be there. A relative uri is taken from the manifest's own folder.
    Without a ``video_id`` the uri, as it is written, is the id: so an id does not change when other
    rows come or go. ``size_bytes``, ``duration_s`` and ``key`` may be missing or empty. Other
    columns are not looked at, and rows without any value are not inputs.

    Raises:
        ManifestError: there is no such file, it is not of its format, it holds no rows, or rows are
            wrong: these are named at once, with their line numbers (Parquet: row numbers).
        StorageError: it cannot be read.
    """
    shown = redact(os.fspath(path))
    storage, name = _storage_of(os.fspath(path))
    data = storage.read(name)
    if data is None:
        raise ManifestError(f"{shown}: no such file; give the manifest, or a folder of videos")
    if not data:
        raise ManifestError(f"{shown}: is empty (0 bytes); a manifest with a column uri expected")
    rows: list[ManifestRow] = []
    seen: dict[str, str] = {}  # each id, and where it stands
    problems: list[str] = []
    try:
        for where, record in records(data, suffix(name)):
            try:
                row = _row(record, storage.uri)
            except (ManifestError, ValueError) as error:
                problems.append(f"{where}: {error}")
                continue
            first = seen.setdefault(row.video_id, where)
            if first is not where:
                problems.append(_twice(where, row, first))
            else:
                rows.append(row)
    except FormatError as error:
        if not problems:
            raise ManifestError(f"{shown}: {error}") from error
        problems.append(f"{error}; what follows was not read")
    _refuse(shown, problems)
    if not rows:
        raise ManifestError(f"{shown}: holds no rows; there is nothing to do")
    return rows


def write_manifest(path: str | os.PathLike[str], rows: Iterable[ManifestRow]) -> None:
    """Write a manifest to a path, ``s3://`` or ``gs://``, appearing only when complete.

    The suffix names the format. :func:`read_manifest` gives the same rows back, as long as no uri
    is relative.

    Raises:
        ManifestError: an id comes twice, or the suffix is not a manifest's.
        StorageError: it cannot be written.
    """
    storage, name = _storage_of(os.fspath(path))
    rows = list(rows)
    seen: dict[str, str] = {}
    problems = []
    for number, row in enumerate(rows, 1):
        where = f"row {number}"
        first = seen.setdefault(row.video_id, where)
        if first is not where:
            problems.append(_twice(where, row, first))
    _refuse(redact(os.fspath(path)), problems)
    with storage.writing(name) as made:
        write(
            made,
            suffix(name),
            ((row.video_id, row.uri, row.size_bytes, row.duration_s, row.key) for row in rows),
        )


def _row(record: Mapping[str, Any] | str, base: str) -> ManifestRow:
    if isinstance(record, str):
        raise ValueError(record)
    uri = _text("uri", record.get("uri"))
    if not uri.strip():
        raise ValueError("has no uri")
    return ManifestRow(
        _text("video_id", record.get("video_id")) or redact(uri),
        absolute(uri, base),
        _size(record.get("size_bytes")),
        _duration(record.get("duration_s")),
        _text("key", record.get("key")),
    )


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    # Ids that are whole numbers are written so in JSON and Parquet.
    if name == "video_id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {reprlib.repr(value)}, not text")
    return value


def _size(value: Any) -> int:
    if value is None or value == "":
        return 0
    number: Any = None
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value.strip())
        number = int(found[1]) if found else None
    elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        whole = math.isfinite(value) and value == int(value)
        number = int(value) if whole else None
    if number is None or not 0 <= number <= _LARGEST_SIZE:
        raise ValueError(f"size_bytes is {reprlib.repr(value)}, not a whole number, 0 or more")
    return int(number)


def _duration(value: Any) -> float:
    if value is None or value == "":
        return 0.0
    number = math.nan
    if isinstance(value, (str, int, float, Decimal)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"duration_s is {reprlib.repr(value)}, not seconds, 0 or more")
    return number


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, or bytes of a file name that are no text
        return False
    return "\0" not in text


def _storage_of(path: str) -> tuple[Storage, str]:
    """The folder that a manifest lies in, and its name there."""
    check_name(path)
    folder, slash, name = (local_path(path) or path).rpartition("/")
    return Storage(folder or slash or "."), name


def _twice(where: str, row: ManifestRow, first: str) -> str:
    return f"{where}: video_id {row.video_id!r} comes twice, first in {first}"


def _refuse(shown: str, problems: Sequence[str]) -> None:
    if problems:
        count = f"{len(problems)} row{'s' if len(problems) > 1 else ''}"
        named = "; ".join(problems[:_MOST_NAMED])
        more = len(problems) - _MOST_NAMED
        rest = f"; and {more} more" if more > 0 else ""
        raise ManifestError(f"{shown}: {count} cannot be used: {named}{rest}")


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
        shown = ", ".join(redact(name)[:40] for name in names[:10])
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
