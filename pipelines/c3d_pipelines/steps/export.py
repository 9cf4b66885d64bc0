"""The export steps under the import path of pipelines compiled by release 0.1.0."""

from c3d_pipelines.run.export_steps import build_step, fetch_step, publish_step, verify_step

__all__ = ["build_step", "fetch_step", "publish_step", "verify_step"]
