"""What a video gives: its features or its class probabilities, with what made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from c3d_client.aggregate import ClassScore


@dataclass(frozen=True)
class Timings:
    """Where the time of one video went, in seconds. The parts overlap: they add up to more.

    Args:
        wall_s: from start to end.
        decode_s: decoding, resizing and cropping.
        wire_s: from sending requests to their answers' arrival, less queue and compute; with a
            server that does not tell those, all of it.
        queue_s: requests waiting in the server for their turn; None where it does not tell.
        compute_s: the server computing; None where it does not tell.
    """

    wall_s: float
    decode_s: float
    wire_s: float
    queue_s: float | None
    compute_s: float | None


@dataclass(frozen=True)
class VideoFeatures:
    """The fc6 features of one video of n clips.

    Args:
        clip_starts: int64 ``[n]``, the index of each clip's first frame.
        clip_times_s: float64 ``[n, 2]``, start and end of each clip in seconds.
        clip_features: float32 ``[n, 4096]``, fc6 after ReLU.
        video_feature: float32 ``[4096]``, the clips' mean, L2-normalised.
        provenance: what made the numbers: contract, model, weights and mean, decoder, resize.
        timings: where the time went.
    """

    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    clip_features: npt.NDArray[np.float32]
    video_feature: npt.NDArray[np.float32]
    provenance: dict[str, Any]
    timings: Timings


@dataclass(frozen=True)
class VideoClassification:
    """The class probabilities of one video of n clips.

    Args:
        top: the best classes of the whole video, best first.
        probabilities: float64 ``[classes]``, the mean over the clips.
        clip_probabilities: float32 ``[n, classes]``.
        clip_starts: int64 ``[n]``.
        clip_times_s: float64 ``[n, 2]``, seconds.
        labels: one for each class.
        provenance: as in :class:`VideoFeatures`.
        timings: where the time went.
    """

    top: tuple[ClassScore, ...]
    probabilities: npt.NDArray[np.float64]
    clip_probabilities: npt.NDArray[np.float32]
    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    labels: tuple[str, ...]
    provenance: dict[str, Any]
    timings: Timings
