"""Kept for pipelines that were compiled by release 0.1.0; the steps are in c3d_pipelines.run."""
