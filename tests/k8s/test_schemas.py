"""The schemas of custom resources reject unknown fields; Kubernetes' own are checked by version."""

from __future__ import annotations

import json

import kubernetes_validate
import pytest

from k8s.links import CUSTOM_SCHEMAS, VERSIONS, check_schemas, custom_kinds
from k8s.objects import of_kind
from k8s.render import bundle_names, objects_of

PATHS = sorted(CUSTOM_SCHEMAS.glob("*.json"))


def open_parts(schema, path="object"):
    """Yield the paths of a schema where any field would be valid."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties", True) is not False:
            yield path
        for key, part in schema.items():
            yield from open_parts(part, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, part in enumerate(schema):
            yield from open_parts(part, f"{path}.{index}")


def test_custom_schemas_reject_unknown_fields():
    for path in PATHS:
        assert list(open_parts(json.loads(path.read_text()))) == [], path.stem


@pytest.mark.long
def test_every_custom_schema_is_used():
    used = {(o["apiVersion"], o["kind"]) for name in bundle_names() for o in objects_of(name)}
    assert custom_kinds() <= used
    assert len(custom_kinds()) == len(PATHS)


def test_the_compiled_schemas_report_what_kubernetes_validate_reports():
    for version in VERSIONS:
        objects = of_kind(objects_of("base"), "Deployment", "PodDisruptionBudget")
        for obj in objects:
            kubernetes_validate.validate(obj, version, strict=True)
        objects[0]["spec"]["replica"] = 2
        with pytest.raises(kubernetes_validate.ValidationError) as error:
            kubernetes_validate.validate(objects[0], version, strict=True)
        problems = list(check_schemas(objects))
        assert any(error.value.message[:60] in problem for problem in problems), version


def test_a_field_of_newer_versions_is_reported_for_older_ones():
    (deployment,) = of_kind(objects_of("base"), "Deployment")
    deployment["spec"]["template"]["spec"]["hostnameOverride"] = "c3d"  # from 1.34
    (problem,) = check_schemas([deployment])
    assert problem.endswith("(Kubernetes 1.31, 1.33)")
