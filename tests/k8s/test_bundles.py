"""Every overlay, and every component alone on the base, passes every check."""

from __future__ import annotations

import pytest

from k8s import checks, sources
from k8s.bundle import K8S, RenderError, names, objects, text
from k8s.objects import flags, of_kind, servers
from k8s.references import BROUGHT, brought

BUNDLES = names()


def test_the_tree_is_the_one_that_was_promised():
    assert {f"overlays/{o}" for o in ("cpu-dev", "gpu", "production", "gke", "eks", "kserve")} <= {
        *BUNDLES
    }
    promised = "gpu gpu-mig gpu-timeslice no-surge monitoring autoscaling-hpa autoscaling-keda"
    promised += " network-policy tls model-bucket model-oci priority kueue quota canary"
    assert {f"components/{c}" for c in promised.split()} <= {*BUNDLES}
    assert {"base", "jobs/export-model", "pipelines"} <= {*BUNDLES}


@pytest.mark.parametrize("name", BUNDLES)
def test_it_renders_without_a_warning(name):
    assert text(name)


@pytest.mark.parametrize("check", checks.OBJECTS)
@pytest.mark.parametrize("name", BUNDLES)
def test_it_passes(name, check):
    try:
        found = objects(name)
    except RenderError:
        pytest.skip("does not render")
    assert "\n".join(checks.OBJECTS[check](found)) == ""


@pytest.mark.parametrize("check", checks.TEXTS)
def test_the_files_pass(check):
    assert "\n".join(checks.TEXTS[check](sources.read())) == ""


@pytest.mark.parametrize("name", [n for n in BUNDLES if n.startswith("overlays/")])
def test_an_overlay_is_whole(name):
    found = objects(name)
    kinds = {o["kind"] for o in found}
    assert "Namespace" in kinds
    assert kinds >= {"ConfigMap"}
    assert kinds >= {"Deployment", "Service"} or "InferenceService" in kinds
    spaces = {o["metadata"].get("namespace") for o in found} - {None}
    assert len(spaces) == 1, "one namespace, said by the overlay"


@pytest.mark.parametrize("name", ["overlays/production", "overlays/gke", "overlays/eks"])
def test_production_is_closed_encrypted_watched_and_scaled(name):
    found = objects(name)
    kinds = {o["kind"] for o in found}
    assert kinds >= {"NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "ResourceQuota"}
    assert kinds >= {"ServiceMonitor", "PrometheusRule", "HorizontalPodAutoscaler"}
    (pod,) = servers(found)
    assert "ssl_config_file" in flags(pod.server)
    assert pod.spec["topologySpreadConstraints"]


def test_a_base_names_no_namespace():
    assert {o["metadata"].get("namespace") for o in objects("base")} == {None}
    assert not of_kind(objects("base"), "Namespace")


@pytest.mark.parametrize("name", [n for n in BUNDLES if n.startswith("components/")])
def test_a_component_changes_the_base(name):
    assert text(name) != text("base")


def test_what_the_user_brings_is_used_and_documented():
    used = set().union(*(brought(objects(name)) for name in BUNDLES))
    assert used == set(BROUGHT)
    readme = (K8S / "README.md").read_text()
    for _, called in BROUGHT:
        assert f"`{called}`" in readme
