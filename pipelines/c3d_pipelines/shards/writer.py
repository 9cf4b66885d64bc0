"""Writer of a shard's two Parquet files, row by row; the files appear when all rows are written.

The worker adds each video in the manifest's order; :mod:`c3d_pipelines.shards.schema` declares the
columns. The worker writes the shard's report afterwards.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client import VideoClassification, VideoFeatures
from c3d_client.core.errors import C3DError
from c3d_client.core.files import row_chunks
from c3d_client.core.provenance import Provenance
from c3d_client.core.text import escape_bytes
from c3d_client.core.uri import redact

from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.content_keys import quick_key
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards.schema import (
    NUMBERS,
    OK,
    TIMINGS,
    clip_file,
    clip_schema,
    file_metadata,
    message_of,
    status_of,
    video_file,
    video_schema,
)
from c3d_pipelines.storage import Storage

Result: TypeAlias = VideoFeatures | VideoClassification

# Rows that are buffered and then written as one row group, the unit of reading: 4 MB of clips'
# features, 2 MB of videos' features.
_CLIP_GROUP_ROWS = 256
_VIDEO_GROUP_ROWS = 128


@contextlib.contextmanager
def writing_shard(
    storage: Storage,
    name: str,
    *,
    answer: str,
    size: int,
    provenance: Provenance,
    labels: Sequence[str] = (),
    clip_rows: bool = True,
    retry: Callable[[Exception], bool] | None = None,
    final: Callable[[], str] | None = None,
) -> Iterator[ShardWriter]:
    """Write a shard's files, which appear when the block ends; after an error there are none.

    An OSError of the block itself, such as one of the caller's ``on_progress``, is raised as it is.

    Args:
        storage: the dataset.
        name: the shard's name.
        answer: ``features`` or ``classes``.
        size: numbers in a row.
        provenance: how the numbers are made, without the video's part.
        labels: one per class, in order; none for features.
        clip_rows: also write the file of clips.
        retry: called with the error of an upload; returns whether to upload again.
        final: called when the block ends; returns the shard's name, where it is not known before.

    Raises:
        StorageError: a file cannot be written.
    """
    metadata = file_metadata(provenance, labels)
    with _raising_as_they_are(), contextlib.ExitStack() as files:

        def open_file(
            file_of: Callable[[str], str], schema: pa.Schema, group_rows: int
        ) -> RowGroups:
            file = file_of(name)
            path = files.enter_context(
                storage.writing(
                    file, retry=retry, final=None if final is None else lambda: file_of(final())
                )
            )
            prefix = "" if storage.is_local else f"on this machine, below {path.parent}: "
            schema = schema.with_metadata(metadata)
            uri = str(storage.uri_of(file))
            rows = RowGroups(path, schema, group_rows, name=uri, prefix=prefix)
            files.callback(rows.close)
            return rows

        clips = None
        if clip_rows:
            clips = open_file(clip_file, clip_schema(answer, size), _CLIP_GROUP_ROWS)
        videos = open_file(video_file, video_schema(answer, size), _VIDEO_GROUP_ROWS)
        writer = ShardWriter(videos, clips, answer=answer)
        try:
            yield writer
        except OSError as error:
            raise _OfBlock(error) from error
        videos.finish()
        writer.video_bytes = videos.path.stat().st_size
        if clips is not None:
            clips.finish()
            writer.clip_bytes = clips.path.stat().st_size


class _OfBlock(Exception):
    """An OSError of a block that writes rows: the storage takes every OSError for the disk's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def _raising_as_they_are() -> Iterator[None]:
    try:
        yield
    except _OfBlock as block:
        raise block.error from block.error.__cause__


class ShardWriter:
    """Writer of a shard's videos, in order; created by :func:`writing_shard`.

    Attributes:
        counts: videos by status.
        clips: rows in the file of clips.
        timings: seconds, summed over the videos.
        video_bytes, clip_bytes: sizes of the files, set when the block of ``writing_shard`` ends.
    """

    def __init__(self, videos: RowGroups, clips: RowGroups | None, *, answer: str) -> None:
        self._videos = videos
        self._clips = clips
        self._numbers = NUMBERS[answer]
        self.counts: Counter[str] = Counter()
        self.clips = 0
        self.timings: dict[str, float] = dict.fromkeys(TIMINGS, 0.0)
        self.video_bytes = 0
        self.clip_bytes = 0

    @property
    def videos(self) -> int:
        """The rows in the file of videos."""
        return sum(self.counts.values())

    def add(self, row: ManifestRow, result: Result) -> str:
        """Add a video that ended ok, with its clips, and return its status."""
        video = result.provenance["video"]
        timings = {name: getattr(result.timings, name) for name in TIMINGS}
        for name, seconds in timings.items():
            self.timings[name] += seconds or 0.0
        record: dict[str, Any] = {
            "key": key_when_read(row, video["fingerprint"]),
            "size_bytes": int(video["fingerprint"].get("size", row.size_bytes)),
            "n_frames": video["frames"],
            "n_clips": len(result.clip_starts),
            **{name: video[name] for name in ("fps", "duration_s", "width", "height")},
            "interlaced": video["interlaced"],
            "first_clip_row": None if self._clips is None else self.clips,
            "clips_left_out": video.get("clips_left_out"),
            **timings,
        }
        if isinstance(result, VideoFeatures):
            numbers, clip_numbers = result.video_feature, result.clip_features
        else:
            numbers = result.probabilities.astype(np.float32)
            clip_numbers = result.clip_probabilities
            record["top_label"] = escape_bytes(result.top[0].label)
            record["top_probability"] = result.top[0].probability
        if self._clips is not None:
            self._add_clips(self._clips, row.video_id, result, clip_numbers)
        return self._add(row, OK, record, numbers)

    def add_failed(self, row: ManifestRow, error: C3DError) -> str:
        """Add the row of a video that ended in an error, and return its status."""
        record = {"error_type": type(error).__name__, "error_message": message_of(error)}
        return self._add(row, status_of(error), record, None)

    def _add(
        self,
        row: ManifestRow,
        status: str,
        record: dict[str, Any],
        numbers: npt.NDArray[np.float32] | None,
    ) -> str:
        self.counts[status] += 1
        known = {
            "video_id": row.video_id,
            "uri": redact(row.uri),
            "key": row.key,
            "size_bytes": row.size_bytes,
            "status": status,
            "error_type": "",
            "error_message": "",
        }
        columns = {name: [value] for name, value in {**known, **record}.items()}
        self._videos.add({**columns, self._numbers: [numbers]}, 1)
        return status

    def _add_clips(
        self, clips: RowGroups, video_id: str, result: Result, numbers: npt.NDArray[np.float32]
    ) -> None:
        start = 0
        for chunk in row_chunks(numbers):
            end = start + len(chunk)
            columns = {
                "video_id": [video_id] * len(chunk),
                "clip": range(start, end),
                "start_frame": result.clip_starts[start:end],
                "start_s": result.clip_times_s[start:end, 0],
                "end_s": result.clip_times_s[start:end, 1],
                # A copy: the rows of a long video are in a file that is removed with the result.
                self._numbers: np.array(chunk, np.float32),
            }
            clips.add(columns, len(chunk))
            start = end
        self.clips += start


def key_when_read(row: ManifestRow, properties: Mapping[str, str | int]) -> str:
    """Return the key of a video when it was read, which may differ from the planned key.

    A video that was replaced after planning is recorded with its key when it was read, so that the
    next plan finds it done, or changed again. A key that is expensive to compute, such as
    ``sha256:``, stays as planned.

    Args:
        row: the planned input.
        properties: the video's fingerprint from just before it was read (see
            :func:`c3d_client.video.sources.fingerprint`).
    """
    read = quick_key(properties)
    same_kind = row.key.partition(":")[0] == read.partition(":")[0]
    return read if read and (same_kind or not row.key) else row.key


class RowGroups:
    """Parquet file that is written one row group at a time. The caller closes it.

    Args:
        path: the path to write to.
        schema: the columns.
        group_rows: rows in a row group.
        name: the file's name in error messages.
        prefix: text put before the operating system's error.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, group_rows: int, *, name: str, prefix: str
    ) -> None:
        self.path = path
        self._name = name
        self._prefix = prefix
        self._schema = schema
        self._group_rows = group_rows
        self._buffer: list[dict[str, Any]] = []
        self._buffered_rows = 0
        # A Python file: its errors carry the operating system's message only.
        self._file = path.open("wb")
        plain = [field.name for field in schema if not pa.types.is_nested(field.type)]
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression="zstd",
            # A network's numbers hardly repeat, and are not filtered by minimum and maximum.
            use_dictionary=[name for name in plain if pa.types.is_string(schema.field(name).type)],
            write_statistics=plain,
            write_page_checksum=True,
        )

    def add(self, columns: dict[str, Any], rows: int) -> None:
        """Add rows by column; numbers are ``[rows, size]``, or a list with None where missing."""
        self._buffer.append(columns)
        self._buffered_rows += rows
        if self._buffered_rows >= self._group_rows:
            self._write()

    def finish(self) -> None:
        """Write the buffered rows and the file's footer."""
        self._write()
        with self._errors():
            self._writer.close()
            self._file.close()

    def close(self) -> None:
        """Close the file, finished or not."""
        if not self._file.closed:
            # The file is unfinished and will be removed; on a full disk even this write fails.
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            with contextlib.suppress(OSError):
                self._file.close()

    def _write(self) -> None:
        if self._buffer:
            columns = [self._column(field) for field in self._schema]
            self._buffer, self._buffered_rows = [], 0
            with self._errors():
                self._writer.write_table(pa.table(columns, schema=self._schema))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        # Without this, an error of the one file would be reported for the other: their blocks nest.
        try:
            yield
        except OSError as error:
            message = f"{self._prefix}{error.strerror or error}"
            raise StorageError(self._name, f"cannot be written ({message})") from error

    def _column(self, field: pa.Field) -> pa.Array:
        parts = [columns.get(field.name, [None]) for columns in self._buffer]
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
