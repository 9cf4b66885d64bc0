"""The schemas of our own are closed and used; Kubernetes' are the strict ones of four versions."""

from __future__ import annotations

import json
from pathlib import Path

import kubernetes_validate
import pytest

from k8s.bundle import names, objects
from k8s.schemas import VERSIONS, crd_kinds, schemas

OWN = sorted((Path(__file__).parent / "schemas").glob("*.json"))


def open_parts(schema, path=""):
    """Where a schema would let any field pass."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties", True) is not False:
            yield path or "the object"
        for key, part in schema.items():
            yield from open_parts(part, f"{path}.{key}")
    elif isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from open_parts(part, f"{path}.{number}")


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_a_schema_of_ours_is_closed(path):
    assert list(open_parts(json.loads(path.read_text()))) == []


def test_every_schema_of_ours_is_used():
    used = {(o["apiVersion"], o["kind"]) for name in names() for o in objects(name)}
    assert crd_kinds() - used == set()
    assert len(crd_kinds()) == len(OWN)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_kept_validators_say_what_kubernetes_validate_says(version):
    found = [o for o in objects("base") if o["kind"] in ("Deployment", "PodDisruptionBudget")]
    for o in found:
        kubernetes_validate.validate(o, version, strict=True)
    found[0]["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError) as refused:
        kubernetes_validate.validate(found[0], version, strict=True)
    assert any(refused.value.message[:60] in problem for problem in schemas(found))


def test_what_only_newer_versions_know_is_a_problem_of_the_older():
    found = [o for o in objects("base") if o["kind"] == "Deployment"]
    found[0]["spec"]["template"]["spec"]["hostnameOverride"] = "c3d"  # from 1.34
    (problem,) = schemas(found)
    assert problem.endswith("(Kubernetes 1.31, 1.33)")
