"""Copies of `k8s/` whose servers are the test server's, and bundles of the tests on top of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from k8s.render import K8S

from cluster.images import SERVER

# The one change of a copy; a user's overlay maps the image to a registry's in the same way.
_NAME, _, _TAG = SERVER.rpartition(":")
IMAGES = f"images:\n  - name: tensorflow/serving\n    newName: {_NAME}\n    newTag: {_TAG}\n"


def copy(folder: Path, *overlays: str) -> Path:
    """Copy `k8s/` into a folder and give overlays the test server's image.

    Returns:
        The folder, in which the documents' commands can run.
    """
    tree = Path(shutil.copytree(K8S, folder / "k8s"))
    for overlay in overlays:
        path = tree / "overlays" / overlay / "kustomization.yaml"
        text = path.read_text()
        assert "images:" not in text, f"{overlay} has images of its own"
        path.write_text(text + IMAGES)
    return folder


def bundle(folder: Path, name: str, kustomization: dict[str, Any]) -> Path:
    """Write a bundle of the tests into a copy; its paths begin with `../`.

    Returns:
        The bundle's folder, for `kubectl apply -k`.
    """
    path = folder / "k8s" / name
    path.mkdir()
    (path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))
    return path


def change(path: Path, old: str, new: str) -> None:
    """Replace a text that a file has once, as a document asks a user to do.

    Raises:
        AssertionError: the file does not have the text once.
    """
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {text.count(old)} times: {old}"
    path.write_text(text.replace(old, new))
