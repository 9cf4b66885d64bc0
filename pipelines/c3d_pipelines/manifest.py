"""The list of inputs of a bulk job: made from a folder, kept as CSV, cut into shards.

Every later step counts against this list: one row here is one row in the dataset, whatever happens
to the video.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3d_client import VIDEO_SUFFIXES, atomic_file
from c3d_client.errors import ManifestError

COLUMNS = ("video_id", "uri", "size_bytes")


@dataclass(frozen=True)
class ManifestRow:
    """One input.

    Args:
        video_id: unique in the manifest; for a folder, the path below it with forward slashes.
        uri: where the video is.
        size_bytes: its size, for cutting into shards of equal work.

    Raises:
        ManifestError: an empty id or uri, or a negative size.
    """

    video_id: str
    uri: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not self.video_id.strip() or not self.uri.strip():
            raise ManifestError(
                f"video_id {self.video_id!r}, uri {self.uri!r}: neither may be empty"
            )
        if self.size_bytes < 0:
            raise ManifestError(f"{self.video_id}: size_bytes is {self.size_bytes}; 0 or more")


@dataclass(frozen=True)
class Shard:
    """A part of a manifest that one worker does.

    Args:
        index: counted from 0.
        rows: at least one.
    """

    index: int
    rows: tuple[ManifestRow, ...]

    @property
    def size_bytes(self) -> int:
        """All its videos together."""
        return sum(row.size_bytes for row in self.rows)


def list_folder(folder: str | os.PathLike[str]) -> list[ManifestRow]:
    """List the videos below a folder, by path, so that the same folder gives the same list.

    Hidden files and folders are left out: they are other programs' half-written files.

    Raises:
        ManifestError: it is not a folder, or holds no videos.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; give the folder that holds the videos")
    rows = []
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root)
        hidden = any(part.startswith(".") for part in below.parts)
        if path.suffix.lower() in VIDEO_SUFFIXES and not hidden and path.is_file():
            rows.append(ManifestRow(below.as_posix(), str(path), path.stat().st_size))
    if not rows:
        raise ManifestError(
            f"{root}: no videos there (files named {', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    return rows


def write_manifest(path: str | os.PathLike[str], rows: Iterable[ManifestRow]) -> None:
    """Write a manifest as CSV with a header, appearing only when complete.

    Raises:
        ManifestError: it cannot be written, or an id comes twice.
    """
    rows = list(rows)
    _refuse(path, _repeated(rows))
    try:
        with atomic_file(path, text=True) as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((row.video_id, row.uri, row.size_bytes) for row in rows)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({error.strerror})") from error


def read_manifest(path: str | os.PathLike[str]) -> list[ManifestRow]:
    """Read a manifest; `size_bytes` may be missing and is then 0.

    Raises:
        ManifestError: it cannot be read, or rows are wrong: all of them are named at once, with
            their line numbers.
    """
    rows: list[ManifestRow] = []
    lines: list[int] = []
    problems: list[str] = []
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"video_id", "uri"} - set(reader.fieldnames or ())
            if missing:
                raise ManifestError(f"{path}: no column {', '.join(sorted(missing))} in its header")
            for record in reader:
                try:
                    rows.append(_row(record))
                    lines.append(reader.line_num)
                except (ManifestError, ValueError) as error:
                    problems.append(f"line {reader.line_num}: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as CSV ({error})") from error
    problems += _repeated(rows, lines)
    _refuse(path, problems)
    if not rows:
        raise ManifestError(f"{path}: holds no rows; there is nothing to do")
    return rows


def cut_into_shards(rows: Sequence[ManifestRow], *, shard_bytes: int) -> list[Shard]:
    """Cut a manifest into consecutive shards of about equal work.

    Args:
        rows: the manifest.
        shard_bytes: a shard is closed before it would grow past this; a single larger video is a
            shard of its own.

    Raises:
        ManifestError: shard_bytes is below 1.
    """
    if shard_bytes < 1:
        raise ManifestError(f"shard_bytes is {shard_bytes}; give 1 or more")
    groups: list[list[ManifestRow]] = []
    size = 0
    for row in rows:
        if not groups or size + row.size_bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(row)
        size += row.size_bytes
    return [Shard(index, tuple(group)) for index, group in enumerate(groups)]


def _row(record: dict[str, str]) -> ManifestRow:
    if None in record:
        raise ValueError("more fields than the header has")
    if record["uri"] is None:
        raise ValueError("fewer fields than the header has")
    text = record.get("size_bytes") or "0"
    if not text.isdigit():
        raise ValueError(f"size_bytes is {text!r}; a whole number expected")
    return ManifestRow(record["video_id"], record["uri"], int(text))


def _repeated(rows: Sequence[ManifestRow], lines: Sequence[int] = ()) -> list[str]:
    first: dict[str, int] = {}
    problems = []
    for position, row in enumerate(rows):
        place = f"line {lines[position]}" if lines else f"row {position + 1}"
        if row.video_id in first:
            problems.append(f"{place}: video_id {row.video_id!r} comes twice")
        first.setdefault(row.video_id, position)
    return problems


def _refuse(path: str | os.PathLike[str], problems: Sequence[str]) -> None:
    if problems:
        count = f"{len(problems)} row{'s' if len(problems) > 1 else ''}"
        raise ManifestError(f"{path}: {count} cannot be used: {'; '.join(problems)}")
