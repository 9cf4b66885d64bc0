"""What a shard's two Parquet files hold: one row a video, and one row a clip.

The one place that says so; the worker writes it, the dataset reads it, the index repeats its first
columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.errors import (
    C3DError,
    UsageError,
    VideoDecodeError,
    VideoTooShortError,
    VideoUnreadableError,
)
from c3d_client.core.provenance import Provenance

from c3d_pipelines.errors import ShardError
from c3d_pipelines.records import Record

# What can become of a video. The first three are the video's own and stay so until it changes;
# `unreadable` and `failed` are tried again by the next run.
OK, TOO_SHORT, CORRUPT, UNREADABLE, FAILED = "ok", "too_short", "corrupt", "unreadable", "failed"
STATUSES = (OK, TOO_SHORT, CORRUPT, UNREADABLE, FAILED)
FINAL = frozenset((OK, TOO_SHORT, CORRUPT))

# One row a video, without its numbers. `key` is what the video's content was known by (see
# ManifestRow); times in seconds; counts are null where a video was not decoded to its end.
VIDEO_FIELDS = (
    pa.field("video_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_type", pa.string(), nullable=False),
    pa.field("error_message", pa.string(), nullable=False),
    pa.field("n_frames", pa.int64()),
    pa.field("n_clips", pa.int64()),
    pa.field("fps", pa.float64()),
    pa.field("duration_s", pa.float64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("interlaced", pa.bool_()),
    pa.field("wall_s", pa.float64()),
    pa.field("decode_s", pa.float64()),
    pa.field("wire_s", pa.float64()),
    pa.field("queue_s", pa.float64()),
    pa.field("compute_s", pa.float64()),
    pa.field("first_clip_row", pa.int64()),  # in the shard's file of clips; null without one
)
CLIP_FIELDS = (
    pa.field("video_id", pa.string(), nullable=False),
    pa.field("clip", pa.int64(), nullable=False),
    pa.field("start_frame", pa.int64(), nullable=False),
    pa.field("start_s", pa.float64(), nullable=False),
    pa.field("end_s", pa.float64(), nullable=False),
)
# The name of the column of numbers, by what was asked for.
NUMBERS = {"features": "feature", "classes": "probabilities"}


def numbers_field(answer: str, size: int = FEATURE_SIZE, *, nullable: bool) -> pa.Field:
    """The column of numbers, 4096 features or the classes: fixed_size_list<float32>[size].

    Where a row may have none: list<float32>, because pyarrow writes nulls among lists of a fixed
    size to Parquet and cannot read them back (apache/arrow issue 35692).
    """
    numbers = pa.list_(pa.float32()) if nullable else pa.list_(pa.float32(), size)
    return pa.field(NUMBERS[answer], numbers, nullable=nullable)


def video_schema(answer: str, size: int = FEATURE_SIZE) -> pa.Schema:
    """One row a video; the numbers are null where the video has none.

    For ``classes`` two more columns: the best class of all and its probability.
    """
    top = [pa.field("top_label", pa.string()), pa.field("top_probability", pa.float64())]
    extra = top if answer == "classes" else []
    return pa.schema([*VIDEO_FIELDS, *extra, numbers_field(answer, size, nullable=True)])


def clip_schema(answer: str, size: int = FEATURE_SIZE) -> pa.Schema:
    """One row a clip, in the order of the videos' rows and, in a video, of time."""
    return pa.schema([*CLIP_FIELDS, numbers_field(answer, size, nullable=False)])


def file_metadata(provenance: Mapping[str, Any], labels: Sequence[str] = ()) -> dict[bytes, bytes]:
    """What both files of a shard say of themselves, for ``schema.with_metadata``.

    Args:
        provenance: what made the numbers.
        labels: one a class, in order, where the numbers are of classes.
    """
    said = {b"provenance": json.dumps(dict(provenance), sort_keys=True).encode()}
    if labels:
        said[b"labels"] = json.dumps(list(labels)).encode()
    return said


def shard_name(videos: Iterable[tuple[str, str, str]], digest: str) -> str:
    """A shard's name: the same videos, of the same content, made the same way, always get the same.

    So a shard that is done again takes its own place and no other's.

    Args:
        videos: each one's ``video_id``, ``uri`` and ``key``, in order.
        digest: of the provenance, and whatever else changes the shard's content.
    """
    sha = hashlib.sha256(digest.encode())
    for video in videos:
        for text in video:
            sha.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return sha.hexdigest()[:16]


def video_file(name: str) -> str:
    """The file of a shard's videos, below the dataset's folder."""
    return f"shards/{name}.parquet"


def clip_file(name: str) -> str:
    """The file of a shard's clips; in a folder of its own: ``shards/*.parquet`` are videos only."""
    return f"clips/{name}.parquet"


def report_file(name: str) -> str:
    """The file that says that a shard is done; the last one written."""
    return f"shards/{name}.json"


@dataclass(frozen=True)
class ShardReport(Record):
    """A shard that is done.

    Args:
        name: of the shard (see :func:`c3d_pipelines.shards.schema.shard_name`).
        run: the run that did it.
        index: its number in that run's plan, from 0.
        answer: ``features`` or ``classes``.
        videos: rows in its file of videos.
        clips: rows in its file of clips; 0 where none are kept.
        counts: videos by status; all five are there.
        video_bytes: of the file of videos.
        clip_bytes: of the file of clips; 0 where there is none.
        started_at, ended_at: seconds since 1970, UTC.
        timings: seconds, summed over its videos: wall_s, decode_s, wire_s, queue_s, compute_s.
        clips_answered: clips that the server computed for it, kept or not.
        retries: videos that were tried again because the server or the store had gone away.
        provenance: what made the numbers.

    Raises:
        ShardError: its counts do not add up.
    """

    name: str
    run: str
    index: int
    answer: str
    videos: int
    clips: int
    counts: Mapping[str, int]
    video_bytes: int
    clip_bytes: int
    started_at: float
    ended_at: float
    timings: Mapping[str, float]
    clips_answered: int
    retries: int
    provenance: Provenance

    def __post_init__(self) -> None:
        if set(self.counts) != set(STATUSES) or sum(self.counts.values()) != self.videos:
            raise ShardError(
                f"shard {self.name}: its report counts {dict(self.counts)} of {self.videos} videos"
            )

    @classmethod
    def from_json(cls, text: str | bytes) -> ShardReport:
        """Read a report that :meth:`to_json` wrote, in this or another release.

        Raises:
            ShardError: the text is not a shard's report.
        """
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, TypeError, AttributeError) as error:
            raise ShardError(f"a shard's report cannot be read ({error})") from error


_MESSAGE_CHARACTERS = 500
# The first that fits; all else, of the server and of this machine, says nothing of the video.
_STATUSES: tuple[tuple[type[C3DError], str], ...] = (
    (VideoTooShortError, TOO_SHORT),
    (VideoUnreadableError, UNREADABLE),
    (VideoDecodeError, CORRUPT),
    (UsageError, UNREADABLE),  # its kind of URL needs a library that is not installed here
)


def status_of(error: C3DError) -> str:
    """The status of a video that ended in this error; never ``ok``."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), FAILED)


def message_of(error: C3DError) -> str:
    """What a row says of an error: one line of 500 characters at most, as UTF-8 can write it.

    Errors name videos without credentials (see :func:`c3d_client.video.stores.display`).
    """
    line = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= _MESSAGE_CHARACTERS else line[: _MESSAGE_CHARACTERS - 1] + "…"
