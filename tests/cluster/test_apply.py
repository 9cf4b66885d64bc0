"""The manifests and the API server: every documented combination, and the upgrade from 0.1.0."""

from __future__ import annotations

import functools
import json
import re

import pytest
from k8s.combinations import Combination, largest, read_matrix, single
from k8s.render import K8S, ROOT, Object, base_of, bundle_names, parse, render, render_combination

from cluster import kube, tree
from cluster.kube import APPLY, STRICT, UPGRADE, kubectl

pytestmark = pytest.mark.cluster

RELEASE = ROOT / "tests" / "fixtures" / "release-0.1.0-k8s" / "cpu-dev.yaml"
# The label by which `kubectl apply --prune` finds what it may delete. Kinds in namespaces alone:
# of the others it would delete what other users of the cluster have.
_PART = "app.kubernetes.io/part-of=c3d"
_PRUNED = (
    *("core/v1/ConfigMap", "core/v1/PersistentVolumeClaim", "core/v1/Service"),
    *("core/v1/Secret", "core/v1/Pod", "batch/v1/Job", "apps/v1/Deployment"),
)
# The servers of production do not fit on a small cluster, and nothing here needs one.
_NO_PODS = ("create", "quota", "no-pods", "--hard=pods=0")
_MATRIX = read_matrix((K8S / "README.md").read_text())
# The overlays, and each with each component that may be added to it.
_COMBINATIONS = [
    *(Combination(f"overlays/{overlay}", ()) for overlay in (*_MATRIX.overlays, "kserve")),
    *single(_MATRIX),
]
_SENT_EVERY_TIME = ("poddisruptionbudget.", "priorityclass.", "servingruntime.")
_DRY_RUN = ("apply", "--server-side", "--dry-run=server", "--validate=strict")
_OTHERS = [name for name in bundle_names() if name.startswith(("setup/", "jobs/", "pipelines"))]


@functools.cache
def served_kinds() -> set[tuple[str, str]]:
    """Return the kinds that the cluster has, with their groups and versions."""
    lines = kubectl("api-resources", "--no-headers").splitlines()
    return {(fields[-3], fields[-1]) for fields in map(str.split, lines)}


def require_kinds(objects: list[Object]) -> None:
    """Skip the test if the cluster lacks the CRD of an object."""
    wanted = {(obj["apiVersion"], obj["kind"]) for obj in objects}
    missing = sorted({kind for _, kind in wanted - served_kinds()})
    if missing:
        pytest.skip(f"the cluster has no CRD of {', '.join(missing)}")


def require_version(combination: Combination) -> None:
    """Skip the test if the cluster is too old for a component."""
    if "model-oci" in combination.components and minor_version() < 35:
        pytest.skip("model-oci needs Kubernetes 1.35")


@functools.cache
def minor_version() -> int:
    version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["minor"]
    return int(re.sub(r"\D.*", "", version))


def rendered(combination: Combination, namespace: str) -> str:
    """Return a combination in a namespace, as an overlay of the user has it."""
    components = tuple(f"components/{name}" for name in combination.components)
    return render_combination(combination.overlay, components, namespace=namespace)


@pytest.fixture(scope="module", autouse=True)
def namespaces(permission) -> None:
    """A namespace for dry runs and two where no pod starts, all "restricted"."""
    (restricted,) = parse(render("setup/namespace"))
    for name in (STRICT, APPLY, UPGRADE):
        kubectl("apply", "-f", "-", stdin=json.dumps(named(restricted, name)))
    for name in (APPLY, UPGRADE):
        kubectl(*_NO_PODS, namespace=name)


def named(obj: Object, name: str) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "name": name}}


def changed(printed: str) -> list[str]:
    """Return the lines of an apply's output that are not about an unchanged object.

    Of some kinds kubectl sends a part every time, which changes nothing: `kubectl diff` shows it.
    """
    lines = [line for line in printed.splitlines() if not line.endswith(" unchanged")]
    return [line for line in lines if not line.startswith(_SENT_EVERY_TIME)]


@pytest.mark.parametrize("combination", _COMBINATIONS, ids=str)
def test_combination_is_accepted_and_a_second_apply_changes_nothing(combination):
    require_version(combination)
    text = rendered(combination, STRICT)
    require_kinds(parse(text))
    kubectl(*_DRY_RUN, "-f", "-", stdin=text)
    text = rendered(combination, APPLY)
    kubectl("apply", "-f", "-", stdin=text)
    assert not changed(kubectl("apply", "-f", "-", stdin=text))
    # Exits with 1 and prints them where there are differences.
    kubectl("diff", "-f", "-", stdin=text)
    if "kind: HorizontalPodAutoscaler\n" in text:
        # It would change the replicas of the next combination's servers.
        kubectl("delete", "horizontalpodautoscalers", "--all", namespace=APPLY)


@pytest.mark.parametrize("overlay", _MATRIX.overlays)
def test_all_components_that_go_together_are_accepted(overlay):
    texts = []
    for combination in largest(_MATRIX):
        if combination.overlay == f"overlays/{overlay}":
            texts.append(rendered(combination, STRICT))
    require_kinds([obj for text in texts for obj in parse(text)])
    # One call for all, which takes a fifth of the time of one for each.
    kubectl(*_DRY_RUN, "-f", "-", stdin="\n---\n".join(texts))


@pytest.mark.parametrize("name", _OTHERS)
def test_other_bundles_are_accepted(name, tmp_path):
    folder = tree.copy(tmp_path)
    base = base_of(name)
    parts = {"resources": [f"../{name}"]}
    if base is not None:
        parts = {"resources": [f"../{base}"], "components": [f"../{name}"]}
    bundle = {"namespace": UPGRADE, **parts}
    path = str(tree.bundle(folder, "test-other", bundle))
    require_kinds(parse(kubectl("kustomize", path)))
    kubectl(*_DRY_RUN, "-k", path)


def test_upgrade_from_release_0_1_0_keeps_namespace_and_claim(tmp_path):
    """With --prune, as GitOps tools do it: what the new overlay does not have is deleted."""
    folder = tree.copy(tmp_path)
    own = {"namespace": UPGRADE}
    release = tree.bundle(folder, "release", {**own, "resources": ["release.yaml"]})
    (release / "release.yaml").write_text(RELEASE.read_text())
    setup = tree.bundle(folder, "new-setup", {**own, "resources": ["../setup/one-node"]})
    new = tree.bundle(folder, "new", {**own, "resources": ["../overlays/cpu-dev"]})
    kubectl("apply", "-k", str(release))
    before = uids()
    kubectl("apply", "-k", str(setup))
    kinds = [f"--prune-allowlist={kind}" for kind in _PRUNED]
    prune = ("apply", "--prune", "--selector", _PART, *kinds, "-k", str(new))
    printed = kubectl(*prune)
    assert "job.batch/c3d-export-model pruned" in printed, printed
    namespaces = kubectl("get", "namespaces", "--selector", _PART, "-o", "name").split()
    assert f"namespace/{UPGRADE}" not in namespaces, "pruning all kinds would delete it"
    assert uids() == before
    assert not changed(kubectl(*prune))
    assert not changed(kubectl("apply", "-k", str(setup)))


def uids() -> dict[str, str]:
    """Return the UIDs of the namespace and the claim; neither is being deleted."""
    found = {
        "namespace": kube.get("namespace", UPGRADE),
        "claim": kube.get("persistentvolumeclaim", "c3d-models", namespace=UPGRADE),
    }
    assert not [name for name, obj in found.items() if "deletionTimestamp" in obj["metadata"]]
    return {name: obj["metadata"]["uid"] for name, obj in found.items()}
