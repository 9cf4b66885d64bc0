"""What a dataset says of itself to programs: ``dataset.json``; to people, see `readme.py`.

A dataset holds one kind of answer, made one way; ``dataset.json`` is what that is held against.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.errors import ProvenanceError
from c3d_client.core.provenance import Provenance, differences, provenance_digest
from c3d_client.core.uri import redact

from c3d_pipelines.dataset.index import Index, committed_shards
from c3d_pipelines.errors import ShardError
from c3d_pipelines.records import Record
from c3d_pipelines.shards.reader import parquet_file
from c3d_pipelines.shards.schema import OK, STATUSES, video_file
from c3d_pipelines.storage import Storage

CARD_FILE = "dataset.json"
FORMAT = 1


@dataclass(frozen=True)
class Card(Record):
    """What a dataset is.

    Args:
        format: of the files, 1.
        answer: ``features`` or ``classes``.
        size: of a row of numbers: 4096 features, or as many as there are classes; 0 where no video
            has any yet.
        labels: one a class, in order; none for features.
        provenance: what made the numbers.
        provenance_digest: of all in it that must agree.
        videos: rows of the index by status; all five are there.
        duplicates: of these rows, how many have another's numbers.
        clips: of the videos that are ok, without duplicates.
        duration_s: of the same videos, in seconds.
        clip_rows: clips whose own numbers are kept.
        shards: that are done.
        newest_at: when the last of them was done, in seconds since 1970, UTC; 0 without one.
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

    def to_json(self) -> str:
        """As text, for :func:`read_card`."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True, ensure_ascii=False)


def read_card(storage: Storage) -> Card | None:
    """A dataset's ``dataset.json``; None where there is none.

    Raises:
        ShardError: it is not a dataset's.
        StorageError: it cannot be read.
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
            f"{redact(storage.uri_of(CARD_FILE))}: is not the card of a dataset ({error}); take it "
            "away and run the pipeline again: it is written anew"
        ) from error


def require_same_dataset(storage: Storage, *, answer: str, provenance: Mapping[str, Any]) -> None:
    """See that numbers made like this may go into a dataset, before any are made.

    What is there is known by ``dataset.json`` or, where no run came to its end, by the shards.

    Raises:
        ProvenanceError: the dataset's were made differently, or answer something else.
        ShardError, StorageError: the dataset cannot be read.
    """
    card = read_card(storage)
    found: Sequence[tuple[str, Mapping[str, Any]]] = (
        [(card.answer, card.provenance)]
        if card is not None
        else [(one.answer, one.provenance) for one in committed_shards(storage).values()][:1]
    )
    for there, made_by in found:
        differing = differences(made_by, provenance)
        if there != answer:
            differing = [f"answer: {there!r} against {answer!r}", *differing]
        if differing:
            raise ProvenanceError(
                f"{redact(storage.uri)}: holds numbers that were made differently and cannot be "
                f"mixed with these: {'; '.join(differing)}; give another out"
            )


def card_of(
    storage: Storage,
    index: Index,
    *,
    answer: str,
    provenance: Mapping[str, Any],
    labels: Sequence[str],
) -> Card:
    """The card of a dataset with this index."""
    table = index.table
    well = pc.equal(table["status"], OK)
    own = table.filter(pc.and_(well, pc.equal(table["duplicate_of"], "")))
    counted = {one["values"]: one["counts"] for one in pc.value_counts(table["status"]).to_pylist()}
    return Card(
        answer=answer,
        size=len(labels) if answer == "classes" else FEATURE_SIZE,
        labels=tuple(labels),
        provenance=Provenance.from_dict(provenance),
        provenance_digest=provenance_digest(provenance),
        videos={status: counted.get(status, 0) for status in STATUSES},
        duplicates=int(pc.sum(pc.not_equal(table["duplicate_of"], "")).as_py() or 0),
        clips=pc.sum(own["n_clips"]).as_py() or 0,
        duration_s=pc.sum(own["duration_s"]).as_py() or 0.0,
        clip_rows=sum(report.clips for report in index.shards.values()),
        shards=len(index.shards),
        newest_at=max((one.ended_at for one in index.shards.values()), default=0.0),
    )


def labels_of(storage: Storage, index: Index) -> tuple[str, ...]:
    """The classes' labels, as the shards have them; none where the answer is features.

    Raises:
        ProvenanceError: two shards have others.
        ShardError, StorageError: a shard cannot be read.
    """
    said: dict[tuple[str, ...], str] = {}
    for name, report in index.shards.items():
        if report.answer == "classes":
            with parquet_file(storage, video_file(name)) as file:
                text = (file.schema_arrow.metadata or {}).get(b"labels", b"[]")
            said.setdefault(tuple(json.loads(text)), name)
    if len(said) > 1:
        one, other = list(said.items())[:2]
        raise ProvenanceError(
            f"{redact(storage.uri)}: its shards {one[1]} and {other[1]} have other labels "
            f"({_first_difference(one[0], other[0])}); keep each in a place of its own"
        )
    return next(iter(said), ())


def _first_difference(one: Sequence[str], other: Sequence[str]) -> str:
    for number, (here, there) in enumerate(zip(one, other, strict=False)):
        if here != there:
            return f"class {number} is {here!r} against {there!r}"
    return f"{len(one)} classes against {len(other)}"
