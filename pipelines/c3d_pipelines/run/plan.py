"""What a run has to do: the inputs, less what the dataset has already, cut into shards.

The run's first step. It reads and decides, and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from c3d_client import ClipWindow
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_client.core.uri import OBJECT_STORES, STORES, redact, scheme

from c3d_pipelines.dataset.card import read_card
from c3d_pipelines.dataset.index import load_index
from c3d_pipelines.inputs.listing import list_inputs
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import (
    DO,
    DONE,
    DUPLICATE,
    KNOWN_FAILURE,
    PlannedRow,
    cut_into_shards,
)
from c3d_pipelines.inputs.uris import bucket_of, same_place
from c3d_pipelines.parameters import ANSWERS, QUICK
from c3d_pipelines.shards.schema import CORRUPT, OK, TOO_SHORT
from c3d_pipelines.storage import Storage

_SHA256_OF_NOTHING = f"sha256:{hashlib.sha256().hexdigest()}"
# What an index says of a video: where it was, its key, its status.
_Known = tuple[str, str, str]


def make_plan(
    videos: str,
    out: str,
    *,
    answer: str = "features",
    window: ClipWindow = ClipWindow(),  # noqa: B008  frozen
    keys: str = QUICK,
    shard_mb: float = 4000.0,
    shard_minutes: float = 240.0,
    max_shards: int = 200,
    retry_failed: bool = False,
) -> list[PlannedRow]:
    """List the inputs and decide what is to be done with each.

    - ``duplicate``: another input is the same file, or has the same content as far as keys tell:
      the same SHA-256 or checksum, or in one S3 bucket the same ETag and size. It gets the result
      of the one that has been done, else of the first one.
    - ``done``: the dataset has it, ok, of the same place and with the same key.
    - ``known_failure``: the same, but it was too short or corrupt, and is so still.
    - ``do``: all others; also what was unreadable or failed for want of a server, and what has no
      key, for nobody can say that it is the same still.

    Args:
        videos, keys: see :func:`~c3d_pipelines.inputs.listing.list_inputs`.
        out: the dataset; it need not exist. Empty for none: nothing is done then.
        answer: ``features`` or ``classes``.
        window: how clips are made.
        shard_mb, shard_minutes, max_shards: see `cut_into_shards` in ``inputs/sharding.py``.
        retry_failed: do known failures again.

    Returns:
        One for each input, in the inputs' order.

    Raises:
        ManifestError: no inputs, or they cannot be listed.
        ProvenanceError: the dataset holds another answer, or clips made in another way.
        ShardError: the dataset is damaged.
        StorageError: the dataset or the manifest cannot be read.
        UsageError: an argument is out of its range.
    """
    if answer not in ANSWERS:
        raise UsageError(f"answer is {answer!r}; give one of {', '.join(ANSWERS)}")
    limits = {"shard_mb": shard_mb, "shard_minutes": shard_minutes}
    cut_into_shards((), **limits, max_shards=max_shards)  # a wrong limit shows before hours of work
    known = _known(Storage(out), answer, window) if out.strip() else {}
    rows = list_inputs(videos, keys=keys)
    decided = [_decision(row, known.get(row.video_id), retry_failed) for row in rows]
    originals = _originals(rows, decided)
    to_do = [
        row
        for row, decision in zip(rows, decided, strict=True)
        if decision == DO and row.video_id not in originals
    ]
    shards = {
        row.video_id: shard.index
        for shard in cut_into_shards(to_do, **limits, max_shards=max_shards)
        for row in shard.rows
    }
    return [
        PlannedRow(row, DUPLICATE, duplicate_of=originals[row.video_id])
        if row.video_id in originals
        else PlannedRow(row, decision, shards.get(row.video_id, -1))
        for row, decision in zip(rows, decided, strict=True)
    ]


def _decision(row: ManifestRow, known: _Known | None, retry_failed: bool) -> str:
    if known is None or not row.key:
        return DO
    uri, key, status = known
    # A URL that was signed anew, or is kept without its signature, is the same video's.
    if key != row.key or redact(same_place(uri)) != redact(same_place(row.uri)):
        return DO
    if status == OK:
        return DONE
    return KNOWN_FAILURE if status in (TOO_SHORT, CORRUPT) and not retry_failed else DO


def _originals(rows: Sequence[ManifestRow], decided: Sequence[str]) -> dict[str, str]:
    """By the id of each duplicate the id of the input that it equals."""
    # The first one whose result is there, for others to share; else the first one.
    ranks = (DONE, KNOWN_FAILURE, DO)
    order = sorted(range(len(rows)), key=lambda at: ranks.index(decided[at]))
    firsts: dict[tuple[object, ...], str] = {}
    found: dict[str, str] = {}
    for at in order:
        row = rows[at]
        names = _contents(row)
        first = next((firsts[name] for name in names if name in firsts), "")
        if first:
            found[row.video_id] = first
        for name in names:
            firsts.setdefault(name, first or row.video_id)
    return found


def _contents(row: ManifestRow) -> list[tuple[object, ...]]:
    """What no two different videos have in common."""
    names: list[tuple[object, ...]] = [(same_place(row.uri), row.key)]
    kind = row.key.partition(":")[0]
    store = STORES[scheme(row.uri)] if scheme(row.uri) in OBJECT_STORES else ""
    # Files without a byte are all alike, and each is to be complained of.
    if kind == "sha256" and row.key != _SHA256_OF_NOTHING:
        names.append((row.key,))
    elif kind == "checksum" and row.size_bytes:
        names.append((row.key, row.size_bytes))
    # On S3 an ETag is made of the content, with a bucket's keys where it is encrypted. A web
    # server's may be made of a file's time.
    elif kind == "etag" and store == "s3" and row.size_bytes:
        names.append((bucket_of(same_place(row.uri)), row.key, row.size_bytes))
    return names


def _known(storage: Storage, answer: str, window: ClipWindow) -> dict[str, _Known]:
    """What the dataset has, by id; refused where that is of another answer or other clips."""
    card = read_card(storage)
    if card is not None:
        _require_same(storage, card.answer, card.provenance, answer, window)
    index = load_index(storage)
    # A run that was killed before it published has left shards, all alike, and no card.
    for report in list(index.shards.values())[:1]:
        _require_same(storage, report.answer, report.provenance, answer, window)
    columns = ("video_id", "uri", "key", "status", "duplicate_of")
    ids, uris, keys, statuses, copied = (index.table[name].to_pylist() for name in columns)
    return {
        video_id: (uri, key, status)
        for video_id, uri, key, status, of in zip(ids, uris, keys, statuses, copied, strict=True)
        if not of  # its numbers are another's
    }


def _require_same(
    storage: Storage, has: str, provenance: Mapping[str, Any], answer: str, window: ClipWindow
) -> None:
    """Refuse before the work what no server can change; weights are compared in preflight."""
    asked = window.provenance()
    differences = [] if has == answer else [f"answer: {has!r} there, {answer!r} asked for"]
    for part, names in (("clips", tuple(asked["clips"])), ("preprocessing", ("resize",))):
        there = provenance.get(part)
        for name in names:
            one = there.get(name) if isinstance(there, Mapping) else None
            other = asked[part][name]
            if one != other:
                differences.append(f"{part}.{name}: {one!r} there, {other!r} asked for")
    if differences:
        raise ProvenanceError(
            f"{redact(storage.uri)}: the dataset there was made differently "
            f"({'; '.join(differences)}); ask for the same, or give another place"
        )
