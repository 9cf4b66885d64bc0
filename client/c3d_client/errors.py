"""The errors of :mod:`c3d_client.core.errors`, at the path that earlier releases documented.

The errors of the exporter and of bulk runs, which were in this module before, are in
``c3d_export.errors`` and ``c3d_pipelines.errors``. Importing them from here still works where those
packages are installed, with a DeprecationWarning.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from c3d_client.core.errors import *  # noqa: F403

_MOVED = {
    **dict.fromkeys(
        ("ExportError", "WeightsError", "AssetError", "VerificationError"), "c3d_export"
    ),
    **dict.fromkeys(
        ("BatchError", "ManifestError", "ShardError", "StorageError", "RunError"), "c3d_pipelines"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{_MOVED[name]}.errors"
    warnings.warn(f"import {name} from {module}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(module), name)
