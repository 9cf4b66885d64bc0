"""What kustomize makes of the tree: all of it, and names that change with what they name."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from k8s.bundle import K8S, ROOT, RenderError, names, objects, parse, text
from k8s.objects import name, of_kind


@pytest.fixture
def tree(tmp_path):
    """A copy of the tree, to change."""
    return shutil.copytree(K8S, tmp_path / "k8s")


def config_map(tree) -> str:
    (deployment,) = of_kind(objects("base", tree), "Deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    return next(v["configMap"]["name"] for v in volumes if "configMap" in v)


def test_a_change_of_a_config_file_rolls_the_pods(tree):
    path = tree / "base" / "config" / "batching.config"
    path.write_text(path.read_text() + "# a comment\n")
    assert config_map(tree) != config_map(K8S)


def test_the_pods_name_the_config_map_that_is_rendered():
    assert config_map(K8S) in {name(o) for o in of_kind(objects("base"), "ConfigMap")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  - pdb.yaml\n", "  - budget.yaml\n"),
        ("  - pdb.yaml\n", "  - pdb.yaml\n  - ../../README.md\n"),
        ("  - pdb.yaml\n", "  - pdb.yaml\n  - pdb.yaml\n"),
    ],
    ids=["missing file", "no manifest", "twice"],
)
def test_a_broken_kustomization_is_refused(tree, old, new):
    path = tree / "base" / "kustomization.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RenderError, match="base"):
        text("base", tree)


def test_components_that_belong_together_stand_together(tree):
    together = "network-policy tls priority quota monitoring autoscaling-hpa no-surge canary gpu"
    folder = tree / "overlays" / "all"
    folder.mkdir()
    lines = ["namespace: c3d", "resources: [../../base]", "components:"]
    lines += [f"  - ../../components/{c}" for c in together.split()]
    (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    found = objects("overlays/all", tree)
    (deployment,) = of_kind(found, "Deployment")
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    flags = [a.partition("=")[0] for a in args]
    assert {"--ssl_config_file", "--allow_version_labels_for_unavailable_models"} <= {*flags}
    assert len(set(flags)) == len(flags)


def test_the_command_writes_every_bundle(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "k8s.render", str(tmp_path)],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for called in names():
        assert parse((tmp_path / f"{called}.yaml").read_text())
