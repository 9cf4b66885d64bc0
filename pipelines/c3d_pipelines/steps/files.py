"""The files that the steps of a run hand to each other and leave in the dataset."""

from __future__ import annotations

import os

from c3d_pipelines.place import Place

PLAN, SETTINGS, SUMMARY = "plan.parquet", "settings.json", "summary.json"
PAGE, TEXT = "report.html", "report.md"


def run_file(run: str, name: str) -> str:
    """The name of a file of a run, below the dataset's folder."""
    return f"runs/{run}/{name}"


def hand_on(place: Place, run: str, name: str, text: str, path: str) -> None:
    """Write a text for the next steps and for the dataset."""
    write_text(path, text)
    place.write(run_file(run, name), text)


def write_text(path: str, text: str) -> None:
    """Write an artifact, whose folder Kubeflow may not have made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
