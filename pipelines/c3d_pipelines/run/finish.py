"""The last step of a bulk run, done also after a failure: the report of how the run ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from c3d_client.core.errors import C3DError, ProvenanceError
from c3d_client.core.provenance import Provenance

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.plan import PlannedRow, read_plan
from c3d_pipelines.parameters import ANSWERS
from c3d_pipelines.reports.summary import SUCCEEDED, RunSummary
from c3d_pipelines.run.errors import failure_reasons, one_line, recorded_failure
from c3d_pipelines.run.steps import write_artifact
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, SUMMARY, TEXT, Storage, run_file

if TYPE_CHECKING:
    import pyarrow as pa

    from c3d_pipelines.shards.schema import ShardReport

_FAILED, _CANCELLED = "FAILED", "CANCELLED"
# States as kfp.local and backends that record steps in ML Metadata name them.
_STATES = {
    **dict.fromkeys((SUCCEEDED, "COMPLETE", "CACHED"), SUCCEEDED),
    **dict.fromkeys((_CANCELLED, "CANCELED"), _CANCELLED),
    _FAILED: _FAILED,
}
_NO_REASON = "a step ended without a message; the events and the log of its pod tell more"

_log = logging.getLogger(__name__)


def report_step(
    *, out: str, run: str, state: str, message: str, page_path: str, text_path: str
) -> None:
    """Report how the run ended, and publish the shards that are there if no step published them.

    Args:
        state: the run's state as Kubeflow reports it; see :func:`final_state`.
        message: Kubeflow's own message; the reasons that the steps wrote are clearer and are
            preferred.

    Raises:
        C3DError: the report is written, but the dataset could not be published.
        StorageError: the dataset cannot be written.
    """
    with recorded_failure("report", out=out, run=run):
        from c3d_pipelines.reports.page import to_html, to_markdown

        storage = Storage(out)
        failures = failure_reasons(storage, run)
        reasons = "; ".join(f"{step}: {reason}" for step, reason in failures.items())
        state = final_state(storage, run, state, reasons)
        why = "" if state == SUCCEEDED else reasons or " ".join(message.split()) or _NO_REASON
        summary, error = _last_summary(storage, out, run, state=state, message=why)
        page, text = to_html(summary), to_markdown(summary)
        storage.write(run_file(run, SUMMARY), summary.to_json())
        write_artifact(storage, run, PAGE, page, page_path)
        write_artifact(storage, run, TEXT, text, text_path)
        _log.info("%s", text)
        if error is not None:
            raise error


def final_state(storage: Storage, run: str, state: str, reasons: str) -> str:
    """Return how a run ended: ``SUCCEEDED``, ``FAILED`` or ``CANCELLED``.

    Some backends start the report while the run's state is still ``RUNNING``. The run then
    succeeded if it was published and no step wrote a reason.

    Args:
        state: as Kubeflow reports it.
        reasons: of the steps that failed; a retry that succeeds clears the step's reason.
    """
    known = _STATES.get(state.upper())
    if reasons:
        return _CANCELLED if known == _CANCELLED else _FAILED
    if known is not None:
        return known
    published = storage.read(run_file(run, SUMMARY))
    if published is not None and RunSummary.from_json(published).state == SUCCEEDED:
        return SUCCEEDED
    return _FAILED


def _last_summary(
    storage: Storage, out: str, run: str, *, state: str, message: str
) -> tuple[RunSummary, C3DError | None]:
    """Return the summary of a run, and the error that prevented publishing it, if any.

    A run that cannot be published has a summary of its plan and of what the dataset has.
    """
    text = storage.read(run_file(run, SETTINGS))
    settings = JobSettings.from_json(text) if text else None
    planned: list[PlannedRow] = []
    if storage.read(run_file(run, PLAN)) is not None:
        with storage.reading(run_file(run, PLAN)) as file:
            planned = read_plan(file)
    error: C3DError | None = None
    # Without the server's provenance no shard was begun, so there is nothing to publish.
    if settings is not None and settings.provenance:
        from c3d_pipelines.run.publish import publish

        try:
            return publish(settings, planned, state=state, message=message), None
        except C3DError as failure:
            error = failure
            state, message = _FAILED, message or one_line(failure)
    from c3d_pipelines.dataset.index import INDEX_SCHEMA, status_counts
    from c3d_pipelines.reports.summary import summarise

    table, reports = _stored_results(storage, settings, planned)
    summary = summarise(
        out=out,
        run=run,
        planned=planned,
        rows=INDEX_SCHEMA.empty_table() if table is None else table,
        reports=reports,
        provenance=Provenance(),
        begun=settings is not None and bool(settings.provenance),
        readable=table is not None,
        dataset=None if table is None else status_counts(table),
        state=state,
        message=message,
        server=settings.server if settings else "",
        answer=settings.answer if settings else ANSWERS[0],
    )
    return summary, error


def _stored_results(
    storage: Storage, settings: JobSettings | None, planned: Sequence[PlannedRow]
) -> tuple[pa.Table | None, list[ShardReport]]:
    """Return what a dataset has though it cannot be published.

    Returns:
        The rows of its index, None where it cannot be read; and the reports of this run's shards.
        Where a shard is damaged, these are the published rows and the readable shards of this run.
    """
    from c3d_pipelines.dataset.index import (
        NEWEST,
        OLDEST,
        load_index,
        newest,
        read_published,
        shard_table,
        timed,
    )
    from c3d_pipelines.run.publish import shard_names
    from c3d_pipelines.shards.commits import read_report

    try:
        names = []
        if settings is not None and settings.provenance:  # otherwise no shard was begun
            names = list(shard_names(storage, settings, planned).values())
        with contextlib.suppress(ShardError, ProvenanceError):
            index = load_index(storage, first=set(names))
            return index.table, [index.shards[name] for name in names if name in index.shards]
        parts = [timed(read_published(storage).table, OLDEST)]
        reports = []
        for name in names:
            with contextlib.suppress(ShardError):
                if (report := read_report(storage, name)) is not None:
                    parts.append(timed(shard_table(storage, report), NEWEST))
                    reports.append(report)
    except C3DError:
        return None, []
    return newest(parts), reports
