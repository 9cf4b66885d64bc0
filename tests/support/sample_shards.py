"""Small shards: the files and the report that a worker writes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from c3d_client import ClipWindow
from c3d_client.core.contract import PREPROCESSING
from c3d_client.video.clips import CLIP_FRAMES
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import PlannedRow
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.commits import names_of
from c3d_pipelines.shards.schema import (
    NUMBERS,
    OK,
    STATUSES,
    ShardReport,
    clip_file,
    clip_schema,
    file_metadata,
    report_file,
    video_file,
    video_schema,
)
from c3d_pipelines.storage import Storage

START = 1_760_000_000.0
LABELS = ("archery", "bowls & skittles", "cricket, “test”")
PROVENANCE = {
    "contract_version": "1",
    "model": {
        "name": "c3d",
        "version": 3,
        "precision": "float32",
        "weights": {"source": "C3D of Sports-1M", "sha256": "c5" * 32},
        "mean": {"source": "mean cube", "sha256": "9f" * 32},
    },
    "preprocessing": dict(PREPROCESSING),
    "clips": {
        **{"frames": 16, "stride": 8, "frame_step": 1},
        **{"tail": "drop", "short": "error", "fps": None},
    },
    "software": {"c3d_client": "0.1.0", "opencv": "5.0.0", "pyav": "17.1.0", "libavcodec": "62"},
}
OTHER = {**PROVENANCE, "model": {**PROVENANCE["model"], "precision": "bfloat16"}}
# Made by other versions of the software: comparable with PROVENANCE.
NEWER = {**PROVENANCE, "software": {**PROVENANCE["software"], "pyav": "18.0.0", "opencv": "5.1.0"}}
_GROUP = 3  # rows, so that small shards have several row groups


def settings(out, run: str = "run-1", **changes) -> JobSettings:
    """Return the settings of a run after preflight."""
    parts = {"provenance": PROVENANCE, "window": ClipWindow()}
    return JobSettings(out=str(out), run=run, **{**parts, **changes})


def video(name: str, key: str = "", *, uri: str = "") -> ManifestRow:
    """Return an input whose key identifies its content."""
    return ManifestRow(name, uri or f"/videos/{name}", 1000, 0.0, key or f"sha256:{name}")


A, B, C, D = (video(f"{name}.mp4") for name in "abcd")
CHANGED = video("a.mp4", "sha256:changed")  # the video A with other content


def to_do(*rows: ManifestRow, shard: int = 0) -> list[PlannedRow]:
    """Return the plan's rows of one shard."""
    return [PlannedRow(row, "do", shard) for row in rows]


def duplicate(row: ManifestRow, original: str) -> PlannedRow:
    """Return the plan's row of an input that is the same video as another, named by its id."""
    return PlannedRow(row, "duplicate", duplicate_of=original)


def numbers_of(row: ManifestRow, *, size: int = 4096, clips: int = 2, salt: str = "") -> np.ndarray:
    """Return the numbers of a video's clips, float32 ``[clips, size]``, unique to its content."""
    seed = zlib.crc32(f"{row.key or row.uri} {salt}".encode())
    numbers = np.random.default_rng(seed).random((clips, size), np.float32)
    return numbers if size == 4096 else numbers / numbers.sum(1, keepdims=True)


def feature_of(row: ManifestRow, **kind) -> np.ndarray:
    """Return the numbers of a video, float32 ``[size]``; features have length 1."""
    mean = numbers_of(row, **kind).mean(0)
    return mean / np.linalg.norm(mean) if len(mean) == 4096 else mean


def commit(
    job: JobSettings,
    rows: Sequence[ManifestRow],
    *,
    index: int = 0,
    statuses: Mapping[str, str] = {},  # noqa: B006  not changed
    done_at: float = START,
    salt: str = "",
    clips: int = 2,
    labels: Sequence[str] = LABELS,
    reverse: bool = False,
    former_name: bool = False,
) -> ShardReport:
    """Write a shard's files and its report.

    Args:
        job: the run's settings.
        rows: the videos.
        index: the shard's number.
        statuses: the videos that are not ok.
        done_at: when the shard is done, in seconds since 1970.
        salt: changes the numbers of the same videos.
        clips: clips per video.
        labels: of the classes.
        reverse: write the videos in reverse order.
        former_name: name the shard as release 0.1.0 did.
    """
    storage = Storage(job.out)
    name = names_of(job, rows)[former_name]
    size = 4096 if job.answer == "features" else len(labels)
    metadata = file_metadata(job.provenance, labels if job.answer == "classes" else ())
    videos, rows_of_clips = [], []
    for row in reversed(rows) if reverse else rows:
        status = statuses.get(row.video_id, OK)
        videos.append(_video(row, status, first_clip=len(rows_of_clips) if job.clip_rows else None))
        videos[-1]["n_clips"] = clips if status == OK else None
        if status != OK:
            videos[-1]["first_clip_row"] = None
            continue
        feature = feature_of(row, size=size, clips=clips, salt=salt)
        videos[-1][NUMBERS[job.answer]] = feature
        if job.answer == "classes":
            best = int(feature.argmax())
            videos[-1] |= {"top_label": labels[best], "top_probability": float(feature[best])}
        for clip, clip_numbers in enumerate(numbers_of(row, size=size, clips=clips, salt=salt)):
            rows_of_clips.append(_clip(row, clip) | {NUMBERS[job.answer]: clip_numbers})
    schemas = video_schema(job.answer, size), clip_schema(job.answer, size)
    _write(storage, video_file(name), videos, schemas[0].with_metadata(metadata))
    if job.clip_rows:
        _write(storage, clip_file(name), rows_of_clips, schemas[1].with_metadata(metadata))
    counts = dict.fromkeys(STATUSES, 0)
    for values in videos:
        counts[values["status"]] += 1
    report = ShardReport(
        name=name,
        run=job.run,
        index=index,
        answer=job.answer,
        videos=len(videos),
        clips=len(rows_of_clips) if job.clip_rows else 0,
        counts=counts,
        video_bytes=storage.size(video_file(name)),
        clip_bytes=storage.size(clip_file(name)) if job.clip_rows else 0,
        started_at=done_at - 10,
        ended_at=done_at,
        timings=dict.fromkeys(("wall_s", "decode_s", "wire_s", "queue_s", "compute_s"), 1.0),
        clips_answered=len(rows_of_clips),
        retries=0,
        provenance=job.provenance,
    )
    storage.write(report_file(name), report.to_json())
    return report


def _video(row: ManifestRow, status: str, *, first_clip: int | None) -> dict[str, object]:
    is_ok = status == OK
    return {
        "video_id": row.video_id,
        "uri": row.uri,
        "key": row.key,
        "size_bytes": row.size_bytes,
        "status": status,
        "error_type": "" if is_ok else "VideoDecodeError",
        "error_message": "" if is_ok else f"{row.uri}: is {status}",
        "n_frames": 24 if is_ok else None,
        "fps": 25.0 if is_ok else None,
        "duration_s": 0.96 if is_ok else None,
        "width": 320 if is_ok else None,
        "height": 240 if is_ok else None,
        "interlaced": False if is_ok else None,
        **dict.fromkeys(("wall_s", "decode_s", "wire_s", "queue_s", "compute_s"), 0.5),
        "first_clip_row": first_clip,
    }


def _clip(row: ManifestRow, clip: int) -> dict[str, object]:
    first = 8 * clip
    return {
        "video_id": row.video_id,
        "clip": clip,
        "start_frame": first,
        "start_s": first / 25,
        "end_s": (first + CLIP_FRAMES) / 25,
    }


def _write(storage: Storage, name: str, rows: list[dict], schema: pa.Schema) -> None:
    with storage.writing(name) as path:
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema),
            path,
            row_group_size=_GROUP,
            write_page_checksum=True,
        )
