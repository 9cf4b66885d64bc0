"""What a video gives: its features or its class probabilities, with what made them."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.errors import OutputError, UsageError
from c3d_client.core.files import CHUNK_ROWS
from c3d_client.core.provenance import require_same


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


class RunningMean:
    """The mean of rows that arrive in batches, summed in float64 so that order hardly matters."""

    def __init__(self) -> None:
        self._sum: npt.NDArray[np.float64] | None = None
        self.count = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add a batch of rows ``[n, size]``."""
        total = rows.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self.count += len(rows)

    def value(self) -> npt.NDArray[np.float64]:
        """The mean so far, float64 ``[size]``.

        Raises:
            ValueError: nothing was added.
        """
        if self._sum is None or not self.count:
            raise ValueError("the mean of no rows")
        return self._sum / self.count


def l2_normalise(vector: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale a vector to length 1.

    Returns:
        float32, the same shape.

    Raises:
        ValueError: the vector holds a NaN or infinity, or its length is zero: that is never a
            feature, but the sign of a broken model.
    """
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm):
        raise ValueError("the feature holds NaN or infinity")
    if norm == 0.0:
        raise ValueError("the feature is zero everywhere")
    return (vector / norm).astype(np.float32)


@dataclass(frozen=True)
class ClassScore:
    """One class of an answer: its index, its label and its probability (0 to 1)."""

    index: int
    label: str
    probability: float


def top_classes(
    probabilities: npt.NDArray[Any], labels: Sequence[str], *, top_k: int
) -> tuple[ClassScore, ...]:
    """The most probable classes, best first; among equals the lower index first.

    Args:
        probabilities: ``[classes]``.
        labels: one for each class.
        top_k: how many, 1 or more; no more than there are.

    Raises:
        UsageError: top_k is below 1.
    """
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; give 1 or more")
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(ClassScore(int(i), labels[i], float(probabilities[i])) for i in order)


class RowStore:
    """Collects float32 rows in order.

    Args:
        most_in_memory: rows; more than these are in a temporary file, in the folder that TMPDIR
            names, whose room on the disk is free again when its array is gone.
    """

    def __init__(self, *, most_in_memory: int = CHUNK_ROWS) -> None:
        self._most = most_in_memory
        self._held: list[npt.NDArray[np.float32]] = []
        self._held_rows = 0
        self._size = 0
        self._file: IO[bytes] | None = None
        self.count = 0

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Add a batch of rows ``[n, size]``.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        self._size = rows.shape[1]
        self._held.append(rows)
        self._held_rows += len(rows)
        self.count += len(rows)
        if self._held_rows > self._most:
            self._spill()

    def array(self) -> npt.NDArray[np.float32]:
        """All rows, float32 ``[count, size]``: an array, or a read-only map of the file.

        Raises:
            OutputError: the temporary file cannot be written.
            ValueError: there are no rows.
        """
        if self._file is None:
            return np.concatenate(self._held)
        self._spill()
        return np.memmap(self._file, np.float32, mode="r", shape=(self.count, self._size))

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="c3d-rows-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)  # also of a video that failed
            for rows in self._held:
                self._file.write(np.ascontiguousarray(rows, np.float32).data)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                tempfile.gettempdir(),
                f"clip features cannot be kept there ({error.strerror or error}); "
                "make room, or name another folder in TMPDIR",
            ) from error
        self._held, self._held_rows = [], 0


def mean_feature(
    features: Sequence[tuple[npt.NDArray[Any], Mapping[str, Any]]],
) -> npt.NDArray[np.float32]:
    """Average the features of several videos, for a class or a query, and scale to length 1.

    Args:
        features: pairs of a video feature ``[4096]`` and its provenance.

    Returns:
        float32 ``[4096]``.

    Raises:
        UsageError: the sequence is empty.
        ProvenanceError: the features were made differently.
        ValueError: their mean is zero or not finite.
    """
    if not features:
        raise UsageError("the mean of no features; give at least one")
    require_same(provenance for _, provenance in features)
    mean = RunningMean()
    for feature, _ in features:
        mean.add(np.asarray(feature)[None])
    return l2_normalise(mean.value())
