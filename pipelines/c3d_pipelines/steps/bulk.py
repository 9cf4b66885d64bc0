"""The steps under the path that pipelines compiled by release 0.1.0 import; they run scheduled."""

from __future__ import annotations

from c3d_pipelines.run.steps import extract_step, gate_step, plan_step, preflight_step, publish_step

__all__ = ["extract_step", "gate_step", "plan_step", "preflight_step", "publish_step"]
