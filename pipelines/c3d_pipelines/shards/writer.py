"""A shard's rows to its two Parquet files: row by row, and there only when all of them are.

The worker adds each video as it comes, in the manifest's order; `format.py` says what the
columns are. The report, which makes a shard of the files, is the worker's own.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from c3d_client import VideoClassification, VideoFeatures
from c3d_client.errors import C3DError
from c3d_client.rows import row_chunks
from c3d_client.stores import display

from c3d_pipelines.inputs.keys import quick_key
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.place import Place
from c3d_pipelines.shards.format import (
    NUMBERS,
    OK,
    clip_file,
    clip_schema,
    file_metadata,
    video_file,
    video_schema,
)
from c3d_pipelines.shards.row_groups import RowGroups
from c3d_pipelines.shards.statuses import message_of, status_of

Result: TypeAlias = VideoFeatures | VideoClassification

# Rows that are held, and then written as one row group, which is what readers take at a time: 4 MB
# of clips' features, 2 MB of videos'.
_CLIP_GROUP_ROWS = 256
_VIDEO_GROUP_ROWS = 128

TIMINGS = ("wall_s", "decode_s", "wire_s", "queue_s", "compute_s")


@contextlib.contextmanager
def writing_shard(
    place: Place,
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
        place: the dataset.
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
            path = files.enter_context(place.writing(file, again=again))
            shown = display(place.uri_of(file))
            here = "" if place.is_local else f"on this machine, below {path.parent}: "
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
            "uri": display(row.uri),
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
        told: the fingerprint from just before reading (see :func:`c3d_client.sources.fingerprint`).
    """
    read = quick_key(told)
    same_kind = row.key.partition(":")[0] == read.partition(":")[0]
    return read if read and (same_kind or not row.key) else row.key
