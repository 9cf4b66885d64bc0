"""Sample classifications of any number of clips, with known labels and times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from c3d_client.results import Timings, VideoClassification, top_classes

NOTE = "a demonstration, not Sports-1M"
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<b>bold</b> & <img src=x onerror='window.hacked = 2'>",
    "\"quoted\", 'twice'",
    "{{data}} {{title}}",
    "$x^2$ and _under_ \\frac",
    "two\nlines\tand a tab",
    "サッカー, катание, العربية, \N{SURFER}",
    "=1+1",
    "a\rsingle return",
    "",
)


def classified(
    rows: Any, *, labels: Sequence[str] | None = None, fps: float = 25.0, note: str = NOTE
) -> VideoClassification:
    """Return a classification with these probabilities ``[n, classes]``: 16 frames, stride 8."""
    rows = np.asarray(rows, np.float32)
    labels = labels or [f"label {number}" for number in range(rows.shape[1])]
    starts = np.arange(len(rows), dtype=np.int64) * 8
    mean = rows.mean(axis=0, dtype=np.float64)
    return VideoClassification(
        top=top_classes(mean, labels, top_k=5),
        probabilities=mean,
        clip_probabilities=rows,
        clip_starts=starts,
        clip_times_s=np.stack([starts / fps, (starts + 16) / fps], axis=1),
        labels=tuple(labels),
        provenance={
            "model": {"weights": {"source": "demo", "note": note}},
            "video": {"source": "video.mp4", "frames": len(rows) * 8 + 8},
        },
        timings=Timings(wall_s=1.5, decode_s=0.25, wire_s=1.0, queue_s=None, compute_s=0.5),
    )


def random_probabilities(clips: int, classes: int, *, seed: int = 0) -> np.ndarray:
    """Return probabilities ``[clips, classes]`` that all differ; each row adds up to 1."""
    rows = np.random.default_rng(seed).exponential(size=(clips, classes)) ** 3
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
