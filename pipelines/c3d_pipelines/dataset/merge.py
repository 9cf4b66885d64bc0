"""Makes one dataset of several: of different runs, machines or buckets.

Nothing is computed again: the shards that still count are copied as they are.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_client.core.provenance import differences
from c3d_client.core.uri import redact

from c3d_pipelines.dataset.card import CARD_FILE, Card, read_card, require_same_dataset
from c3d_pipelines.dataset.index import INDEX_SCHEMA, Index, load_index, newest, timed, times
from c3d_pipelines.dataset.reader import Dataset
from c3d_pipelines.errors import ManifestError, ShardError, StorageError
from c3d_pipelines.run.publish import write_dataset
from c3d_pipelines.shards import commits as shards
from c3d_pipelines.shards.schema import ShardReport, clip_file, report_file, video_file
from c3d_pipelines.storage import Storage

_log = logging.getLogger(__name__)
_NAMED = 5  # of what is wrong
_CHUNK = 8 << 20  # bytes


def merge(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Dataset:
    """Make one dataset of several.

    Of a video that is in several, the newest result is taken; a failure does not take the place of
    a success with the same content. What is in ``out`` already takes part, so a merge that was
    interrupted is finished by doing it again.

    Args:
        paths: the datasets, folders or addresses, one or more.
        out: the folder or address of the one to make.

    Raises:
        UsageError: there are no paths.
        ProvenanceError: they were made differently, or answer different things; nothing is written.
        ManifestError: one id is of different videos; nothing is written.
        ShardError: a shard is damaged.
        StorageError: a place is not a dataset, cannot be read, or cannot be written.
    """
    if not paths:
        raise UsageError("merge of no datasets; give at least one")
    target = Storage(out)
    places = [Storage(path) for path in paths]
    cards = [_card(storage) for storage in places]
    _require_alike(places, cards)
    answer, provenance = cards[0].answer, cards[0].provenance
    require_same_dataset(target, answer=answer, provenance=provenance)
    indexes = [load_index(storage) for storage in places]
    # Last, so that of two equal results the one that is there already is kept.
    places.append(target)
    indexes.append(load_index(target))
    _require_same_videos(places, indexes)

    parts = []
    for number, index in enumerate(indexes):
        table = index.table.append_column("_from", pa.repeat(number, len(index.table)))
        parts.append(timed(table, times(index.table, index.shards)))
    table = newest(parts)
    names, reports = _copy_shards(table, places, indexes)
    told = zip(table["_from"].to_pylist(), table["shard"].to_pylist(), strict=True)
    renamed = pa.array([names.get(one, "") for one in told], pa.string())
    at = INDEX_SCHEMA.get_field_index("shard")
    table = table.drop_columns(["_from"]).set_column(at, INDEX_SCHEMA.field(at), renamed)
    for storage in places[:-1]:
        _copy_runs(storage, target)
    write_dataset(target, Index(table, reports), answer=answer, provenance=provenance)
    _log.info("%s: %d videos of %d datasets", redact(target.uri), len(table), len(paths))
    return Dataset(target)


def _card(storage: Storage) -> Card:
    card = read_card(storage)
    if card is None:
        raise StorageError(
            redact(storage.uri), f"is not a dataset: it has no {CARD_FILE}; publish it first"
        )
    return card


def _require_alike(places: Sequence[Storage], cards: Sequence[Card]) -> None:
    for storage, card in zip(places[1:], cards[1:], strict=True):
        found = differences(cards[0].provenance, card.provenance)
        if card.answer != cards[0].answer:
            found = [f"answer: {cards[0].answer!r} against {card.answer!r}", *found]
        elif card.labels != cards[0].labels and card.labels and cards[0].labels:
            found = [*found, "their classes have different labels"]
        if found:
            raise ProvenanceError(
                f"{redact(places[0].uri)} and {redact(storage.uri)} were made differently and "
                f"cannot be merged: {'; '.join(found)}"
            )


def _require_same_videos(places: Sequence[Storage], indexes: Sequence[Index]) -> None:
    """One id must be one video, wherever it is."""
    told = [
        index.table.select(["video_id", "uri"]).append_column(
            "from", pa.repeat(number, len(index.table))
        )
        for number, index in enumerate(indexes)
    ]
    table = pa.concat_tables(told)
    places_of = table.group_by("video_id").aggregate([("uri", "count_distinct")])
    twice = places_of.filter(pc.greater(places_of["uri_count_distinct"], 1))["video_id"]
    if not len(twice):
        return
    shown = []
    for video_id in sorted(twice.to_pylist())[:_NAMED]:
        rows = table.filter(pc.equal(table["video_id"], video_id)).to_pylist()
        named = [f"{redact(r['uri'])} in {redact(places[r['from']].uri)}" for r in rows]
        shown.append(f"{video_id!r} is {' and '.join(dict.fromkeys(named))}")
    more = f"; and {len(twice) - len(shown)} more" if len(twice) > len(shown) else ""
    ids = "1 id is" if len(twice) == 1 else f"{len(twice)} ids are"
    raise ManifestError(
        f"{ids} of different videos: {'; '.join(shown)}{more}; give each an id of its own"
    )


def _copy_shards(
    table: pa.Table, places: Sequence[Storage], indexes: Sequence[Index]
) -> tuple[dict[tuple[int, str], str], dict[str, ShardReport]]:
    """Copy the shards that rows lie in to the last place.

    Returns:
        What each shard is called there, by the number of its place and its name in that; and the
        reports of all shards there, by name.
    """
    target, there = places[-1], dict(indexes[-1].shards)
    used = table.select(["_from", "shard"]).group_by(["_from", "shard"]).aggregate([]).to_pylist()
    wanted = [
        (one["_from"], one["shard"], indexes[one["_from"]].shards[one["shard"]])
        for one in used
        if one["shard"]
    ]
    # A shard's name is of its videos, so who did the same ones twice has two of one name: the
    # newest keeps it.
    wanted.sort(key=lambda one: (one[2].ended_at, one[0], one[1]), reverse=True)
    names: dict[tuple[int, str], str] = {}
    for origin, name, report in wanted:
        told = f"{name} {report.run} {report.ended_at!r}"
        another = hashlib.sha256(told.encode()).hexdigest()[: len(name)]
        free = another if name in there and not _same(there[name], report) else name
        if free not in there:
            there[free] = replace(report, name=free)
            _copy_shard(places[origin], name, target, there[free])
        names[origin, name] = free
    return names, there


def _same(one: ShardReport, other: ShardReport) -> bool:
    return replace(one, name="") == replace(other, name="")


def _copy_shard(origin: Storage, name: str, target: Storage, report: ShardReport) -> None:
    if report.clip_bytes:
        _copy(origin, clip_file(name), target, clip_file(report.name))
    _copy(origin, video_file(name), target, video_file(report.name))
    target.write(report_file(report.name), report.to_json())
    if shards.read_report(target, report.name) is None:
        raise ShardError(
            f"{redact(origin.uri_of(video_file(name)))}: was not copied whole to "
            f"{redact(target.uri)}; merge again"
        )


def _copy_runs(origin: Storage, target: Storage) -> None:
    """Copy what runs left; of two runs of one name, the first one's stays."""
    known = {name.split("/")[1] for name in target.names("runs")}
    for name in origin.names("runs"):
        if name.split("/")[1] not in known:
            _copy(origin, name, target, name)


def _copy(origin: Storage, name: str, target: Storage, new_name: str) -> None:
    with origin.reading(name) as source, target.writing(new_name) as path, path.open("wb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
