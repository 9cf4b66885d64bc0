"""Texts that the steps of a run hand to each other and leave in the dataset."""

from __future__ import annotations

import os

from c3d_pipelines.place import Place
from c3d_pipelines.run_files import run_file


def hand_on(place: Place, run: str, name: str, text: str, path: str) -> None:
    """Write a text for the next steps and for the dataset."""
    write_text(path, text)
    place.write(run_file(run, name), text)


def write_text(path: str, text: str) -> None:
    """Write an artifact, whose folder Kubeflow may not have made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
