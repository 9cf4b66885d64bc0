"""``_C.txt``: 32 lines of 4096 numbers, as the anomaly detector of Sultani, Chen and Shah reads.

Their code (AnomalyDetectionCVPR2018) takes the files named ``*_C.txt`` of a folder and cuts their
words into rows of 4096. `Save_C3DFeatures_32Segments.m` makes them, and is followed here:

- 33 bounds are spread evenly from the first clip to the last, both included, and rounded to whole
  clips, halves up. Segment k goes from bound k to the clip before bound k + 1.
- So the last bound, which is the last clip, belongs to no segment where there are more than 32
  clips. (The script means to add it, but its test for the last segment is never true.)
- Where two bounds are the same, as with fewer than 33 clips, the segment is that one clip: clips
  repeat, in order, until there are 32 lines.
- A line is the mean of its segment's clips, divided by its length, written with six decimals and
  a space after each number.
- A clip that is zero everywhere, or not finite, is refused.

Theirs are clips of 16 frames that do not overlap: extract with a stride of 16 for the same. The
provenance is in the sidecar ``_C.txt.json``. Clips cannot be had back from means: on reading, the
32 lines stand in for them, without starts and times.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.files import row_chunks
from c3d_client.outputs.npy_io import Summed, check_sum, read_sidecar, sidecar_of, with_sidecar
from c3d_client.outputs.validation import features_of, to_json
from c3d_client.results import RunningMean, VideoFeatures

SEGMENTS = 32
_MOST_BYTES = SEGMENTS * FEATURE_SIZE * 32  # far more than the longest file of 32 lines


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's 32 lines, and the sidecar.

    Raises:
        OSError: they cannot be written.
        ValueError: a clip is zero everywhere, or not finite.
    """
    to_json(features.provenance)  # refused here where it cannot be written
    lines = segment_means(features.clip_features)
    with with_sidecar(path, {"provenance": features.provenance}) as file:
        for line in lines:
            file.write(("%f " * FEATURE_SIZE % tuple(line.tolist()) + "\n").encode())


def segment_means(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The means of the 32 segments of a video's clips, each of length 1.

    Args:
        rows: clip features ``[n, 4096]``.

    Returns:
        float64 ``[32, 4096]``.

    Raises:
        ValueError: a clip is zero everywhere, or not finite.
    """
    seen = 0
    for chunk in row_chunks(rows):
        sums = chunk.sum(axis=1, dtype=np.float64)
        wrong = (sums == 0) | ~np.isfinite(sums)
        if wrong.any():
            raise ValueError(f"clip {seen + int(wrong.argmax())} is zero everywhere or not finite")
        seen += len(chunk)
    means: npt.NDArray[np.float64] = np.empty((SEGMENTS, rows.shape[1]))
    for k, (start, end) in enumerate(pairwise(_bounds(len(rows)))):
        mean = RunningMean()
        for chunk in row_chunks(rows[start : max(end, start + 1)]):
            mean.add(chunk)
        means[k] = mean.value()
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means


def read(path: Path) -> VideoFeatures:
    """Read the 32 lines, ours or the original's."""
    sidecar = read_sidecar(path) if sidecar_of(path).exists() else None
    with path.open("rb") as raw:
        file = Summed(raw)
        words = file.read(_MOST_BYTES).decode("ascii").split()
    if sidecar is not None:
        check_sum(sidecar, file)
    if len(words) != SEGMENTS * FEATURE_SIZE:
        raise ValueError(f"has {len(words)} numbers; expected {SEGMENTS} lines of {FEATURE_SIZE}")
    rows = np.array(words, np.float64).astype(np.float32).reshape(SEGMENTS, FEATURE_SIZE)
    return features_of(clip_features=rows, provenance=sidecar["provenance"] if sidecar else {})


def read_provenance(path: Path) -> dict[str, Any]:
    """Read what made a video's features: from the sidecar; nothing is known of a file without."""
    if not sidecar_of(path).exists():
        with path.open("rb"):  # there, and a file
            return {}
    provenance: dict[str, Any] = read_sidecar(path)["provenance"]
    return provenance


def _bounds(clips: int) -> list[int]:
    """Where segments begin, counted from 0: k (clips - 1) / 32, halves up, in whole numbers."""
    return [(2 * k * (clips - 1) + SEGMENTS) // (2 * SEGMENTS) for k in range(SEGMENTS + 1)]
