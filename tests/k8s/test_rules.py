"""promtool's tests of the alerts, in `k8s/components/monitoring/tests`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s.changes import replace
from k8s.mistakes import ERRORS, MONITORING, RULES
from k8s.monitoring import rules
from k8s.objects import of_kind
from k8s.render import K8S, objects_of

CASES = sorted((K8S / "components" / "monitoring" / "tests").glob("*.yaml"))
IN_FLIGHT = "spec/groups/c3d-requests/rules/c3d:pod_requests_in_flight:mean2m/expr"


@pytest.fixture(scope="module")
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("no promtool: apt-get install prometheus")
    return path


def failures(promtool: str, folder: Path, cases: list[Path], *changes) -> str:
    """Run cases on the rules after some changes; return promtool's output, or "" if all pass."""
    objects = objects_of(MONITORING)
    for change in changes:
        change(objects)
    (rule_object,) = of_kind(objects, "PrometheusRule")
    (folder / "rules.yaml").write_text(yaml.safe_dump(rule_object["spec"]))
    for case in cases:
        shutil.copy(case, folder)
    command = [promtool, "test", "rules", *(case.name for case in cases)]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return process.stdout + process.stderr if process.returncode else ""


def test_every_alert_has_cases():
    text = "".join(case.read_text() for case in CASES)
    alerts = [rule["alert"] for _, rule in rules(objects_of(MONITORING)) if "alert" in rule]
    assert len(alerts) >= 5
    assert [a for a in alerts if f'"{a}"' not in text and f": {a}" not in text] == []


@pytest.mark.long
def test_alerts_are_sent_as_expected(promtool, tmp_path):
    assert failures(promtool, tmp_path, CASES) == ""


@pytest.mark.long
def test_a_changed_rule_fails_its_cases(promtool, tmp_path):
    for stem, path, old, new in (
        ("records", IN_FLIGHT, "1e6", "1e3"),
        ("records", IN_FLIGHT, 'job="c3d-serving",', ""),
        ("messages", f"{ERRORS}/expr", "> 0.05", "> 0.5"),
        ("messages", f"{ERRORS}/annotations/summary", " | humanizePercentage", ""),
    ):
        cases = [case for case in CASES if case.stem == stem]
        output = failures(promtool, tmp_path, cases, replace(RULES, path, old, new))
        assert "FAILED" in output, f"{path}: {old!r} -> {new!r}"
