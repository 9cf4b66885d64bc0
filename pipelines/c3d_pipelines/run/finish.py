"""The last step of a bulk run, done whatever happened before: it says how the run ended."""

from __future__ import annotations

from c3d_client.core.errors import C3DError

from c3d_pipelines.inputs.plan import PlannedRow, read_plan
from c3d_pipelines.reports.summary import SUCCEEDED, RunSummary
from c3d_pipelines.run.errors import failing_in_one_line, reasons
from c3d_pipelines.run.steps import hand_on
from c3d_pipelines.settings import ANSWERS, JobSettings
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, SUMMARY, TEXT, Storage, run_file

_FAILED, _CANCELLED = "FAILED", "CANCELLED"
# The words of kfp.local, and of backends that keep their steps in ML Metadata.
_STATES = {
    **dict.fromkeys((SUCCEEDED, "COMPLETE", "CACHED"), SUCCEEDED),
    **dict.fromkeys((_CANCELLED, "CANCELED"), _CANCELLED),
    _FAILED: _FAILED,
}
_SILENT = "a step ended without a word; the events and the log of its pod tell more"


def report_step(
    *, out: str, run: str, state: str, message: str, page_path: str, text_path: str
) -> None:
    """Say how the run ended, whatever happened; publish what there is where nobody has.

    Args:
        state: of the run, in a word of Kubeflow's, of which :func:`final_state` knows more.
        message: Kubeflow's own words for it; the steps' words are clearer and come first.

    Raises:
        C3DError: the report is there, but the dataset could not be published.
        StorageError: the dataset's place cannot be written.
    """
    with failing_in_one_line("report", out=out, run=run):
        from c3d_pipelines.reports.page import to_html, to_markdown

        storage = Storage(out)
        left = reasons(storage, run)
        state = final_state(storage, run, state, left)
        why = "" if state == SUCCEEDED else left or " ".join(message.split()) or _SILENT
        summary, trouble = _last_summary(storage, out, run, state=state, message=why)
        page, text = to_html(summary), to_markdown(summary)
        storage.write(run_file(run, SUMMARY), summary.to_json())
        hand_on(storage, run, PAGE, page, page_path)
        hand_on(storage, run, TEXT, text, text_path)
        print(text)
        if trouble is not None:
            raise trouble


def final_state(storage: Storage, run: str, state: str, left: str) -> str:
    """How a run ended: ``SUCCEEDED``, ``FAILED`` or ``CANCELLED``.

    Some backends ask for the report while they still call the run ``RUNNING``. Then it went well
    where its publishing did, and no step left a reason.

    Args:
        state: as Kubeflow says.
        left: the reasons that steps left; a step that was tried again with success takes its back.
    """
    known = _STATES.get(state.upper())
    if left:
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
    """The run's summary, of what is published now; or of the plan, and why no more can be said."""
    found = storage.read(run_file(run, SETTINGS))
    settings = JobSettings.from_json(found) if found else None
    planned: list[PlannedRow] = []
    if storage.read(run_file(run, PLAN)) is not None:
        with storage.reading(run_file(run, PLAN)) as file:
            planned = read_plan(file)
    trouble: C3DError | None = None
    # Without the server's word nothing was begun, so there is nothing that could be published.
    if settings is not None and settings.provenance:
        from c3d_pipelines.run.publish import publish

        try:
            return publish(settings, planned, state=state, message=message), None
        except C3DError as error:
            trouble = error
            state, message = _FAILED, message or " ".join(str(error).split())
    from c3d_pipelines.dataset.index import INDEX_SCHEMA
    from c3d_pipelines.reports.summary import summarise

    summary = summarise(
        out=out,
        run=run,
        planned=planned,
        rows=INDEX_SCHEMA.empty_table(),
        reports=[],
        provenance={},
        state=state,
        message=message,
        server=settings.server if settings else "",
        answer=settings.answer if settings else ANSWERS[0],
    )
    return summary, trouble
