"""The files that a run leaves in the dataset, below ``runs/<run>/``."""

from __future__ import annotations

PLAN, SETTINGS, SUMMARY = "plan.parquet", "settings.json", "summary.json"
PAGE, TEXT, LOG = "report.html", "report.md", "local.log"


def run_folder(run: str) -> str:
    """The folder of a run, below the dataset's."""
    return f"runs/{run}"


def run_file(run: str, name: str) -> str:
    """The name of a file of a run, below the dataset's folder."""
    return f"{run_folder(run)}/{name}"
