"""The plan of a run: the inputs, without the videos that the dataset has, cut into shards.

Planning is the run's first step. It writes nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Mapping, Sequence

from c3d_client import ClipWindow
from c3d_client.core.arguments import path_text
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_client.core.provenance import Provenance, Severity
from c3d_client.core.uri import Uri
from c3d_client.video.sources import Scan, new_suffixes_text

from c3d_pipelines.dataset.card import read_card
from c3d_pipelines.dataset.index import Index, load_index, made_at
from c3d_pipelines.inputs.listing import list_inputs
from c3d_pipelines.inputs.manifest import ManifestRow, is_manifest
from c3d_pipelines.inputs.plan import (
    DO,
    DONE,
    DUPLICATE,
    KNOWN_FAILURE,
    PlannedRow,
    Shard,
    cut_into_shards,
)
from c3d_pipelines.parameters import ANSWERS, QUICK, JobParameters
from c3d_pipelines.run.shard_time import speed_of, too_long
from c3d_pipelines.shards.in_hand import Deaths, deaths, read_dead
from c3d_pipelines.shards.schema import CORRUPT, OK, TOO_SHORT
from c3d_pipelines.storage import Storage
from c3d_pipelines.text import count, was

_SHA256_OF_NOTHING = f"sha256:{hashlib.sha256().hexdigest()}"
# A video in the index: its uri, key and status.
_Known = tuple[str, str, str]


def make_plan(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    answer: str = "features",
    window: ClipWindow = ClipWindow(),  # noqa: B008  frozen
    keys: str = QUICK,
    shard_mb: float = JobParameters.shard_mb,
    shard_minutes: float = JobParameters.shard_minutes,
    max_shards: int = JobParameters.max_shards,
    retry_failed: bool = False,
    any_file: bool = False,
    pod_timeout_s: float = 0.0,
    ended_runs: Collection[str] = (),
    notes: list[str] | None = None,
) -> list[PlannedRow]:
    """List the inputs and decide what to do with each.

    - ``duplicate``: another input is the same file, or has the same content as far as keys show:
      the same SHA-256 or checksum, or in one S3 bucket the same ETag and size. It gets the result
      of the input that is done already, or else of the first one.
    - ``done``: the dataset has the video with status ok, from the same uri and with the same key.
    - ``known_failure``: likewise, but the video was too short or corrupt.
    - ``do``: all others. These include videos that were unreadable or failed for a reason of the
      server, and videos without a key, which may have changed.

    A video with which a worker was killed is a shard by itself. Where that happened twice, at least
    once while it was the worker's only video, its row has the number of ``deaths``: the video is
    recorded as failed, and the run after this one tries it again.

    Args:
        videos, keys: see :func:`~c3d_pipelines.inputs.listing.list_inputs`.
        out: the dataset, which need not exist; empty for none.
        answer: ``features`` or ``classes``.
        window: how clips are made.
        shard_mb, shard_minutes, max_shards: see
            :func:`~c3d_pipelines.inputs.plan.cut_into_shards`.
        retry_failed: do known failures again.
        any_file: take the files of every suffix in folders, prefixes and patterns.
        pod_timeout_s: how long a shard's pod may run, in seconds; 0 for no limit.
        ended_runs: runs of the dataset that are known to have ended, with all their workers.
        notes: lines about the plan are added: the files that were left out, videos that the
            releases of earlier runs of this dataset left out, videos with which workers were
            killed, and shards that take too long.

    Returns:
        One row for each input, in the inputs' order.

    Raises:
        ManifestError: there are no inputs, or they cannot be listed.
        ProvenanceError: the dataset holds another answer, or clips made in another way.
        ShardError: the dataset is damaged.
        StorageError: the dataset or the manifest cannot be read.
        UsageError: an argument is out of its range.
    """
    out = path_text(out, "out")
    if answer not in ANSWERS:
        raise UsageError(f"answer is {answer!r}; give one of {', '.join(ANSWERS)}")
    limits = {"shard_mb": shard_mb, "shard_minutes": shard_minutes}
    # Report wrong limits before hours of listing.
    cut_into_shards((), **limits, max_shards=max_shards)
    index = _index(Storage(out), answer, window) if out.strip() else Index()
    known = _known(index)
    scan = Scan(any_file=any_file, results=out if out.strip() else None)
    rows = list_inputs(videos, keys=keys, scan=scan)
    if notes is not None:
        notes += _notes(scan, rows, known, is_listing=not is_manifest(path_text(videos, "videos")))
    decisions = [_decision(row, known.get(row.video_id), retry_failed) for row in rows]
    originals = _originals(rows, decisions)
    to_do = [
        row
        for row, decision in zip(rows, decisions, strict=True)
        if decision == DO and row.video_id not in originals
    ]
    died = _deaths(Storage(out), index, ended_runs) if out.strip() else {}
    suspects = [row for row in to_do if (row.video_id, row.key) in died]
    alone = _alone(suspects, died, most=max_shards // 2)
    are_alone = {row.video_id for row in alone}
    cut = cut_into_shards(
        [row for row in to_do if row.video_id not in are_alone],
        **limits,
        max_shards=max_shards - len(alone),
    )
    cut += [Shard(len(cut) + number, (row,)) for number, row in enumerate(alone)]
    shards = {row.video_id: shard.index for shard in cut for row in shard.rows}
    deaths_of = {row.video_id: died[row.video_id, row.key] for row in suspects}
    proven = {video_id: dead.times for video_id, dead in deaths_of.items() if dead.is_proof}
    if notes is not None:
        notes += _notes_on_deaths(len(alone), len(proven))
        note = too_long(
            cut, speed=speed_of(index), pod_timeout_s=pod_timeout_s, max_shards=max_shards
        )
        notes += [note] if note else []
    return [
        PlannedRow(row, DUPLICATE, duplicate_of=originals[row.video_id])
        if row.video_id in originals
        else PlannedRow(
            row, decision, shards.get(row.video_id, -1), deaths=proven.get(row.video_id, 0)
        )
        for row, decision in zip(rows, decisions, strict=True)
    ]


def _deaths(
    storage: Storage, index: Index, ended_runs: Collection[str]
) -> dict[tuple[str, str], Deaths]:
    """Return by id and key how often workers died with a video since the video has its row."""
    records = read_dead(storage, ended_runs=ended_runs)
    if not records:
        return {}
    done = made_at(index, {video.video_id for record in records for video in record.videos})
    found = {}
    for video_id, key in deaths(records, now=math.inf):
        later = [r for r in records if r.written_at > done.get(video_id, -math.inf)]
        if (video_id, key) in (counts := deaths(later, now=math.inf)):
            found[video_id, key] = counts[video_id, key]
    return found


def _alone(
    suspects: Sequence[ManifestRow], died: Mapping[tuple[str, str], Deaths], *, most: int
) -> list[ManifestRow]:
    """Return the videos that get a shard of their own: those with the most deaths, in order."""
    tried = [row for row in suspects if not died[row.video_id, row.key].is_proof]
    ranked = sorted(tried, key=lambda row: died[row.video_id, row.key].times, reverse=True)
    chosen = {row.video_id for row in ranked[:most]}
    return [row for row in tried if row.video_id in chosen]


def _notes_on_deaths(alone: int, proven: int) -> list[str]:
    """Return the lines about videos with a shard of their own, and about those not tried again."""
    notes = []
    if alone:
        notes.append(
            f"{count(alone, 'video')} {was(alone)} in hand when a worker was killed: "
            f"{'it' if alone == 1 else 'each'} is a shard by itself"
        )
    if proven:
        notes.append(
            f"{count(proven, 'video')} {was(proven)} in hand when a worker was killed, twice or "
            "more: recorded as failed, and tried again by the run after this one"
        )
    return notes


def _notes(
    scan: Scan, rows: Sequence[ManifestRow], known: Mapping[str, _Known], *, is_listing: bool
) -> list[str]:
    """Return the lines about what a listing took newly and left out."""
    notes = [str(scan)] if scan.left_out else []
    # Only where runs of release 0.1.0 are continued, and by the next run no longer.
    if is_listing and known and not new_suffixes_text(known):
        new = new_suffixes_text(row.video_id for row in rows)
        notes += [new] if new else []
    return notes


def _decision(row: ManifestRow, known: _Known | None, retry_failed: bool) -> str:
    if known is None or not row.key:
        return DO
    uri, key, status = known
    # Compared redacted: the index holds URLs without their signatures.
    if key != row.key or str(Uri(uri).canonical()) != str(Uri(row.uri).canonical()):
        return DO
    if status == OK:
        return DONE
    return KNOWN_FAILURE if status in (TOO_SHORT, CORRUPT) and not retry_failed else DO


def _originals(rows: Sequence[ManifestRow], decisions: Sequence[str]) -> dict[str, str]:
    """Return, by the id of each duplicate, the id of the input that it equals."""
    # The original is the first input that is done already, or else the first input.
    ranks = (DONE, KNOWN_FAILURE, DO)
    order = sorted(range(len(rows)), key=lambda index: ranks.index(decisions[index]))
    firsts: dict[tuple[object, ...], str] = {}
    originals: dict[str, str] = {}
    for index in order:
        row = rows[index]
        identities = _identities(row)
        first = next((firsts[identity] for identity in identities if identity in firsts), "")
        if first:
            originals[row.video_id] = first
        for identity in identities:
            firsts.setdefault(identity, first or row.video_id)
    return originals


def _identities(row: ManifestRow) -> list[tuple[object, ...]]:
    """Return values that two inputs have in common only if they are the same video."""
    uri = Uri(row.uri).canonical()
    identities: list[tuple[object, ...]] = [(uri, row.key)]
    kind = row.key.partition(":")[0]
    # Empty files are all equal, and each is reported.
    if kind == "sha256" and row.key != _SHA256_OF_NOTHING:
        identities.append((row.key,))
    elif kind == "checksum" and row.size_bytes:
        identities.append((row.key, row.size_bytes))
    # On S3 an ETag depends on the content, and on a bucket's keys where it is encrypted. A web
    # server's ETag may depend on a file's time.
    elif kind == "etag" and uri.store == "s3" and row.size_bytes:
        identities.append((uri.root, row.key, row.size_bytes))
    return identities


def _index(storage: Storage, answer: str, window: ClipWindow) -> Index:
    """Return the dataset's index; refuse a dataset of another answer or of other clips."""
    card = read_card(storage)
    if card is not None:
        _require_same(storage, card.answer, card.provenance, answer, window)
    index = load_index(storage)
    # A run that was killed before it published has written shards and no card.
    for report in list(index.shards.values())[:1]:
        _require_same(storage, report.answer, report.provenance, answer, window)
    return index


def _known(index: Index) -> dict[str, _Known]:
    """Return the dataset's videos by id, without duplicates."""
    columns = ("video_id", "uri", "key", "status", "duplicate_of")
    ids, uris, keys, statuses, originals = (index.table[name].to_pylist() for name in columns)
    return {
        video_id: (uri, key, status)
        for video_id, uri, key, status, original in zip(
            ids, uris, keys, statuses, originals, strict=True
        )
        if not original
    }


def _require_same(
    storage: Storage,
    stored_answer: str,
    stored: Provenance,
    answer: str,
    window: ClipWindow,
) -> None:
    """Refuse other clips and answers before the work; preflight compares the model."""
    requested = Provenance(window.provenance())
    differences = [
        f"{difference.field}: {difference.one!r} there, {difference.other!r} requested"
        for difference in stored.differences(requested, severities=(Severity.CLIPS,))
    ]
    if stored_answer != answer:
        differences.insert(0, f"answer: {stored_answer!r} there, {answer!r} requested")
    if differences:
        raise ProvenanceError(
            f"{storage.uri}: the dataset there was made differently ({'; '.join(differences)}); "
            "request the same, or give another out"
        )
