"""A small dataset of two runs: failures, a retry, a changed video, a duplicate."""

from __future__ import annotations

from c3d_pipelines.inputs.plan import PlannedRow
from c3d_pipelines.run.publish import publish

from support.sample_shards import START, commit, settings, to_do, video

# More rows than a row group of sample shards has.
ROWS = [video(f"{number}.mp4") for number in range(8)]
CHANGED = video("1.mp4", "sha256:changed")
TWIN = video("twin.mp4", ROWS[5].key)
BAD = {"2.mp4": "corrupt", "6.mp4": "unreadable"}
OK = sorted([row.video_id for row in ROWS if row.video_id not in BAD] + ["twin.mp4"])
CURRENT = {row.video_id: row for row in ROWS} | {"1.mp4": CHANGED, "twin.mp4": TWIN}


def two_runs(out, **kind) -> None:
    """Publish eight videos, two of them bad; then retry one and change another."""
    first, second = settings(out, **kind), settings(out, "run-2", **kind)
    commit(first, ROWS[:5], statuses=BAD)
    commit(first, ROWS[5:], index=1, statuses=BAD)
    plan = [*to_do(*ROWS[:5]), *to_do(*ROWS[5:], shard=1)]
    publish(first, [*plan, PlannedRow(TWIN, "duplicate", duplicate_of="5.mp4")])
    commit(second, [CHANGED, ROWS[6]], done_at=START + 9, statuses=BAD)
    publish(second, to_do(CHANGED, ROWS[6]))
