"""Publish a run: write the dataset's index, its cards and the run's report.

Publishing reads only the dataset, so it can be repeated with the same result. ``dataset.json`` is
written last.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.core.uri import Uri

from c3d_pipelines.dataset.card import (
    read_card,
    require_same_dataset,
    versions_of,
    write_dataset,
)
from c3d_pipelines.dataset.index import (
    NEWEST,
    Index,
    copies_of,
    load_index,
    missing_rows,
    newest,
    status_counts,
    timed,
    times,
)
from c3d_pipelines.errors import RunError, ShardError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import DO, DUPLICATE, PlannedRow, write_plan
from c3d_pipelines.reports.page import to_html, to_markdown
from c3d_pipelines.reports.summary import RunSummary, summarise
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.commits import names_of
from c3d_pipelines.shards.schema import report_file
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, SUMMARY, TEXT, Storage, run_file

_log = logging.getLogger(__name__)


def publish(
    settings: JobSettings,
    planned: Sequence[PlannedRow],
    *,
    state: str = "SUCCEEDED",
    message: str = "",
) -> RunSummary:
    """Write the dataset's index and cards, and this run's report.

    Every planned input has exactly one row afterwards: the row of its shard; the row of an earlier
    run, for an input that was not to be done; the row of its original, for a duplicate; or
    ``failed``, ShardMissing, where its shard does not exist, so that the next run does it. Rows of
    other runs stay.

    Args:
        settings: the run's settings, with the provenance.
        planned: the run's plan.
        state: how the pipeline ended, as Kubeflow names it.
        message: why the pipeline did not succeed.

    Returns:
        The run's summary.

    Raises:
        ProvenanceError: the dataset holds numbers that were made differently; nothing is written.
        ShardError: a shard is damaged, or an input has no row or several rows.
        StorageError: the dataset cannot be read or written.
        RunError: the settings have no provenance.
    """
    if not settings.provenance:
        raise RunError(
            f"run {settings.run}: its settings have no provenance; run preflight before publish"
        )
    storage = Storage(settings.out)
    require_same_dataset(storage, answer=settings.answer, provenance=settings.provenance)
    names = shard_names(storage, settings, planned)
    index = load_index(storage, first=set(names.values()))
    index = replace(index, table=_with_all_inputs(index, settings, planned, names))
    rows = _rows_of(index.table, planned)
    card = read_card(storage)
    summary = summarise(
        out=settings.out,
        run=settings.run,
        planned=planned,
        rows=rows,
        reports=[index.shards[name] for name in names.values() if name in index.shards],
        provenance=settings.provenance,
        state=state,
        message=message,
        server=settings.server,
        answer=settings.answer,
        dataset=status_counts(index.table),
        software=versions_of(index, card.versions if card else {}),
    )
    _write_run(storage, settings, planned, summary)
    write_dataset(storage, index, answer=settings.answer, provenance=settings.provenance)
    _log.info("%s: %d of %d videos ok", storage.uri, summary.ok, summary.inputs)
    return summary


def shard_names(
    storage: Storage, settings: JobSettings, planned: Sequence[PlannedRow]
) -> dict[int, str]:
    """Return the names of the plan's shards by number: where a shard is done, the name it has."""
    rows: dict[int, list[ManifestRow]] = {}
    for item in planned:
        if item.decision == DO:
            rows.setdefault(item.shard, []).append(item.row)
    done = set(storage.names("shards"))
    names = {number: names_of(settings, rows[number]) for number in sorted(rows)}
    return {
        number: next((name for name in both if report_file(name) in done), both[0])
        for number, both in names.items()
    }


def _with_all_inputs(
    index: Index,
    settings: JobSettings,
    planned: Sequence[PlannedRow],
    names: Mapping[int, str],
) -> pa.Table:
    """Return the index's rows, and a row for each input that has none."""
    missing_shards = {number for number, name in names.items() if name not in index.shards}
    missing = missing_rows(
        _input_columns([item for item in planned if item.shard in missing_shards], settings.run),
        message="its shard did not end; the next run does it again",
    )
    table = newest([timed(index.table, times(index.table, index.shards)), timed(missing, NEWEST)])
    duplicates = [item for item in planned if item.decision == DUPLICATE]
    if not duplicates:
        return table
    copies = copies_of(
        _input_columns(duplicates, settings.run),
        table,
        message="its original was replaced after the plan was made; the next run does it",
    )
    return newest([timed(table, times(table, index.shards)), timed(copies, NEWEST)])


def _input_columns(planned: Sequence[PlannedRow], run: str) -> pa.Table:
    """Return the index's columns that describe an input, whatever its result."""
    texts = {
        "video_id": [item.row.video_id for item in planned],
        # The index is public, and a URL may be signed.
        "uri": [str(Uri(item.row.uri)) for item in planned],
        "key": [item.row.key for item in planned],
        "run": [run] * len(planned),
        "duplicate_of": [item.duplicate_of for item in planned],
    }
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    sizes = pa.array([item.row.size_bytes for item in planned], pa.int64())
    return pa.table({**columns, "size_bytes": sizes})


def _rows_of(table: pa.Table, planned: Sequence[PlannedRow]) -> pa.Table:
    """Return the index's row of each planned input, in the plan's order."""
    ids = pa.array([item.row.video_id for item in planned], pa.string())
    positions = pc.index_in(ids, value_set=table["video_id"])
    is_unique = len(pc.unique(table["video_id"])) == len(table) and len(pc.unique(ids)) == len(ids)
    if positions.null_count or not is_unique:
        missing = ids.filter(positions.is_null()).to_pylist()
        examples = ", ".join(missing[:5]) + (" and others" if len(missing) > 5 else "")
        raise ShardError(
            f"{len(ids)} inputs do not have one row each: {len(missing)} have none"
            + (f" ({examples})" if missing else ", but some come twice")
            + "; make a new plan and run it"
        )
    return table.take(positions)


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
