"""Merge datasets of different runs, machines or buckets into one.

No features are computed: the shards that the merged index refers to are copied unchanged.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.core.arguments import require_several
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_client.core.uri import Uri

from c3d_pipelines.dataset.card import (
    CARD_FILE,
    Card,
    read_card,
    require_same_dataset,
    write_dataset,
)
from c3d_pipelines.dataset.index import INDEX_SCHEMA, Index, load_index, newest, timed, times
from c3d_pipelines.dataset.reader import Dataset
from c3d_pipelines.errors import ManifestError, ShardError, StorageError
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.shards.schema import ShardReport, clip_file, differences, report_file, video_file
from c3d_pipelines.storage import Storage

_log = logging.getLogger(__name__)
_MOST_CONFLICTS = 5  # in one message
_CHUNK_BYTES = 8 << 20


def merge(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Dataset:
    """Merge datasets into one.

    Where a video is in several datasets, the newest result counts, but a failure does not replace a
    success with the same content. The content of ``out`` is merged too, so that an interrupted
    merge can be run again.

    Args:
        paths: the datasets, folders or addresses, one or more.
        out: the folder or address of the merged dataset.

    Raises:
        UsageError: there are no paths, or one path instead of a list.
        ProvenanceError: the datasets were made differently, or hold different answers; nothing is
            written.
        ManifestError: different videos have the same id; nothing is written.
        ShardError: a shard is damaged.
        StorageError: a folder is not a dataset, cannot be read, or cannot be written.
    """
    paths = list(require_several(paths, "paths", each="datasets"))
    if not paths:
        raise UsageError("merge of no datasets; give at least one")
    target = Storage(out)
    storages = [Storage(path) for path in paths]
    cards = [_card(storage) for storage in storages]
    _require_alike(storages, cards)
    answer, provenance = cards[0].answer, cards[0].provenance
    labels = next((card.labels for card in cards if card.labels), ())
    require_same_dataset(target, answer=answer, provenance=provenance, labels=labels)
    indexes = [load_index(storage) for storage in storages]
    # Last, so that of two results of the same time the one in the target wins.
    storages.append(target)
    indexes.append(load_index(target))
    _require_same_videos(storages, indexes)

    parts = []
    for number, index in enumerate(indexes):
        table = index.table.append_column("_from", pa.repeat(number, len(index.table)))
        parts.append(timed(table, times(index.table, index.shards)))
    table = newest(parts)
    names, reports = _copy_shards(table, storages, indexes)
    sources = zip(table["_from"].to_pylist(), table["shard"].to_pylist(), strict=True)
    renamed = pa.array([names.get(source, "") for source in sources], pa.string())
    column = INDEX_SCHEMA.get_field_index("shard")
    table = table.drop_columns(["_from"]).set_column(column, INDEX_SCHEMA.field(column), renamed)
    for storage in storages[:-1]:
        _copy_runs(storage, target)
    unknown = [index.unknown for index in indexes if index.unknown is not None]
    index = Index(
        table,
        reports,
        pa.concat_tables(unknown, promote_options="default") if unknown else None,
    )
    write_dataset(target, index, answer=answer, provenance=provenance)
    _log.info("%s: %d videos of %d datasets", target.uri, len(table), len(paths))
    return Dataset(target)


def _card(storage: Storage) -> Card:
    card = read_card(storage)
    if card is None:
        raise StorageError(
            str(storage.uri), f"is not a dataset: it has no {CARD_FILE}; publish it first"
        )
    return card


def _require_alike(storages: Sequence[Storage], cards: Sequence[Card]) -> None:
    first = cards[0]
    for storage, card in zip(storages[1:], cards[1:], strict=True):
        texts = differences(first.answer, first.provenance, card.answer, card.provenance)
        is_same_answer = card.answer == first.answer
        if is_same_answer and card.labels and first.labels and card.labels != first.labels:
            texts.append("their classes have different labels")
        if texts:
            raise ProvenanceError(
                f"{storages[0].uri} and {storage.uri} were made differently and cannot be merged: "
                f"{'; '.join(texts)}"
            )


def _require_same_videos(storages: Sequence[Storage], indexes: Sequence[Index]) -> None:
    """Check that every id is of one video, whatever dataset it is in."""
    tables = [
        index.table.select(["video_id", "uri"]).append_column(
            "from", pa.repeat(number, len(index.table))
        )
        for number, index in enumerate(indexes)
    ]
    table = pa.concat_tables(tables)
    uris = table.group_by("video_id").aggregate([("uri", "count_distinct")])
    twice = uris.filter(pc.greater(uris["uri_count_distinct"], 1))["video_id"]
    if not len(twice):
        return
    conflicts = []
    for video_id in sorted(twice.to_pylist())[:_MOST_CONFLICTS]:
        rows = table.filter(pc.equal(table["video_id"], video_id)).to_pylist()
        videos = [f"{Uri(row['uri'])} in {storages[row['from']].uri}" for row in rows]
        conflicts.append(f"{video_id!r} is {' and '.join(dict.fromkeys(videos))}")
    more = f"; and {len(twice) - len(conflicts)} more" if len(twice) > len(conflicts) else ""
    ids = "1 id is" if len(twice) == 1 else f"{len(twice)} ids are"
    raise ManifestError(
        f"{ids} of different videos: {'; '.join(conflicts)}{more}; give each an id of its own"
    )


def _copy_shards(
    table: pa.Table, storages: Sequence[Storage], indexes: Sequence[Index]
) -> tuple[dict[tuple[int, str], str], dict[str, ShardReport]]:
    """Copy the shards that rows refer to into the last dataset.

    Returns:
        The shards' names there, by the number of a shard's dataset and its name in that dataset;
        and the reports of all shards there, by name.
    """
    target, reports = storages[-1], dict(indexes[-1].shards)
    used = table.select(["_from", "shard"]).group_by(["_from", "shard"]).aggregate([]).to_pylist()
    sources = [
        (row["_from"], row["shard"], indexes[row["_from"]].shards[row["shard"]])
        for row in used
        if row["shard"]
    ]
    # A shard's name depends on its videos, so shards of the same videos have the same name. The
    # newest one keeps it.
    sources.sort(key=lambda source: (source[2].ended_at, source[0], source[1]), reverse=True)
    names: dict[tuple[int, str], str] = {}
    for origin, name, report in sources:
        identity = f"{name} {report.run} {report.ended_at!r}"
        other_name = hashlib.sha256(identity.encode()).hexdigest()[: len(name)]
        is_used = name in reports and reports[name] != replace(report, name=name)
        new_name = other_name if is_used else name
        if new_name not in reports:
            reports[new_name] = replace(report, name=new_name)
            _copy_shard(storages[origin], name, target, reports[new_name])
        names[origin, name] = new_name
    return names, reports


def _copy_shard(origin: Storage, name: str, target: Storage, report: ShardReport) -> None:
    if report.clip_bytes:
        _copy(origin, clip_file(name), target, clip_file(report.name))
    _copy(origin, video_file(name), target, video_file(report.name))
    target.write(report_file(report.name), report.to_json())
    if read_report(target, report.name) is None:
        raise ShardError(
            f"{origin.uri_of(video_file(name))}: was not copied completely to {target.uri}; "
            "merge again"
        )


def _copy_runs(origin: Storage, target: Storage) -> None:
    """Copy the files of runs; of two runs of the same name, the first one's stay."""
    known: dict[str, list[str]] = {}
    for name in target.names("runs"):
        known.setdefault(name.split("/")[1], []).append(name)
    for run, names in groupby(origin.names("runs"), key=lambda name: name.split("/")[1]):
        there = known.get(run, [])
        missing = [name for name in names if name not in there]
        # A merge that was interrupted has copied some files of the run.
        if missing and all(origin.read(name) == target.read(name) for name in there):
            for name in missing:
                _copy(origin, name, target, name)


def _copy(origin: Storage, name: str, target: Storage, new_name: str) -> None:
    with target.writing(new_name) as path, path.open("wb") as copy:
        for chunk in _chunks(origin, name):
            copy.write(chunk)


def _chunks(storage: Storage, name: str) -> Iterator[bytes]:
    """Yield the bytes of a file. Its errors name this file, and not the one that is written."""
    with storage.reading(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
