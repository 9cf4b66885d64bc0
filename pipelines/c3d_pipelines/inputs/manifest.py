"""Manifests: lists of the inputs of a bulk run, as CSV, JSON lines or Parquet.

Every row of a manifest is exactly one row in the dataset, whatever happens to the video.
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

from c3d_client.core.arguments import require_each, require_several
from c3d_client.core.file_kinds import START_BYTES, explain
from c3d_client.core.uri import Uri, redact

from c3d_pipelines.errors import ManifestError
from c3d_pipelines.storage import Storage

COLUMNS = ("video_id", "uri", "size_bytes", "duration_s", "key")
SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")

_LARGEST_SIZE = 2**63 - 1  # of an int64 column
_MOST_PROBLEMS = 20  # bad rows in one message; the rest are counted
_WHOLE = re.compile(r"([0-9]{1,19})(\.0*)?")

# A record's position in the file, for messages, and its values by column, or a problem.
_Record: TypeAlias = "tuple[str, Mapping[str, Any] | str]"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One input.

    Args:
        video_id: unique in the manifest; for a folder, the path below it with forward slashes.
        uri: where the video is.
        size_bytes: its size, to cut shards of equal work; 0 where it is not known.
        duration_s: its length in seconds, for the same purpose; 0 where it is not known.
        key: identifies its content: ``sha256:…``, ``checksum:…``, ``etag:…``, or ``stat:…`` with a
            local file's size and time; empty where the video could not be looked up.

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
                raise ManifestError(
                    f"{name} {redact(text)!r} is not text that can be written; name a file whose "
                    "name is not UTF-8 by file:// and its percent-encoded path"
                )
        if not 0 <= self.size_bytes <= _LARGEST_SIZE:
            raise ManifestError(f"{self.video_id}: size_bytes is {self.size_bytes}, not 0 or more")
        if not (math.isfinite(self.duration_s) and self.duration_s >= 0):
            raise ManifestError(f"{self.video_id}: duration_s is {self.duration_s}, not 0 or more")


def is_manifest(name: str) -> bool:
    """Return whether a file has a manifest's suffix: .csv, .jsonl, .ndjson or .parquet."""
    return _suffix(name) in SUFFIXES


def check_name(path: str) -> None:
    """Check that the name of a file, which need not exist, has a manifest's suffix.

    Raises:
        ManifestError: the name has another suffix.
    """
    if not is_manifest(path):
        raise ManifestError(
            f"{Uri(path)}: does not have the suffix of a manifest; {', '.join(SUFFIXES)} expected"
        )


def read_manifest(path: str | os.PathLike[str]) -> list[ManifestRow]:
    """Read a manifest from a path, ``file://``, ``s3://`` or ``gs://``.

    The suffix names the format. Only the column ``uri`` is required. A relative uri is resolved
    from the manifest's folder. Without a ``video_id``, the uri as written is the id, so that an id
    does not change when rows are added or removed. ``size_bytes``, ``duration_s`` and ``key`` may
    be missing or empty. Other columns are ignored, and rows without any value are not inputs.

    Raises:
        ManifestError: there is no such file, it is on a web server, it is not of its format, it
            holds no rows, or rows are wrong; all wrong rows are listed, with their line numbers
            (Parquet: row numbers).
        StorageError: the file cannot be read.
    """
    uri = Uri.of(path)
    if uri.scheme in ("http", "https"):
        raise ManifestError(
            f"{uri}: is on a web server, where manifests are not read; download it, and give its "
            "path"
        )
    storage, name = _storage_of(uri)
    data = storage.read(name)
    if data is None:
        raise ManifestError(f"{uri}: no such file; give the manifest, or a folder of videos")
    if not data:
        raise ManifestError(f"{uri}: is empty (0 bytes); a manifest with a column uri expected")
    rows: list[ManifestRow] = []
    seen: dict[str, str] = {}  # each id and the position of its row
    problems: list[str] = []
    try:
        for where, record in _records(data, _suffix(name)):
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
    except _FormatError as error:
        if not problems:
            raise ManifestError(f"{uri}: {_other_file(data, name) or error}") from error
        problems.append(f"{error}; the rest of the file was not read")
    if problems and not rows and (explained := _other_file(data, name)):
        raise ManifestError(f"{uri}: {explained}")
    _refuse(uri, problems)
    if not rows:
        raise ManifestError(f"{uri}: holds no rows; there is nothing to do")
    return rows


def _other_file(data: bytes, name: str) -> str | None:
    """Return what a file is that is no manifest, such as a web page; None if nothing shows it."""
    if data.startswith(b"PAR1"):  # Parquet that is damaged, or has other columns
        return None
    return explain(data[:START_BYTES], wanted="manifest", name=name, expects_text=True)


def write_manifest(path: str | os.PathLike[str], rows: Iterable[ManifestRow]) -> None:
    """Write a manifest to a path, ``s3://`` or ``gs://``; it appears only when it is complete.

    The suffix names the format. :func:`read_manifest` returns the same rows, unless a uri is
    relative.

    Raises:
        ManifestError: an id comes twice, or the suffix is not a manifest's.
        StorageError: the file cannot be written.
    """
    uri = Uri.of(path)
    storage, name = _storage_of(uri)
    rows = list(require_several(rows, "rows", each="ManifestRow values"))
    require_each(rows, ManifestRow, "rows", made_by="ManifestRow values")
    seen: dict[str, str] = {}
    problems = []
    for number, row in enumerate(rows, 1):
        where = f"row {number}"
        first = seen.setdefault(row.video_id, where)
        if first is not where:
            problems.append(_twice(where, row, first))
    _refuse(uri, problems)
    with storage.writing(name) as file:
        _write(
            file,
            _suffix(name),
            ([getattr(row, name) for name in COLUMNS] for row in rows),
        )


def _row(record: Mapping[str, Any] | str, folder: Uri) -> ManifestRow:
    if isinstance(record, str):
        raise ValueError(record)
    uri = _text("uri", record.get("uri"))
    if not uri.strip():
        raise ValueError("has no uri")
    return ManifestRow(
        _text("video_id", record.get("video_id")) or redact(uri),
        folder.resolve(uri).raw,
        _size(record.get("size_bytes")),
        _duration(record.get("duration_s")),
        _text("key", record.get("key")),
    )


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    # JSON and Parquet may hold ids as whole numbers.
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
        match = _WHOLE.fullmatch(value.strip())
        number = int(match[1]) if match else None
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
    except UnicodeEncodeError:  # a lone surrogate, or bytes of a file name that are not UTF-8
        return False
    return "\0" not in text


def _storage_of(uri: Uri) -> tuple[Storage, str]:
    """Return the folder of a manifest, and the manifest's name there."""
    check_name(uri.raw)
    return Storage(uri.parent), uri.name


def _twice(where: str, row: ManifestRow, first: str) -> str:
    return f"{where}: video_id {row.video_id!r} comes twice, first in {first}"


def _refuse(uri: Uri, problems: Sequence[str]) -> None:
    if problems:
        count = f"{len(problems)} row{'s' if len(problems) > 1 else ''}"
        first = "; ".join(problems[:_MOST_PROBLEMS])
        more = len(problems) - _MOST_PROBLEMS
        rest = f"; and {more} more" if more > 0 else ""
        raise ManifestError(f"{uri}: {count} cannot be used: {first}{rest}")


class _FormatError(ValueError):
    """A file does not have its format, from some position on."""


def _suffix(name: str) -> str:
    """Return a file name's suffix in lower case, of a path or of a URL."""
    return posixpath.splitext(name)[1].lower()


def _records(data: bytes, kind: str) -> Iterator[_Record]:
    """Yield a manifest's records in order, without the empty ones.

    Args:
        data: the file's content.
        kind: one of :data:`SUFFIXES`.

    Raises:
        _FormatError: the data is not of that format, or has no column ``uri``.
    """
    if kind == ".parquet":
        return _parquet(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wrong = data[error.start]
        raise _FormatError(
            f"is not UTF-8 text (byte 0x{wrong:02x} in line {line}); write it as UTF-8, and name a "
            "file whose name is not UTF-8 by file:// and its percent-encoded path"
        ) from error
    return _csv(text) if kind == ".csv" else _json_lines(text)


def _write(path: Path, kind: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, values in the order of :data:`COLUMNS`.

    Raises:
        OSError: the file cannot be written.
    """
    if kind == ".parquet":
        _write_parquet(path, rows)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == ".csv":
            # All text is quoted, so that a leading space of a name stays when the file is read:
            # the reader skips spaces after a comma.
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)
        else:
            for row in rows:
                record = dict(zip(COLUMNS, row, strict=True))
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _csv(text: str) -> Iterator[_Record]:
    # Strict: an unclosed quote would silently swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    header: list[str] | None = None
    last = 0
    try:
        for values in reader:
            where = f"line {last + 1}"  # the record's first line, where a value has line breaks
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
        raise _FormatError(f"line {last + 1}: cannot be read as CSV ({error})") from error
    if header is None:
        raise _FormatError("has no header; a line that names the columns expected, one of them uri")


def _check_columns(names: Sequence[str]) -> None:
    if "uri" not in names:
        # Without a header this line is a video's row, perhaps with a password in it.
        redacted = ", ".join(redact(name)[:40] for name in names[:10])
        raise _FormatError(f"has no column uri; its columns are: {redacted}")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise _FormatError(f"its column {name} comes twice")


def _json_lines(text: str) -> Iterator[_Record]:
    # Not splitlines(), which also splits at characters that JSON allows inside of text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, f"is not JSON ({_json_problem(error)})"
            continue
        if isinstance(record, dict):
            yield where, record
        else:
            yield where, 'is not a JSON object such as {"uri": "a.mp4"}'


def _json_problem(error: Exception) -> str:
    # Without the error's own line number, which is 1 for every line of the file.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, at character {error.colno}"
    return str(error)


def _parquet(data: bytes) -> Iterator[_Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        names = file.schema_arrow.names
        _check_columns(names)
        columns = [name for name in COLUMNS if name in names]
        for batch in file.iter_batches(columns=columns, use_threads=False):
            parts = [batch.column(name).to_pylist() for name in columns]
            for values in zip(*parts, strict=True):
                row += 1
                if any(value is not None for value in values):
                    yield f"row {row}", dict(zip(columns, values, strict=True))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise _FormatError(f"cannot be read as Parquet ({message})") from error


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
