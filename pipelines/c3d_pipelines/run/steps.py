"""The steps of a bulk run, one function each.

A pod's component and a run on one machine (``local.py``) call the same functions. A step checks its
parameters, does its work, and writes its results as artifacts for the next step and below
``runs/<run>/`` of the dataset for the report.

A pod costs half a minute, so on a cluster one task plans and checks the server
(:func:`begin_step`), and one publishes and counts the failures (:func:`end_step`). Each step has
its own name in messages and in the report. :func:`plan_step` is for pipelines that were compiled
before there were these two.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from c3d_client.core.errors import ProvenanceError
from c3d_client.core.provenance import Provenance

from c3d_pipelines.errors import RunError
from c3d_pipelines.inputs.plan import read_notes, read_plan, write_plan
from c3d_pipelines.parameters import (
    ANY_MODEL,
    POD_TIMEOUT_VARIABLE,
    JobParameters,
    allowed_failures,
    require_few_shards,
    whole,
)
from c3d_pipelines.run.errors import cancelled_by_sigterm, failure_reasons, recorded_failure
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.retry import wait_for_store
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, Storage, run_file, storage_of_run

_log = logging.getLogger(__name__)


GATE = "gate"
# Set by Kubernetes in every pod.
_IN_POD = "KUBERNETES_SERVICE_HOST"


def begin_step(
    *, out: str, run: str, model_digest: str, settings_path: str, shards_path: str, **more: Any
) -> int:
    """Plan the run, then check the server and its model: the first task of a pipeline.

    What is wrong with the parameters and the inputs is reported before the server is asked.

    Args:
        out, run, settings_path: as for :func:`plan_shards`.
        model_digest: as for :func:`preflight_step`.
        shards_path: where to write the indexes of the shards, as JSON.
        more: the other arguments of :func:`plan_shards`.

    Returns:
        The number of shards; 0 with nothing to do.

    Raises:
        C3DError: as the two steps.
    """
    shards = plan_shards(
        out=out,
        run=run,
        model_digest=model_digest,
        settings_path=settings_path,
        on_cluster=_IN_POD in os.environ,
        **more,
    )
    preflight_step(
        out=out,
        run=run,
        model_digest=model_digest,
        settings_path=settings_path,
        checked_path=settings_path,
    )
    write_text(shards_path, json.dumps(shards))
    return len(shards)


def plan_step(**arguments: Any) -> list[int]:
    """Plan as :func:`plan_shards` does, for pipelines whose loop needs one shard at least.

    Returns:
        The indexes of the shards. With nothing to do there is one shard without videos, so that
        the run continues to its report.
    """
    return plan_shards(**arguments, on_cluster=_IN_POD in os.environ) or [0]


def plan_shards(
    *,
    out: str,
    run: str,
    answer: str,
    plan_path: str,
    settings_path: str,
    on_cluster: bool = False,
    notes: Sequence[str] = (),
    **parameters: Any,
) -> list[int]:
    """Check the parameters, list the inputs, and decide what to do with each.

    Args:
        out: the dataset's folder or bucket.
        run: the run's name.
        answer: ``features`` or ``classes``.
        plan_path: where to write the plan.
        settings_path: where to write the settings for the next steps.
        on_cluster: as for :meth:`JobSettings.from_parameters`; also limits the number of shards.
        notes: lines for the log and the report, in addition to the plan's own.
        parameters: of :class:`~c3d_pipelines.settings.JobParameters`. Numbers may be floats, as
            Kubeflow passes them.

    Returns:
        The indexes of the shards; none with nothing to do.

    Raises:
        UsageError: a parameter is unknown or out of its range.
        ManifestError: the inputs cannot be listed, or there are none.
        StorageError: the dataset cannot be read or written.
    """
    with recorded_failure("plan", out=out, run=run):
        from c3d_pipelines.run.ended import settle_ended_runs
        from c3d_pipelines.run.plan import make_plan

        job = JobParameters.of({"out": out, **parameters})
        settings = JobSettings.from_parameters(job, run=run, answer=answer, on_cluster=on_cluster)
        if "max_failed" not in parameters:
            settings = replace(settings, max_failed=None)
        if on_cluster:
            require_few_shards(job.max_shards)
        storage = storage_of_run(out, run)
        write_artifact(storage, run, SETTINGS, settings.to_json(), settings_path)
        ended = settle_ended_runs(storage, run=run)
        lines = [*notes, *ended.values()]
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
            pod_timeout_s=float(os.environ.get(POD_TIMEOUT_VARIABLE) or 0) if on_cluster else 0.0,
            ended_runs=ended,
            notes=lines,
        )
        for line in lines:
            _log.warning("plan: %s", line)
        write_plan(plan_path, planned, notes=lines)
        with storage.writing(run_file(run, PLAN)) as path:
            shutil.copyfile(plan_path, path)
        count = max((row.shard for row in planned), default=-1) + 1
        return list(range(count))


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
        write_artifact(storage_of_run(out, run), run, SETTINGS, settings.to_json(), checked_path)
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
        planned = [item for item in read_plan(plan_path) if item.shard == index]
        return do_shard(
            settings,
            [item.row for item in planned],
            index,
            cancel=cancel,
            cores=cores,
            deaths={item.row.video_id: item.deaths for item in planned if item.deaths},
        ).name


def end_step(
    *, max_failed: float, max_failed_share: float, plan_path: str, settings_path: str
) -> int:
    """Publish the run, then fail it if too many videos did not end ok: the last task of the work.

    Where Kubeflow retries the task after the run was failed, the attempt fails at once with the
    same reason: the same shards lead to the same number.

    Args:
        max_failed, max_failed_share: as for :func:`gate_step`.
        plan_path, settings_path: as for :func:`publish_step`.

    Returns:
        How many of this run's videos did not end ok.

    Raises:
        C3DError: as the two steps.
    """
    settings = _read_settings(settings_path)
    identity = {"out": settings.out, "run": settings.run}
    with recorded_failure("publish", **identity):
        earlier = wait_for_store(
            lambda: failure_reasons(Storage(settings.out), settings.run).get(GATE),
            wait_s=settings.patience_s,
        )
    if earlier:
        with recorded_failure(GATE, **identity):
            raise RunError(earlier)
    unsuccessful, figures = publish_step(plan_path=plan_path, settings_path=settings_path)
    gate_step(
        unsuccessful=unsuccessful,
        max_failed=max_failed,
        max_failed_share=max_failed_share,
        inputs=figures["inputs"],
        **identity,
    )
    return unsuccessful


def publish_step(
    *, plan_path: str, settings_path: str, page_path: str = "", text_path: str = ""
) -> tuple[int, dict[str, float]]:
    """Merge the shards into one dataset: index, card, report.

    The shards are looked up in the dataset, with their reports and sizes. The results of the steps
    before this one are not used.

    Args:
        plan_path, settings_path: of the steps before.
        page_path, text_path: where to write the report too, as HTML and Markdown; empty for
            nowhere else than the dataset.

    Returns:
        How many of this run's videos did not end ok, and the run's metrics.

    Raises:
        C3DError: the dataset cannot be read or written, or holds numbers of another kind.
    """
    settings = _read_settings(settings_path)
    with recorded_failure("publish", out=settings.out, run=settings.run):
        from c3d_pipelines.reports.page import to_html, to_markdown
        from c3d_pipelines.run.publish import publish

        summary = wait_for_store(
            lambda: publish(settings, read_plan(plan_path), notes=read_notes(plan_path)),
            wait_s=settings.patience_s,
        )
        for path, write in ((page_path, to_html), (text_path, to_markdown)):
            if path:
                write_text(path, write(summary))
        return summary.unsuccessful, summary.metrics()


def gate_step(
    *,
    unsuccessful: float,
    max_failed: float,
    out: str,
    run: str,
    max_failed_share: float = 0.0,
    inputs: float = 0,
) -> None:
    """Fail the run when more videos did not end ok than are allowed.

    Args:
        unsuccessful: how many of this run's videos did not end ok.
        max_failed: how many are allowed at least; -1 for any number.
        out: the dataset's folder or bucket.
        run: the run's name.
        max_failed_share: the share of the inputs that is allowed, rounded down. Pipelines compiled
            by release 0.1.0 do not pass it: ``max_failed`` alone counts there.
        inputs: all inputs of the run's plan.

    Raises:
        RunError: more videos did not end ok than are allowed.
        UsageError: the share is not from 0 to 1.
    """
    with recorded_failure(GATE, out=out, run=run):
        failed, total = whole("unsuccessful", unsuccessful), whole("inputs", inputs)
        least = whole("max_failed", max_failed)
        allowed = allowed_failures(
            max_failed=least, max_failed_share=max_failed_share, inputs=total
        )
        count = f"{failed} video{'s' * (failed != 1)} did not end ok"
        settings = f"max_failed={least}, max_failed_share={max_failed_share:g}"
        if allowed is None or failed <= allowed:
            limit = "any number" if allowed is None else allowed
            _log.info("gate: %s; %s allowed (%s)", count, limit, settings)
            return
        of = f" of {total} inputs" if total else ""
        report = Storage(out).uri_of(run_file(run, PAGE))
        raise RunError(
            f"{count}; {allowed} allowed ({settings}{of}); {report} has the reasons; the dataset "
            "holds all the others"
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
