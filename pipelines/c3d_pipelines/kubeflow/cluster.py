"""How the pods of a pipeline stand in a cluster: image, resources, volumes, secrets, nodes.

All of it is fixed when a pipeline is compiled, as Kubeflow wants it; what changes from run to run
is a parameter of the pipeline. The defaults fit k8s/pipelines/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from c3d_client.core.errors import UsageError

if TYPE_CHECKING:
    pass

WORKER_IMAGE, EXPORT_IMAGE = "c3d-pipelines:dev", "c3d-export:dev"

_DAY_S = 86_400


@dataclass(frozen=True)
class ClusterSettings:
    """How the pods of a pipeline stand in a cluster.

    Args:
        image: of the bulk pipelines' steps; with ``@sha256:…`` it stays the same for good.
        export_image: of the steps of c3d-export-and-verify.
        image_pull_policy: ``Always``, ``IfNotPresent`` or ``Never``.
        image_pull_secrets: names of Secrets.
        cpu_request, cpu_limit: cores of a worker: ``2``, ``500m``.
        memory_request, memory_limit: of a worker: ``2Gi``.
        export_cpu_request, export_cpu_limit, export_memory_request, export_memory_limit: of a step
            that builds or verifies a model.
        accelerator, accelerator_count: such as ``nvidia.com/gpu`` and 1, for those same steps;
            workers decode video, for which C3D's client uses cores. None by default.
        node_selector: labels that a node must have.
        tolerations: each a mapping of ``key``, ``operator``, ``value``, ``effect``,
            ``toleration_seconds``.
        pvc_mounts: claim to path, for all steps of the bulk pipelines.
        model_store_mounts: claim to path, for those of c3d-export-and-verify.
        secret_env: Secret to its keys, each to a variable. Secrets that are not there are left out.
        secret_volumes: Secret to path, for certificates and tokens; must be there.
        config_map_env: ConfigMap to its keys, each to a variable; left out where it is not there.
        env: variables that are no secrets: ``C3D_CA: /etc/c3d/tls/ca.crt``.
        pod_labels: on every pod.
        queue: Kueue's LocalQueue; empty for none.
        scratch_size: what a pod may write to ``/tmp``.
        scratch_class: a StorageClass for that; empty for the node's own disk.
        run_as_user: the number of the user and group in the pods; never 0.
        timeout_s: the longest that one pod may take, in seconds; 0 for any time.
        ttl_seconds_after_finished: how long Kubernetes keeps a run's objects; 0 for ever.
        active_deadline_seconds: the longest that a run may take; 0 for any time.
        parallelism: shards at a time.
        retries: how often a shard that failed is tried again; its own retries come first.
        retry_backoff, retry_backoff_max: how long to wait before that, doubled each time: ``60s``.

    Raises:
        UsageError: a value cannot be right; all that are wrong are named at once.
    """

    image: str = WORKER_IMAGE
    export_image: str = EXPORT_IMAGE
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    cpu_request: str = "2"
    cpu_limit: str = "4"
    memory_request: str = "2Gi"
    memory_limit: str = "4Gi"
    # As k8s/jobs/export-model: a float32 build took 5.6 GB.
    export_cpu_request: str = "1"
    export_cpu_limit: str = "4"
    export_memory_request: str = "6Gi"
    export_memory_limit: str = "8Gi"
    accelerator: str = ""
    accelerator_count: int = 1
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    pvc_mounts: Mapping[str, str] = field(default_factory=lambda: {"c3d-pipelines-data": "/data"})
    model_store_mounts: Mapping[str, str] = field(default_factory=lambda: {"c3d-models": "/models"})
    secret_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secret_volumes: Mapping[str, str] = field(default_factory=dict)
    config_map_env: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: {"c3d-pipelines-config": {"target": "C3D_SERVER"}}
    )
    env: Mapping[str, str] = field(default_factory=dict)
    pod_labels: Mapping[str, str] = field(
        default_factory=lambda: {
            "app.kubernetes.io/name": "c3d-pipelines",
            "app.kubernetes.io/component": "worker",
            "app.kubernetes.io/part-of": "c3d",
            "c3d.dev/client": "true",  # what the server's network policy lets in
        }
    )
    queue: str = ""
    scratch_size: str = "20Gi"
    scratch_class: str = ""
    run_as_user: int = 65532
    timeout_s: int = _DAY_S // 2
    ttl_seconds_after_finished: int = 7 * _DAY_S
    active_deadline_seconds: int = 0
    parallelism: int = 20
    retries: int = 3
    retry_backoff: str = "60s"
    retry_backoff_max: str = "1800s"

    def __post_init__(self) -> None:
        for name in ("image_pull_secrets", "tolerations"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        from c3d_pipelines.kubeflow.cluster import wrong_types, wrong_values

        wrong = wrong_types(self) or wrong_values(self)
        if wrong:
            raise UsageError(f"cluster settings: {'; '.join(wrong)}")

    @classmethod
    def read(cls, path: str | os.PathLike[str], **changes: Any) -> ClusterSettings:
        """Read them from a YAML file; what it does not name has its default.

        Args:
            changes: settings that come before the file's.

        Raises:
            UsageError: the file cannot be read, names a setting that there is not, or a value
                cannot be right.
        """
        import yaml

        try:
            with open(path, encoding="utf-8") as file:
                values = yaml.safe_load(file)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise UsageError(f"{path}: holds no settings; write lines like 'image: NAME@sha256:…'")
        known = [one.name for one in fields(cls)]
        unknown = [str(name) for name in values if name not in known]
        if unknown:
            raise UsageError(
                f"{path}: no such setting: {', '.join(unknown)}; there are {', '.join(known)}"
            )
        try:
            return cls(**{**values, **changes})
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    def changed(self, **changes: Any) -> ClusterSettings:
        """These with some of them changed.

        Raises:
            UsageError: a value cannot be right.
        """
        return replace(self, **changes)


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
