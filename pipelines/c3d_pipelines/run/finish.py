"""The last step of a bulk run, done also after a failure: the report of how the run ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from c3d_client.core.errors import C3DError, ProvenanceError
from c3d_client.core.provenance import Provenance

from c3d_pipelines.errors import ShardError
from c3d_pipelines.inputs.plan import DO, PlannedRow, read_notes, read_plan
from c3d_pipelines.parameters import ANSWERS
from c3d_pipelines.reports.summary import SUCCEEDED, RunSummary
from c3d_pipelines.run.errors import failure_reasons, one_line, recorded_failure
from c3d_pipelines.run.steps import write_text
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.retry import wait_for_store
from c3d_pipelines.storage import (
    PAGE,
    PLAN,
    SETTINGS,
    SUMMARY,
    TEXT,
    Storage,
    run_file,
    storage_of_run,
)

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
# The address of a store that never answered may be wrong, so the wait is shorter than for one that
# the run has used.
_FIRST_WAIT_S = 60.0
NO_REASON = "a step ended without a message; the events and the log of its pod tell more"

_log = logging.getLogger(__name__)


def report_step(
    *, out: str, run: str, state: str, message: str, page_path: str, text_path: str
) -> dict[str, float]:
    """Report how the run ended, and publish what no step published.

    That is: the shards of a run that failed, and all of a run that had nothing to do. The report's
    artifacts are written first, because a dataset that cannot be written may be the reason.

    Args:
        state: the run's state as Kubeflow reports it; see :func:`final_state`.
        message: Kubeflow's own message; the reasons that the steps wrote are clearer and are
            preferred.

    Returns:
        The run's metrics.

    Raises:
        C3DError: the artifacts are written, but the dataset could not be published or written.
    """
    with recorded_failure("report", out=out, run=run):
        from c3d_pipelines.reports.page import report_files

        def write_artifacts(summary: RunSummary) -> dict[str, str]:
            files = report_files(summary)
            write_text(page_path, files[PAGE])
            write_text(text_path, files[TEXT])
            return files

        summary, error = _summary(out, run, state=state, message=message)
        files = write_artifacts(summary)
        try:
            storage = storage_of_run(out, run)
            for name, content in files.items():
                storage.write(run_file(run, name), content)
        except C3DError as failure:
            error = error or failure
            reason = f"report: {one_line(failure)}"
            reasons = [] if summary.message == NO_REASON else [summary.message]
            if one_line(failure) not in summary.message:
                reasons.append(reason)
            state = _CANCELLED if summary.state == _CANCELLED else _FAILED
            summary = replace(summary, state=state, message="; ".join(filter(None, reasons)))
            files = write_artifacts(summary)
        _log.info("%s", files[TEXT])
        if error is not None:
            raise error
        return summary.metrics()


def final_state(storage: Storage, run: str, state: str, reasons: str, *, idle: bool = False) -> str:
    """Return how a run ended: ``SUCCEEDED``, ``FAILED`` or ``CANCELLED``.

    Some backends start the report while the run's state is still ``RUNNING``, and all do after a
    run with nothing to do. The run then succeeded if no step wrote a reason, and it was published
    or had nothing to publish.

    Args:
        state: as Kubeflow reports it.
        reasons: of the steps that failed; a retry that succeeds clears the step's reason.
        idle: whether the plan and the check of the server ended, and there was nothing to do.
    """
    known = _STATES.get(state.upper())
    if reasons:
        return _CANCELLED if known == _CANCELLED else _FAILED
    if known is not None:
        return known
    if idle:
        return SUCCEEDED
    published = storage.read(run_file(run, SUMMARY))
    if published is not None and RunSummary.from_json(published).state == SUCCEEDED:
        return SUCCEEDED
    return _FAILED


def _summary(out: str, run: str, *, state: str, message: str) -> tuple[RunSummary, C3DError | None]:
    """Return the summary of a run, and the error that prevented publishing it, if any."""
    message = " ".join(message.split())
    try:
        storage = storage_of_run(out, run)
        failures = wait_for_store(lambda: failure_reasons(storage, run), wait_s=_FIRST_WAIT_S)
        reasons = "; ".join(f"{step}: {reason}" for step, reason in failures.items())
        settings, planned, notes = _stored_plan(storage, run)
        idle = (
            settings is not None
            and bool(settings.provenance)
            and not any(item.decision == DO for item in planned)
        )
        state = final_state(storage, run, state, reasons, idle=idle)
        why = "" if state == SUCCEEDED else reasons or message or NO_REASON
        return _last_summary(
            storage, out, run, settings, planned, notes=notes, state=state, message=why
        )
    except C3DError as failure:
        # Not even the plan can be read: a summary of nothing, with the reason.
        from c3d_pipelines.dataset.index import INDEX_SCHEMA
        from c3d_pipelines.reports.summary import summarise

        why = "; ".join(filter(None, (message, f"report: {one_line(failure)}")))
        summary = summarise(
            out=out,
            run=run,
            planned=(),
            rows=INDEX_SCHEMA.empty_table(),
            reports=(),
            provenance=Provenance(),
            begun=False,
            readable=False,
            state=_CANCELLED if _STATES.get(state.upper()) == _CANCELLED else _FAILED,
            message=why,
            answer=ANSWERS[0],
        )
        return summary, failure


def _stored_plan(
    storage: Storage, run: str
) -> tuple[JobSettings | None, list[PlannedRow], list[str]]:
    """Return the settings of a run, its plan, and the plan's notes, as far as it wrote them."""
    text = storage.read(run_file(run, SETTINGS))
    settings = JobSettings.from_json(text) if text else None
    if storage.size(run_file(run, PLAN)) is None:
        return settings, [], []
    with storage.reading(run_file(run, PLAN)) as file:
        return settings, read_plan(file), read_notes(file)


def _last_summary(
    storage: Storage,
    out: str,
    run: str,
    settings: JobSettings | None,
    planned: Sequence[PlannedRow],
    *,
    notes: Sequence[str],
    state: str,
    message: str,
) -> tuple[RunSummary, C3DError | None]:
    """Publish a run; return its summary, and the error that prevented publishing it, if any."""
    error: C3DError | None = None
    # Without the server's provenance no shard was begun, so there is nothing to publish.
    if settings is not None and settings.provenance:
        from c3d_pipelines.run.publish import publish

        try:
            publishing = partial(
                publish, settings, planned, notes=notes, state=state, message=message
            )
            return wait_for_store(publishing, wait_s=settings.patience_s), None
        except C3DError as failure:
            error = failure
            state, message = _FAILED, message or one_line(failure)
    return summary_of(storage, out, run, state=state, message=message), error


def summary_of(storage: Storage, out: str, run: str, *, state: str, message: str) -> RunSummary:
    """Return the summary of a run that is not published, of its plan and what the dataset has.

    Args:
        storage: the dataset.
        out: its address for the report.
        run: the run's name.
        state: how it ended.
        message: why it did not succeed.

    Raises:
        C3DError: the run's settings or its plan cannot be read.
    """
    from c3d_pipelines.dataset.index import INDEX_SCHEMA, status_counts
    from c3d_pipelines.reports.summary import summarise

    settings, planned, notes = _stored_plan(storage, run)
    table, reports = _stored_results(storage, run, settings, planned)
    return summarise(
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
        notes=notes,
        max_failed=settings.max_failed if settings else None,
        max_failed_share=settings.max_failed_share if settings else 0.0,
        sent=settings.sent if settings else None,
        pca=settings.pca if settings else "",
        given=settings.given if settings else None,
    )


def _stored_results(
    storage: Storage, run: str, settings: JobSettings | None, planned: Sequence[PlannedRow]
) -> tuple[pa.Table | None, list[ShardReport]]:
    """Return what a dataset has though it cannot be published.

    Returns:
        The rows of its index, None where it cannot be read; and the reports of its shards. Where a
        shard is damaged, these are the published rows and the readable shards of this run.
    """
    from c3d_pipelines.dataset.index import (
        NEWEST,
        OLDEST,
        committed_shards,
        load_index,
        newest,
        read_published,
        shard_table,
        timed,
    )
    from c3d_pipelines.run.publish import shard_names

    try:
        names: set[str] = set()
        if settings is not None and settings.provenance:  # otherwise no shard was begun
            names = shard_names(storage, settings, planned)
        with contextlib.suppress(ShardError, ProvenanceError):
            index = load_index(storage, first=names, run=run)
            return index.table, list(index.shards.values())
        parts = [timed(read_published(storage).table, OLDEST)]
        reports = []
        for name, report in committed_shards(storage, alike=False).items():
            if report.run == run or name in names:
                with contextlib.suppress(ShardError):
                    parts.append(timed(shard_table(storage, report), NEWEST))
                    reports.append(report)
    except C3DError:
        return None, []
    return newest(parts), reports
