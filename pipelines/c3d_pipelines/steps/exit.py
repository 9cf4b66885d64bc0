"""The steps under the path that pipelines compiled by release 0.1.0 import; they run scheduled."""

from __future__ import annotations

from c3d_pipelines.run.finish import report_step

__all__ = ["report_step"]
