"""All checks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from k8s import contract, files, links, monitoring, pods, policies, server
from k8s.files import Texts
from k8s.render import Object

ON_OBJECTS: dict[str, Callable[[list[Object]], Iterator[str]]] = {
    "schemas": links.check_schemas,
    "labels": links.check_labels,
    "selectors": links.check_selectors,
    "references": links.check_references,
    "volumes": pods.check_volumes,
    "ports": pods.check_ports,
    "variables": pods.check_variables,
    "images": pods.check_images,
    "resources": pods.check_resources,
    "disk": pods.check_disk,
    "guaranteed": pods.check_guaranteed,
    "gpu": pods.check_gpu,
    "quota": pods.check_quota,
    "restricted": policies.check_restricted,
    "namespaces": policies.check_namespaces,
    "tokens": policies.check_tokens,
    "network": policies.check_network,
    "jobs": policies.check_jobs,
    "flags": server.check_flags,
    "protos": server.check_protos,
    "contract": contract.check_contract,
    "timing": contract.check_timing,
    "promql": monitoring.check_promql,
    "alerts": monitoring.check_alerts,
    "dashboards": monitoring.check_dashboards,
    "autoscaling": monitoring.check_autoscaling,
}
ON_TEXTS: dict[str, Callable[[Texts], Iterator[str]]] = {
    "yaml_style": files.check_yaml_style,
    "kustomizations": files.check_kustomizations,
    "setup": files.check_setup,
    "readme": files.check_readme,
    "dockerfiles": files.check_dockerfiles,
    "adapter": monitoring.check_adapter,
}
