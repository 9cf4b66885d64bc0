"""Every bundle and every file passes every check, and each check reports its mistakes."""

from __future__ import annotations

import shutil

import pytest

from k8s import checks, mistakes
from k8s.files import read_texts
from k8s.links import USER_OBJECTS, needed_user_objects
from k8s.objects import flags, servers
from k8s.render import K8S, bundle_names, objects_of, parse, render

BUNDLES = bundle_names()
OVERLAYS = "cpu-dev gpu production gke eks kserve"
SETUPS = "namespace one-node shared pipelines-data pipelines-models"
COMPONENTS = (
    "gpu gpu-mig gpu-timeslice no-surge monitoring autoscaling-hpa autoscaling-keda network-policy "
    "tls model-bucket model-oci priority kueue quota canary"
)


@pytest.mark.parametrize("check", checks.ON_OBJECTS)
def test_every_bundle_passes(check):
    problems = [
        f"{bundle}: {problem}"
        for bundle in BUNDLES
        for problem in checks.ON_OBJECTS[check](objects_of(bundle))
    ]
    assert problems == []


@pytest.mark.parametrize("check", checks.ON_TEXTS)
def test_the_files_pass(check):
    assert list(checks.ON_TEXTS[check](read_texts())) == []


@pytest.mark.parametrize("check", checks.ON_OBJECTS)
def test_every_mistake_in_a_bundle_is_reported(check):
    for mistake in mistakes.ON_OBJECTS[check]:
        objects = objects_of(mistake.bundle)
        mistake.change(objects)
        assert objects != objects_of(mistake.bundle), f"{mistake.name}: changes nothing"
        problems = list(checks.ON_OBJECTS[check](objects))
        reported = any(mistake.report in problem for problem in problems)
        assert reported, f"{mistake.name}: {mistake.report!r} is not in {problems}"


@pytest.mark.parametrize("check", checks.ON_TEXTS)
def test_every_mistake_in_a_file_is_reported(check):
    for mistake in mistakes.ON_TEXTS[check]:
        texts = read_texts()
        mistake.change(texts)
        assert texts != read_texts(), f"{mistake.name}: changes nothing"
        problems = list(checks.ON_TEXTS[check](texts))
        reported = any(mistake.report in problem for problem in problems)
        assert reported, f"{mistake.name}: {mistake.report!r} is not in {problems}"


def test_every_check_has_mistakes_with_different_names():
    for functions, table in (
        (checks.ON_OBJECTS, mistakes.ON_OBJECTS),
        (checks.ON_TEXTS, mistakes.ON_TEXTS),
    ):
        assert functions.keys() == table.keys()
        for check, rows in table.items():
            assert len({row.name for row in rows}) == len(rows) > 0, check


def test_every_overlay_and_component_exists():
    expected = {f"overlays/{name}" for name in OVERLAYS.split()}
    expected |= {f"components/{name}" for name in COMPONENTS.split()}
    expected |= {f"setup/{name}" for name in SETUPS.split()}
    assert {*expected, "base", "jobs/export-model", "pipelines"} <= {*BUNDLES}


def test_an_overlay_has_a_server_in_one_namespace():
    for bundle in (name for name in BUNDLES if name.startswith("overlays/")):
        objects = objects_of(bundle)
        kinds = {obj["kind"] for obj in objects}
        assert kinds >= {"Namespace", "ConfigMap"}, bundle
        assert kinds >= {"Deployment", "Service"} or "InferenceService" in kinds, bundle
        assert len({obj["metadata"].get("namespace") for obj in objects} - {None}) == 1, bundle


def test_production_overlays_are_closed_encrypted_monitored_and_scaled():
    for bundle in ("overlays/production", "overlays/gke", "overlays/eks"):
        objects = objects_of(bundle)
        kinds = {obj["kind"] for obj in objects}
        assert kinds >= {"NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "ResourceQuota"}
        assert kinds >= {"ServiceMonitor", "PrometheusRule", "HorizontalPodAutoscaler"}, bundle
        (pod,) = servers(objects)
        assert "ssl_config_file" in flags(pod.server), bundle
        assert pod.spec["topologySpreadConstraints"], bundle


def test_the_base_names_no_namespace():
    assert {obj["metadata"].get("namespace") for obj in parse(render("base"))} == {None}


def test_one_replica_keeps_its_connections_and_an_autoscaler_renews_them(tmp_path):
    tree = shutil.copytree(K8S, tmp_path / "k8s")
    for overlay in ("cpu-dev", "gpu"):
        for scaler in ("hpa", "keda"):
            folder = tree / "overlays" / f"{overlay}-{scaler}"
            folder.mkdir()
            lines = [f"resources: [../{overlay}]", "components:"]
            lines.append(f"  - ../../components/autoscaling-{scaler}")
            (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
            for name, age_ms in ((overlay, "86400000"), (folder.name, "30000")):
                (pod,) = servers(parse(render(f"overlays/{name}", tree)))
                values = {e["name"]: e.get("value") for e in pod.server["env"]}
                assert values["MAX_CONNECTION_AGE_MS"] == age_ms, name


def test_a_component_changes_the_base():
    for bundle in (name for name in BUNDLES if name.startswith("components/")):
        assert render(bundle) != render("base"), bundle


def test_objects_that_the_user_creates_are_needed_and_documented():
    needed = set().union(*(needed_user_objects(objects_of(bundle)) for bundle in BUNDLES))
    assert needed == USER_OBJECTS.keys()
    readme = (K8S / "README.md").read_text()
    for _, name in USER_OBJECTS:
        assert f"`{name}`" in readme
