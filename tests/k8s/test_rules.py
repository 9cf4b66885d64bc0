"""The alerts fire when they should, and not otherwise: promtool's unit tests, and mutations."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s.bundle import K8S, objects
from k8s.change import swap
from k8s.mutations.places import MONITORING, RULES
from k8s.objects import of_kind

CASES = sorted((K8S / "components" / "monitoring" / "tests").glob("*.yaml"))
REQUESTS, QUALITY = "spec/groups/c3d-requests/rules", "spec/groups/c3d-quality/rules"


@pytest.fixture(scope="module")
def promtool() -> str:
    """The command, or skip."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool: apt-get install prometheus")
    return found


def run(promtool: str, folder: Path, cases: list[Path], *changes) -> str | None:
    """What promtool says against failed cases, or None where all pass; the rules changed or not."""
    found = objects(MONITORING)
    for change in changes:
        change(found)
    (rules,) = of_kind(found, "PrometheusRule")
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules["spec"]))
    for case in cases:
        shutil.copy(case, folder)
    command = [promtool, "test", "rules", *(case.name for case in cases)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else None


def test_there_are_cases_for_every_alert():
    text = "".join(case.read_text() for case in CASES)
    (rules,) = of_kind(objects(MONITORING), "PrometheusRule")
    alerts = [r["alert"] for g in rules["spec"]["groups"] for r in g["rules"] if "alert" in r]
    assert len(alerts) >= 5
    assert [
        alert for alert in alerts if f'"{alert}"' not in text and f": {alert}" not in text
    ] == []


def test_alerts_fire_when_they_should(promtool, tmp_path):
    assert run(promtool, tmp_path, CASES) is None


@pytest.mark.parametrize(
    ("case", "path", "old", "new"),
    [
        ("records", f"{REQUESTS}/c3d:pod_requests_in_flight:mean2m/expr", "1e6", "1e3"),
        ("records", f"{REQUESTS}/c3d:pod_requests_in_flight:mean2m/expr", 'job="c3d-serving",', ""),
        ("messages", f"{QUALITY}/C3DErrorRatioHigh/expr", "> 0.05", "> 0.5"),
        (
            "messages",
            f"{QUALITY}/C3DErrorRatioHigh/annotations/summary",
            " | humanizePercentage",
            "",
        ),
    ],
    ids=["unit", "another job's", "threshold", "percent"],
)
def test_a_changed_rule_fails_its_cases(promtool, tmp_path, case, path, old, new):
    cases = [found for found in CASES if found.stem == case]
    assert "FAILED" in (run(promtool, tmp_path, cases, swap(RULES, path, old, new)) or "")
