"""The bulk pipelines: a folder or bucket of videos in, a data set out, a row for every video.

    plan -> preflight -> for each shard: extract -> publish -> gate
    and, also after a failure, report

Each component's body is one call of a step in :mod:`c3d_pipelines.run`. Nothing is installed with
pip when a pod starts: the worker image (pipelines/Dockerfile) has it all.

Kubeflow's cache is off for every step. Its key does not cover what a step's result depends on: the
inputs, the server, the data set. A run resumes by what the data set holds.
"""

# No `from __future__ import annotations` here: kfp reads the annotations themselves.
from typing import Any

from kfp import dsl

from c3d_pipelines.kubeflow.cluster import WORKER_IMAGE, ClusterSettings
from c3d_pipelines.kubeflow.compile import CLASSIFICATION, EXTRACTION
from c3d_pipelines.kubeflow.pods import Size, configure_pod, pipeline_config, set_retries
from c3d_pipelines.parameters import PARAMETERS, JobParameters

# The parameters that only the first step needs.
_OF_THE_PLAN = PARAMETERS.keys() - {"out", "model_digest", "max_failed"}
_DESCRIPTIONS = {
    "features": "fc6 features of all videos of a folder: a row per video and one per clip.",
    "classes": "Sports-1M class probabilities of all videos of a folder: a row per video.",
}


def bulk_extraction(cluster: ClusterSettings) -> Any:
    """Return the pipeline c3d-bulk-extraction, for kfp's compiler."""
    return _bulk(EXTRACTION, "features", cluster)


def bulk_classification(cluster: ClusterSettings) -> Any:
    """Return the pipeline c3d-bulk-classification, for kfp's compiler."""
    return _bulk(CLASSIFICATION, "classes", cluster)


def _bulk(name: str, answer: str, cluster: ClusterSettings) -> Any:
    def configure(task: Any, *, size: Size = Size.WORKER) -> None:
        # No display names: some backends look up a task's results by the display name.
        configure_pod(task, cluster, size=size, image=cluster.image, mounts=cluster.pvc_mounts)
        task.set_caching_options(False)

    # A test compares names, types and defaults with JobParameters.
    def bulk(  # type: ignore[no-untyped-def]
        videos: str = JobParameters.videos,
        out: str = "/data/features" if answer == "features" else "/data/classes",
        server: str = JobParameters.server,
        model: str = JobParameters.model,
        model_version: str = JobParameters.model_version,
        model_digest: str = JobParameters.model_digest,
        stride: int = JobParameters.stride,
        frame_step: int = JobParameters.frame_step,
        tail: str = JobParameters.tail,
        short: str = JobParameters.short,
        fps: float = JobParameters.fps,
        resize: str = JobParameters.resize,
        damage: str = JobParameters.damage,
        any_file: bool = JobParameters.any_file,
        clip_rows: bool = JobParameters.clip_rows,
        keys: str = JobParameters.keys,
        shard_mb: float = JobParameters.shard_mb,
        shard_minutes: float = JobParameters.shard_minutes,
        max_shards: int = JobParameters.max_shards,
        workers: int = JobParameters.workers,
        batch_size: int = JobParameters.batch_size,
        max_in_flight: int = JobParameters.max_in_flight,
        timeout_s: float = JobParameters.timeout_s,
        patience_s: float = JobParameters.patience_s,
        retry_failed: bool = JobParameters.retry_failed,
        max_failed: int = JobParameters.max_failed,
    ):
        of_the_plan = {name: value for name, value in locals().items() if name in _OF_THE_PLAN}
        run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        reported = report(out=out, run=run)
        configure(reported)
        set_retries(reported, cluster)
        with dsl.ExitHandler(reported):
            planned = plan(**of_the_plan, out=out, run=run, answer=answer)
            # No retries: a wrong parameter is wrong at every attempt.
            configure(planned)
            checked = preflight(
                out=out,
                run=run,
                model_digest=model_digest,
                settings=planned.outputs["settings"],
            )
            configure(checked, size=Size.SMALL)
            with dsl.ParallelFor(
                planned.outputs["Output"], parallelism=cluster.parallelism
            ) as shard:
                # Only pipeline parameters, the loop item and artifacts: kfp.local silently passes
                # the loop item in place of another task's parameter.
                extracted = extract(
                    shard=shard,
                    model_digest=model_digest,
                    plan=planned.outputs["plan"],
                    settings=checked.outputs["checked"],
                )
                configure(extracted)
                set_retries(extracted, cluster)
            published = publish(
                shards=dsl.Collected(extracted.outputs["Output"]),
                plan=planned.outputs["plan"],
                settings=checked.outputs["checked"],
            )
            configure(published)
            set_retries(published, cluster)
            gated = gate(
                unsuccessful=published.outputs["Output"], max_failed=max_failed, out=out, run=run
            )
            configure(gated, size=Size.SMALL)

    # kfp takes the parameters' descriptions from the docstring.
    descriptions = "".join(
        f"    {name}: {parameter.help}.\n" for name, parameter in PARAMETERS.items()
    )
    bulk.__doc__ = f"{_DESCRIPTIONS[answer]}\n\nArgs:\n{descriptions}"
    return dsl.pipeline(
        name=name, description=_DESCRIPTIONS[answer], pipeline_config=pipeline_config(cluster)
    )(bulk)


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
    damage: str,
    any_file: bool,
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
) -> list[int]:
    """Check the parameters, list the inputs, decide what to do; return the shards' indexes."""
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
        damage=damage,
        any_file=any_file,
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
    """Check the server and its model; return the model's digest."""
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
    shard: int,
    model_digest: str,
    plan: dsl.Input[dsl.Dataset],
    settings: dsl.Input[dsl.Artifact],
) -> str:
    """Do one shard; return its name in the data set."""
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
    """Merge the shards into one data set; return how many videos did not end ok."""
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
    """Report how the run ended, also after a failure."""
    from c3d_pipelines.run.finish import report_step

    report_step(
        out=out,
        run=run,
        state=status.state,
        message=status.error_message or "",
        page_path=page.path,
        text_path=text.path,
    )
