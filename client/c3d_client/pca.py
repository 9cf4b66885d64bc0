"""PCA of clip features: fit it on many clips, store it, and reduce features with it.

    pca = fit_pca((read_features(path) for path in paths), dim=500)
    pca.save("pca.npz")
    with C3DClient("localhost:8500", pca="pca.npz") as c3d: ...

The numbers are those of scikit-learn's ``PCA(svd_solver="covariance_eigh")`` to rounding. The fit
reads each clip once. Its memory does not grow with the number of clips: it keeps the sums of
squares and products, a matrix of 4096 x 4096 float64, around a mean that moves with each block of
clips, because sums around zero would lose the digits of small variances.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from c3d_client.core.arguments import kind_of, path_text, require_several
from c3d_client.core.errors import C3DError, OutputError, ProvenanceError, UsageError
from c3d_client.core.files import atomic_file, row_chunks
from c3d_client.core.provenance import Provenance, require_same
from c3d_client.core.uri import Uri
from c3d_client.results import RowStore, RunningMean, VideoFeatures, l2_normalise
from c3d_client.video import stores

# What ActivityNet's C3D features have, of 4096.
DEFAULT_DIM = 500

_FORMAT = 1
_ARRAYS = ("mean", "components", "variance")
# Clips that are added to the sums at a time. So many or fewer are not summed up: their own matrix
# of products is smaller.
_BLOCK_ROWS = 1024
# The numbers of pool5. The sums of more would need several GB: those of conv5b 20 GB.
_LARGEST_ROW = 8192
# The part of a clip's length that the mean of a video's clips has at least; a mean below it is
# rounding error.
_LEAST_MEAN = 1e-5
# The parts of `clips` in a provenance that decide which frames a clip has. The others decide where
# clips begin.
_FRAMES_OF_CLIP = ("frames", "frame_step", "fps")
_COMPARED = ("contract_version", "model", "preprocessing")


@dataclass(frozen=True, eq=False)
class PCA:
    """A fitted PCA: ``(rows - mean) @ components.T``, with whitening divided by the deviations.

    Args:
        mean: float64 ``[size]``, of the clips that it was fitted on.
        components: float64 ``[dim, size]``, orthonormal rows, the largest variance first. The
            largest number of each, by its size, is positive.
        variance: float64 ``[dim]``, the variance of the clips along each component, divided by
            ``clips - 1``.
        total_variance: the sum over all ``size`` directions.
        clips: how many clips it was fitted on.
        videos: how many videos they were of.
        whiten: whether reduced rows are divided by the square root of ``variance``.
        layer: the layer that the features are of.
        provenance: how the features were made that it was fitted on, without a video.
        name: the file that it was read from, for messages; empty without one.
    """

    mean: npt.NDArray[np.float64] = field(repr=False)
    components: npt.NDArray[np.float64] = field(repr=False)
    variance: npt.NDArray[np.float64] = field(repr=False)
    total_variance: float
    clips: int
    videos: int
    whiten: bool = False
    layer: str = "fc6"
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    name: str = field(default="", repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PCA:
        """Read a PCA that :meth:`save` or ``c3d pca fit`` wrote.

        Args:
            path: a path, or an ``s3://``, ``gs://`` or ``https://`` address.

        Raises:
            OutputError: the file does not exist, is damaged, or is something else.
            UsageError: the library for this kind of address is not installed.
        """
        uri = Uri.of(path_text(path, "pca"))
        content = _content(uri)
        try:
            return _parse(content, name=str(uri))
        except Exception as error:  # damaged bytes make zipfile and NumPy raise nearly any
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OutputError(
                str(uri), f"is not a PCA that c3d pca fit wrote ({reason}); fit it again"
            ) from error

    @property
    def dim(self) -> int:
        """How many numbers a reduced row has."""
        return len(self.components)

    @property
    def size(self) -> int:
        """How many numbers a row has before it is reduced."""
        return len(self.mean)

    @property
    def explained(self) -> npt.NDArray[np.float64]:
        """The share of the variance that the first components keep together, float64 ``[dim]``."""
        shares: npt.NDArray[np.float64] = np.cumsum(self.variance) / self.total_variance
        return shares

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of mean, components and variance, 64 hex digits."""
        sha = hashlib.sha256(f"{self.dim} {self.size}".encode())
        for name in _ARRAYS:
            sha.update(np.ascontiguousarray(getattr(self, name), "<f8").data)
        return sha.hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What the provenance of reduced features has: ``sha256``, ``dim`` and ``whiten``."""
        return {"sha256": self.sha256, "dim": self.dim, "whiten": self.whiten}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the PCA as ``.npz``; the file appears under its name when complete.

        Keys: ``mean``, ``components``, ``variance`` as the attributes, and ``about``, JSON text
        with the other attributes and ``sha256``.

        Raises:
            OutputError: the file cannot be written.
        """
        about = {
            "format": _FORMAT,
            "sha256": self.sha256,
            "total_variance": self.total_variance,
            "clips": self.clips,
            "videos": self.videos,
            "whiten": self.whiten,
            "layer": self.layer,
            "provenance": dict(self.provenance),
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        try:
            with atomic_file(path) as file:
                np.savez(file, about=np.array(json.dumps(about, sort_keys=True)), **arrays)
        except OSError as error:
            raise OutputError(path, f"cannot be written ({error.strerror or error})") from error

    def project(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Reduce rows of features ``[n, size]`` to float32 ``[n, dim]``.

        Rows of several dimensions, as those of pool5, are taken in one dimension.

        Raises:
            UsageError: the rows have another size.
        """
        rows = np.asarray(rows)
        if rows.ndim < 2 or math.prod(rows.shape[1:]) != self.size:
            raise UsageError(
                f"rows are of shape {list(rows.shape)}; the PCA reduces rows of {self.size} numbers"
            )
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        reduced = (flat - self.mean) @ self.components.T
        if self.whiten:
            reduced /= np.sqrt(self.variance)
        return reduced.astype(np.float32)

    def reduce(
        self, clip_features: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Reduce a video's clips.

        Args:
            clip_features: float32 ``[n, size]``, n at least 1.

        Returns:
            The reduced clips, float32 ``[n, dim]``, and their L2-normalised mean, float32
            ``[dim]``; more than a few clips are a read-only map of a temporary file.

        Raises:
            UsageError: the mean of the reduced clips is zero up to rounding, as where the PCA was
                fitted on this video alone.
            ValueError: a number is NaN or infinity.
            OutputError: the temporary file cannot be written.
        """
        store, mean, squares = RowStore(), RunningMean(), 0.0
        for chunk in row_chunks(clip_features):
            rows = self.project(chunk)
            store.add(rows)
            mean.add(rows)
            squares += float(np.square(rows, dtype=np.float64).sum())
        value = mean.value()
        if np.linalg.norm(value) <= _LEAST_MEAN * np.sqrt(squares / mean.count):
            raise UsageError(
                "the mean of the video's clips is that of the PCA, so that the video has no "
                "feature; fit the PCA on the clips of more videos"
            )
        return store.array(), l2_normalise(value)

    def apply(self, features: VideoFeatures) -> VideoFeatures:
        """Return a video's features with reduced rows.

        Raises:
            ProvenanceError: the features are not of the kind that the PCA was fitted on.
            UsageError, ValueError, OutputError: as :meth:`reduce`.
        """
        self.require_fits(features.provenance)
        clip_features, video_feature = self.reduce(features.clip_features)
        return replace(
            features,
            clip_features=clip_features,
            video_feature=video_feature,
            provenance={**features.provenance, "pca": self.identity},
        )

    def require_fits(self, provenance: Mapping[str, Any]) -> None:
        """Check that features are of the kind that the PCA was fitted on.

        They must be of the same model, layer, preprocessing and frames of a clip. Where clips begin
        and what is done with the ends of videos need not agree.

        Raises:
            ProvenanceError: they are of another kind, or are reduced already.
        """
        found = Provenance(provenance)
        if found.get("pca") is not None:
            raise _reduced_already(found)
        if differing := _basis(self.provenance).differences(_basis(provenance)):
            raise ProvenanceError(
                f"the PCA{f' in {self.name}' if self.name else ''} was fitted on other features: "
                f"{'; '.join(map(str, differing))}; fit one on features that are made like these"
            )

    def summary(self) -> str:
        """Return one line on what the PCA keeps, such as ``500 of 4096 numbers keep 93.1 % of …``.

        Shares of some smaller numbers of dimensions follow, so that ``dim`` can be chosen.
        """
        explained = self.explained
        parts = [
            f"{self.dim} of {self.size} numbers keep {100 * explained[-1]:.1f} % of the variance "
            f"of {self.clips} clips of {_videos(self.videos)}"
        ]
        smaller = sorted({self.dim // 4, self.dim // 2} - {0, self.dim})
        if smaller:
            shares = ", ".join(f"{100 * explained[dim - 1]:.1f} % in {dim}" for dim in smaller)
            parts.append(shares)
        return "; ".join(parts)


def fit_pca(
    features: Iterable[VideoFeatures],
    *,
    dim: int = DEFAULT_DIM,
    whiten: bool = False,
    clips: int | None = None,
    seed: int = 0,
) -> PCA:
    """Fit a PCA on the clips of videos, each of which is read once.

    Args:
        features: of the videos, made in the same way; read one by one.
        dim: how many numbers a reduced row has.
        whiten: divide each reduced number by its standard deviation.
        clips: fit on so many of the clips, drawn at random without repetition; None for all. They
            are stored in a temporary file while the videos are read.
        seed: of the draw; the same seed and the same videos in the same order draw the same clips.

    Raises:
        UsageError: the features are something else; dim is below 1 or above the size of a row; a
            row has more than 8192 numbers; there are too few clips, or they vary in fewer
            directions; a number is NaN or infinity.
        ProvenanceError: the features were made differently, or are reduced already.
        OutputError: the temporary file cannot be written.
    """
    require_several(features, "features", each="VideoFeatures")
    if not isinstance(dim, Integral) or dim < 1:
        raise UsageError(f"dim is {dim!r}; give a whole number, 1 or more")
    if clips is not None and (not isinstance(clips, Integral) or clips <= dim):
        raise UsageError(f"clips is {clips!r} for {dim} dimensions; give more than {dim}")
    videos = _Videos(features, dim=dim)
    chunks: Iterable[npt.NDArray[np.float32]] = videos
    sample = None if clips is None else _Sample(clips, seed=seed)
    scatter = _Scatter()
    try:
        if sample is not None:
            for chunk in videos:
                sample.add(chunk)
            chunks = sample.chunks()
        for chunk in chunks:
            scatter.add(chunk)
    finally:
        if sample is not None:
            sample.close()
    if scatter.count <= dim:
        raise UsageError(
            f"{scatter.count} clips of {_videos(videos.count)} are too few for {dim} dimensions; "
            f"give more than {dim} clips, or a smaller dim"
        )
    mean, components, variance, total = scatter.directions(dim)
    return PCA(
        mean=mean,
        components=components,
        variance=variance,
        total_variance=total,
        clips=scatter.count,
        videos=videos.count,
        whiten=whiten,
        layer=_layer(videos.provenance),
        provenance=videos.provenance,
    )


class _Videos:
    """The clips of videos in chunks, checked while they are read.

    Attributes:
        count: how many videos were read.
        provenance: how their features were made, without a video.
    """

    def __init__(self, features: Iterable[VideoFeatures], *, dim: int) -> None:
        self._features = features
        self._dim = dim
        self.count = 0
        self.provenance: dict[str, Any] = {}

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        first: Mapping[str, Any] | None = None
        for number, features in enumerate(self._features):
            if not isinstance(features, VideoFeatures):
                raise UsageError(
                    f"features[{number}] is {kind_of(features)}; give VideoFeatures, which extract "
                    "and read_features return"
                )
            provenance = Provenance(features.provenance)
            if first is None:
                first = features.provenance
                self.provenance = {
                    key: value for key, value in provenance.to_dict().items() if key != "video"
                }
                self._check_first(features)
            require_same([first, features.provenance])
            start = 0
            for chunk in row_chunks(features.clip_features):
                if not np.isfinite(chunk).all():
                    wrong = ~np.isfinite(chunk.reshape(len(chunk), -1)).all(axis=1)
                    row = start + int(wrong.argmax())
                    raise UsageError(
                        f"clip {row} of {provenance.video_name} holds NaN or infinity; extract it "
                        "again"
                    )
                start += len(chunk)
                yield chunk.reshape(len(chunk), -1)
            self.count += 1

    def _check_first(self, features: VideoFeatures) -> None:
        provenance = Provenance(features.provenance)
        if provenance.get("pca") is not None:
            raise _reduced_already(provenance)
        size = math.prod(features.clip_features.shape[1:])
        if size > _LARGEST_ROW:
            raise UsageError(
                f"a clip of {_layer(features.provenance)} has {size} numbers, and a PCA is of "
                f"{_LARGEST_ROW} at most; extract another layer"
            )
        if self._dim > size:
            raise UsageError(
                f"dim is {self._dim}; the features have {size} numbers, give 1 to {size}"
            )


class _Scatter:
    """Sums of squares and products of rows around their mean.

    Rows are added in blocks of a fixed number, whatever the chunks in which they arrive, so that
    the same rows give the same bytes.
    """

    def __init__(self) -> None:
        self._waiting: list[npt.NDArray[np.float32]] = []
        self._waiting_rows = 0
        self._summed_rows = 0
        self._mean: npt.NDArray[np.float64] = np.zeros(0)
        self._products: npt.NDArray[np.float64] | None = None

    @property
    def count(self) -> int:
        """The number of rows."""
        return self._summed_rows + self._waiting_rows

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Add rows ``[n, size]``."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        while self._waiting_rows > _BLOCK_ROWS:
            waiting = np.concatenate(self._waiting)
            self._sum_up(waiting[:_BLOCK_ROWS])
            self._waiting = [waiting[_BLOCK_ROWS:].copy()]
            self._waiting_rows = len(self._waiting[0])

    def _sum_up(self, rows: npt.NDArray[np.float32]) -> None:
        # Chan, Golub and LeVeque (1979): the products of two sets of rows around their common mean
        # are those of each around its own, and one more row for the distance of the two means.
        centred = rows.astype(np.float64)
        mean = centred.mean(axis=0)
        centred -= mean
        if self._products is None:
            self._mean, self._products = mean, centred.T @ centred
        else:
            both = self._summed_rows + len(rows)
            distance = mean - self._mean
            weight = np.sqrt(self._summed_rows * len(rows) / both)
            centred = np.concatenate([centred, weight * distance[None]])
            self._products += centred.T @ centred
            self._mean = self._mean + distance * (len(rows) / both)
        self._summed_rows += len(rows)

    def directions(
        self, dim: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
        """Return mean, components, their variances, and the variance of all directions.

        Raises:
            UsageError: the rows vary in fewer than ``dim`` directions.
        """
        rows = np.concatenate(self._waiting)
        if self._products is None and len(rows) <= rows.shape[1]:
            # The rows' own products have the same eigenvalues as those of their columns.
            mean = rows.mean(axis=0, dtype=np.float64)
            centred = rows - mean
            values, vectors = np.linalg.eigh(centred @ centred.T)
            values, vectors = values[::-1], vectors[:, ::-1]
            self._require_rank(values, dim, size=rows.shape[1])
            # A copy in order: NumPy multiplies arrays in reverse order without BLAS.
            first = np.ascontiguousarray(vectors[:, :dim])
            components = (centred.T @ first / np.sqrt(values[:dim])).T
        else:
            self._sum_up(rows)
            self._waiting, self._waiting_rows = [], 0
            assert self._products is not None
            mean = self._mean
            values, vectors = np.linalg.eigh(self._products)
            values, vectors = values[::-1], vectors[:, ::-1]
            self._require_rank(values, dim, size=len(mean))
            components = vectors[:, :dim].T
        # An eigenvector is one up to its sign: that of its largest number decides.
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        variance = values / (self.count - 1)
        return (
            mean,
            np.ascontiguousarray(components * np.sign(largest)),
            np.ascontiguousarray(variance[:dim]),
            float(np.maximum(variance, 0.0).sum()),
        )

    def _require_rank(self, values: npt.NDArray[np.float64], dim: int, *, size: int) -> None:
        """Check that the first eigenvalues are not rounding error, as NumPy's matrix_rank does."""
        least = max(self.count, size) * np.finfo(np.float64).eps * max(values[0], 0.0)
        rank = int((values > least).sum())
        if rank < dim:
            raise UsageError(
                f"the {self.count} clips vary in {rank} direction{'s' * (rank != 1)}, fewer than "
                f"{dim}; give more clips, or a smaller dim"
            )


class _Sample:
    """Rows drawn at random from a stream: each row of the stream is equally likely to be in it.

    The rows are in a temporary file (algorithm R of Vitter, 1985).

    Args:
        rows: how many.
        seed: of NumPy's generator.
    """

    def __init__(self, rows: int, *, seed: int) -> None:
        self._rows = rows
        self._random = np.random.default_rng(seed)
        self._seen = 0
        self._size = 0
        self._file: IO[bytes] | None = None

    def add(self, chunk: npt.NDArray[np.float32]) -> None:
        """Add rows ``[n, size]`` of the stream.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        places: npt.NDArray[np.int64] = np.arange(self._seen, self._seen + len(chunk))
        # One number for each row, so that the chunks do not change the draw.
        drawn = (self._random.random(len(chunk)) * (places + 1)).astype(np.int64)
        places = np.where(places < self._rows, places, drawn)
        self._seen += len(chunk)
        self._size = chunk.shape[1]
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="c3d-pca-")  # noqa: SIM115
            for place, row in zip(places.tolist(), chunk, strict=True):
                if place < self._rows:
                    self._file.seek(place * row.nbytes)
                    self._file.write(row.tobytes())
            self._file.flush()
        except OSError as error:
            raise OutputError(
                tempfile.gettempdir(),
                f"the sampled clips cannot be stored there ({error.strerror or error}); free disk "
                "space, sample fewer clips, or name another folder in TMPDIR",
            ) from error

    def chunks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the rows that were drawn, in chunks."""
        if self._file is None:
            return
        self._file.seek(0)
        while data := self._file.read(_BLOCK_ROWS * self._size * 4):
            yield np.frombuffer(data, np.float32).reshape(-1, self._size)

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.close()


def _videos(count: int) -> str:
    return f"{count} video{'s' * (count != 1)}"


def _reduced_already(provenance: Provenance) -> ProvenanceError:
    video = f" of {provenance.video_name}" if provenance.video else ""
    return ProvenanceError(
        f"the features{video} are reduced by a PCA already; give the features that they were made "
        "of"
    )


def _layer(provenance: Mapping[str, Any]) -> str:
    """Return the layer whose rows are clip_features: the first one of several."""
    return Provenance(provenance).layers[0]


def _basis(provenance: Mapping[str, Any]) -> Provenance:
    """Return the part of a provenance that decides what a clip's row is."""
    basis = {key: provenance[key] for key in _COMPARED if key in provenance}
    clips = Provenance(provenance).clips
    basis["clips"] = {key: clips[key] for key in _FRAMES_OF_CLIP if key in clips}
    return Provenance({**basis, "layer": _layer(provenance)})


def _content(uri: Uri) -> bytes:
    try:
        if uri.store:
            store, path = stores.open_store(uri)
            content: bytes = store.cat_file(path)
            return content
        return Path(uri.local_path or uri.raw).read_bytes()
    except C3DError:
        raise
    except FileNotFoundError as error:
        raise OutputError(str(uri), "no such file; c3d pca fit writes one") from error
    except Exception as error:  # a store's library raises exceptions of its own
        text = stores.reason(error, uri) if uri.store else getattr(error, "strerror", None)
        raise OutputError(str(uri), f"cannot be read ({text or error})") from error


def _parse(content: bytes, *, name: str) -> PCA:
    """Read a PCA from the bytes of its file.

    Raises:
        Exception: they are not those of a PCA.
    """
    if not content.startswith(b"PK"):  # which NumPy takes for a pickle, and advises to load it
        raise ValueError("it is no .npz file")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        missing = [key for key in (*_ARRAYS, "about") if key not in archive]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        about = json.loads(str(archive["about"].item()))
        arrays = {key: archive[key] for key in _ARRAYS}
    if about["format"] != _FORMAT:
        raise ValueError(f"its format is {about['format']!r}, and this release reads {_FORMAT}")
    dim, size = arrays["components"].shape
    for key, shape in (("mean", (size,)), ("components", (dim, size)), ("variance", (dim,))):
        if arrays[key].dtype != np.float64 or arrays[key].shape != shape:
            raise ValueError(f"{key} is {arrays[key].dtype} {list(arrays[key].shape)}")
    pca = PCA(
        **arrays,
        total_variance=float(about["total_variance"]),
        clips=int(about["clips"]),
        videos=int(about["videos"]),
        whiten=bool(about["whiten"]),
        layer=str(about["layer"]),
        provenance=dict(about["provenance"]),
        name=name,
    )
    if pca.sha256 != about["sha256"]:
        raise ValueError("its numbers are not those that its digest was computed of")
    return pca
