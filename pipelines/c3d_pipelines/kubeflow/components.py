"""Thin Kubeflow components of the bulk pipelines: each body is one call into the package.

Nothing is pip-installed when a pod starts: the worker image (pipelines/Dockerfile) has it all.
"""

# No `from __future__ import annotations` here: kfp reads the annotations themselves.
from kfp import dsl

from c3d_pipelines.kubeflow.cluster import WORKER_IMAGE


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def plan(
    videos: str,
    out: str,
    run: str,
    answer: str,
    server: str,
    model: str,
    model_version: str,
    stride: int,
    frame_step: int,
    tail: str,
    short: str,
    fps: float,
    resize: str,
    clip_rows: bool,
    keys: str,
    shard_mb: float,
    shard_minutes: float,
    max_shards: int,
    workers: int,
    batch_size: int,
    max_in_flight: int,
    timeout_s: float,
    patience_s: float,
    retry_failed: bool,
    plan: dsl.Output[dsl.Dataset],
    settings: dsl.Output[dsl.Artifact],
) -> list[str]:
    """Check what was asked for, list the inputs, decide what to do with each; one word a shard."""
    from c3d_pipelines.run.steps import plan_step

    return plan_step(
        videos=videos,
        out=out,
        run=run,
        answer=answer,
        server=server,
        model=model,
        model_version=model_version,
        stride=stride,
        frame_step=frame_step,
        tail=tail,
        short=short,
        fps=fps,
        resize=resize,
        clip_rows=clip_rows,
        keys=keys,
        shard_mb=shard_mb,
        shard_minutes=shard_minutes,
        max_shards=max_shards,
        workers=workers,
        batch_size=batch_size,
        max_in_flight=max_in_flight,
        timeout_s=timeout_s,
        patience_s=patience_s,
        retry_failed=retry_failed,
        plan_path=plan.path,
        settings_path=settings.path,
    )


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def preflight(
    out: str,
    run: str,
    model_digest: str,
    settings: dsl.Input[dsl.Artifact],
    checked: dsl.Output[dsl.Artifact],
) -> str:
    """Ask the server whether it is there and has the right model; gives the model's digest."""
    from c3d_pipelines.run.steps import preflight_step

    return preflight_step(
        out=out,
        run=run,
        model_digest=model_digest,
        settings_path=settings.path,
        checked_path=checked.path,
    )


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def extract(
    shard: str,
    model_digest: str,
    plan: dsl.Input[dsl.Dataset],
    settings: dsl.Input[dsl.Artifact],
) -> str:
    """Do one shard; gives its name in the dataset."""
    from c3d_pipelines.run.steps import extract_step

    return extract_step(
        shard=shard, model_digest=model_digest, plan_path=plan.path, settings_path=settings.path
    )


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def publish(
    shards: list[str],
    plan: dsl.Input[dsl.Dataset],
    settings: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    text: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> int:
    """Make one dataset of the shards; gives how many of the run's videos did not end ok."""
    from c3d_pipelines.run.steps import publish_step

    unsuccessful, figures = publish_step(
        plan_path=plan.path,
        settings_path=settings.path,
        page_path=page.path,
        text_path=text.path,
    )
    for name, value in figures.items():
        metrics.log_metric(name, value)
    return unsuccessful


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def gate(unsuccessful: int, max_failed: int, out: str, run: str):  # type: ignore[no-untyped-def]
    """Fail the run when too many videos did not end ok."""
    from c3d_pipelines.run.steps import gate_step

    gate_step(unsuccessful=unsuccessful, max_failed=max_failed, out=out, run=run)


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def report(  # type: ignore[no-untyped-def]
    out: str,
    run: str,
    status: dsl.PipelineTaskFinalStatus,
    page: dsl.Output[dsl.HTML],
    text: dsl.Output[dsl.Markdown],
):
    """Say how the run ended, whatever happened."""
    from c3d_pipelines.run.finish import report_step

    report_step(
        out=out,
        run=run,
        state=status.state,
        message=status.error_message or "",
        page_path=page.path,
        text_path=text.path,
    )
