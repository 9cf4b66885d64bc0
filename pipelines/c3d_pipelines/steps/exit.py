"""The report step under the import path of pipelines compiled by release 0.1.0."""

from c3d_pipelines.run.finish import report_step

__all__ = ["report_step"]
