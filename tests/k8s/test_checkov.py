"""checkov reports nothing for what would be applied, except the checks that `checkov.yaml` skips.

checkov's dependencies conflict with ours, so it has its own environment and runs as a command.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s.changes import put
from k8s.mistakes import DEPLOYMENT, SECURITY
from k8s.render import ROOT, Object, base_of, bundle_names, objects_of

CONFIG = Path(__file__).with_name("checkov.yaml")
SKIPPED = yaml.safe_load(CONFIG.read_text())["skip-check"]


@pytest.fixture(scope="module")
def checkov() -> Path:
    path = Path(os.environ.get("CHECKOV") or ROOT / ".venv-checkov" / "bin" / "checkov")
    if not path.exists():
        pytest.skip("no checkov: make test-k8s installs it into .venv-checkov")
    return path


def scan(checkov: Path, folder: Path, *, config: bool = True) -> tuple[int, set[str]]:
    """Return the number of passed checks, and `ID object` of the failed ones."""
    command = [str(checkov), "--directory", str(folder), "--skip-download", "--output", "json"]
    command += ["--config-file", str(CONFIG)] if config else ["--framework", "kubernetes"]
    env = {**os.environ, "LOG_LEVEL": "ERROR"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    report = json.loads(process.stdout)
    assert report["summary"]["parsing_errors"] == 0
    failed = report["results"]["failed_checks"]
    return report["summary"]["passed"], {f"{f['check_id']} {f['resource']}" for f in failed}


def applied(name: str) -> list[Object]:
    """Return the objects that `kubectl apply --namespace c3d` would send."""
    objects = objects_of(name)
    for obj in objects:
        obj["metadata"].setdefault("namespace", "c3d")
    return objects


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> Path:
    """A folder with one file for each bundle that can be applied alone."""
    folder = tmp_path_factory.mktemp("manifests")
    for name in bundle_names():
        if base_of(name) is None:
            text = yaml.safe_dump_all(applied(name))
            (folder / f"{name.replace('/', '-')}.yaml").write_text(text)
    return folder


def test_every_checkov_check_passes(checkov, manifests):
    passed, failed = scan(checkov, manifests)
    assert failed == set()
    assert passed > 500


def test_every_skipped_check_would_fail(checkov, manifests):
    _, failed = scan(checkov, manifests, config=False)
    assert {f.split()[0] for f in failed} == set(SKIPPED)


def test_a_privileged_container_fails(checkov, tmp_path):
    objects = applied("overlays/production")
    put(DEPLOYMENT, f"{SECURITY}/privileged", True)(objects)
    (tmp_path / "production.yaml").write_text(yaml.safe_dump_all(objects))
    _, failed = scan(checkov, tmp_path)
    assert failed == {"CKV_K8S_16 Deployment.c3d.c3d-serving"}
