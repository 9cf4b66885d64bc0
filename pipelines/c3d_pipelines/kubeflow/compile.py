"""Compile the pipelines to YAML for Kubeflow; the same settings always result in the same bytes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from c3d_client import atomic_file
from c3d_client.core.errors import OutputError, UsageError

from c3d_pipelines import parameters
from c3d_pipelines.kubeflow.cluster import ClusterSettings

EXTRACTION, CLASSIFICATION = parameters.PIPELINES["features"], parameters.PIPELINES["classes"]
EXPORT = "c3d-export-and-verify"
PIPELINES = (EXTRACTION, CLASSIFICATION, EXPORT)


def compiled_path(name: str) -> Path:
    """Return the path of a pipeline of this package, compiled with the default settings.

    Raises:
        UsageError: there is no such pipeline.
    """
    _require(name)
    return Path(__file__).with_name("compiled") / f"{name}.yaml"


def compile_pipeline(
    name: str, path: str | os.PathLike[str], cluster: ClusterSettings | None = None
) -> None:
    """Compile a pipeline to a file, which is written whole or not at all.

    Args:
        name: one of :data:`PIPELINES`.
        path: ending in ``.yaml``.
        cluster: settings of the pods; the defaults if None.

    Raises:
        UsageError: there is no such pipeline.
        OutputError: the file cannot be written.
    """
    text = compiled_text(name, cluster)
    try:
        with atomic_file(path, text=True) as file:
            file.write(text)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})") from error


def compiled_text(name: str, cluster: ClusterSettings | None = None) -> str:
    """Return a pipeline's YAML: its specification and, as a second document, the pods' settings.

    Raises:
        UsageError: there is no such pipeline.
    """
    _require(name)
    from kfp import compiler

    from c3d_pipelines.kubeflow import export_pipeline, pipeline

    builders = {
        EXTRACTION: pipeline.bulk_extraction,
        CLASSIFICATION: pipeline.bulk_classification,
        EXPORT: export_pipeline.export_and_verify,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(builders[name](cluster or ClusterSettings()), str(path))
        return path.read_text(encoding="utf-8")


def _require(name: str) -> None:
    if name not in PIPELINES:
        raise UsageError(f"{name}: no such pipeline; there are {', '.join(PIPELINES)}")
