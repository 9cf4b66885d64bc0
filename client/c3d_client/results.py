"""Results of a video: features or class probabilities, with their provenance and timings."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.errors import OutputError, UsageError
from c3d_client.core.files import chunk_rows
from c3d_client.core.provenance import require_same


@dataclass(frozen=True)
class Timings:
    """How long the parts of one video took, in seconds. The parts overlap, so they add up to more.

    Args:
        wall_s: from start to end.
        decode_s: decoding, resizing and cropping.
        wire_s: from sending requests to the arrival of their answers, without queue and compute;
            including both where the server does not report them.
        queue_s: requests waiting in the server; None where the server does not report it.
        compute_s: the server computing; None where the server does not report it.
        retries: how often requests were sent again because the server was away or full.
    """

    wall_s: float
    decode_s: float
    wire_s: float
    queue_s: float | None
    compute_s: float | None
    retries: int = 0


@dataclass(frozen=True)
class VideoFeatures:
    """The features of one video of n clips: fc6, or the layers that the client was made for.

    A clip's row has the shape of its layer: ``[4096]`` for fc6 and fc7, after ReLU;
    ``[2, 7, 7, 512]`` for conv5b, after ReLU, and ``[1, 4, 4, 512]`` for pool5, with frames, rows,
    columns and channels; ``[classes]`` for fc8, before the softmax.

    More than 64 clips, or fewer of larger rows, are a read-only map of a temporary file, whose disk
    space is freed when the array is deleted.

    Args:
        clip_starts: int64 ``[n]``, the index of each clip's first frame.
        clip_times_s: float64 ``[n, 2]``, start and end of each clip in seconds; NaN where frames
            have no times.
        clip_features: float32 ``[n, 4096]``, fc6 after ReLU; ``[n, ...]`` of another first layer,
            ``[n, dim]`` where a PCA reduced it.
        video_feature: float32 ``[4096]`` or ``[dim]``, the mean of ``clip_features``,
            L2-normalised; all numbers of a row in one dimension: 50,176 of conv5b, 8,192 of pool5.
        provenance: how the features were made: contract, model, weights, mean, decoder, resize.
        timings: how long the parts took.
        layers: the rows of the layers after the first, float32 ``[n, ...]``, by name.
    """

    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    clip_features: npt.NDArray[np.float32]
    video_feature: npt.NDArray[np.float32]
    provenance: dict[str, Any]
    timings: Timings
    layers: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassScore:
    """One class of a result: its index, its label and its probability (0 to 1)."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class VideoClassification:
    """The class probabilities of one video of n clips.

    More than 64 clips are a read-only map of a temporary file, as in :class:`VideoFeatures`.

    Args:
        top: the most probable classes of the whole video, in descending order.
        probabilities: float64 ``[classes]``, the mean over the clips.
        clip_probabilities: float32 ``[n, classes]``.
        clip_starts: int64 ``[n]``.
        clip_times_s: float64 ``[n, 2]``, seconds; NaN where frames have no times.
        labels: one for each class.
        provenance: as in :class:`VideoFeatures`.
        timings: how long the parts took.
    """

    top: tuple[ClassScore, ...]
    probabilities: npt.NDArray[np.float64]
    clip_probabilities: npt.NDArray[np.float32]
    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    labels: tuple[str, ...]
    provenance: dict[str, Any]
    timings: Timings


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


def top_classes(
    probabilities: npt.NDArray[Any], labels: Sequence[str], *, top_k: int
) -> tuple[ClassScore, ...]:
    """Return the most probable classes in descending order; of equal ones the lower index first.

    Args:
        probabilities: ``[classes]``.
        labels: one for each class.
        top_k: how many, 1 or more; all classes where there are fewer.

    Raises:
        UsageError: top_k is below 1.
    """
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; give 1 or more")
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(ClassScore(int(i), labels[i], float(probabilities[i])) for i in order)


def l2_normalise(vector: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale a vector to length 1.

    Returns:
        float32, the same shape.

    Raises:
        ValueError: the vector contains NaN or infinity, or its length is zero, which only a broken
            model returns.
    """
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm):
        raise ValueError("the feature holds NaN or infinity")
    if norm == 0.0:
        raise ValueError("the feature is zero everywhere")
    return (vector / norm).astype(np.float32)


class RunningMean:
    """The mean of rows that arrive in batches; a float64 sum hardly depends on their order."""

    def __init__(self) -> None:
        self._sum: npt.NDArray[np.float64] | None = None
        self.count = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add a batch of rows ``[n, ...]``."""
        total = rows.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self.count += len(rows)

    def value(self) -> npt.NDArray[np.float64]:
        """Return the mean so far, float64, of the shape of a row.

        Raises:
            ValueError: no rows were added.
        """
        if self._sum is None or not self.count:
            raise ValueError("the mean of no rows")
        return self._sum / self.count


class RowStore:
    """Float32 rows in the order in which they are added, in memory or in a temporary file.

    Args:
        most_in_memory: number of rows; by default 64, or fewer where 64 are more than 1 MB. More
            rows are written to a temporary file in the folder that TMPDIR names; its disk space is
            freed when its array is deleted.
    """

    def __init__(self, *, most_in_memory: int | None = None) -> None:
        self._most_in_memory = most_in_memory
        self._buffer: list[npt.NDArray[np.float32]] = []
        self._buffered_rows = 0
        self._shape: tuple[int, ...] = ()
        self._file: IO[bytes] | None = None
        self.count = 0

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Add a batch of rows ``[n, ...]``.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        self._shape = rows.shape[1:]
        most = chunk_rows(rows.shape[1:]) if self._most_in_memory is None else self._most_in_memory
        self._buffer.append(rows)
        self._buffered_rows += len(rows)
        self.count += len(rows)
        if self._buffered_rows > most:
            self._spill()

    def array(self) -> npt.NDArray[np.float32]:
        """Return all rows, float32 ``[count, ...]``: an array, or a read-only map of the file.

        Raises:
            OutputError: the temporary file cannot be written.
            ValueError: there are no rows.
        """
        if self._file is None:
            return np.concatenate(self._buffer)
        self._spill()
        return np.memmap(self._file, np.float32, mode="r", shape=(self.count, *self._shape))

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="c3d-rows-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)  # also where the video failed
            for rows in self._buffer:
                self._file.write(np.ascontiguousarray(rows, np.float32).data)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                tempfile.gettempdir(),
                f"clip features cannot be stored there ({error.strerror or error}); "
                "free disk space, or name another folder in TMPDIR",
            ) from error
        self._buffer, self._buffered_rows = [], 0
