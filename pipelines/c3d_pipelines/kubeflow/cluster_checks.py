"""Which cluster settings cannot be right, and what to give instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_pipelines.kubeflow.cluster import ClusterSettings

_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_CPU = re.compile(r"\d+(?:\.\d+)?m?")
_BYTES = re.compile(r"\d+(?:\.\d+)?(?:[KMGTPE]i?)?")
_DURATION = re.compile(r"\d+s")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A variable of this name holds a secret, unless it says where one lies.
_SECRET = re.compile(r"(?i)(secret|passw|token|credential|access_key)(?!.*_(file|path|dir)$)")
_LABEL = re.compile(r"(?:[a-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_TOLERATION = {"key", "operator", "value", "effect", "toleration_seconds"}


def wrong_types(settings: ClusterSettings) -> list[str]:
    """Values that are not even of the kind that is wanted."""
    kinds: dict[str, tuple[type, str]] = {
        "str": (str, "text"),
        "int": (int, "a whole number"),
        "tuple": (tuple, "a list"),
        "Mapping": (Mapping, "a mapping"),
    }
    wrong = []
    for one in fields(settings):
        value = getattr(settings, one.name)
        kind, words = kinds[str(one.type).split("[")[0]]
        if not isinstance(value, kind) or isinstance(value, bool):
            wrong.append(f"{one.name} is {value!r}; give {words}")
        elif isinstance(value, Mapping):
            inner = Mapping if "Mapping[str, Mapping" in str(one.type) else str
            for key, part in value.items():
                if not isinstance(key, str) or not isinstance(part, inner):
                    words = "a mapping" if inner is Mapping else "text, in quotes where need be"
                    wrong.append(f"{one.name}: {key}: {part!r}; give {words}")
    return wrong


def wrong_values(settings: ClusterSettings) -> list[str]:
    """Values of the right kind that Kubernetes would refuse, or that would show a secret."""
    wrong: list[str] = []

    def check(name: str, value: Any, fits: bool, wanted: str) -> None:
        if not fits:
            wrong.append(f"{name} is {value!r}; give {wanted}")

    def match(pattern: re.Pattern[str], wanted: str, **values: str) -> None:
        for name, value in values.items():
            check(name, value, bool(pattern.fullmatch(value)), wanted)

    s = settings
    match(_IMAGE, "an image's name", image=s.image, export_image=s.export_image)
    policies = ("Always", "IfNotPresent", "Never")
    check("image_pull_policy", s.image_pull_policy, s.image_pull_policy in policies, str(policies))
    for name in ("cpu_request", "cpu_limit", "export_cpu_request", "export_cpu_limit"):
        match(_CPU, "cores like 2 or 500m", **{name: getattr(s, name)})
    for name in ("memory_request", "memory_limit", "export_memory_request", "export_memory_limit"):
        match(_BYTES, "bytes like 2Gi", **{name: getattr(s, name)})
    match(_BYTES, "bytes like 20Gi", scratch_size=s.scratch_size)
    match(_DURATION, "seconds like 60s", retry_backoff=s.retry_backoff)
    match(_DURATION, "seconds like 1800s", retry_backoff_max=s.retry_backoff_max)
    for name, low, high in (
        ("accelerator_count", 1, 16),
        ("run_as_user", 1, 2**31 - 1),
        ("timeout_s", 0, 2**31 - 1),
        ("ttl_seconds_after_finished", 0, 2**31 - 1),
        ("active_deadline_seconds", 0, 2**31 - 1),
        ("parallelism", 1, 1000),
        ("retries", 0, 20),
    ):
        number = getattr(s, name)
        check(name, number, low <= number <= high, f"{low} to {high}")
    for name in ("pvc_mounts", "model_store_mounts", "secret_volumes"):
        for thing, path in getattr(s, name).items():
            match(_NAME, "an object's name", **{name: thing})
            check(f"{name}: {thing}", path, path.startswith("/") and len(path) > 1, "a path")
    for name in ("secret_env", "config_map_env"):
        for thing, keys in getattr(s, name).items():
            match(_NAME, "an object's name", **{name: thing})
            for key, variable in keys.items():
                fits = isinstance(variable, str) and bool(_VARIABLE.fullmatch(variable))
                check(f"{name}: {thing}: {key}", variable, fits, "a variable's name")
    for variable in s.env:
        match(_VARIABLE, "a variable's name", env=variable)
        if _SECRET.search(variable):
            wrong.append(f"env: {variable}: a secret here is for all to read; use secret_env")
    for name in ("node_selector", "pod_labels"):
        for label, value in getattr(s, name).items():
            match(_LABEL, "a label", **{name: label})
            check(f"{name}: {label}", value, not value or bool(_LABEL.fullmatch(value)), "a label")
    for optional in (s.queue, s.scratch_class, *s.image_pull_secrets):
        fits = isinstance(optional, str) and (not optional or bool(_NAME.fullmatch(optional)))
        check("queue, scratch_class or image_pull_secrets", optional, fits, "an object's name")
    for toleration in s.tolerations:
        fits = (
            isinstance(toleration, Mapping) and bool(toleration) and set(toleration) <= _TOLERATION
        )
        check("tolerations", toleration, fits, f"mappings of {', '.join(sorted(_TOLERATION))}")
    return wrong
