"""checkov finds nothing in what would be applied, but for what `checkov.yaml` skips with a reason.

Its dependencies disagree with ours, so it lives in an environment of its own and runs as a command.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s.bundle import ROOT, Object, beneath, names, objects
from k8s.change import put
from k8s.mutations.places import DEPLOYMENT, SECURITY

CONFIG = Path(__file__).with_name("checkov.yaml")
SKIPPED = yaml.safe_load(CONFIG.read_text())["skip-check"]


@pytest.fixture(scope="module")
def checkov() -> Path:
    """The command, or skip."""
    found = Path(os.environ.get("CHECKOV") or ROOT / ".venv-checkov" / "bin" / "checkov")
    if not found.exists():
        pytest.skip("no checkov: python -m venv .venv-checkov, and pip install checkov there")
    return found


def scan(checkov: Path, folder: Path, *, config: bool = True) -> tuple[int, set[str]]:
    """(checks passed, the failed ones as ID and object) for the manifests of a folder."""
    command = [str(checkov), "--directory", str(folder), "--skip-download", "--output", "json"]
    command += ["--config-file", str(CONFIG)] if config else ["--framework", "kubernetes"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LOG_LEVEL": "ERROR"},
    )
    report = json.loads(done.stdout)
    failed = report["results"]["failed_checks"]
    assert report["summary"]["parsing_errors"] == 0
    return report["summary"]["passed"], {f"{f['check_id']} {f['resource']}" for f in failed}


def applied(name: str) -> list[Object]:
    """A bundle as `kubectl apply --namespace` would send it."""
    found = objects(name)
    for o in found:
        o["metadata"].setdefault("namespace", "c3d")
    return found


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> Path:
    """Every bundle that can be applied as it is, one file each."""
    folder = tmp_path_factory.mktemp("manifests")
    for name in names():
        if beneath(name) is None:
            text = yaml.safe_dump_all(applied(name))
            (folder / f"{name.replace('/', '-')}.yaml").write_text(text)
    return folder


def test_nothing_fails(checkov, manifests):
    passed, failed = scan(checkov, manifests)
    assert failed == set()
    assert passed > 500


def test_each_skip_is_needed(checkov, manifests):
    _, failed = scan(checkov, manifests, config=False)
    assert {f.split()[0] for f in failed} == set(SKIPPED)


def test_a_mistake_fails(checkov, tmp_path):
    changed = applied("overlays/production")
    put(DEPLOYMENT, f"{SECURITY}/privileged", True)(changed)
    (tmp_path / "production.yaml").write_text(yaml.safe_dump_all(changed))
    _, failed = scan(checkov, tmp_path)
    assert failed == {"CKV_K8S_16 Deployment.c3d.c3d-serving"}
