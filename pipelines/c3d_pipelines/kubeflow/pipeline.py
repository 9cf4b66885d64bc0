"""The bulk pipelines: a place full of videos in, a dataset out, every video accounted for.

    plan -> preflight -> for each shard: extract -> publish -> gate
    and, whatever happens, report

One definition for a cluster and for ``kfp.local`` on one machine.

What Kubeflow may take from its cache: only ``extract``. The others look at what changes: the
inputs, the server, the dataset. Kubeflow's key is the image, the code and the parameters, and not
what is in the artifacts; so ``extract``'s parameters are the digest of the model's card that the
run is for, and the shard's word, a digest of all else (``steps/cache_key.py``). A hit that
is wrong all the same cannot lie: ``publish`` believes only the files that are in the dataset, and
counts a shard that is not there as failed.
"""

# No `from __future__ import annotations` here: kfp reads the annotations themselves.
from typing import Any

from kfp import dsl

from c3d_pipelines.kubeflow import components
from c3d_pipelines.kubeflow.cluster import ClusterSettings
from c3d_pipelines.kubeflow.pods import Size, pipeline_config, place_on_cluster, retry
from c3d_pipelines.run.steps import ANY_MODEL, CONFIGURED

EXTRACTION, CLASSIFICATION = "c3d-bulk-extraction", "c3d-bulk-classification"
_DESCRIPTIONS = {
    "features": "fc6 features of all videos of a place, one row a video and one a clip.",
    "classes": "Sports-1M class probabilities of all videos of a place, one row a video.",
}


def bulk_extraction(cluster: ClusterSettings) -> Any:
    """The pipeline c3d-bulk-extraction, for kfp's compiler."""
    return _bulk(EXTRACTION, "features", cluster)


def bulk_classification(cluster: ClusterSettings) -> Any:
    """The pipeline c3d-bulk-classification, for kfp's compiler."""
    return _bulk(CLASSIFICATION, "classes", cluster)


def _bulk(name: str, answer: str, cluster: ClusterSettings) -> Any:
    def on_cluster(task: Any, *, size: Size = Size.WORKER) -> None:
        # No names for display: some backends look a task's results up by that name.
        place_on_cluster(task, cluster, size=size, image=cluster.image, mounts=cluster.pvc_mounts)
        task.set_caching_options(False)

    @dsl.pipeline(
        name=name, description=_DESCRIPTIONS[answer], pipeline_config=pipeline_config(cluster)
    )
    def bulk(  # type: ignore[no-untyped-def]
        videos: str = "/data/videos",
        out: str = "/data/features" if answer == "features" else "/data/classes",
        server: str = CONFIGURED,
        model: str = "c3d",
        model_version: str = "newest",
        model_digest: str = ANY_MODEL,
        stride: int = 8,
        frame_step: int = 1,
        tail: str = "drop",
        short: str = "error",
        fps: float = 0.0,
        resize: str = "exact",
        clip_rows: bool = True,
        keys: str = "quick",
        shard_mb: float = 4000.0,
        shard_minutes: float = 240.0,
        max_shards: int = 200,
        workers: int = 0,
        batch_size: int = 8,
        max_in_flight: int = 16,
        timeout_s: float = 60.0,
        patience_s: float = 600.0,
        retry_failed: bool = False,
        max_failed: int = 0,
    ):
        """Does a bulk run.

        Args:
            videos: a folder, an s3:// or gs:// prefix, or a manifest (CSV, JSONL, Parquet).
            out: the dataset, a folder or an s3:// or gs:// prefix; a run goes on with what is
                there.
            server: the gRPC address; configured is the one that the cluster is set up with.
            model: the served model's name.
            model_version: newest, a number, or label:NAME.
            model_digest: of the model that the run is for, as the step preflight says it; another
                one is refused. any takes what is served.
            stride: frames from one clip's start to the next.
            frame_step: frames from one frame of a clip to the next.
            tail: frames at the end that fill no clip, drop, pad or loop.
            short: a video shorter than one clip, error, pad or loop.
            fps: take frames at this rate; 0 for all of them.
            resize: exact or fast.
            clip_rows: keep each clip's numbers, not only the video's.
            keys: what a video's content is known by, quick or content.
            shard_mb: videos in a shard, in MB.
            shard_minutes: and in minutes of film, where their length is known.
            max_shards: shards grow past both rather than be more than this.
            workers: videos at a time in one shard; 0 for one a core.
            batch_size: clips in a request.
            max_in_flight: the most requests on their way from one shard.
            timeout_s: the deadline of one request, in seconds.
            patience_s: how long a shard waits for a server or store that went away, in seconds.
            retry_failed: try again what failed in earlier runs for good.
            max_failed: more videos than this that did not end ok fail the run; -1 for any number.
        """
        run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        reported = components.report(out=out, run=run)
        on_cluster(reported)
        retry(reported, cluster)
        with dsl.ExitHandler(reported):
            planned = components.plan(
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
            )
            # What is wrong with the parameters is wrong again: no retries here.
            on_cluster(planned)
            asked = components.preflight(
                out=out,
                run=run,
                model_digest=model_digest,
                settings=planned.outputs["settings"],
            )
            on_cluster(asked, size=Size.SMALL)
            with dsl.ParallelFor(
                planned.outputs["Output"], parallelism=cluster.parallelism
            ) as shard:
                # Parameters of the pipeline, the loop's item and artifacts: kfp.local silently puts
                # the item in the place of any other.
                extracted = components.extract(
                    shard=shard,
                    model_digest=model_digest,
                    plan=planned.outputs["plan"],
                    settings=asked.outputs["checked"],
                )
                on_cluster(extracted)
                extracted.set_caching_options(True)
                retry(extracted, cluster)
            published = components.publish(
                shards=dsl.Collected(extracted.outputs["Output"]),
                plan=planned.outputs["plan"],
                settings=asked.outputs["checked"],
            )
            on_cluster(published)
            retry(published, cluster)
            checked = components.gate(
                unsuccessful=published.outputs["Output"], max_failed=max_failed, out=out, run=run
            )
            on_cluster(checked, size=Size.SMALL)

    return bulk
