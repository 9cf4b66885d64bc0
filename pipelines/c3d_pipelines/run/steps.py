"""The steps of a bulk run, one function each.

A pod's component and a run on one machine (``local.py``) call the same functions. A step checks its
parameters, does its work, and writes its results as artifacts for the next step and below
``runs/<run>/`` of the dataset for the report.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from typing import Any

from c3d_client.core.errors import ProvenanceError
from c3d_client.core.provenance import Provenance

from c3d_pipelines.errors import RunError
from c3d_pipelines.inputs.plan import read_plan, shard_rows, write_plan
from c3d_pipelines.parameters import ANY_MODEL, JobParameters, whole
from c3d_pipelines.run.errors import cancelled_by_sigterm, recorded_failure
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, Storage, run_file

_log = logging.getLogger(__name__)


def plan_step(
    *, out: str, run: str, answer: str, plan_path: str, settings_path: str, **parameters: Any
) -> list[int]:
    """Check the parameters, list the inputs, and decide what to do with each.

    Args:
        out: the dataset's folder or bucket.
        run: the run's name.
        answer: ``features`` or ``classes``.
        plan_path: where to write the plan.
        settings_path: where to write the settings for the next steps.
        parameters: of :class:`~c3d_pipelines.settings.JobParameters`. Numbers may be floats, as
            Kubeflow passes them.

    Returns:
        The indexes of the shards. With nothing to do there is one shard without videos, so that
        the run continues to its report.

    Raises:
        UsageError: a parameter is unknown or out of its range.
        ManifestError: the inputs cannot be listed, or there are none.
        StorageError: the dataset cannot be read or written.
    """
    with recorded_failure("plan", out=out, run=run):
        from c3d_pipelines.run.plan import make_plan

        job = JobParameters.of({"out": out, **parameters})
        settings = JobSettings.from_parameters(job, run=run, answer=answer)
        storage = Storage(out)
        write_artifact(storage, run, SETTINGS, settings.to_json(), settings_path)
        notes: list[str] = []
        planned = make_plan(
            job.videos,
            out,
            answer=answer,
            window=settings.window,
            keys=job.keys,
            shard_mb=job.shard_mb,
            shard_minutes=job.shard_minutes,
            max_shards=job.max_shards,
            retry_failed=job.retry_failed,
            any_file=job.any_file,
            notes=notes,
        )
        for note in notes:
            _log.warning("plan: %s", note)
        write_plan(plan_path, planned, notes=notes)
        with storage.writing(run_file(run, PLAN)) as path:
            shutil.copyfile(plan_path, path)
        count = max((row.shard for row in planned), default=-1) + 1
        return list(range(max(1, count)))


def preflight_step(
    *, model_digest: str, settings_path: str, checked_path: str, run: str, out: str
) -> str:
    """Check that the server answers and serves the right model, before any shard is started.

    Args:
        model_digest: digest of the model that the run requires, or ``any``.

    Returns:
        The digest of the served model. Pass it as ``model_digest`` to refuse another model in
        later runs.

    Raises:
        ServingError: the server does not answer, or has no such model.
        ProvenanceError: the dataset holds numbers of another kind, or it is another model.
    """
    with recorded_failure("preflight", out=out, run=run):
        from c3d_pipelines.run.preflight import preflight

        settings = preflight(_read_settings(settings_path))
        digest = digest_of_model(settings.provenance)
        _refuse_other_model(model_digest, digest, settings.server)
        write_artifact(Storage(out), run, SETTINGS, settings.to_json(), checked_path)
        _log.info("preflight: %s at %s is %s", settings.model, settings.server, digest)
        return digest


def extract_step(
    *,
    shard: float,
    model_digest: str,
    plan_path: str,
    settings_path: str,
    cores: int | None = None,
) -> str:
    """Do one shard, unless it is done already.

    A process that receives SIGTERM stops and writes no unfinished file.

    Args:
        shard: the shard's index in the plan.
        cores: how many cores the decoder threads may use; all of this process by default.

    Returns:
        The shard's name in the dataset.

    Raises:
        C3DError: the server or the storage stayed away, or the model is another one. A fault of
            one video is the status of its row and not an error.
    """
    settings = _read_settings(settings_path)
    index = whole("shard", shard)
    with (
        recorded_failure(f"extract-{index}", out=settings.out, run=settings.run),
        cancelled_by_sigterm() as cancel,
    ):
        from c3d_pipelines.shards.worker import do_shard

        digest = digest_of_model(settings.provenance)
        _refuse_other_model(model_digest, digest, settings.server)
        rows = shard_rows(read_plan(plan_path), index)
        return do_shard(settings, rows, index, cancel=cancel, cores=cores).name


def publish_step(
    *, plan_path: str, settings_path: str, page_path: str, text_path: str
) -> tuple[int, dict[str, float]]:
    """Merge the shards into one dataset: index, card, report.

    The shards are looked up in the dataset, with their reports and sizes. The results of the steps
    before this one are not used.

    Returns:
        How many of this run's videos did not end ok, and the run's metrics.

    Raises:
        C3DError: the dataset cannot be read or written, or holds numbers of another kind.
    """
    settings = _read_settings(settings_path)
    with recorded_failure("publish", out=settings.out, run=settings.run):
        from c3d_pipelines.reports.page import to_html, to_markdown
        from c3d_pipelines.run.publish import publish

        summary = publish(settings, read_plan(plan_path))
        write_text(page_path, to_html(summary))
        write_text(text_path, to_markdown(summary))
        return summary.unsuccessful, summary.metrics()


def gate_step(*, unsuccessful: float, max_failed: float, out: str, run: str) -> None:
    """Fail the run when more than ``max_failed`` videos did not end ok; -1 allows any number.

    Raises:
        RunError: more than ``max_failed`` videos did not end ok.
    """
    with recorded_failure("gate", out=out, run=run):
        failed, allowed = whole("unsuccessful", unsuccessful), whole("max_failed", max_failed)
        if 0 <= allowed < failed:
            report = Storage(out).uri_of(run_file(run, PAGE))
            raise RunError(
                f"{failed} videos did not end ok, and max_failed is {allowed}; {report} has the "
                "reasons; the dataset holds all the others"
            )


def digest_of_model(provenance: Provenance) -> str:
    """Return the digest that identifies a served model: of its weights, mean and precision."""
    identity = {name: provenance.model.get(name) for name in ("weights", "mean", "precision")}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def write_artifact(storage: Storage, run: str, name: str, text: str, path: str) -> None:
    """Write a text as an artifact for the next steps, and into the run's folder of the dataset."""
    write_text(path, text)
    storage.write(run_file(run, name), text)


def write_text(path: str, text: str) -> None:
    """Write an artifact; Kubeflow may not have made its folder."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _refuse_other_model(required: str, served: str, server: str) -> None:
    if required not in (ANY_MODEL, served):
        raise ProvenanceError(
            f"{server}: serves model {served}, and this run is for {required}; serve that model, "
            f"or give model_digest={served} and another out"
        )


def _read_settings(path: str) -> JobSettings:
    with open(path, "rb") as file:
        return JobSettings.from_json(file.read())
