"""The list of inputs of a bulk job, kept as a file: CSV, JSON lines or Parquet.

Every later step counts against this list: one row here is one row in the dataset, whatever happens
to the video.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from c3d_client.errors import ManifestError
from c3d_client.stores import display

from c3d_pipelines.inputs import formats as manifest_formats
from c3d_pipelines.inputs.formats import COLUMNS, SUFFIXES
from c3d_pipelines.inputs.uris import absolute, local_path
from c3d_pipelines.place import Place

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
                f"video_id {self.video_id!r}, uri {display(self.uri)!r}: neither may be empty"
            )
        for name, text in (("video_id", self.video_id), ("uri", self.uri), ("key", self.key)):
            if not _is_writable(text):
                raise ManifestError(f"{name} {display(text)!r} is not text that can be written")
        if not 0 <= self.size_bytes <= _LARGEST_SIZE:
            raise ManifestError(f"{self.video_id}: size_bytes is {self.size_bytes}, not 0 or more")
        if not (math.isfinite(self.duration_s) and self.duration_s >= 0):
            raise ManifestError(f"{self.video_id}: duration_s is {self.duration_s}, not 0 or more")


def is_manifest(name: str) -> bool:
    """Whether a file is called as manifests are: .csv, .jsonl, .ndjson or .parquet."""
    return manifest_formats.suffix(name) in SUFFIXES


def check_name(path: str) -> None:
    """See that a file is called as manifests are, before there is one.

    Raises:
        ManifestError: it is not.
    """
    if not is_manifest(path):
        raise ManifestError(
            f"{display(path)}: is not called as a manifest is; {', '.join(SUFFIXES)} expected"
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
    shown = display(os.fspath(path))
    place, name = _place_of(os.fspath(path))
    data = place.read(name)
    if data is None:
        raise ManifestError(f"{shown}: no such file; give the manifest, or a folder of videos")
    if not data:
        raise ManifestError(f"{shown}: is empty (0 bytes); a manifest with a column uri expected")
    rows: list[ManifestRow] = []
    seen: dict[str, str] = {}  # each id, and where it stands
    problems: list[str] = []
    try:
        for where, record in manifest_formats.records(data, manifest_formats.suffix(name)):
            try:
                row = _row(record, place.uri)
            except (ManifestError, ValueError) as error:
                problems.append(f"{where}: {error}")
                continue
            first = seen.setdefault(row.video_id, where)
            if first is not where:
                problems.append(_twice(where, row, first))
            else:
                rows.append(row)
    except manifest_formats.FormatError as error:
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
    place, name = _place_of(os.fspath(path))
    rows = list(rows)
    seen: dict[str, str] = {}
    problems = []
    for number, row in enumerate(rows, 1):
        where = f"row {number}"
        first = seen.setdefault(row.video_id, where)
        if first is not where:
            problems.append(_twice(where, row, first))
    _refuse(display(os.fspath(path)), problems)
    with place.writing(name) as made:
        manifest_formats.write(
            made,
            manifest_formats.suffix(name),
            ((row.video_id, row.uri, row.size_bytes, row.duration_s, row.key) for row in rows),
        )


def _row(record: Mapping[str, Any] | str, base: str) -> ManifestRow:
    if isinstance(record, str):
        raise ValueError(record)
    uri = _text("uri", record.get("uri"))
    if not uri.strip():
        raise ValueError("has no uri")
    return ManifestRow(
        _text("video_id", record.get("video_id")) or display(uri),
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


def _place_of(path: str) -> tuple[Place, str]:
    """The folder that a manifest lies in, and its name there."""
    check_name(path)
    folder, slash, name = (local_path(path) or path).rpartition("/")
    return Place(folder or slash or "."), name


def _twice(where: str, row: ManifestRow, first: str) -> str:
    return f"{where}: video_id {row.video_id!r} comes twice, first in {first}"


def _refuse(shown: str, problems: Sequence[str]) -> None:
    if problems:
        count = f"{len(problems)} row{'s' if len(problems) > 1 else ''}"
        named = "; ".join(problems[:_MOST_NAMED])
        more = len(problems) - _MOST_NAMED
        rest = f"; and {more} more" if more > 0 else ""
        raise ManifestError(f"{shown}: {count} cannot be used: {named}{rest}")
