"""Helpers for tests of shards: settings, rows, and the content of a shard's files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from c3d_client.video.sources import fingerprint
from c3d_pipelines.inputs.content_keys import quick_key
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import clip_file, video_file

from support.processes import LONG_S
from support.videos import write_video

VARYING_COLUMNS = ["wall_s", "decode_s", "wire_s", "queue_s", "compute_s"]


def job(out, target, **changes) -> JobSettings:
    """Return the settings of a run after preflight."""
    return preflight(plain_job(out, target, **changes))


def plain_job(out, target, **changes) -> JobSettings:
    """Return the settings of a run before preflight.

    Deadline and patience are longer than a server of a busy machine needs to answer, or to start.
    """
    defaults = {"run": "run-1", "workers": 2, "patience_s": LONG_S, "timeout_s": LONG_S}
    return JobSettings(out=str(out), server=target, **{**defaults, **changes})


def row(path, video_id: str = "") -> ManifestRow:
    """Return a planned video; a missing video has no key."""
    path = Path(path)
    key, size = "", 0
    if path.is_file():
        key, size = quick_key(fingerprint(path)), path.stat().st_size
    return ManifestRow(video_id or path.name, str(path), size, 0.0, key)


def mixed_rows(folder) -> list[ManifestRow]:
    """Return seven videos: four ok, one too short, one damaged, one missing."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for name, frames in {
        "a.mp4": 40,
        "b.mp4": 24,
        "c.mp4": 16,
        "short.mp4": 9,
        "z.mp4": 56,
    }.items():
        write_video(folder / name, frames)
    (folder / "damaged.mp4").write_bytes(b"not a video" * 500)
    names = ("a.mp4", "short.mp4", "b.mp4", "damaged.mp4", "c.mp4", "missing.mp4", "z.mp4")
    return [row(folder / name) for name in names]


def read_videos(out, report):
    """Return the rows of a shard's file of videos, as dicts."""
    return pq.read_table(Path(out) / video_file(report.name)).to_pylist()


def read_clips(out, report):
    """Return the rows of a shard's file of clips, as dicts."""
    return pq.read_table(Path(out) / clip_file(report.name)).to_pylist()


def stable_content(out, report):
    """Return the content in which two runs of the same shard must agree."""
    videos = pq.read_table(Path(out) / video_file(report.name)).drop_columns(VARYING_COLUMNS)
    return videos.to_pylist(), read_clips(out, report) if report.clip_bytes else None


def files_in(out) -> list[str]:
    """Return all files below a dataset's folder, hidden ones included."""
    return sorted(str(p.relative_to(out)) for p in Path(out).rglob("*") if p.is_file())


def run_python(code, *arguments, stdin=None) -> subprocess.Popen:
    """Start a Python process with the tests' modules and a readable standard output."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )


def after(count, action):
    """Return an ``on_progress`` that calls an action after a number of videos."""

    def on_progress(progress):
        if progress.done == count and progress.state == "running":
            action()

    return on_progress
