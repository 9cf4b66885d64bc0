"""Files of a shard: columns of its two Parquet files, its report, its name, and the statuses.

The worker writes these files, the dataset reads them, and the index repeats the videos' columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

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
from c3d_client.core.text import escape_controls

from c3d_pipelines.errors import ShardError
from c3d_pipelines.records import Record

# The statuses of a video. The first three depend on the video and stay until it changes;
# `unreadable` and `failed` are retried by the next run.
OK, TOO_SHORT, CORRUPT, UNREADABLE, FAILED = "ok", "too_short", "corrupt", "unreadable", "failed"
STATUSES = (OK, TOO_SHORT, CORRUPT, UNREADABLE, FAILED)
FINAL = frozenset((OK, TOO_SHORT, CORRUPT))
# The error types of a video without a status of its own: its shard, or its row, does not exist.
SHARD_MISSING, ROW_MISSING = "ShardMissing", "RowMissing"

# One row per video, without its numbers. `key` identifies the video's content (see ManifestRow);
# times are in seconds; counts are null where a video was not decoded to its end.
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
    # Clips that touch damaged pictures; null unless the run skips damage.
    pa.field("clips_left_out", pa.int64()),
)
CLIP_FIELDS = (
    pa.field("video_id", pa.string(), nullable=False),
    pa.field("clip", pa.int64(), nullable=False),
    pa.field("start_frame", pa.int64(), nullable=False),
    pa.field("start_s", pa.float64(), nullable=False),
    pa.field("end_s", pa.float64(), nullable=False),
)
# The columns of a video's times, in seconds, which the report sums up.
TIMINGS = ("wall_s", "decode_s", "wire_s", "queue_s", "compute_s")
# The name of the column of numbers, by answer.
NUMBERS = {"features": "feature", "classes": "probabilities"}


def numbers_field(answer: str, size: int = FEATURE_SIZE, *, nullable: bool) -> pa.Field:
    """Return the column of numbers: fixed_size_list<float32>[size].

    The size is 4096 for features, or the dimensions of the PCA that reduced them, and for classes
    their number.

    A nullable column is list<float32>, because pyarrow writes nulls among lists of a fixed size to
    Parquet and cannot read them back (apache/arrow issue 35692).
    """
    numbers = pa.list_(pa.float32()) if nullable else pa.list_(pa.float32(), size)
    return pa.field(NUMBERS[answer], numbers, nullable=nullable)


def video_schema(answer: str, size: int = FEATURE_SIZE) -> pa.Schema:
    """Return the columns of one row per video; the numbers are null where the video has none.

    ``classes`` adds two columns: the most probable class and its probability.
    """
    top = [pa.field("top_label", pa.string()), pa.field("top_probability", pa.float64())]
    extra = top if answer == "classes" else []
    return pa.schema([*VIDEO_FIELDS, *extra, numbers_field(answer, size, nullable=True)])


def clip_schema(answer: str, size: int = FEATURE_SIZE) -> pa.Schema:
    """Return the columns of one row per clip, in the order of the videos' rows and of time."""
    return pa.schema([*CLIP_FIELDS, numbers_field(answer, size, nullable=False)])


def file_metadata(provenance: Provenance, labels: Sequence[str] = ()) -> dict[bytes, bytes]:
    """Return the metadata of both files of a shard, for ``schema.with_metadata``.

    Args:
        provenance: how the numbers were made.
        labels: one per class, in order; none for features.
    """
    metadata = {b"provenance": json.dumps(provenance.to_dict(), sort_keys=True).encode()}
    if labels:
        metadata[b"labels"] = json.dumps(list(labels)).encode()
    return metadata


def shard_name(videos: Iterable[tuple[str, str, str]], digest: str) -> str:
    """Return a shard's name, which depends on its videos, their content and how they are extracted.

    A shard that is done again replaces itself and no other shard.

    Args:
        videos: each video's ``video_id``, ``uri`` and ``key``, in order.
        digest: digest of the provenance, and of all else that changes the shard's content.
    """
    sha = hashlib.sha256(digest.encode())
    for video in videos:
        for text in video:
            sha.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return sha.hexdigest()[:16]


def video_file(name: str) -> str:
    """Return the path of a shard's file of videos, below the dataset's folder."""
    return f"shards/{name}.parquet"


def clip_file(name: str) -> str:
    """Return the path of a shard's file of clips; ``shards/*.parquet`` are files of videos only."""
    return f"clips/{name}.parquet"


def report_file(name: str) -> str:
    """Return the path of a shard's report, which is written last and marks the shard as done."""
    return f"shards/{name}.json"


@dataclass(frozen=True)
class ShardReport(Record):
    """The report of a shard that is done.

    Args:
        name: the shard's name (see :func:`shard_name`).
        run: the run that did it.
        index: its number in that run's plan, from 0.
        answer: ``features`` or ``classes``.
        videos: rows in its file of videos.
        clips: rows in its file of clips; 0 where clips are not stored.
        counts: videos by status, with all five statuses.
        video_bytes: size of the file of videos.
        clip_bytes: size of the file of clips; 0 without one.
        started_at, ended_at: seconds since 1970, UTC.
        timings: seconds, summed over its videos: wall_s, decode_s, wire_s, queue_s, compute_s.
        clips_answered: clips that the server computed for it, stored or not.
        retries: videos with requests that were sent again, as the server was away or full.
        provenance: how the numbers were made.

    Raises:
        ShardError: the counts do not add up.
    """

    _noun: ClassVar[str] = "a shard's report"
    _error: ClassVar[type[C3DError]] = ShardError
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


def differences(
    answer: str, provenance: Provenance, other_answer: str, other_provenance: Provenance
) -> list[str]:
    """Return how two sets of numbers differ in their answer and in how they were made."""
    texts = [str(difference) for difference in provenance.differences(other_provenance)]
    if answer != other_answer:
        texts.insert(0, f"answer: {answer!r} against {other_answer!r}")
    return texts


_MESSAGE_CHARACTERS = 500
# The first match counts; all other errors are of the server or this machine, not of the video.
_STATUSES: tuple[tuple[type[C3DError], str], ...] = (
    (VideoTooShortError, TOO_SHORT),
    (VideoUnreadableError, UNREADABLE),
    (VideoDecodeError, CORRUPT),
    (UsageError, UNREADABLE),  # its kind of URL needs a library that is not installed here
)


def status_of(error: C3DError) -> str:
    """Return the status of a video that ended in an error; never ``ok``."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), FAILED)


def message_of(error: C3DError) -> str:
    """Return an error's message as one line of at most 500 characters that UTF-8 can encode.

    Errors name videos without credentials (see :class:`c3d_client.core.uri.Uri`).
    """
    line = escape_controls(" ".join(str(error).split()))
    return line if len(line) <= _MESSAGE_CHARACTERS else line[: _MESSAGE_CHARACTERS - 1] + "…"
