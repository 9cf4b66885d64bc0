"""Ends a run: one index of what there was and what this run made, and the dataset's own files.

All that it needs lies in the dataset, so it may be done again, by anybody, with the same result.
``dataset.json`` is written last.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.core.uri import redact

from c3d_pipelines.dataset.card import (
    CARD_FILE,
    card_of,
    labels_of,
    read_card,
    require_same_dataset,
)
from c3d_pipelines.dataset.index import (
    NEWEST,
    Index,
    copies_of,
    load_index,
    missing_rows,
    newest,
    timed,
    times,
    write_index,
)
from c3d_pipelines.dataset.readme import README_FILE, readme
from c3d_pipelines.errors import RunError, ShardError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import DO, DUPLICATE, PlannedRow, write_plan
from c3d_pipelines.reports.page import to_html, to_markdown
from c3d_pipelines.reports.summary import RunSummary, summarise
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards import commits as shards
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, SUMMARY, TEXT, Storage, run_file

_log = logging.getLogger(__name__)


def publish(
    settings: JobSettings,
    planned: Sequence[PlannedRow],
    *,
    state: str = "SUCCEEDED",
    message: str = "",
) -> RunSummary:
    """Write the dataset's index, card and this run's report.

    Every planned input has exactly one row afterwards: what its shard made; what an earlier run
    made, where nothing was to be done; what its original has, for a duplicate; and ``failed``,
    ShardMissing, where its shard is not there, so that the next run does it. Rows of other runs
    stay.

    Args:
        settings: of the run, with the provenance that the server gave.
        planned: the run's plan.
        state: how the pipeline ended, in Kubeflow's word.
        message: why, where it did not succeed.

    Returns:
        What became of the run.

    Raises:
        ProvenanceError: the dataset holds numbers that were made differently; nothing is written.
        ShardError: a shard is damaged, or the rows are not one for each input.
        StorageError: the dataset cannot be read or written.
        RunError: the settings have no provenance.
    """
    if not settings.provenance:
        raise RunError(
            f"run {settings.run}: nobody asked the server what it is; run preflight before publish"
        )
    storage = Storage(settings.out)
    require_same_dataset(storage, answer=settings.answer, provenance=settings.provenance)
    named = _shard_names(settings, planned)
    index = load_index(storage, first=set(named.values()))
    index = Index(_with_all(index, settings, planned, named), index.shards)
    rows = _rows_of(index.table, planned)
    summary = summarise(
        out=settings.out,
        run=settings.run,
        planned=planned,
        rows=rows,
        reports=[index.shards[name] for name in named.values() if name in index.shards],
        provenance=settings.provenance,
        state=state,
        message=message,
        server=settings.server,
        answer=settings.answer,
    )
    _write_run(storage, settings, planned, summary)
    write_dataset(storage, index, answer=settings.answer, provenance=settings.provenance)
    _log.info("%s: %d of %d videos ok", redact(settings.out), summary.ok, summary.inputs)
    return summary


def write_dataset(
    storage: Storage, index: Index, *, answer: str, provenance: Mapping[str, object]
) -> None:
    """Write a dataset's index, README and, last, ``dataset.json``.

    Raises:
        ProvenanceError: its shards have different labels.
        ShardError, StorageError: a shard cannot be read, or the place cannot be written.
    """
    earlier = read_card(storage)
    card = card_of(
        storage,
        index,
        answer=answer,
        # What need not agree stays as the first run said it.
        provenance=earlier.provenance if earlier else provenance,
        labels=labels_of(storage, index) or (earlier.labels if earlier else ()),
    )
    write_index(storage, index)
    storage.write(README_FILE, readme(card, name=_folder_name(storage)))
    storage.write(CARD_FILE, card.to_json())


def _folder_name(storage: Storage) -> str:
    uri = os.path.abspath(storage.uri) if storage.is_local else redact(storage.uri)
    return os.path.basename(uri)


def _shard_names(settings: JobSettings, planned: Sequence[PlannedRow]) -> dict[int, str]:
    rows: dict[int, list[ManifestRow]] = {}
    for one in planned:
        if one.decision == DO:
            rows.setdefault(one.shard, []).append(one.row)
    return {number: shards.name_of(settings, rows[number]) for number in sorted(rows)}


def _with_all(
    index: Index,
    settings: JobSettings,
    planned: Sequence[PlannedRow],
    named: Mapping[int, str],
) -> pa.Table:
    """The index's rows, and one for each input that has none."""
    gone = {number for number, name in named.items() if name not in index.shards}
    missing = missing_rows(
        _own([one for one in planned if one.shard in gone], settings.run),
        message="its shard did not come to its end; the next run does it again",
    )
    table = newest([timed(index.table, times(index.table, index.shards)), timed(missing, NEWEST)])
    duplicates = [one for one in planned if one.decision == DUPLICATE]
    if not duplicates:
        return table
    copies = copies_of(
        _own(duplicates, settings.run),
        table,
        message="its original was replaced after the plan was made; the next run does it",
    )
    return newest([timed(table, times(table, index.shards)), timed(copies, NEWEST)])


def _own(planned: Sequence[PlannedRow], run: str) -> pa.Table:
    """What a plan alone says of its inputs, as the index's first columns."""
    texts = {
        "video_id": [one.row.video_id for one in planned],
        # The index is for others to read; a URL may be signed.
        "uri": [redact(one.row.uri) for one in planned],
        "key": [one.row.key for one in planned],
        "run": [run] * len(planned),
        "duplicate_of": [one.duplicate_of for one in planned],
    }
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    sizes = pa.array([one.row.size_bytes for one in planned], pa.int64())
    return pa.table({**columns, "size_bytes": sizes})


def _rows_of(table: pa.Table, planned: Sequence[PlannedRow]) -> pa.Table:
    """The index's row of each planned input, in the plan's order."""
    ids = pa.array([one.row.video_id for one in planned], pa.string())
    at = pc.index_in(ids, value_set=table["video_id"])
    single = len(pc.unique(table["video_id"])) == len(table) and len(pc.unique(ids)) == len(ids)
    if at.null_count or not single:
        lost = ids.filter(at.is_null()).to_pylist()
        named = ", ".join(lost[:5]) + (" and others" if len(lost) > 5 else "")
        raise ShardError(
            f"{len(ids)} inputs do not have one row each: {len(lost)} have none"
            + (f" ({named})" if lost else ", but some come twice")
            + "; make a new plan and run it"
        )
    return table.take(at)


def _write_run(
    storage: Storage, settings: JobSettings, planned: Sequence[PlannedRow], summary: RunSummary
) -> None:
    with storage.writing(run_file(settings.run, PLAN)) as path:
        write_plan(path, planned)
    for name, text in (
        (SETTINGS, settings.to_json()),
        (SUMMARY, summary.to_json()),
        (PAGE, to_html(summary)),
        (TEXT, to_markdown(summary)),
    ):
        storage.write(run_file(settings.run, name), text)
