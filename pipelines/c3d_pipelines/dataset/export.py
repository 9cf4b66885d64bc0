"""Features of a dataset as files, in the client's formats.

The shards are read once, one after the other. An export that was interrupted does what is left: a
file that holds the same features is not written again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from c3d_client import PCA, VideoFeatures
from c3d_client.core.errors import OutputError, UsageError
from c3d_client.core.provenance import Provenance
from c3d_client.outputs import Conversion, format_named, output_path, read_provenance, require_size
from c3d_client.outputs import export as export_videos

from c3d_pipelines.dataset.reader import NOT_STORED, Dataset
from c3d_pipelines.shards.schema import OK

WRITTEN, SKIPPED, FAILED, NO_FEATURES = "written", "skipped", "failed", "no features"
_MOST_NAMES = 3  # in a message


@dataclass(frozen=True)
class Exported:
    """What became of one video.

    Args:
        video_id: the video's id in the dataset.
        outcome: ``written``; ``skipped``, because the file holds these features already;
            ``failed``; or ``no features``, because the video is not ok in the dataset.
        path: the file; None where there is none.
        status: the video's status in the dataset.
        reason: why there is no file; empty where there is one.
    """

    video_id: str
    outcome: str
    path: Path | None
    status: str
    reason: str = ""


def export_dataset(
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    to: str,
    ids: Iterable[str] | None = None,
    stride: int | None = None,
    pca: PCA | None = None,
    overwrite: bool = False,
    name: str | None = None,
) -> Iterator[Exported]:
    """Write the features of videos as the client's files.

    Args:
        dataset: the dataset, of features with stored clips.
        out, to, stride: as for :func:`c3d_client.convert`. A file of many videos is written as a
            whole, each time.
        ids: the videos; None for all.
        pca: reduces the features.
        overwrite: write files that exist too, whatever is in them.
        name: a pattern for the names of the files, as for :func:`c3d_client.convert`.

    Yields:
        One outcome for each video: first those that are not ok, then the files that exist, then
        the others as they are written.

    Raises:
        UsageError: before anything is written: an id is not in the dataset, the dataset is of
            classes, two videos would be written to the same path, the format does not hold rows of
            the dataset's size, or the format, the stride, the name or the kind of ``out`` is wrong.
        ProvenanceError: before anything is written: the PCA was fitted on other features.
        OutputError: a file of many videos cannot be written.
        ShardError, StorageError: a shard cannot be read.
    """
    if dataset.card.answer != "features":
        raise UsageError(f"{dataset.uri}: holds classes, and no features")
    if pca is not None:
        pca.require_fits(dataset.card.provenance)
    target = format_named(to)
    if pca is None:
        require_size(target.name, dataset.card.provenance.feature_size)
    videos, found = _split(dataset, None if ids is None else list(dict.fromkeys(ids)))
    names: dict[str, str] = {}
    for video_id in dataset.ids_by_shard(videos):
        # An id may be a URL or an absolute path.
        parts = [part for part in video_id.split("/") if part not in ("", ".", "..")]
        other = names.setdefault("/".join(parts), video_id)
        if other != video_id:
            raise UsageError(f"{other} and {video_id} would be written to the same file")
    if not target.many_videos and not overwrite:
        made = dataset.card.provenance
        if stride is not None:
            made = Provenance({**made, "clips": {**made.clips, "stride": stride}})
        if pca is not None:
            made = Provenance({**made, "pca": pca.identity})
        for relative, video_id in names.items():
            path = output_path(out, relative, to, pattern=name)
            if os.path.exists(path):
                video = dataset.provenance_of(video_id).video
                found += _existing(video_id, path, made.with_video(video), format=to)
    known = {each.video_id for each in found}
    names = {key: video_id for key, video_id in names.items() if video_id not in known}
    stream = _Stream(dataset, list(names.values()))
    conversions = export_videos(
        dict.fromkeys(names, stream.read),
        str(dataset.uri),
        out,
        to=to,
        stride=stride,
        pca=pca,
        name=name,
    )
    return _outcomes(found, conversions, list(names.values()))


def _outcomes(
    first: list[Exported], conversions: Iterator[Conversion], ids: list[str]
) -> Iterator[Exported]:
    yield from first
    for video_id, conversion in zip(ids, conversions, strict=True):
        if conversion.error is None:
            yield Exported(video_id, WRITTEN, conversion.target, OK)
        else:
            yield Exported(video_id, FAILED, None, OK, str(conversion.error))


class _Stream:
    """Features of videos, read one after the other.

    Args:
        dataset: the dataset.
        ids: of the videos, in the order of the dataset's shards.
    """

    def __init__(self, dataset: Dataset, ids: list[str]) -> None:
        self._dataset = dataset
        self._ids = ids
        self._read = 0
        self._features = dataset.each_features(ids)

    def read(self) -> VideoFeatures:
        """Return the features of the next video."""
        self._read += 1
        try:
            _, features = next(self._features)
        except BaseException:
            # A generator that raised an error has ended.
            self._features = self._dataset.each_features(self._ids[self._read :])
            raise
        return features


def _split(dataset: Dataset, wanted: list[str] | None) -> tuple[list[str], list[Exported]]:
    """Return the wanted videos that have features of clips, and the outcomes of the others.

    Raises:
        UsageError: a wanted video is not in the dataset.
    """
    columns = ["video_id", "status", "error_message", "first_clip_row"]
    rows = {row["video_id"]: row for row in dataset.table().select(columns).to_pylist()}
    if wanted is not None and (unknown := [each for each in wanted if each not in rows]):
        more = f" and {len(unknown) - _MOST_NAMES} more" if len(unknown) > _MOST_NAMES else ""
        raise UsageError(
            f"{dataset.uri}: has no video {', '.join(map(repr, unknown[:_MOST_NAMES]))}{more}; "
            "index.parquet lists all videos"
        )
    videos: list[str] = []
    others: list[Exported] = []
    for video_id in rows if wanted is None else wanted:
        status, message = rows[video_id]["status"], rows[video_id]["error_message"]
        if status != OK:
            others.append(Exported(video_id, NO_FEATURES, None, status, message))
        elif rows[video_id]["first_clip_row"] is None:
            others.append(Exported(video_id, FAILED, None, status, NOT_STORED))
        else:
            videos.append(video_id)
    return videos, others


def _existing(video_id: str, path: Path, made: Provenance, *, format: str) -> list[Exported]:
    """Return the outcome for a file that exists; none where it is of older content of the video.

    Args:
        video_id: the video.
        path: the file.
        made: the provenance of the features that the export writes.
        format: of the file.
    """
    try:
        found = Provenance(read_provenance(path, format=format))
    except OutputError as error:
        reason = f"{path}: is in the way ({error.reason}); remove it or --overwrite"
        return [Exported(video_id, FAILED, None, OK, reason)]
    if found.video.get("source") != made.video["source"]:
        reason = f"{path}: is of {found.video_name}; use another folder or --overwrite"
        return [Exported(video_id, FAILED, None, OK, reason)]
    if differences := found.differences(made):
        was = " and ".join(difference.phrase for difference in differences)
        reason = f"{path}: was made with {was}; use another folder or --overwrite"
        return [Exported(video_id, FAILED, None, OK, reason)]
    # A video without a key may have changed.
    is_same = bool(made.video["key"]) and found.video.get("key") == made.video["key"]
    return [Exported(video_id, SKIPPED, path, OK)] if is_same else []
