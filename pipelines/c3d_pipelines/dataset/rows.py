"""What a dataset gives: a video with its numbers, and a video's clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class DatasetRow:
    """One video. The columns are the index's, see its README; here are those that are not.

    Args:
        feature: float32 ``[4096]``, length 1; None where it is not ok, or the answer is classes.
        probabilities: float32 ``[classes]``, they add up to 1; None where it is not ok, or the
            answer is features.
    """

    video_id: str
    uri: str
    key: str
    size_bytes: int
    status: str
    error_type: str
    error_message: str
    n_frames: int | None
    n_clips: int | None
    fps: float | None
    duration_s: float | None
    width: int | None
    height: int | None
    interlaced: bool | None
    duplicate_of: str
    shard: str
    row: int
    run: str
    top_label: str | None
    top_probability: float | None
    feature: npt.NDArray[np.float32] | None = None
    probabilities: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Clips:
    """The clips of one video of n clips, by time.

    Args:
        video_id: whose they are.
        clip_starts: int64 ``[n]``, the index of each clip's first frame.
        clip_times_s: float64 ``[n, 2]``, start and end of each clip in seconds.
        clip_features: float32 ``[n, 4096]``, fc6 after ReLU; None where the answer is classes.
        clip_probabilities: float32 ``[n, classes]``; None where the answer is features.
    """

    video_id: str
    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    clip_features: npt.NDArray[np.float32] | None = None
    clip_probabilities: npt.NDArray[np.float32] | None = None
