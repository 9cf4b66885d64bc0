"""``_C.txt``: 32 lines of 4096 numbers, for the anomaly detector of Sultani, Chen and Shah.

Their code (AnomalyDetectionCVPR2018) reads the files named ``*_C.txt`` of a folder as numbers in
rows of 4096. Their script `Save_C3DFeatures_32Segments.m` writes such files; this module computes
the same:

- 33 bounds are spread evenly from the first clip to the last, both included, and rounded to whole
  clips, halves up. Segment k goes from bound k to the clip before bound k + 1.
- So the last bound, which is the last clip, belongs to no segment where there are more than 32
  clips. (The script intends to add it, but its test for the last segment is never true.)
- Where two bounds are the same, as with fewer than 33 clips, the segment is that one clip: clips
  repeat, in order, until there are 32 lines.
- A line is the mean of its segment's clips, divided by its length, written with six decimals and
  a space after each number.
- A clip that is zero everywhere, or not finite, is refused.

Their clips of 16 frames do not overlap: extract or convert with a stride of 16 for the same. The
provenance and the stride of the clips are in the sidecar ``_C.txt.json``. Clips cannot be computed
from means: a file is read as 32 clips, without starts and times.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.files import row_chunks
from c3d_client.core.provenance import Provenance
from c3d_client.outputs.npy_io import (
    ChecksumFile,
    check_crc,
    read_sidecar,
    sidecar_of,
    write_with_sidecar,
)
from c3d_client.outputs.validation import make_features, provenance_json
from c3d_client.results import RunningMean, VideoFeatures

SEGMENTS = 32
# Frames from one clip's start to the next in the original work: its clips do not overlap.
ORIGINAL_STRIDE = 16
_MAX_BYTES = SEGMENTS * FEATURE_SIZE * 32  # far more than the longest file of 32 lines


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's 32 lines, and the sidecar.

    Raises:
        OSError: one of the two files cannot be written.
        ValueError: a clip is zero everywhere, or not finite.
    """
    provenance_json(features)  # refuses a provenance that is not JSON before anything is written
    lines = segment_means(features.clip_features)
    content = {"provenance": features.provenance, "stride": stride_of(features.provenance)}
    with write_with_sidecar(path, content) as file:
        for line in lines:
            file.write(("%f " * FEATURE_SIZE % tuple(line.tolist()) + "\n").encode())


def stride_of(provenance: Mapping[str, Any]) -> int | None:
    """Return the frames from one clip's start to the next; None where it is not known."""
    clips = provenance.get("clips")
    stride = clips.get("stride") if isinstance(clips, Mapping) else None
    return stride if isinstance(stride, int) else None


def with_stride(features: VideoFeatures, stride: int) -> VideoFeatures:
    """Return the clips that an extraction with a longer stride has.

    Args:
        features: of a video; all of its clips, one stride after the other.
        stride: frames from one clip's start to the next: the stride of the features, or a multiple.

    Raises:
        ValueError: the stride of the features is not known, does not divide the other one, or an
            extraction with the other one would have other clips.
    """
    made = stride_of(features.provenance)
    starts = features.clip_starts
    is_regular = len(starts) < 2 or bool((np.diff(starts) == made).all())
    if made is None or starts[0] < 0 or not is_regular:
        raise ValueError(
            f"does not have clips at equal distances; extract the video with --stride {stride}"
        )
    if stride % made:
        raise ValueError(
            f"has clips every {made} frames, and {stride} is no multiple of that; "
            f"extract the video with --stride {stride}"
        )
    clips = features.provenance["clips"]
    if stride != made and len(starts) > 1 and clips.get("tail", "drop") != "drop":
        raise ValueError(
            f"was made with the tail {clips['tail']}, whose last clip depends on the stride; "
            f"extract the video with --stride {stride}"
        )
    step = stride // made
    return make_features(
        clip_features=features.clip_features[::step],
        clip_starts=starts[::step],
        clip_times_s=features.clip_times_s[::step],
        provenance=Provenance({**features.provenance, "clips": {**clips, "stride": stride}}),
    )


def segment_means(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the means of the 32 segments of a video's clips, each scaled to length 1.

    Args:
        rows: clip features ``[n, 4096]``.

    Returns:
        float64 ``[32, 4096]``.

    Raises:
        ValueError: a clip is zero everywhere, or not finite.
    """
    checked = 0
    for chunk in row_chunks(rows):
        sums = chunk.sum(axis=1, dtype=np.float64)
        wrong = (sums == 0) | ~np.isfinite(sums)
        if wrong.any():
            raise ValueError(
                f"clip {checked + int(wrong.argmax())} is zero everywhere or not finite"
            )
        checked += len(chunk)
    means: npt.NDArray[np.float64] = np.empty((SEGMENTS, rows.shape[1]))
    for k, (start, end) in enumerate(pairwise(_bounds(len(rows)))):
        mean = RunningMean()
        for chunk in row_chunks(rows[start : max(end, start + 1)]):
            mean.add(chunk)
        means[k] = mean.value()
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means


def read(path: Path) -> VideoFeatures:
    """Read the 32 lines of a file of this client or of the original script."""
    content, provenance = read_sidecar(path) if sidecar_of(path).exists() else (None, Provenance())
    with path.open("rb") as raw:
        file = ChecksumFile(raw)
        numbers = file.read(_MAX_BYTES).decode("ascii").split()
    if content is not None:
        check_crc(content, file)
    if len(numbers) != SEGMENTS * FEATURE_SIZE:
        raise ValueError(f"has {len(numbers)} numbers; expected {SEGMENTS} lines of {FEATURE_SIZE}")
    rows = np.array(numbers, np.float64).astype(np.float32).reshape(SEGMENTS, FEATURE_SIZE)
    return make_features(clip_features=rows, provenance=provenance)


def read_provenance(path: Path) -> Provenance:
    """Read the provenance from the sidecar; it is empty for a file without a sidecar."""
    if not sidecar_of(path).exists():
        with path.open("rb"):  # fails where the path is no file
            return Provenance()
    return read_sidecar(path)[1]


def _bounds(clips: int) -> list[int]:
    """Return the 33 bounds, counted from 0: k (clips - 1) / 32, halves up, in whole numbers."""
    return [(2 * k * (clips - 1) + SEGMENTS) // (2 * SEGMENTS) for k in range(SEGMENTS + 1)]
