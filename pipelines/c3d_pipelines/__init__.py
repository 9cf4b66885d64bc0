"""Bulk C3D extraction on Kubeflow Pipelines that accounts for every video.

    import c3d_pipelines

    c3d_pipelines.run_local({"videos": "videos", "out": "dataset", "server": "localhost:8500"})
    videos = c3d_pipelines.dataset.open("dataset")
    ids, features = videos.matrix()      # float32 [n, 4096]

Names are loaded on first use, so that the command's help does not load Arrow and OpenCV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_pipelines import dataset
    from c3d_pipelines.inputs.listing import list_inputs
    from c3d_pipelines.inputs.manifest import ManifestRow, read_manifest, write_manifest
    from c3d_pipelines.reports.summary import RunSummary
    from c3d_pipelines.run.local import LocalRun, run_local
    from c3d_pipelines.run.plan import make_plan
    from c3d_pipelines.settings import JobSettings
    from c3d_pipelines.shards.worker import do_shard

_MODULES = {
    "inputs.listing": ("list_inputs",),
    "inputs.manifest": ("ManifestRow", "read_manifest", "write_manifest"),
    "run.local": ("LocalRun", "run_local"),
    "run.plan": ("make_plan",),
    "settings": ("JobSettings",),
    "reports.summary": ("RunSummary",),
    "shards.worker": ("do_shard",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "JobSettings",
    "LocalRun",
    "ManifestRow",
    "RunSummary",
    "dataset",
    "do_shard",
    "list_inputs",
    "make_plan",
    "read_manifest",
    "run_local",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name == "dataset":
        return importlib.import_module(f"{__name__}.dataset")
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
