"""Reader of a dataset: the status of every video, and the numbers of the videos that are ok.

Example::

    videos = c3d_pipelines.dataset.open("s3://bucket/dataset")
    ids, features = videos.matrix()            # float32 [n, 4096], length 1 each
    for near in videos.nearest("bikes.mp4", k=5):
        print(near.video_id, near.similarity)

The reader returns what the last run published, without the shards of a run in progress.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from c3d_client import Timings, VideoFeatures
from c3d_client.core.errors import C3DError, ProvenanceError, UsageError
from c3d_client.core.files import atomic_file
from c3d_client.core.provenance import Provenance
from c3d_client.core.uri import Uri
from c3d_client.outputs import collect_rows

from c3d_pipelines.dataset.card import CARD_FILE, Card, read_card
from c3d_pipelines.dataset.index import INDEX_FILE, read_published
from c3d_pipelines.errors import ShardError, StorageError
from c3d_pipelines.shards.reader import columns_of, numbers_of
from c3d_pipelines.shards.schema import NUMBERS, OK, STATUSES, clip_file, video_file
from c3d_pipelines.storage import Storage

_Numbers = npt.NDArray[np.float32]
_Indexes = npt.NDArray[np.int64]
_NPY: Any = np.lib.format  # has no type annotations
_BATCH_ROWS = 1024  # of the index, converted to Python objects at a time
NOT_STORED = "its clips are not stored; extract it again with --clips, to another dataset"
_NO_TIMINGS = Timings(wall_s=0.0, decode_s=0.0, wire_s=0.0, queue_s=None, compute_s=None)


@dataclass(frozen=True, eq=False)
class DatasetRow:
    """One video: the columns of the index, which the dataset's README describes, and the numbers.

    Args:
        feature: float32 ``[4096]``, or ``[dim]`` after PCA, length 1; None where the video is not
            ok, or the answer is classes.
        probabilities: float32 ``[classes]`` with the sum 1; None where the video is not ok, or the
            answer is features.
        clips_left_out: number of clips that touch damaged pictures; None unless the run skips them.
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
    clips_left_out: int | None = None


_COLUMNS = [column.name for column in fields(DatasetRow) if column.name not in NUMBERS.values()]


@dataclass(frozen=True, eq=False)
class Clips:
    """The n clips of one video, in order of time.

    Args:
        video_id: the video.
        clip_starts: int64 ``[n]``, the index of each clip's first frame.
        clip_times_s: float64 ``[n, 2]``, start and end of each clip in seconds.
        clip_features: float32 ``[n, 4096]``, fc6 after ReLU, or ``[n, dim]`` after PCA; None where
            the answer is classes.
        clip_probabilities: float32 ``[n, classes]``; None where the answer is features.
    """

    video_id: str
    clip_starts: npt.NDArray[np.int64]
    clip_times_s: npt.NDArray[np.float64]
    clip_features: npt.NDArray[np.float32] | None = None
    clip_probabilities: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Neighbour:
    """A video and its similarity to a query.

    Args:
        video_id: the video's id in the dataset.
        similarity: the cosine, -1 to 1; 1 is the same direction.
    """

    video_id: str
    similarity: float


def query_vector(
    query: npt.NDArray[Any] | VideoFeatures, *, provenance: Provenance
) -> npt.NDArray[np.float32]:
    """Return a query as a vector to compare with a dataset: float32 ``[4096]``, length 1.

    In a dataset of reduced features it has as many numbers as the PCA has dimensions.

    Args:
        query: a feature, or a video's features.
        provenance: the dataset's provenance.

    Raises:
        UsageError: the query is not a feature.
        ProvenanceError: the query's features were made differently from the dataset's.
    """
    if isinstance(query, VideoFeatures):
        if differences := provenance.differences(Provenance.from_dict(query.provenance)):
            raise ProvenanceError(
                "the dataset's features and the query's were made differently and cannot be "
                f"compared: {'; '.join(map(str, differences))}; extract the query as the dataset "
                "was extracted"
            )
        query = query.video_feature
    vector, size = np.asarray(query, np.float64), provenance.feature_size
    length = np.linalg.norm(vector)
    if vector.shape != (size,) or not np.isfinite(length) or not length:
        raise UsageError(
            f"the query is of shape {list(vector.shape)} and length {length:g}; give a video_id "
            f"or a feature of shape [{size}] that is finite and not zero"
        )
    unit: npt.NDArray[np.float32] = (vector / length).astype(np.float32)
    return unit


def nearest_of(
    parts: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]],
    query: npt.NDArray[np.float32],
    *,
    k: int,
    exclude: int = -1,
) -> list[tuple[int, float]]:
    """Return the k rows most similar to a query, most similar first; of equals, the lower index.

    Args:
        parts: indexes of rows, int64 ``[m]``, and the rows, float32 ``[m, size]``.
        query: float32 ``[size]``, length 1.
        k: the number of rows.
        exclude: the index of a row to leave out.

    Returns:
        Index and cosine of each row.
    """
    indexes: npt.NDArray[np.int64] = np.empty(0, np.int64)
    cosines: npt.NDArray[np.float32] = np.empty(0, np.float32)
    for part, rows in parts:
        lengths = np.linalg.norm(rows, axis=1)
        cosine = np.divide(rows @ query, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        indexes = np.append(indexes, part[part != exclude])
        cosines = np.append(cosines, cosine[part != exclude])
        best = np.lexsort((indexes, -cosines))[:k]
        indexes, cosines = indexes[best], cosines[best]
    return list(zip(indexes.tolist(), cosines.tolist(), strict=True))


def _cut(chunks: Iterable[_Numbers], lengths: Iterable[int]) -> Iterator[_Numbers]:
    """Yield arrays of these numbers of rows, cut from chunks of rows; many rows stay on disk."""
    source = iter(chunks)
    rest: list[_Numbers] = []

    def rows(count: int) -> Iterator[_Numbers]:
        while count:
            chunk = rest.pop() if rest else next(source)
            yield chunk[:count]
            if len(chunk) > count:
                rest.append(chunk[count:])
            count -= min(count, len(chunk))

    for length in lengths:
        yield collect_rows(rows(length))


def open(path: str | os.PathLike[str]) -> Dataset:
    """Open a dataset.

    Args:
        path: the dataset's folder, or an ``s3://`` or ``gs://`` address.

    Raises:
        StorageError: there is no dataset, or it cannot be read.
        ShardError: its index or card is damaged.
    """
    return Dataset(Storage(path))


class Dataset:
    """A published dataset, opened with :func:`open`.

    Attributes:
        card: its description: answer, labels, provenance, counts.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        card = read_card(storage)
        if card is None:
            raise StorageError(
                str(storage.uri),
                f"is not a dataset: it has no {CARD_FILE}; run a pipeline to its end, or give "
                "the folder that it wrote to",
            )
        if storage.size(INDEX_FILE) is None:
            raise ShardError(
                f"{storage.uri_of(INDEX_FILE)}: is missing, though {CARD_FILE} exists; run the "
                "pipeline again: it writes the index from the shards"
            )
        self.card: Card = card
        published = read_published(storage)
        self._table, self._shards = published.table, published.shards
        self._is_ok = pc.equal(self._table["status"], OK)
        self._column = NUMBERS[card.answer]

    def __len__(self) -> int:
        """Return the number of all videos, whatever their status."""
        return len(self._table)

    def __iter__(self) -> Iterator[DatasetRow]:
        """Yield every video once: those with numbers shard by shard, then the others.

        Raises:
            ShardError: a shard is damaged or missing.
            StorageError: a shard cannot be read.
        """
        for indexes, numbers in self._stream():
            yield from self._rows(indexes, numbers)
        others = np.flatnonzero(pc.invert(self._is_ok).to_numpy())
        for start in range(0, len(others), _BATCH_ROWS):
            yield from self._rows(others[start : start + _BATCH_ROWS], None)

    @property
    def uri(self) -> Uri:
        """The address of the dataset's folder."""
        return self._storage.uri

    @property
    def labels(self) -> tuple[str, ...]:
        """One label per class, in the order of the probabilities; none for features."""
        return self.card.labels

    def table(self) -> pa.Table:
        """Return the index: one row per video, sorted by ``video_id``, without the numbers."""
        return self._table

    def files(self) -> list[str]:
        """Return the paths or URLs of the shards with numbers, for pandas, DuckDB, Hugging Face.

        :meth:`file_rows` returns which of their rows count.
        """
        return [self._storage.uri_of(video_file(name)).raw for name in self._names()]

    def file_rows(self) -> npt.NDArray[np.int64]:
        """Return the row of each ok video in the concatenated files; int64 ``[n]``.

        The order is that of :meth:`ids`. A video that was done twice is in the files twice.
        """
        starts, total = {}, 0
        for name in self._names():
            starts[name] = total
            total += self._shards[name][1]
        ok = self._table.filter(self._is_ok)
        first = np.array([starts[name] for name in ok["shard"].to_pylist()], np.int64)
        rows: npt.NDArray[np.int64] = first + ok["row"].to_numpy()
        return rows

    def ids(self, status: str | None = OK) -> list[str]:
        """Return the sorted ``video_id`` of the videos with a status; None for all videos.

        Raises:
            UsageError: there is no such status.
        """
        if status is None:
            column = self._table["video_id"]
        elif status in STATUSES:
            column = self._table.filter(pc.equal(self._table["status"], status))["video_id"]
        else:
            raise UsageError(f"status is {status!r}; give one of {', '.join(STATUSES)}, or None")
        ids: list[str] = column.to_pylist()
        return ids

    def matrix(
        self, file: str | os.PathLike[str] | None = None
    ) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Return the numbers of all videos that are ok, in the order of :meth:`ids`.

        Args:
            file: a ``.npy`` file to write the numbers to, for more than fits into memory.

        Returns:
            The ids, and float32 ``[n, 4096]`` or ``[n, classes]``; memory-mapped and read-only
            where a file is given.

        Raises:
            ShardError: a shard is damaged or missing.
            StorageError: a shard cannot be read, or the file cannot be written.
        """
        ids = self.ids()
        shape = (len(ids), self.card.size)
        if file is None:
            filled = np.empty(shape, np.float32)
            self._fill(filled)
            return ids, filled
        try:
            with atomic_file(file) as npy:
                mapped = _NPY.open_memmap(npy.name, "w+", np.float32, shape)
                if hasattr(os, "posix_fallocate"):
                    # A full disk would end the process with SIGBUS while the pages are filled.
                    os.posix_fallocate(npy.fileno(), 0, os.path.getsize(npy.name))
                self._fill(mapped)
                mapped.flush()
            return ids, np.load(file, mmap_mode="r")
        except C3DError:
            raise
        except OSError as error:
            message = error.strerror or str(error)
            raise StorageError(os.fspath(file), f"cannot be written ({message})") from error

    def row(self, video_id: str) -> DatasetRow:
        """Return one video.

        Raises:
            UsageError: there is no video with this id.
            ShardError, StorageError: its shard cannot be read.
        """
        index = np.array([self._index(video_id)])
        numbers = None
        if self._table["status"][int(index[0])].as_py() == OK:
            [(index, numbers)] = self._stream(index)
        return next(self._rows(index, numbers))

    def clips(self, video_id: str) -> Clips:
        """Return the clips of one video.

        Raises:
            UsageError: there is no video with this id, it is not ok, or its clips are not stored.
            ShardError, StorageError: its shard cannot be read.
        """
        video = self._with_clips(video_id)
        rows = video["first_clip_row"] + np.arange(video["n_clips"])
        name, owner = clip_file(video["shard"]), video["duplicate_of"] or video_id
        clips = columns_of(self._storage, name, rows, ["clip", "start_frame", "start_s", "end_s"])
        if clips["clip"].to_pylist() != list(range(video["n_clips"])):
            raise ShardError(
                f"{self._storage.uri_of(name)}: the clips of {owner!r} are not in the rows that "
                "the index names"
            )
        parts = self._numbers_of(name, rows, [owner] * len(rows))
        numbers = np.concatenate([part for _, part in parts])
        return Clips(
            video_id=video_id,
            clip_starts=clips["start_frame"].to_numpy(),
            clip_times_s=np.stack([clips["start_s"], clips["end_s"]], axis=1),
            clip_features=numbers if self.card.answer == "features" else None,
            clip_probabilities=numbers if self.card.answer == "classes" else None,
        )

    def features(self, video_id: str) -> VideoFeatures:
        """Return the features of one video as the client returns and writes them.

        The provenance is the dataset's, with the video's address and size; the timings are zero.

        Raises:
            UsageError: there is no video with this id, it is not ok, its clips are not stored, or
                the dataset is of classes.
            ShardError, StorageError: its shard cannot be read.
        """
        self._with_clips(video_id)
        [(_, features)] = self.each_features([video_id])
        return features

    def each_features(
        self, ids: Iterable[str] | None = None
    ) -> Iterator[tuple[str, VideoFeatures]]:
        """Yield the features of videos as :meth:`features` returns them, each shard read once.

        Args:
            ids: of videos that are ok and whose clips are stored; None for all that are ok.

        Yields:
            The ``video_id`` and the features, shard by shard in the order of the shards' rows.
            :meth:`ids_by_shard` returns the ids in this order.

        Raises:
            UsageError: the dataset is of classes, or the clips of a video are not stored.
            ShardError, StorageError: a shard cannot be read.
        """
        if self.card.answer != "features":
            raise UsageError(f"{self._storage.uri}: holds classes, and no features")
        for name, videos in self._by_shard(ids):
            lacking = [video["video_id"] for video in videos if video["first_clip_row"] is None]
            if lacking:
                raise UsageError(f"{lacking[0]}: {NOT_STORED}")
            yield from self._features_in(name, videos)

    def _with_clips(self, video_id: str) -> dict[str, Any]:
        """Return a video's row of the index.

        Raises:
            UsageError: there is no video with this id, it is not ok, or its clips are not stored.
        """
        video: dict[str, Any]
        [video] = self._table.slice(self._index(video_id), 1).to_pylist()
        if video["status"] != OK:
            raise UsageError(
                f"{video_id} has no clips; it is {video['status']}: {video['error_message']}"
            )
        if video["first_clip_row"] is None:
            raise UsageError(f"{video_id}: {NOT_STORED}")
        return video

    def ids_by_shard(self, ids: Iterable[str] | None = None) -> list[str]:
        """Return ids of videos that are ok in the order of :meth:`each_features`."""
        return [video["video_id"] for _, videos in self._by_shard(ids) for video in videos]

    def provenance_of(self, video_id: str) -> Provenance:
        """Return the provenance of a video's features, as :meth:`features` returns it.

        Raises:
            UsageError: there is no video with this id.
        """
        [video] = self._table.slice(self._index(video_id), 1).to_pylist()
        return self._provenance(video)

    def _provenance(self, video: Mapping[str, Any]) -> Provenance:
        names = ("duration_s", "fps", "width", "height", "interlaced")
        return self.card.provenance.with_video(
            {
                "source": str(Uri(video["uri"])),
                "key": video["key"],
                "frames": video["n_frames"],
                **{name: video[name] for name in names},
            }
        )

    def _by_shard(self, ids: Iterable[str] | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield each shard's name with the rows of its videos, in the order of its files."""
        table = self._table.filter(self._is_ok)
        if ids is not None:
            wanted = pa.array(list(ids), pa.string())
            table = table.filter(pc.is_in(table["video_id"], value_set=wanted))
        for name in sorted(pc.unique(table["shard"]).to_pylist()):
            videos = table.filter(pc.equal(table["shard"], name))
            order = [("row", "ascending"), ("video_id", "ascending")]
            yield name, videos.sort_by(order).to_pylist()

    def _features_in(
        self, name: str, videos: list[dict[str, Any]]
    ) -> Iterator[tuple[str, VideoFeatures]]:
        # A duplicate has the rows of its original.
        groups = [list(group) for _, group in groupby(videos, key=lambda video: video["row"])]
        firsts = [group[0] for group in groups]
        owners = [video["duplicate_of"] or video["video_id"] for video in firsts]
        lengths = [video["n_clips"] for video in firsts]
        rows = np.array([video["row"] for video in firsts], np.int64)
        clip_rows = np.concatenate(
            [video["first_clip_row"] + np.arange(video["n_clips"]) for video in firsts]
        )
        columns = columns_of(
            self._storage, clip_file(name), clip_rows, ["clip", "start_frame", "start_s", "end_s"]
        )
        starts = columns["start_frame"].to_numpy()
        times_s = np.stack([columns["start_s"], columns["end_s"]], axis=1)
        numbers_in_order = np.concatenate([np.arange(length) for length in lengths])
        if not np.array_equal(columns["clip"].to_numpy(), numbers_in_order):
            raise ShardError(
                f"{self._storage.uri_of(clip_file(name))}: the clips are not in the rows that the "
                "index names"
            )
        clip_owners = [owner for owner, n in zip(owners, lengths, strict=True) for _ in range(n)]
        clips = self._numbers_of(clip_file(name), clip_rows, clip_owners)
        features = (
            feature
            for _, numbers in self._numbers_of(video_file(name), rows, owners)
            for feature in numbers
        )
        first = 0
        parts = _cut((numbers for _, numbers in clips), lengths)
        for group, feature, clip_features in zip(groups, features, parts, strict=True):
            end = first + len(clip_features)
            for video in group:
                yield (
                    video["video_id"],
                    VideoFeatures(
                        clip_starts=starts[first:end],
                        clip_times_s=times_s[first:end],
                        clip_features=clip_features,
                        video_feature=feature,
                        provenance=self._provenance(video).to_dict(),
                        timings=_NO_TIMINGS,
                    ),
                )
            first = end

    def nearest(
        self, query: str | npt.NDArray[np.floating] | VideoFeatures, *, k: int = 10
    ) -> list[Neighbour]:
        """Return the videos most similar to a query by the cosine of their features, best first.

        The dataset is read once, shard by shard; for many queries use :meth:`matrix`.

        Args:
            query: a ``video_id`` of this dataset, which is left out of the result; a feature,
                ``[4096]``; or the result of :meth:`c3d_client.C3DClient.extract`.
            k: the number of videos, 1 or more.

        Raises:
            UsageError: there is no such video, or it is not ok; the query is not a feature; the
                dataset is of classes.
            ProvenanceError: the query's features were made differently.
            ShardError, StorageError: a shard cannot be read.
        """
        if k < 1:
            raise UsageError(f"k is {k}; give 1 or more")
        if self.card.answer != "features":
            raise UsageError(f"{self._storage.uri}: holds classes, and no features")
        itself = -1
        if isinstance(query, str):
            itself, row = self._index(query), self.row(query)
            if row.feature is None:
                raise UsageError(f"{query} has no features; it is {row.status}")
            query = row.feature
        vector = query_vector(query, provenance=self.card.provenance)
        nearest = nearest_of(self._stream(), vector, k=k, exclude=itself)
        return [
            Neighbour(self._table["video_id"][index].as_py(), similarity)
            for index, similarity in nearest
        ]

    def _names(self) -> list[str]:
        return sorted(pc.unique(self._table["shard"].filter(self._is_ok)).to_pylist())

    def _index(self, video_id: str) -> int:
        index: int = pc.index(self._table["video_id"], video_id).as_py()
        if index < 0:
            raise UsageError(
                f"{self._storage.uri}: has no video {video_id!r}; index.parquet lists all videos"
            )
        return index

    def _fill(self, matrix: npt.NDArray[np.float32]) -> None:
        rows = np.cumsum(self._is_ok.to_numpy()) - 1
        for indexes, numbers in self._stream():
            matrix[rows[indexes]] = numbers

    def _stream(self, indexes: _Indexes | None = None) -> Iterator[tuple[_Indexes, _Numbers]]:
        """Yield indexes of rows and their numbers, one row group of a shard at a time."""
        if indexes is None:
            indexes = np.flatnonzero(self._is_ok.to_numpy())
        table = self._table.select(["video_id", "duplicate_of", "shard", "row"])
        table = table.take(pa.array(indexes))
        shards = table["shard"].combine_chunks().dictionary_encode()
        codes = np.asarray(shards.indices)
        rows = table["row"].to_numpy()
        order = np.lexsort((rows, codes))
        edges = np.searchsorted(codes[order], np.arange(len(shards.dictionary) + 1))
        for code, name in enumerate(shards.dictionary.to_pylist()):
            of_shard = order[edges[code] : edges[code + 1]]
            owners = table.select(["video_id", "duplicate_of"]).take(pa.array(of_shard))
            ids = [owner["duplicate_of"] or owner["video_id"] for owner in owners.to_pylist()]
            for part, numbers in self._numbers_of(video_file(name), rows[of_shard], ids):
                yield indexes[of_shard[part]], numbers

    def _numbers_of(
        self, name: str, rows: _Indexes, ids: list[str]
    ) -> Iterator[tuple[_Indexes, _Numbers]]:
        size = self.card.size
        return numbers_of(self._storage, name, rows, column=self._column, size=size, ids=ids)

    def _rows(self, indexes: _Indexes, numbers: _Numbers | None) -> Iterator[DatasetRow]:
        table = self._table.select(_COLUMNS).take(pa.array(indexes))
        for position, values in enumerate(table.to_pylist()):
            if numbers is not None:
                values[self._column] = numbers[position]
            yield DatasetRow(**values)
