"""Rendering with kustomize: errors, combined components, ConfigMap hashes, and the command."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from k8s.objects import flags, name, of_kind, servers
from k8s.render import K8S, ROOT, RenderError, bundle_names, objects_of, parse, render


@pytest.fixture
def tree(tmp_path):
    """A copy of `k8s/` to change."""
    return shutil.copytree(K8S, tmp_path / "k8s")


def mounted_config_map(tree) -> str:
    (pod,) = servers(objects_of("base", tree))
    return next(v["configMap"]["name"] for v in pod.volumes if "configMap" in v)


def test_a_changed_config_file_rolls_out_new_pods(tree):
    path = tree / "base" / "config" / "batching.config"
    path.write_text(path.read_text() + "# a comment\n")
    assert mounted_config_map(tree) != mounted_config_map(K8S)


def test_pods_mount_the_rendered_config_map():
    assert mounted_config_map(K8S) in map(name, of_kind(objects_of("base"), "ConfigMap"))


@pytest.mark.parametrize(
    "files", ["  - budget.yaml\n", "  - pdb.yaml\n" * 2, "  - pdb.yaml\n  - ../../README.md\n"]
)
def test_a_kustomization_with_wrong_files_is_an_error(tree, files):
    path = tree / "base" / "kustomization.yaml"
    assert "  - pdb.yaml\n" in path.read_text()
    path.write_text(path.read_text().replace("  - pdb.yaml\n", files))
    with pytest.raises(RenderError, match="base"):
        render("base", tree)


def test_components_can_be_combined(tree):
    components = "network-policy tls priority quota monitoring autoscaling-hpa no-surge canary gpu"
    folder = tree / "overlays" / "all"
    folder.mkdir()
    lines = ["namespace: c3d", "resources: [../../base]", "components:"]
    lines += [f"  - ../../components/{component}" for component in components.split()]
    (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    (pod,) = servers(objects_of("overlays/all", tree))
    names = flags(pod.server)
    assert {"ssl_config_file", "allow_version_labels_for_unavailable_models"} <= names.keys()
    assert len(names) == len(pod.server["args"]), "a flag is set twice"


@pytest.mark.long
def test_the_command_writes_every_bundle(tmp_path):
    command = [sys.executable, "-m", "k8s.render", str(tmp_path)]
    process = subprocess.run(
        command, cwd=ROOT / "tests", capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    for bundle in bundle_names():
        assert parse((tmp_path / f"{bundle}.yaml").read_text()), bundle
