"""Publish a run: write the dataset's index, its cards and the run's report.

Publishing reads only the dataset, so it can be repeated with the same result. ``dataset.json`` is
written last.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

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
    RESULT_COLUMNS,
    Index,
    copies_of,
    have_results,
    load_index,
    made_at,
    missing_rows,
    newest,
    rows_of,
    status_counts,
    timed,
    times,
)
from c3d_pipelines.errors import RunError, ShardError, StorageError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import DO, DUPLICATE, PlannedRow, write_plan
from c3d_pipelines.reports.page import report_files
from c3d_pipelines.reports.summary import RunSummary, summarise
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.commits import names_of
from c3d_pipelines.shards.in_hand import read_dead, remove_in_hand
from c3d_pipelines.storage import (
    PLAN,
    SETTINGS,
    Storage,
    run_file,
    storage_of_run,
)

_log = logging.getLogger(__name__)


def publish(
    settings: JobSettings,
    planned: Sequence[PlannedRow],
    *,
    notes: Sequence[str] = (),
    state: str = "SUCCEEDED",
    message: str = "",
) -> RunSummary:
    """Write the dataset's index and cards, and this run's report.

    Every planned input has exactly one row afterwards: the row of a shard of this run; the row of
    another run, for an input that was not to be done or that the other run did meanwhile; the row
    of its original, for a duplicate; or ``failed``, ShardMissing, where it was not done, so that
    the next run does it. Rows of other runs stay, and so do those of shards that a run committed
    and never published.

    Args:
        settings: the run's settings, with the provenance.
        planned: the run's plan.
        notes: the plan's lines for the report.
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
    storage = storage_of_run(settings.out, settings.run)
    require_same_dataset(storage, answer=settings.answer, provenance=settings.provenance)
    index = load_index(storage, first=shard_names(storage, settings, planned), run=settings.run)
    index = replace(index, table=_with_all_inputs(index, settings, planned))
    rows = _all_rows_of(index.table, planned)
    card = read_card(storage)
    summary = summarise(
        out=settings.out,
        run=settings.run,
        planned=planned,
        rows=rows,
        reports=list(index.shards.values()),
        provenance=settings.provenance,
        state=state,
        message=message,
        server=settings.server,
        answer=settings.answer,
        dataset=status_counts(index.table),
        software=versions_of(index, card.versions if card else {}),
        notes=notes,
        max_failed=settings.max_failed,
        max_failed_share=settings.max_failed_share,
        sent=settings.sent,
        pca=settings.pca,
        given=settings.given,
    )
    _write_run(storage, settings, planned, summary)
    write_dataset(storage, index, answer=settings.answer, provenance=settings.provenance)
    _forget_deaths(storage, index)
    _log.info("%s: %d of %d videos ok", storage.uri, summary.ok, summary.inputs)
    return summary


def shard_names(storage: Storage, settings: JobSettings, planned: Sequence[PlannedRow]) -> set[str]:
    """Return the names of the plan's shards, and of their parts, that are done by any run."""
    rows: dict[int, list[ManifestRow]] = {}
    for item in planned:
        if item.decision == DO:
            rows.setdefault(item.shard, []).append(item.row)
    names = {name for of_shard in rows.values() for name in names_of(settings, of_shard)}
    done = (PurePosixPath(file) for file in storage.names("shards") if file.endswith(".json"))
    # The name of a part begins with that of its shard.
    return {file.stem for file in done if file.stem.partition("-")[0] in names}


def _with_all_inputs(
    index: Index, settings: JobSettings, planned: Sequence[PlannedRow]
) -> pa.Table:
    """Return the index's rows, and a row for each input that has none."""
    to_do = [item for item in planned if item.decision == DO]
    rows = rows_of(index.table.select(RESULT_COLUMNS), to_do)
    is_done = have_results(rows, to_do, settings.run)
    missing = missing_rows(
        _input_columns(
            [item for item, done in zip(to_do, is_done, strict=True) if not done], settings.run
        ),
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


def _forget_deaths(storage: Storage, index: Index) -> None:
    """Remove the files of videos in hand of dead workers, when all their videos have newer rows."""
    try:
        dead = read_dead(storage)
        done = made_at(index, {video.video_id for record in dead for video in record.videos})
        for record in dead:
            if all(done.get(video.video_id, 0.0) > record.written_at for video in record.videos):
                remove_in_hand(storage, record.file)
    except StorageError as error:  # the dataset is written; the next run removes the files
        _log.warning("%s", error)


def _all_rows_of(table: pa.Table, planned: Sequence[PlannedRow]) -> pa.Table:
    """Return the index's row of each planned input, in the plan's order."""
    ids = pa.array([item.row.video_id for item in planned], pa.string())
    rows = rows_of(table, planned)
    is_missing = rows["video_id"].is_null()
    is_unique = len(pc.unique(table["video_id"])) == len(table) and len(pc.unique(ids)) == len(ids)
    if rows["video_id"].null_count or not is_unique:
        missing = ids.filter(is_missing.combine_chunks()).to_pylist()
        examples = ", ".join(missing[:5]) + (" and others" if len(missing) > 5 else "")
        raise ShardError(
            f"{len(ids)} inputs do not have one row each: {len(missing)} have none"
            + (f" ({examples})" if missing else ", but some come twice")
            + "; make a new plan and run it"
        )
    return rows


def _write_run(
    storage: Storage, settings: JobSettings, planned: Sequence[PlannedRow], summary: RunSummary
) -> None:
    with storage.writing(run_file(settings.run, PLAN)) as path:
        write_plan(path, planned, notes=summary.notes)
    for name, text in {SETTINGS: settings.to_json(), **report_files(summary)}.items():
        storage.write(run_file(settings.run, name), text)
