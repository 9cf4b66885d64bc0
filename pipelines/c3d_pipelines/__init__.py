"""Bulk C3D extraction on Kubeflow Pipelines that accounts for every video."""

from c3d_pipelines.manifest import (
    ManifestRow,
    Shard,
    cut_into_shards,
    list_folder,
    read_manifest,
    write_manifest,
)

__all__ = [
    "ManifestRow",
    "Shard",
    "cut_into_shards",
    "list_folder",
    "read_manifest",
    "write_manifest",
]
