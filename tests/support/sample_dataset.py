"""A small dataset of two runs: failures, a retry, a changed video, a duplicate; and its index."""

from __future__ import annotations

import hashlib
from pathlib import Path

from c3d_pipelines.dataset.index import read_index
from c3d_pipelines.run.publish import publish
from c3d_pipelines.storage import Storage

from support.sample_shards import START, commit, duplicate, settings, to_do, video

# More rows than a row group of sample shards has.
ROWS = [video(f"{number}.mp4") for number in range(8)]
CHANGED = video("1.mp4", "sha256:changed")
TWIN = video("twin.mp4", ROWS[5].key)
BAD = {"2.mp4": "corrupt", "6.mp4": "unreadable"}
OK = sorted([row.video_id for row in ROWS if row.video_id not in BAD] + ["twin.mp4"])
CURRENT = {row.video_id: row for row in ROWS} | {"1.mp4": CHANGED, "twin.mp4": TWIN}


def indexed(dataset: Storage | Path, *columns: str) -> dict[str, tuple]:
    """Return the status, or some columns, of each video in a dataset's index."""
    storage = dataset if isinstance(dataset, Storage) else Storage(dataset)
    rows = read_index(storage).select(["video_id", *(columns or ("status",))]).to_pylist()
    assert len({row["video_id"] for row in rows}) == len(rows)
    return {row.pop("video_id"): tuple(row.values()) for row in rows}


def file_digests(folder: Path) -> dict[str, str]:
    """Return every file below a folder with the digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def two_runs(out, **kind) -> None:
    """Publish eight videos, two of them bad; then retry one and change another."""
    first, second = settings(out, **kind), settings(out, "run-2", **kind)
    commit(first, ROWS[:5], statuses=BAD)
    commit(first, ROWS[5:], index=1, statuses=BAD)
    plan = [*to_do(*ROWS[:5]), *to_do(*ROWS[5:], shard=1)]
    publish(first, [*plan, duplicate(TWIN, "5.mp4")])
    commit(second, [CHANGED, ROWS[6]], done_at=START + 9, statuses=BAD)
    publish(second, to_do(CHANGED, ROWS[6]))
