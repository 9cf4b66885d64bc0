"""A compiled pipeline as a named pipeline on the cluster, for its web interface."""

from __future__ import annotations

import tempfile
from importlib.metadata import version as version_of
from pathlib import Path

from c3d_pipelines.kubeflow.api import Backend, Refused, UploadedVersion
from c3d_pipelines.kubeflow.submit import Package


def upload(backend: Backend, package: Package, *, name: str = "") -> UploadedVersion:
    """Upload a pipeline as a version; the same content is uploaded once.

    The version's name is the version of this package and a digest of the content.

    Args:
        backend: of the cluster.
        package: the compiled pipeline.
        name: of the pipeline on the backend, which is created if it does not exist; by default
            the pipeline's own.

    Raises:
        RunError: the cluster refuses it.
    """
    name = name.strip() or package.name
    version = f"{version_of('c3d-pipelines')}-{package.digest[:12]}"
    pipeline_id = backend.pipeline(name) or _created(backend, name, package.description)
    known = backend.pipeline_versions(pipeline_id, version)
    version_id = known[0] if known else ""
    if not known:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{package.name}.yaml"  # the backend looks at the suffix
            path.write_text(package.text, encoding="utf-8")
            version_id = backend.upload_version(
                pipeline_id, version, str(path), package.description
            )
    return UploadedVersion(
        pipeline=name,
        version=version,
        url=backend.link(f"pipelines/details/{pipeline_id}/version/{version_id}"),
        is_new=not known,
    )


def _created(backend: Backend, name: str, description: str) -> str:
    """Create a pipeline, or find the one that another client has just created; return its id."""
    try:
        return backend.create_pipeline(name, description)
    except Refused as error:
        found = backend.pipeline(name) if error.status == 409 else None
        if found is None:
            raise
        return found
