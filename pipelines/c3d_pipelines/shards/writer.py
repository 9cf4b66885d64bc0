"""A shard's rows to its two Parquet files: row by row, and there only when all of them are.

The worker adds each video as it comes, in the manifest's order; `format.py` says what the
columns are. The report, which makes a shard of the files, is the worker's own.
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
from c3d_client.core.uri import redact

from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.content_keys import quick_key
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards.schema import (
    NUMBERS,
    OK,
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

# Rows that are held, and then written as one row group, which is what readers take at a time: 4 MB
# of clips' features, 2 MB of videos'.
_CLIP_GROUP_ROWS = 256
_VIDEO_GROUP_ROWS = 128

TIMINGS = ("wall_s", "decode_s", "wire_s", "queue_s", "compute_s")


@contextlib.contextmanager
def writing_shard(
    storage: Storage,
    name: str,
    *,
    answer: str,
    size: int,
    provenance: Mapping[str, Any],
    labels: Sequence[str] = (),
    clip_rows: bool = True,
    again: Callable[[Exception], bool] | None = None,
) -> Iterator[ShardWriter]:
    """Write a shard's files; both take their names when the block ends, and an error leaves none.

    Args:
        storage: the dataset.
        name: the shard's.
        answer: ``features`` or ``classes``.
        size: numbers in a row.
        provenance: what makes them, without the video's part.
        labels: one a class, in order; none for features.
        clip_rows: write the file of clips, too.
        again: asked, with the error, whether a bucket is to be sent a file once more.

    Raises:
        StorageError: they cannot be written.
    """
    metadata = file_metadata(provenance, labels)
    with contextlib.ExitStack() as files:

        def rows_to(file: str, schema: pa.Schema, group_rows: int) -> RowGroups:
            path = files.enter_context(storage.writing(file, again=again))
            shown = redact(storage.uri_of(file))
            here = "" if storage.is_local else f"on this machine, below {path.parent}: "
            schema = schema.with_metadata(metadata)
            rows = RowGroups(path, schema, group_rows, shown=shown, here=here)
            files.callback(rows.close)
            return rows

        clips = None
        if clip_rows:
            clips = rows_to(clip_file(name), clip_schema(answer, size), _CLIP_GROUP_ROWS)
        videos = rows_to(video_file(name), video_schema(answer, size), _VIDEO_GROUP_ROWS)
        writer = ShardWriter(videos, clips, answer=answer)
        yield writer
        videos.finish()
        writer.video_bytes = videos.path.stat().st_size
        if clips is not None:
            clips.finish()
            writer.clip_bytes = clips.path.stat().st_size


class ShardWriter:
    """Takes a shard's videos, in order. Made by :func:`writing_shard`.

    Attributes:
        counts: videos by status.
        clips: rows in the file of clips.
        timings: seconds, summed over the videos.
        video_bytes, clip_bytes: of the files; known when the block of ``writing_shard`` is left.
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
        """Rows in the file of videos."""
        return sum(self.counts.values())

    def add(self, row: ManifestRow, result: Result) -> str:
        """Add a video that ended well: its row, and its clips'. Gives its status."""
        video = result.provenance["video"]
        timings = {name: getattr(result.timings, name) for name in TIMINGS}
        for name, seconds in timings.items():
            self.timings[name] += seconds or 0.0
        record: dict[str, Any] = {
            "key": key_read(row, video["fingerprint"]),
            "size_bytes": int(video["fingerprint"].get("size", row.size_bytes)),
            "n_frames": video["frames"],
            "n_clips": len(result.clip_starts),
            **{name: video[name] for name in ("fps", "duration_s", "width", "height")},
            "interlaced": video["interlaced"],
            "first_clip_row": None if self._clips is None else self.clips,
            **timings,
        }
        if isinstance(result, VideoFeatures):
            numbers, of_clips = result.video_feature, result.clip_features
        else:
            numbers, of_clips = result.probabilities.astype(np.float32), result.clip_probabilities
            record["top_label"] = result.top[0].label
            record["top_probability"] = result.top[0].probability
        if self._clips is not None:
            self._add_clips(self._clips, row.video_id, result, of_clips)
        return self._add(row, OK, record, numbers)

    def add_failed(self, row: ManifestRow, error: C3DError) -> str:
        """Add the row of a video that has no numbers, and why. Gives its status."""
        said = {"error_type": type(error).__name__, "error_message": message_of(error)}
        return self._add(row, status_of(error), said, None)

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
                # The rows of a long film are in a file that goes with it.
                self._numbers: np.array(chunk, np.float32),
            }
            clips.add(columns, len(chunk))
            start = end
        self.clips += start


def key_read(row: ManifestRow, told: Mapping[str, str | int]) -> str:
    """The key of what was read, which need not be what was planned.

    A video that was replaced in between is recorded as what it was when it was read, so that the
    next plan takes it for done, or, changed again, for changed. What cannot be asked for cheaply,
    such as ``sha256:``, stays as it was planned.

    Args:
        row: as planned.
        told: the fingerprint from just before reading (see
            :func:`c3d_client.video.sources.fingerprint`).
    """
    read = quick_key(told)
    same_kind = row.key.partition(":")[0] == read.partition(":")[0]
    return read if read and (same_kind or not row.key) else row.key


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
