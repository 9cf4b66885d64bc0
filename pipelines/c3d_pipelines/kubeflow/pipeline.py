"""The bulk pipelines: a folder or bucket of videos in, a data set out, a row for every video.

    plan -> if there is something to do: (for each shard: extract) -> publish
    and, also after a failure, report

``plan`` also checks the server, and ``publish`` also fails the run where too many videos failed: a
task costs half a minute on a cluster. With nothing to do there are two pods, ``plan`` and
``report``, which then publishes.

Each component's body is one call of a step in :mod:`c3d_pipelines.run`. Nothing is installed with
pip when a pod starts: the worker image (pipelines/Dockerfile) has it all.

The condition is around the loop and ``publish``, and it is on the result ``Output`` of ``plan``:

- ``dsl.Collected`` of a loop without iterations fails on the backend and under kfp.local, and
  ``publish`` needs the loop as its predecessor, which only ``dsl.Collected`` gives.
- kfp.local looks up a condition's value by the name ``Output`` of a task's result. Any other name
  is silently false. A loop inside of the condition gets its items as an input of the condition,
  where all names are found.
- On the backend a condition that is false is a node ``Skipped``, with which the run succeeds. Its
  driver does not count the tasks again, so the report starts with the state ``RUNNING``:
  :func:`c3d_pipelines.run.finish.final_state`.
"""

# No `from __future__ import annotations` here: kfp reads the annotations themselves.
from typing import Any

from kfp import dsl

from c3d_pipelines.kubeflow.cluster import WORKER_IMAGE, ClusterSettings
from c3d_pipelines.kubeflow.compile import CLASSIFICATION, EXTRACTION
from c3d_pipelines.kubeflow.pods import Size, configure_pod, pipeline_config, set_retries
from c3d_pipelines.parameters import PARAMETERS, POD_TIMEOUT_VARIABLE, JobParameters

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
        pca: str = JobParameters.pca,
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
        max_failed_share: float = JobParameters.max_failed_share,
    ):
        parameters = {name: value for name, value in locals().items() if name in PARAMETERS}
        run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        reported = report(out=out, run=run)
        configure(reported, size=Size.SMALL)
        # Once, for a pod that is lost. The steps themselves wait for a store that is away, and what
        # else they fail of stays: too many failed videos, or a folder that cannot be written.
        once = cluster.changed(retries=min(cluster.retries, 1))
        set_retries(reported, once)
        with dsl.ExitHandler(reported):
            planned = plan(**parameters, run=run, answer=answer)
            # No retries: a wrong parameter is wrong at every attempt, and the server is waited for
            # inside of the step.
            configure(planned, size=Size.SMALL)
            planned.set_env_variable(POD_TIMEOUT_VARIABLE, str(cluster.timeout_s))
            with dsl.If(planned.outputs["Output"] > 0):
                with dsl.ParallelFor(
                    planned.outputs["shards"], parallelism=cluster.parallelism
                ) as shard:
                    # Only pipeline parameters, the loop item and artifacts: kfp.local silently
                    # passes the loop item in place of another task's parameter.
                    extracted = extract(
                        shard=shard,
                        model_digest=model_digest,
                        plan=planned.outputs["plan"],
                        settings=planned.outputs["settings"],
                    )
                    configure(extracted)
                    set_retries(extracted, cluster)
                published = publish(
                    shards=dsl.Collected(extracted.outputs["Output"]),
                    max_failed=max_failed,
                    max_failed_share=max_failed_share,
                    plan=planned.outputs["plan"],
                    settings=planned.outputs["settings"],
                )
                configure(published, size=Size.SMALL)
                set_retries(published, once)

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
    model_digest: str,
    stride: int,
    frame_step: int,
    tail: str,
    short: str,
    fps: float,
    resize: str,
    damage: str,
    pca: str,
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
    max_failed: int,
    max_failed_share: float,
    shards: dsl.OutputPath(list[int]),  # type: ignore[valid-type]
    plan: dsl.Output[dsl.Dataset],
    settings: dsl.Output[dsl.Artifact],
) -> int:
    """List the inputs, decide what to do, check the server; return the number of shards."""
    from c3d_pipelines.run.steps import begin_step

    return begin_step(
        videos=videos,
        out=out,
        run=run,
        answer=answer,
        server=server,
        model=model,
        model_version=model_version,
        model_digest=model_digest,
        stride=stride,
        frame_step=frame_step,
        tail=tail,
        short=short,
        fps=fps,
        resize=resize,
        damage=damage,
        pca=pca,
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
        max_failed=max_failed,
        max_failed_share=max_failed_share,
        shards_path=shards,
        plan_path=plan.path,
        settings_path=settings.path,
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
    max_failed: int,
    max_failed_share: float,
    plan: dsl.Input[dsl.Dataset],
    settings: dsl.Input[dsl.Artifact],
) -> int:
    """Merge the shards into one data set; fail where too many videos did not end ok."""
    from c3d_pipelines.run.steps import end_step

    return end_step(
        max_failed=max_failed,
        max_failed_share=max_failed_share,
        plan_path=plan.path,
        settings_path=settings.path,
    )


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def report(  # type: ignore[no-untyped-def]
    out: str,
    run: str,
    status: dsl.PipelineTaskFinalStatus,
    page: dsl.Output[dsl.HTML],
    text: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
):
    """Publish what no step published, and report how the run ended, also after a failure."""
    from c3d_pipelines.run.finish import report_step

    figures = report_step(
        out=out,
        run=run,
        state=status.state,
        message=status.error_message or "",
        page_path=page.path,
        text_path=text.path,
    )
    for name, value in figures.items():
        metrics.log_metric(name, value)
