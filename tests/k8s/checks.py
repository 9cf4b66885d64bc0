"""Every check by name: what `test_bundles` runs on all bundles, and the mutations must not pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import entry_points

from k8s import (
    alerting,
    contract_check,
    dashboards,
    flags,
    jobs,
    network,
    pods,
    promql,
    protos,
    quota,
    references,
    resources,
    restricted,
    schemas,
    selectors,
    sources,
    timing,
)
from k8s.bundle import Object
from k8s.sources import Texts


def _alerts(objects: list[Object]) -> list[str]:
    return alerting.alerts(objects, sources.anchors(_texts()))


def _autoscaling(objects: list[Object]) -> list[str]:
    rules = promql.adapter_rules(_texts()[promql.ADAPTER])
    return alerting.autoscaling(objects, frozenset(rule["name"]["as"] for rule in rules))


@functools.cache
def _texts() -> Texts:
    return sources.read()


def _dockerfiles(texts: Texts) -> list[str]:
    ours = frozenset(e.name for e in entry_points(group="console_scripts") if "c3d" in e.module)
    return sources.dockerfiles(texts, ours)


# Of a bundle's objects.
OBJECTS: dict[str, Callable[[list[Object]], list[str]]] = {
    "schemas": schemas.schemas,
    "labels": selectors.labels,
    "selectors": selectors.selectors,
    "references": references.references,
    "volumes": pods.volumes,
    "ports": pods.ports,
    "variables": pods.variables,
    "images": pods.images,
    "restricted": restricted.restricted,
    "namespaces": restricted.namespaces,
    "tokens": restricted.tokens,
    "resources": resources.resources,
    "gpu": resources.gpu,
    "quota": quota.quota,
    "flags": flags.flags,
    "protos": protos.protos,
    "contract": contract_check.contract,
    "timing": timing.timing,
    "network": network.network,
    "jobs": jobs.jobs,
    "promql": promql.promql,
    "autoscaling": _autoscaling,
    "alerts": _alerts,
    "dashboards": dashboards.dashboards,
}
# Of the texts in the tree.
TEXTS: dict[str, Callable[[Texts], list[str]]] = {
    "yaml_style": sources.yaml_style,
    "kustomizations": sources.kustomizations,
    "readme": sources.readme,
    "adapter": promql.adapter,
    "dockerfiles": _dockerfiles,
}
