"""The cards of a dataset: ``dataset.json`` for programs and ``README.md`` for people.

A dataset holds one answer, made in one way. ``dataset.json`` is compared with the settings of every
further run. ``README.md`` is a dataset card of Hugging Face as well; `readme.md` in this package is
its template.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import pyarrow.compute as pc
from c3d_client.core.errors import ProvenanceError
from c3d_client.core.provenance import Provenance, software_versions

from c3d_pipelines.dataset.index import Index, committed_shards, status_counts, write_index
from c3d_pipelines.errors import ShardError
from c3d_pipelines.records import Record, added
from c3d_pipelines.shards.reader import parquet_file
from c3d_pipelines.shards.schema import NUMBERS, OK, differences, video_file
from c3d_pipelines.storage import Storage
from c3d_pipelines.text import length

CARD_FILE, README_FILE = "dataset.json", "README.md"
FORMAT = 1

_WHAT = {
    "features": "fc6 after ReLU, the mean of the video's clips, L2-normalised: its length is 1",
    "classes": "the probability of each class, the mean of the video's clips; they add up to 1",
}
_OF_CLIP = {
    "features": "fc6 after ReLU, not normalised",
    "classes": "the probability of each class",
}
_TAIL = {
    "drop": "frames at the end that fill no clip are left out",
    "pad": "frames at the end that fill no clip get one that repeats its last frame",
    "loop": "frames at the end that fill no clip get one that repeats its frames from the first on",
}
_SHORT = {
    "error": "a video with fewer frames than one clip is `too_short`",
    "pad": "a video with fewer frames than one clip gets one that repeats its last frame",
    "loop": "a video with fewer frames than one clip gets one that repeats its frames",
}


@dataclass(frozen=True)
class Card(Record):
    """The description of a dataset.

    Args:
        format: the format of the files, 1.
        answer: ``features`` or ``classes``.
        size: numbers in a row: 4096 features, the dimensions of the PCA that reduced them, or the
            number of classes; 0 where no video has any yet.
        labels: one per class, in order; none for features.
        provenance: how the numbers were made, as the first run recorded it.
        provenance_digest: the digest of all of the provenance that must agree.
        software: all versions of each library that made the numbers; None in a card of release
            0.1.0 (see :attr:`versions`).
        videos: rows of the index by status, with all five statuses.
        duplicates: rows of the index that have the numbers of another row.
        clips: clips of the videos that are ok, without duplicates.
        duration_s: the length of the same videos, in seconds.
        clip_rows: clips whose own numbers are stored.
        shards: shards that are done.
        newest_at: when the last shard was done, in seconds since 1970, UTC; 0 without one.
    """

    answer: str
    size: int
    labels: tuple[str, ...]
    provenance: Provenance
    provenance_digest: str
    videos: Mapping[str, int]
    duplicates: int
    clips: int
    duration_s: float
    clip_rows: int
    shards: int
    newest_at: float
    format: int = FORMAT
    software: Mapping[str, Sequence[str]] | None = added(None)

    @property
    def versions(self) -> Mapping[str, Sequence[str]]:
        """All versions of each library that made the numbers, by the library's name."""
        if self.software is None:  # release 0.1.0 refused other versions
            return software_versions([self.provenance])
        return self.software

    def to_json(self) -> str:
        """Return the card as text, for :func:`read_card`."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True, ensure_ascii=False)


def read_card(storage: Storage) -> Card | None:
    """Return a dataset's ``dataset.json``; None where there is none.

    Raises:
        ShardError: the file is not the card of a dataset.
        StorageError: the file cannot be read.
    """
    text = storage.read(CARD_FILE)
    if text is None:
        return None
    try:
        card = Card.from_dict(json.loads(text))
        if card.format != FORMAT:
            raise ValueError(f"its format is {card.format!r}, and this release reads {FORMAT}")
        return card
    except (ValueError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{storage.uri_of(CARD_FILE)}: is not the card of a dataset ({error}); remove it and "
            "run the pipeline again: it is written again"
        ) from error


def write_dataset(storage: Storage, index: Index, *, answer: str, provenance: Provenance) -> None:
    """Write a dataset's index, README and, last, ``dataset.json``.

    Raises:
        ProvenanceError: its shards have different labels.
        ShardError, StorageError: a shard cannot be read, or the dataset cannot be written.
    """
    earlier = read_card(storage)
    card = card_of(
        storage,
        index,
        answer=answer,
        # The parts of the provenance that need not agree stay those of the first run.
        provenance=earlier.provenance if earlier else provenance,
        labels=labels_of(storage, index) or (earlier.labels if earlier else ()),
        versions=earlier.versions if earlier else {},
        unknown=earlier.unknown if earlier else {},
    )
    write_index(storage, index)
    uri = storage.uri
    name = os.path.basename(os.path.abspath(uri.path) if storage.is_local else str(uri))
    storage.write(README_FILE, readme(card, name=name))
    storage.write(CARD_FILE, card.to_json())


def require_same_dataset(
    storage: Storage, *, answer: str, provenance: Provenance, labels: Sequence[str] = ()
) -> None:
    """Check that a dataset may hold these numbers, before they are made.

    The dataset is described by ``dataset.json`` or, where no run has published, by its shards.

    Args:
        storage: the dataset.
        answer: ``features`` or ``classes``.
        provenance: how the numbers are made.
        labels: one per class, in order; none for features, and where they are not known.

    Raises:
        ProvenanceError: the dataset's numbers were made differently, are of the other answer, or
            their classes have other labels.
        ShardError, StorageError: the dataset cannot be read.
    """
    stored = read_card(storage) or next(iter(committed_shards(storage).values()), None)
    if stored is None:
        return
    texts = differences(stored.answer, stored.provenance, answer, provenance)
    if labels and not texts:
        known = (
            stored.labels
            if isinstance(stored, Card)
            else labels_of(storage, Index(shards={stored.name: stored}))
        )
        if known and known != tuple(labels):
            texts = [f"their classes have different labels ({_first_difference(known, labels)})"]
    if texts:
        raise ProvenanceError(
            f"{storage.uri}: holds numbers that were made differently and cannot be mixed with "
            f"these: {'; '.join(texts)}; give another out"
        )


def card_of(
    storage: Storage,
    index: Index,
    *,
    answer: str,
    provenance: Provenance,
    labels: Sequence[str],
    versions: Mapping[str, Sequence[str]] | None = None,
    unknown: Mapping[str, Any] | None = None,
) -> Card:
    """Return the card of a dataset with this index.

    Args:
        storage: the dataset.
        index: its index.
        answer: ``features`` or ``classes``.
        provenance: how the numbers were made.
        labels: one per class, in order; none for features.
        versions: the versions in an earlier card.
        unknown: the fields of an earlier card that this release does not know.
    """
    table = index.table
    is_ok = pc.equal(table["status"], OK)
    originals = table.filter(pc.and_(is_ok, pc.equal(table["duplicate_of"], "")))
    return Card(
        answer=answer,
        size=len(labels) if answer == "classes" else provenance.feature_size,
        labels=tuple(labels),
        provenance=provenance,
        provenance_digest=provenance.digest(),
        software=versions_of(index, versions or {}),
        videos=status_counts(table),
        duplicates=int(pc.sum(pc.not_equal(table["duplicate_of"], "")).as_py() or 0),
        clips=pc.sum(originals["n_clips"]).as_py() or 0,
        duration_s=pc.sum(originals["duration_s"]).as_py() or 0.0,
        clip_rows=sum(report.clips for report in index.shards.values()),
        shards=len(index.shards),
        newest_at=max((report.ended_at for report in index.shards.values()), default=0.0),
        unknown=unknown or {},
    )


def versions_of(
    index: Index, earlier: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Return all versions of each library that made the numbers of a dataset.

    Args:
        index: its index, with the reports of its shards.
        earlier: the versions in an earlier card, whose shards may be gone.
    """
    known = [
        {"software": {name: version}}
        for name, versions in (earlier or {}).items()
        for version in versions
    ]
    return software_versions([*known, *(report.provenance for report in index.shards.values())])


def versions_note(versions: Mapping[str, Sequence[str]]) -> str:
    """Return one line on the libraries of which several versions made numbers; empty without."""
    several = [
        f"{name} {' and '.join(each)}" for name, each in sorted(versions.items()) if len(each) > 1
    ]
    if not several:
        return ""
    return f"made with several versions, which may be used together: {'; '.join(several)}"


def labels_of(storage: Storage, index: Index) -> tuple[str, ...]:
    """Return the classes' labels in the shards' files; none where the answer is features.

    Raises:
        ProvenanceError: two shards have different labels.
        ShardError, StorageError: a shard cannot be read.
    """
    shard_by_labels: dict[tuple[str, ...], str] = {}
    for name, report in index.shards.items():
        if report.answer == "classes":
            with parquet_file(storage, video_file(name)) as file:
                text = (file.schema_arrow.metadata or {}).get(b"labels", b"[]")
            shard_by_labels.setdefault(tuple(json.loads(text)), name)
    if len(shard_by_labels) > 1:
        (labels, shard), (other_labels, other_shard) = list(shard_by_labels.items())[:2]
        raise ProvenanceError(
            f"{storage.uri}: its shards {shard} and {other_shard} have different labels "
            f"({_first_difference(labels, other_labels)}); keep each in a separate dataset"
        )
    return next(iter(shard_by_labels), ())


def readme(card: Card, *, name: str) -> str:
    """Return a dataset card in Markdown: what a row is, how it was made, how to read it.

    Args:
        card: the dataset's description.
        name: the name of its folder, for the heading.
    """
    provenance = card.provenance
    text = resources.files(__package__).joinpath("readme.md").read_text("utf-8")
    return Template(text).substitute(
        title=json.dumps(name),
        configs=_configs(card),
        name=" ".join(name.split()),
        answer=card.answer,
        videos=sum(card.videos.values()),
        statuses="\n".join(f"| `{status}` | {count} |" for status, count in card.videos.items()),
        duplicates=card.duplicates,
        ok=card.videos["ok"],
        clips=card.clips,
        length=length(card.duration_s),
        numbers=NUMBERS[card.answer],
        size=card.size,
        what=_reduced(_WHAT[card.answer], provenance),
        of_clip=_reduced(_OF_CLIP[card.answer], provenance),
        clip_files="" if card.clip_rows else " (this dataset stores none)",
        meaning="\n".join(f"- {line}." for line in _meaning(provenance)),
        weights=_weights(provenance.weights),
        precision=provenance.model.get("precision"),
        digest=card.provenance_digest,
        versions="\n".join(
            f"- {name}: {', '.join(versions)}" for name, versions in card.versions.items()
        )
        or "- none yet",
        provenance=json.dumps(provenance.to_dict(), indent=1, sort_keys=True, ensure_ascii=False),
    )


def _configs(card: Card) -> str:
    parts = [("index", "index.parquet\n  default: true")]
    if card.shards:
        parts.append(("videos", "shards/*.parquet"))
    if card.clip_rows:
        parts.append(("clips", "clips/*.parquet"))
    return "\n".join(f"- config_name: {name}\n  data_files: {files}" for name, files in parts)


def _reduced(text: str, provenance: Provenance) -> str:
    """Return what a row is, with the PCA that reduced it."""
    pca = provenance.get("pca")
    if pca is None:
        return text
    whitened = ", whitened" if pca["whiten"] else ""
    reduced = f"fc6 after ReLU reduced by PCA{whitened} (sha256 `{pca['sha256']}`)"
    return text.replace("fc6 after ReLU", reduced)


def _meaning(provenance: Provenance) -> list[str]:
    clips = provenance.clips
    step, fps = clips.get("frame_step"), clips.get("fps")
    rate = f"sampled at {fps:g} frames per second" if fps else "each frame of the file"
    steps = "consecutive frames" if step == 1 else f"one frame in {step}"
    return [
        f"A clip is {clips.get('frames')} frames: {steps}, {rate}",
        f"`start_frame` is the clip's first frame, counted from 0; the next clip starts "
        f"{clips.get('stride')} frames later",
        "`start_s` and `end_s` are seconds of presentation time from the video's first frame",
        f"The end: {_TAIL.get(str(clips.get('tail')), clips.get('tail'))}",
        f"Short ones: {_SHORT.get(str(clips.get('short')), clips.get('short'))}",
        *(
            ["Damaged ones: clips that touch damaged pictures are left out"]
            if provenance.get("damage") == "skip"
            else []
        ),
    ]


def _weights(weights: Mapping[str, Any]) -> str:
    if weights.get("random"):
        return "random, for trying things out: **the numbers mean nothing**"
    name = weights.get("known_as") or weights.get("source") or "not named"
    return f"{name}, sha256 `{weights.get('sha256')}`"


def _first_difference(labels: Sequence[str], other_labels: Sequence[str]) -> str:
    for number, (label, other_label) in enumerate(zip(labels, other_labels, strict=False)):
        if label != other_label:
            return f"class {number} is {label!r} against {other_label!r}"
    return f"{len(labels)} classes against {len(other_labels)}"
