"""Strict schemas: Kubernetes' own for four versions, and small closed ones for what needs a CRD.

kubernetes-validate brings the schemas; its `validate` reads 5 MB for every object, so they are
compiled once here and kept. A kind that neither it nor `schemas/` knows is a problem.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

from k8s.bundle import Object
from k8s.objects import where

VERSIONS = ("1.31", "1.33", "1.35", "1.37")
_CRDS = Path(__file__).parent / "schemas"
_FOLDER = "kubernetes-json-schema/v{version}.0-local-strict"


def schemas(objects: list[Object]) -> list[str]:
    """Every object fits its schema, in every version; unknown fields are problems."""
    return [
        f"{where(found)}: {path or 'object'}: {message} (Kubernetes {', '.join(versions)})"
        for found in objects
        for (path, message), versions in _misfits(found).items()
    ]


def crd_kinds() -> set[tuple[str, str]]:
    """(apiVersion, kind) that `schemas/` has a schema for."""
    return {
        (schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"])
        for schema in (json.loads(p.read_text()) for p in sorted(_CRDS.glob("*.json")))
    }


def _misfits(found: Object) -> dict[tuple[str, str], list[str]]:
    misfits: dict[tuple[str, str], list[str]] = {}
    for version in VERSIONS:
        validator = _validator(found["apiVersion"], found["kind"], version)
        if validator is None:
            unknown = f"no schema for {found['apiVersion']} {found['kind']}"
            misfits.setdefault(("", unknown), []).append(version)
            continue
        for error in validator.iter_errors(found):
            path = ".".join(map(str, error.absolute_path))
            misfits.setdefault((path, error.message[:200]), []).append(version)
    return misfits


@functools.cache
def _validator(api_version: str, kind: str, version: str) -> jsonschema.Draft202012Validator | None:
    group, _, name = api_version.rpartition("/")
    label = f"{kind.lower()}-{group.partition('.')[0] + '-' if group else ''}{name}"
    own = _CRDS / f"{label}.json"
    try:
        if own.exists():
            schema = json.loads(own.read_text())
        else:
            folder = _FOLDER.format(version=version)
            schema = utils.schema_contents(f"{folder}/{label}.json", version)
    except FileNotFoundError:
        return None
    if own.exists():
        schema["$id"] = f"https://kubernetes.io/api/{label}"
    resource = Resource.from_contents(schema)
    return jsonschema.Draft202012Validator(
        schema, registry=resource @ (_definitions(version) @ Registry())
    )


@functools.cache
def _definitions(version: str) -> Resource[Object]:
    folder = _FOLDER.format(version=version)
    return Resource.from_contents(utils.schema_contents(f"{folder}/_definitions.json", version))
