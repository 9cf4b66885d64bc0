"""Reads a dataset: what became of every video, and the numbers of those that are ok.

Example::

    videos = c3d_pipelines.dataset.open("s3://bucket/dataset")
    ids, features = videos.matrix()            # float32 [n, 4096], length 1 each
    for near in videos.nearest("bikes.mp4", k=5):
        print(near.video_id, near.similarity)

What is read is what the last run published; shards of a run that is still going on are not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from c3d_client import VideoFeatures
from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.errors import C3DError, ProvenanceError, UsageError
from c3d_client.core.files import atomic_file
from c3d_client.core.provenance import differences
from c3d_client.core.uri import redact

from c3d_pipelines.dataset.card import CARD_FILE, Card, read_card
from c3d_pipelines.dataset.index import INDEX_FILE, published
from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.shards.reader import columns_of, numbers_of
from c3d_pipelines.shards.schema import NUMBERS, OK, STATUSES, clip_file, video_file
from c3d_pipelines.storage import Storage


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


@dataclass(frozen=True)
class Neighbour:
    """A video and how like the query it is.

    Args:
        video_id: in the dataset.
        similarity: the cosine, -1 to 1; 1 is the same direction.
    """

    video_id: str
    similarity: float


def query_vector(
    query: npt.NDArray[Any] | VideoFeatures, *, provenance: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """What to compare with a dataset: float32 ``[4096]``, length 1.

    Args:
        query: a feature, or a video's features.
        provenance: of the dataset.

    Raises:
        UsageError: it is not a feature.
        ProvenanceError: the features were made differently from the dataset's.
    """
    if isinstance(query, VideoFeatures):
        if found := differences(provenance, query.provenance):
            raise ProvenanceError(
                "the dataset's features and the query's were made differently and cannot be "
                f"compared: {'; '.join(found)}; extract the query as the dataset was"
            )
        query = query.video_feature
    vector = np.asarray(query, np.float64)
    length = np.linalg.norm(vector)
    if vector.shape != (FEATURE_SIZE,) or not np.isfinite(length) or not length:
        raise UsageError(
            f"the query is of shape {list(vector.shape)} and length {length:g}; give a video_id "
            f"or a feature of shape [{FEATURE_SIZE}] that is finite and not zero"
        )
    unit: npt.NDArray[np.float32] = (vector / length).astype(np.float32)
    return unit


def nearest_of(
    parts: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]],
    query: npt.NDArray[np.float32],
    *,
    k: int,
    but: int = -1,
) -> list[tuple[int, float]]:
    """The k rows most like a query, most like first; of equals, the one with the lower number.

    Args:
        parts: numbers of rows, int64 ``[m]``, and the rows, float32 ``[m, size]``.
        query: float32 ``[size]``, length 1.
        k: how many.
        but: the number of a row to leave out.
    """
    numbers: npt.NDArray[np.int64] = np.empty(0, np.int64)
    cosines: npt.NDArray[np.float32] = np.empty(0, np.float32)
    for at, rows in parts:
        lengths = np.linalg.norm(rows, axis=1)
        found = np.divide(rows @ query, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        numbers = np.append(numbers, at[at != but])
        cosines = np.append(cosines, found[at != but])
        best = np.lexsort((numbers, -cosines))[:k]
        numbers, cosines = numbers[best], cosines[best]
    return list(zip(numbers.tolist(), cosines.tolist(), strict=True))


_Numbers = npt.NDArray[np.float32]
_Places = npt.NDArray[np.int64]
# Its functions have no types.
_NPY: Any = np.lib.format
# Rows of the index made into Python objects at a time.
_BATCH = 1024
_COLUMNS = [one.name for one in fields(DatasetRow) if one.name not in NUMBERS.values()]


def open(path: str | os.PathLike[str]) -> Dataset:
    """Open a dataset.

    Args:
        path: its folder, or an ``s3://`` or ``gs://`` address.

    Raises:
        StorageError: there is none, or it cannot be read.
        ShardError: its index or card is damaged.
    """
    return Dataset(Storage(path))


class Dataset:
    """A dataset that was published. Make it with :func:`open`.

    Attributes:
        card: what it is: answer, labels, provenance, counts.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        card = read_card(storage)
        if card is None:
            raise StorageError(
                redact(storage.uri),
                f"is not a dataset: it has no {CARD_FILE}; run a pipeline to its end, or give "
                "the folder that it wrote to",
            )
        if storage.size(INDEX_FILE) is None:
            raise ShardError(
                f"{redact(storage.uri_of(INDEX_FILE))}: is not there, though {CARD_FILE} is; run "
                "the pipeline again: it is made anew from the shards"
            )
        self.card: Card = card
        self._table, self._shards = published(storage)
        self._column = NUMBERS[card.answer]

    def __len__(self) -> int:
        """All videos, whatever became of them."""
        return len(self._table)

    def __iter__(self) -> Iterator[DatasetRow]:
        """Every video once: those with numbers shard by shard, then the others.

        Raises:
            ShardError: a shard is damaged, or gone.
            StorageError: it cannot be read.
        """
        for at, numbers in self._stream():
            yield from self._rows(at, numbers)
        others = np.flatnonzero(pc.not_equal(self._table["status"], OK).to_numpy())
        for start in range(0, len(others), _BATCH):
            yield from self._rows(others[start : start + _BATCH], None)

    @property
    def labels(self) -> tuple[str, ...]:
        """One a class, in the order of the probabilities; none where the answer is features."""
        return self.card.labels

    def table(self) -> pa.Table:
        """The index: one row a video, sorted by ``video_id``, without the numbers."""
        return self._table

    def files(self) -> list[str]:
        """The paths or URLs of the shards that hold numbers, for pandas, DuckDB, Hugging Face.

        Which of their rows count is told by :meth:`file_rows`.
        """
        return [self._storage.uri_of(video_file(name)) for name in self._names()]

    def file_rows(self) -> npt.NDArray[np.int64]:
        """Where each video that is ok is in the files, put one after another; int64 ``[n]``.

        In the order of :meth:`ids`. A video that was done twice is in the files twice.
        """
        starts, total = {}, 0
        for name in self._names():
            starts[name] = total
            total += self._shards[name][1]
        well = self._table.filter(pc.equal(self._table["status"], OK))
        first = np.array([starts[name] for name in well["shard"].to_pylist()], np.int64)
        rows: npt.NDArray[np.int64] = first + well["row"].to_numpy()
        return rows

    def ids(self, status: str | None = OK) -> list[str]:
        """The ``video_id`` of each video with a status, sorted; of all where it is None.

        Raises:
            UsageError: there is no such status.
        """
        if status is None:
            found = self._table["video_id"]
        elif status in STATUSES:
            found = self._table.filter(pc.equal(self._table["status"], status))["video_id"]
        else:
            raise UsageError(f"status is {status!r}; give one of {', '.join(STATUSES)}, or None")
        ids: list[str] = found.to_pylist()
        return ids

    def matrix(
        self, file: str | os.PathLike[str] | None = None
    ) -> tuple[list[str], npt.NDArray[np.float32]]:
        """The numbers of all videos that are ok, in the order of :meth:`ids`.

        Args:
            file: a ``.npy`` to write them to, shard by shard; for more than fits into memory.

        Returns:
            The ids, and float32 ``[n, 4096]`` or ``[n, classes]``; memory-mapped and read-only
            where a file is given.

        Raises:
            ShardError: a shard is damaged, or gone.
            StorageError: it cannot be read, or the file cannot be written.
        """
        ids = self.ids()
        shape = (len(ids), self.card.size)
        if file is None:
            filled = np.empty(shape, np.float32)
            self._fill(filled)
            return ids, filled
        try:
            with atomic_file(file) as made:
                mapped = _NPY.open_memmap(made.name, "w+", np.float32, shape)
                self._fill(mapped)
                mapped.flush()
            return ids, np.load(file, mmap_mode="r")
        except C3DError:
            raise
        except OSError as error:
            said = error.strerror or str(error)
            raise StorageError(os.fspath(file), f"cannot be written ({said})") from error

    def row(self, video_id: str) -> DatasetRow:
        """One video.

        Raises:
            UsageError: there is none of this id.
            ShardError, StorageError: its shard cannot be read.
        """
        at = np.array([self._position(video_id)])
        numbers = None
        if self._table["status"][int(at[0])].as_py() == OK:
            [(at, numbers)] = self._stream(at)
        return next(self._rows(at, numbers))

    def clips(self, video_id: str) -> Clips:
        """The clips of one video.

        Raises:
            UsageError: there is none of this id, it is not ok, or clips were not kept.
            ShardError, StorageError: its shard cannot be read.
        """
        [said] = self._table.slice(self._position(video_id), 1).to_pylist()
        if said["status"] != OK:
            why = f"{said['status']}: {said['error_message']}"
            raise UsageError(f"{video_id} has no clips; it is {why}")
        if said["first_clip_row"] is None:
            raise UsageError(f"{video_id}: its clips were not kept; run it with clip rows")
        rows = said["first_clip_row"] + np.arange(said["n_clips"])
        name, owner = clip_file(said["shard"]), said["duplicate_of"] or video_id
        places = columns_of(self._storage, name, rows, ["clip", "start_frame", "start_s", "end_s"])
        if places["clip"].to_pylist() != list(range(said["n_clips"])):
            where = redact(self._storage.uri_of(name))
            raise ShardError(f"{where}: the clips of {owner!r} are not where the index says")
        found = self._numbers_of(name, rows, [owner] * len(rows))
        numbers = np.concatenate([part for _, part in found])
        return Clips(
            video_id=video_id,
            clip_starts=places["start_frame"].to_numpy(),
            clip_times_s=np.stack([places["start_s"], places["end_s"]], axis=1),
            clip_features=numbers if self.card.answer == "features" else None,
            clip_probabilities=numbers if self.card.answer == "classes" else None,
        )

    def nearest(
        self, query: str | npt.NDArray[np.floating] | VideoFeatures, *, k: int = 10
    ) -> list[Neighbour]:
        """The videos most like another one, by the cosine of their features, most like first.

        The dataset is read once, shard by shard; for many queries take :meth:`matrix`.

        Args:
            query: a ``video_id`` of this dataset, which is left out of the answer; a feature,
                ``[4096]``; or what :meth:`c3d_client.C3DClient.extract` gives.
            k: how many, 1 or more.

        Raises:
            UsageError: there is no such video, or it is not ok; the query is not a feature; the
                dataset is of classes.
            ProvenanceError: the query's features were made differently.
            ShardError, StorageError: a shard cannot be read.
        """
        if k < 1:
            raise UsageError(f"k is {k}; give 1 or more")
        if self.card.answer != "features":
            raise UsageError(f"{redact(self._storage.uri)}: holds classes, and no features")
        itself = -1
        if isinstance(query, str):
            itself, said = self._position(query), self.row(query)
            if said.feature is None:
                raise UsageError(f"{query} has no features; it is {said.status}")
            query = said.feature
        vector = query_vector(query, provenance=self.card.provenance)
        found = nearest_of(self._stream(), vector, k=k, but=itself)
        return [
            Neighbour(self._table["video_id"][at].as_py(), similarity) for at, similarity in found
        ]

    def _names(self) -> list[str]:
        well = self._table.filter(pc.equal(self._table["status"], OK))
        return sorted(pc.unique(well["shard"]).to_pylist())

    def _position(self, video_id: str) -> int:
        at: int = pc.index(self._table["video_id"], video_id).as_py()
        if at < 0:
            where = redact(self._storage.uri)
            raise UsageError(f"{where}: has no video {video_id!r}; ids(None) lists them all")
        return at

    def _fill(self, matrix: npt.NDArray[np.float32]) -> None:
        storage = np.cumsum(pc.equal(self._table["status"], OK).to_numpy()) - 1
        for at, numbers in self._stream():
            matrix[storage[at]] = numbers

    def _stream(self, wanted: _Places | None = None) -> Iterator[tuple[_Places, _Numbers]]:
        """Positions in the index and their numbers, a row group of a shard at a time."""
        if wanted is None:
            wanted = np.flatnonzero(pc.equal(self._table["status"], OK).to_numpy())
        told = self._table.select(["video_id", "duplicate_of", "shard", "row"]).take(
            pa.array(wanted)
        )
        of_shard = told["shard"].combine_chunks().dictionary_encode()
        codes = np.asarray(of_shard.indices)
        rows = told["row"].to_numpy()
        order = np.lexsort((rows, codes))
        edges = np.searchsorted(codes[order], np.arange(len(of_shard.dictionary) + 1))
        for number, name in enumerate(of_shard.dictionary.to_pylist()):
            here = order[edges[number] : edges[number + 1]]
            owners = told.select(["video_id", "duplicate_of"]).take(pa.array(here)).to_pylist()
            ids = [one["duplicate_of"] or one["video_id"] for one in owners]
            for part, numbers in self._numbers_of(video_file(name), rows[here], ids):
                yield wanted[here[part]], numbers

    def _numbers_of(
        self, name: str, rows: _Places, ids: list[str]
    ) -> Iterator[tuple[_Places, _Numbers]]:
        size = self.card.size
        return numbers_of(self._storage, name, rows, column=self._column, size=size, ids=ids)

    def _rows(self, at: _Places, numbers: _Numbers | None) -> Iterator[DatasetRow]:
        for number, said in enumerate(self._table.select(_COLUMNS).take(pa.array(at)).to_pylist()):
            given = {} if numbers is None else {self._column: numbers[number]}
            yield DatasetRow(**said, **given)
