"""The pipeline c3d-export-and-verify: published weights in, a verified version in the model store.

    fetch -> build -> verify -> publish

The steps run in the exporter's image, which has TensorFlow. A version that the model store has is
not built again.
"""

# No `from __future__ import annotations` here: kfp reads the annotations themselves.
from typing import Any

from kfp import dsl

from c3d_pipelines.kubeflow.cluster import EXPORT_IMAGE, ClusterSettings
from c3d_pipelines.kubeflow.compile import EXPORT
from c3d_pipelines.kubeflow.pods import Size, configure_pod, pipeline_config, set_retries
from c3d_pipelines.run.export_steps import DEFAULT


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def fetch(weights: str, mean: str, labels: str, files: dsl.Output[dsl.Artifact]) -> list[str]:
    """Fetch published files by name and check them."""
    from c3d_pipelines.run.export_steps import fetch_step

    return fetch_step(weights=weights, mean=mean, labels=labels, files_path=files.path)


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def build(  # type: ignore[no-untyped-def]
    weights: str,
    mean: str,
    labels: str,
    precision: str,
    width: int,
    channels: str,
    fc6_rows: str,
    over_trained: bool,
    target: str,
    store: str,
    files: dsl.Input[dsl.Artifact],
    built: dsl.Output[dsl.Model],
):
    """Build a version unless the store has it."""
    from c3d_pipelines.run.export_steps import build_step

    build_step(
        weights=weights,
        mean=mean,
        labels=labels,
        precision=precision,
        width=width,
        channels=channels,
        fc6_rows=fc6_rows,
        over_trained=over_trained,
        target=target,
        store=store,
        files_path=files.path,
        built_path=built.path,
    )


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def verify(built: dsl.Input[dsl.Model], text: dsl.Output[dsl.Markdown]):  # type: ignore[no-untyped-def]
    """Load the version as TensorFlow Serving does and compare it with the network."""
    from c3d_pipelines.run.export_steps import verify_step

    verify_step(built_path=built.path, text_path=text.path)


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def publish(store: str, over_trained: bool, built: dsl.Input[dsl.Model]) -> str:
    """Give the version its number in the store; return its folder."""
    from c3d_pipelines.run.export_steps import publish_step

    return publish_step(store=store, over_trained=over_trained, built_path=built.path)


def export_and_verify(cluster: ClusterSettings) -> Any:
    """Return the pipeline c3d-export-and-verify, for kfp's compiler."""

    def configure(task: Any, *, size: Size = Size.SMALL) -> None:
        mounts = cluster.model_store_mounts
        configure_pod(task, cluster, size=size, image=cluster.export_image, mounts=mounts)
        task.set_caching_options(False)
        set_retries(task, cluster)

    @dsl.pipeline(
        name=EXPORT,
        description="A verified version of C3D in the model store, once for the same inputs.",
        pipeline_config=pipeline_config(cluster),
    )
    def export(  # type: ignore[no-untyped-def]
        weights: str = "demo",
        mean: str = DEFAULT,
        labels: str = DEFAULT,
        precision: str = "float32",
        width: int = 64,
        store: str = "/models/c3d",
        channels: str = DEFAULT,
        fc6_rows: str = DEFAULT,
        over_trained: bool = False,
        target: str = DEFAULT,
    ):
        """Build, verify and publish a version.

        Args:
            weights: demo, random:SEED, a published name (c3d-export fetch --help), or a path in the
                pods.
            mean: default, numbers B,G,R, a published name or a path.
            labels: default, a published name or a path.
            precision: float32, bfloat16 or float16.
            width: filters of conv1, for random:SEED alone; C3D has 64.
            store: the folder of the model in the model store.
            channels: bgr or rgb, which a TensorFlow checkpoint needs; default for other weights.
            fc6_rows: chw or hwc, which a TensorFlow checkpoint needs; default for other weights.
            over_trained: publish demo or random weights also where the store has trained ones.
            target: what the servers compute on, cpu or gpu; default is gpu for float16, otherwise
                cpu.
        """
        fetched = fetch(weights=weights, mean=mean, labels=labels)
        configure(fetched)
        built = build(
            weights=weights,
            mean=mean,
            labels=labels,
            precision=precision,
            width=width,
            channels=channels,
            fc6_rows=fc6_rows,
            over_trained=over_trained,
            target=target,
            store=store,
            files=fetched.outputs["files"],
        )
        configure(built, size=Size.EXPORT)
        verified = verify(built=built.outputs["built"])
        configure(verified, size=Size.EXPORT)
        published = publish(
            store=store, over_trained=over_trained, built=built.outputs["built"]
        ).after(verified)
        configure(published)

    return export
