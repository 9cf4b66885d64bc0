"""Sample plans, index rows and shard reports, and summaries of runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from c3d_client.core.provenance import Provenance
from c3d_pipelines.dataset.index import INDEX_SCHEMA
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import DO, PlannedRow
from c3d_pipelines.reports.summary import RunSummary, summarise
from c3d_pipelines.shards.schema import OK, STATUSES, ShardReport

from support.sample_shards import PROVENANCE, START

WHY = {
    OK: ("", ""),
    "too_short": ("VideoTooShortError", "9 frames; one clip needs 16"),
    "corrupt": ("VideoDecodeError", "moov atom not found; the file is damaged or cut short"),
    "unreadable": ("VideoDecodeError", "access denied (Forbidden); check the name"),
    "failed": ("ServingUnavailable", "localhost:8500: no server answers; start the server"),
}


def plan_row(
    video_id: str,
    *,
    decision: str = DO,
    shard: int = 0,
    duplicate_of: str = "",
    size_bytes: int = 5_000_000,
    uri: str = "",
) -> PlannedRow:
    """Return a planned input; its shard is used only for the decision ``do``."""
    row = ManifestRow(video_id, uri or f"/videos/{video_id}", size_bytes, 0.0, f"stat:{video_id}")
    return PlannedRow(row, decision, shard if decision == DO else -1, duplicate_of)


def index_row(
    video_id: str, status: str = OK, *, run: str = "run-7", shard: str = "s0", **changes: Any
) -> dict[str, Any]:
    """Return a row of an index."""
    error_type, error_message = WHY[status]
    ok = status == OK
    return {
        "video_id": video_id,
        "uri": f"/videos/{video_id}",
        "key": f"stat:{video_id}",
        "size_bytes": 5_000_000,
        "status": status,
        "error_type": error_type,
        "error_message": error_message and f"/videos/{video_id}: {error_message}",
        "n_frames": 250 if ok else None,
        "n_clips": 30 if ok else None,
        "fps": 25.0 if ok else None,
        "duration_s": 10.0 if ok else None,
        "width": 320 if ok else None,
        "height": 240 if ok else None,
        "interlaced": False if ok else None,
        "wall_s": 2.0,
        "decode_s": 0.5 if ok else None,
        "wire_s": 0.25 if ok else None,
        "queue_s": 0.125 if ok else None,
        "compute_s": 1.5 if ok else None,
        "first_clip_row": 0 if ok else None,
        "duplicate_of": "",
        "shard": shard,
        "row": 0,
        "run": run,
        **changes,
    }


def shard_report(
    index: int, statuses: Sequence[str], *, run: str = "run-7", **changes: Any
) -> ShardReport:
    """Return the report of a shard that took ten seconds, started at START + index."""
    values: dict[str, Any] = {
        "name": f"s{index}",
        "run": run,
        "index": index,
        "answer": "features",
        "videos": len(statuses),
        "clips": 30 * statuses.count(OK),
        "counts": {status: list(statuses).count(status) for status in STATUSES},
        "video_bytes": 40_000 * len(statuses),
        "clip_bytes": 500_000 * statuses.count(OK),
        "started_at": START + index,
        "ended_at": START + index + 10,
        "timings": {"wall_s": 2.0 * len(statuses)},
        "clips_answered": 30 * statuses.count(OK),
        "retries": 0,
        "provenance": Provenance(PROVENANCE),
        **changes,
    }
    return ShardReport(**values)


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows as an index."""
    return pa.Table.from_pylist(list(rows), schema=INDEX_SCHEMA)


def summary(
    planned: Sequence[PlannedRow],
    rows: Sequence[dict[str, Any]],
    reports: Sequence[ShardReport] = (),
    **changes: Any,
) -> RunSummary:
    """Return the summary of a run that succeeded."""
    values: dict[str, Any] = {
        "out": "s3://videos/c3d",
        "run": "run-7",
        "provenance": Provenance(PROVENANCE),
        "state": "SUCCEEDED",
        "message": "",
        **changes,
    }
    return summarise(planned=planned, rows=table(rows), reports=reports, **values)


def random_run(
    statuses: Sequence[str], *, shards: int = 4, earlier: int = 0, seed: int = 0, **changes: Any
) -> RunSummary:
    """Return the summary of a run over videos of random lengths, one for each status."""
    draw = random.Random(seed)
    planned, rows = [], []
    for number in range(len(statuses) + earlier):
        old = number >= len(statuses)
        status = OK if old else statuses[number]
        name = f"class {number % 7}/video {number:05d}.mp4"
        shard = number * shards // len(statuses) if not old else -1
        length_s = round(draw.lognormvariate(3.5, 1.4), 2)
        size = int(length_s * 250_000)
        columns: dict[str, Any] = {"size_bytes": size, "shard": f"s{shard}"}
        if old:
            columns.update(run="run-1", shard="old")
        if status == OK:
            columns.update(
                duration_s=length_s,
                n_clips=max(1, int(length_s * 25 - 16) // 8 + 1),
                wall_s=length_s / 20,
                decode_s=length_s / 60,
                wire_s=length_s / 500,
                queue_s=length_s / 300,
                compute_s=length_s / 35,
            )
        planned.append(plan_row(name, decision="done" if old else DO, shard=shard, size_bytes=size))
        rows.append(index_row(name, status, **columns))
    reports = []
    for index in range(shards):
        of_shard = [row for row in rows if row["shard"] == f"s{index}"]
        clips = sum(row["n_clips"] or 0 for row in of_shard)
        begun = START + (index // 2) * 240
        reports.append(
            shard_report(
                index,
                [row["status"] for row in of_shard],
                clips=clips,
                clips_answered=clips,
                clip_bytes=clips * 16_500,
                started_at=begun,
                ended_at=begun + draw.uniform(120, 240),
                retries=draw.choice((0, 0, 0, 1)),
            )
        )
    missing = changes.pop("missing", ())
    rows = [row for row in rows if row["shard"] not in {f"s{index}" for index in missing}]
    return summary(
        planned, rows, [report for report in reports if report.index not in missing], **changes
    )
