"""What the pods of a bulk run do, one function a step: each component's body is one call of these.

A step reads what Kubeflow hands it, checks it, has the package do the work, and leaves its results
where the next step and the exit task find them: as artifacts, and below ``runs/<run>/`` of the
dataset.
"""

from __future__ import annotations

import os
import shutil

from c3d_client import ClipWindow
from c3d_client.core.errors import ProvenanceError, UsageError

from c3d_pipelines.errors import RunError
from c3d_pipelines.inputs.plan import read_plan, shard_rows, write_plan
from c3d_pipelines.run.cache_key import digest_of_model, earlier_runs, shard_index, shard_word
from c3d_pipelines.run.errors import failing_in_one_line, halted_by_sigterm
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import PAGE, PLAN, SETTINGS, Storage, run_file

# Where a pipeline finds the server unless it is told: the address in this variable, which
# k8s/pipelines/ keeps in a ConfigMap; and without that, the server of k8s/ by its usual name.
CONFIGURED = "configured"
SERVER_VARIABLE = "C3D_SERVER"
CLUSTER_SERVER = "dns:///c3d-grpc.c3d.svc.cluster.local:8500"
ANY_MODEL = "any"


def plan_step(
    *,
    videos: str,
    out: str,
    run: str,
    answer: str,
    server: str,
    model: str,
    model_version: str,
    stride: float,
    frame_step: float,
    tail: str,
    short: str,
    fps: float,
    resize: str,
    clip_rows: bool,
    keys: str,
    shard_mb: float,
    shard_minutes: float,
    max_shards: float,
    workers: float,
    batch_size: float,
    max_in_flight: float,
    timeout_s: float,
    patience_s: float,
    retry_failed: bool,
    plan_path: str,
    settings_path: str,
) -> list[str]:
    """Check what was asked for, list the inputs, and decide what to do with each.

    Numbers come from Kubeflow as floats. ``fps`` 0 is each frame of the file, ``workers`` 0 one a
    core, ``server`` "configured" the address that the pod has in ``C3D_SERVER``.

    Returns:
        One word a shard, its number first: see `cache_key.py`. With nothing to do
        one shard that is empty, so that the run goes on to its report.

    Raises:
        UsageError: a parameter is out of its range.
        ManifestError: the inputs cannot be listed, or there are none.
        StorageError: the dataset's place cannot be read or written.
    """
    with failing_in_one_line("plan", out=out, run=run):
        from c3d_pipelines.run.plan import make_plan

        settings = JobSettings(
            out=out,
            run=run,
            answer=answer,
            server=server_address(server),
            model=model,
            model_version=model_version,
            window=ClipWindow(
                stride=whole("stride", stride),
                frame_step=whole("frame_step", frame_step),
                tail=tail,
                short=short,
                resize=resize,
                fps=float(fps) or None,
            ),
            clip_rows=bool(clip_rows),
            workers=whole("workers", workers),
            batch_size=whole("batch_size", batch_size),
            max_in_flight=whole("max_in_flight", max_in_flight),
            timeout_s=float(timeout_s),
            patience_s=float(patience_s),
        )
        storage = Storage(out)
        earlier = earlier_runs(storage, run)
        hand_on(storage, run, SETTINGS, settings.to_json(), settings_path)
        planned = make_plan(
            videos,
            out,
            answer=answer,
            window=settings.window,
            keys=keys,
            shard_mb=float(shard_mb),
            shard_minutes=float(shard_minutes),
            max_shards=whole("max_shards", max_shards),
            retry_failed=bool(retry_failed),
        )
        write_plan(plan_path, planned)
        with storage.writing(run_file(run, PLAN)) as path:
            shutil.copyfile(plan_path, path)
        count = max((one.shard for one in planned), default=-1) + 1
        return [shard_word(settings, planned, n, earlier=earlier) for n in range(max(1, count))]


def preflight_step(
    *, model_digest: str, settings_path: str, checked_path: str, run: str, out: str
) -> str:
    """Ask the server whether it is there and has the right model, before any pod is started.

    Args:
        model_digest: of the model that the run is for, or ``any``.

    Returns:
        The digest of the model that is served: what to give as ``model_digest`` to be safe from a
        model that changes between runs.

    Raises:
        ServingError: the server does not answer, or has no such model.
        ProvenanceError: the dataset has other numbers, or it is another model.
    """
    with failing_in_one_line("preflight", out=out, run=run):
        from c3d_pipelines.run.preflight import preflight

        settings = preflight(_read_settings(settings_path))
        served = digest_of_model(settings.provenance)
        _refuse_other_model(model_digest, served, settings.server)
        hand_on(Storage(out), run, SETTINGS, settings.to_json(), checked_path)
        print(f"preflight: {settings.model} at {settings.server} is {served}")
        return served


def extract_step(*, shard: str, model_digest: str, plan_path: str, settings_path: str) -> str:
    """Do one shard; a shard that is done already is left as it is.

    A pod that is told to go (SIGTERM) finishes nothing more and leaves nothing half-written.

    Returns:
        The shard's name in the dataset.

    Raises:
        C3DError: the server or the store stayed away, or the model is another one. What is wrong
            with one video is its row's status and no error.
    """
    settings = _read_settings(settings_path)
    index = shard_index(shard)
    with (
        failing_in_one_line(f"extract-{index}", out=settings.out, run=settings.run),
        halted_by_sigterm() as halt,
    ):
        from c3d_pipelines.shards.worker import do_shard

        served = digest_of_model(settings.provenance)
        _refuse_other_model(model_digest, served, settings.server)
        report = do_shard(settings, shard_rows(read_plan(plan_path), index), index, cancel=halt)
        return report.name


def publish_step(
    *, plan_path: str, settings_path: str, page_path: str, text_path: str
) -> tuple[int, dict[str, float]]:
    """Make one dataset of the shards: index, card, report.

    Shards are looked up in the dataset, with their reports and sizes, whatever the steps before
    said of them.

    Returns:
        How many of the videos that this run was to do did not end ok, and the run's metrics.

    Raises:
        C3DError: the dataset cannot be read or written, or its numbers were made differently.
    """
    settings = _read_settings(settings_path)
    with failing_in_one_line("publish", out=settings.out, run=settings.run):
        from c3d_pipelines.reports.page import to_html, to_markdown
        from c3d_pipelines.run.publish import publish

        summary = publish(settings, read_plan(plan_path))
        write_text(page_path, to_html(summary))
        write_text(text_path, to_markdown(summary))
        return summary.unsuccessful, summary.metrics()


def gate_step(*, unsuccessful: float, max_failed: float, out: str, run: str) -> None:
    """Fail the run when too many videos did not end ok; below 0, however many.

    Raises:
        RunError: more than ``max_failed``.
    """
    with failing_in_one_line("gate", out=out, run=run):
        failed, allowed = whole("unsuccessful", unsuccessful), whole("max_failed", max_failed)
        if 0 <= allowed < failed:
            report = Storage(out).uri_of(run_file(run, PAGE))
            raise RunError(
                f"{failed} videos did not end ok, and max_failed is {allowed}; {report} has the "
                "reasons; the dataset holds all the others"
            )


def server_address(server: str) -> str:
    """The server to ask, where a parameter or the pod's environment names it."""
    if server != CONFIGURED:
        return server
    return os.environ.get(SERVER_VARIABLE, "").strip() or CLUSTER_SERVER


def whole(name: str, value: float) -> int:
    """A whole number, which Kubeflow may have made a float.

    Raises:
        UsageError: it is not whole.
    """
    if int(value) != value:
        raise UsageError(f"{name} is {value}; give a whole number")
    return int(value)


def _refuse_other_model(wanted: str, served: str, server: str) -> None:
    if wanted not in (ANY_MODEL, served):
        raise ProvenanceError(
            f"{server}: serves model {served}, and this run is for {wanted}; serve that model, or "
            f"give model_digest={served} and another out"
        )


def _read_settings(path: str) -> JobSettings:
    with open(path, "rb") as file:
        return JobSettings.from_json(file.read())


def hand_on(storage: Storage, run: str, name: str, text: str, path: str) -> None:
    """Write a text for the next steps and for the dataset."""
    write_text(path, text)
    storage.write(run_file(run, name), text)


def write_text(path: str, text: str) -> None:
    """Write an artifact, whose folder Kubeflow may not have made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
