"""How long the shards of a plan take, compared with how long a pod may run.

The speed is that of the shards which the dataset has. Shards that do not fit are the user's to
avoid, by smaller shards or by more runs: a pod that is stopped at its timeout leaves only a part of
its shard, and a run has no more than MOST_SHARDS shards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from c3d_pipelines.dataset.index import Index
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import Shard, cut_into_shards
from c3d_pipelines.parameters import MOST_SHARDS
from c3d_pipelines.reports.summary import time_of
from c3d_pipelines.shards.schema import ShardReport
from c3d_pipelines.text import count, length, significant, size

_MEGABYTE, _MINUTE_S = 1e6, 60.0
# Shorter measurements are of a connection's start more than of the videos.
_MEASURED_S = 60.0


@dataclass(frozen=True)
class Speed:
    """What a shard does in a second of its time.

    Args:
        video_s: seconds of video.
        bytes: bytes of the videos' files.
        is_measured: by earlier runs of the dataset; otherwise a shard is slower than this.
    """

    video_s: float
    bytes: float
    is_measured: bool = True

    def seconds(self, rows: Sequence[ManifestRow]) -> float:
        """Return the time that videos take; by length if all are known, otherwise by size."""
        if all(row.duration_s for row in rows):
            return sum(row.duration_s for row in rows) / self.video_s
        sizes = [row.size_bytes for row in rows if row.size_bytes]
        return sum(sizes) * len(rows) / max(1, len(sizes)) / self.bytes


# Decoding alone, on the four cores that a worker's pod may use by default: 2.72 ms for a frame of
# 1280x720 on one core, and 0.9 of that speed on each of several (estimate/rates.py); 25 frames and
# 337,500 bytes per second of video (estimate/video_stats.py).
_REAL_TIME = 4 * 0.9 / 2.72e-3 / 25
DECODING = Speed(_REAL_TIME, _REAL_TIME * 337_500, is_measured=False)


def speed_of(index: Index) -> Speed | None:
    """Return the speed of a dataset's shards; None where they took less than a minute."""
    table = index.table.filter(pc.equal(index.table["duplicate_of"], ""))
    sums = table.group_by("shard").aggregate([("size_bytes", "sum"), ("duration_s", "sum")])
    sums = sums.filter(pc.not_equal(sums["shard"], ""))
    parts: dict[tuple[str, int], list[ShardReport]] = {}
    for name in sums["shard"].to_pylist():
        report = index.shards[name]
        parts.setdefault((report.run, report.index), []).append(report)
    seconds = sum(map(time_of, parts.values()))
    if seconds < _MEASURED_S:
        return None
    sum_of = {name: pc.sum(sums[f"{name}_sum"]).as_py() for name in ("duration_s", "size_bytes")}
    return Speed(*(sum_of[name] / seconds for name in sum_of)) if all(sum_of.values()) else None


def too_long(
    shards: Sequence[Shard], *, speed: Speed | None, pod_timeout_s: float, max_shards: int
) -> str:
    """Return a line about shards that take more than half of a pod's time, and what fits.

    Half, because no shard takes exactly the estimated time, and one that is started again on
    another node has the same time once more.

    Args:
        shards: of the plan.
        speed: of earlier runs; None where it is not known.
        pod_timeout_s: how long a pod may run, in seconds; 0 for no limit.
        max_shards: of the run.

    Returns:
        An empty text where all fit, or where neither sizes nor lengths are known.
    """
    speed = speed or DECODING
    rows = [row for shard in shards for row in shard.rows]
    longest_s = max((speed.seconds(shard.rows) for shard in shards), default=0.0)
    if not pod_timeout_s or longest_s <= pod_timeout_s / 2:
        return ""
    by_length = all(row.duration_s for row in rows)
    source = "as in earlier runs" if speed.is_measured else "the speed of decoding alone"
    pace = f"{significant(speed.video_s)} s of video in a second" if by_length else ""
    pace = f"{pace or size(speed.bytes) + '/s'}, {source}"
    bound = "about" if speed.is_measured else "at least"
    note = (
        f"a shard takes {bound} {length(longest_s)} (at {pace}), more than half of the "
        f"{length(pod_timeout_s)} that its pod may run; "
    )
    most_mb = max(1, math.floor(speed.bytes * pod_timeout_s / 2 / _MEGABYTE))
    most_minutes = max(1, math.floor(speed.video_s * pod_timeout_s / 2 / _MINUTE_S))
    fitting = cut_into_shards(
        rows, shard_mb=most_mb, shard_minutes=most_minutes, max_shards=len(rows)
    )
    if any(speed.seconds(shard.rows) > pod_timeout_s / 2 for shard in fitting):
        return f"{note}one video alone takes too long: compile with a longer --pod-timeout"
    needed = f"{count(len(fitting))} shards would fit"
    if len(fitting) > MOST_SHARDS:
        runs = math.ceil(len(fitting) / MOST_SHARDS)
        return (
            f"{note}{needed}, and a run has at most {MOST_SHARDS}: make {count(runs)} runs, each "
            "of a part of the videos, or compile with a longer --pod-timeout"
        )
    limit = f"shard_minutes={most_minutes}" if by_length else f"shard_mb={most_mb}"
    more = f" max_shards={len(fitting)}" if len(fitting) > max_shards else ""
    return f"{note}{needed}: give {limit}{more}"
