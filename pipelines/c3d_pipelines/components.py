"""Thin Kubeflow components: each body is one call into the installed package.

Nothing is pip-installed when a pod starts: the worker image (pipelines/Dockerfile) has it all.
"""

# No `from __future__ import annotations` here: kfp reads the annotations themselves.
from kfp import dsl

WORKER_IMAGE = "c3d-pipelines:dev"


@dsl.component(base_image=WORKER_IMAGE, install_kfp_package=False)
def plan(videos: str, shard_bytes: int, manifest: dsl.Output[dsl.Dataset]) -> list[int]:
    """List the videos below a folder, write the manifest, and number its shards."""
    from c3d_pipelines import cut_into_shards, list_folder, write_manifest

    rows = list_folder(videos)
    write_manifest(manifest.path, rows)
    return [shard.index for shard in cut_into_shards(rows, shard_bytes=shard_bytes)]
