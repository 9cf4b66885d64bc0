"""Sample features as the client would return them, and a simulated full disk."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from c3d_client.outputs import FORMATS
from c3d_client.results import Timings, VideoFeatures

PROVENANCE = {
    "contract_version": "1",
    "model": {"name": "c3d", "version": 3, "precision": "float32", "weights": {"sha256": "ab"}},
    "clips": {"frames": 16, "stride": 8, "tail": "drop"},
    "video": {"source": "a/zwölf.mp4", "frames": 32},
}


def sample_features(clips: int = 3, *, seed: int = 0, **changes) -> VideoFeatures:
    """Return features of some clips: about half the values zero, as after ReLU, the rest random."""
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.standard_normal((clips, 4096), np.float32), 0)
    starts = np.arange(clips, dtype=np.int64) * 8
    mean = rows.mean(axis=0, dtype=np.float64)
    features = VideoFeatures(
        clip_starts=starts,
        clip_times_s=np.stack([starts, starts + 16], axis=1) / 29.97,
        clip_features=rows,
        video_feature=(mean / np.linalg.norm(mean)).astype(np.float32),
        provenance=PROVENANCE,
        timings=Timings(1.0, 0.5, 0.1, None, None),
    )
    return replace(features, **changes)


def same_features(features: VideoFeatures, expected: VideoFeatures) -> bool:
    """Return whether arrays are equal to the bit and in dtype, and provenances are equal."""
    names = ("clip_features", "video_feature", "clip_starts", "clip_times_s")
    return features.provenance == expected.provenance and all(
        getattr(features, name).dtype == getattr(expected, name).dtype
        and getattr(features, name).shape == getattr(expected, name).shape
        and getattr(features, name).tobytes() == getattr(expected, name).tobytes()
        for name in names
    )


def format_path(folder: Path, name: str) -> Path:
    """Create a folder for a format, and return a path for a video's features in it."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    return folder / name / f"video.mp4{FORMATS[name].suffix}"


def names_in(folder) -> list[str]:
    """Return the names of all files and folders in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Make writing more than ``size`` bytes to any file an OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
