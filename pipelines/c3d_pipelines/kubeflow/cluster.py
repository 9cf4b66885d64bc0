"""Settings of a pipeline's pods in a cluster: image, resources, volumes, secrets, nodes.

Kubeflow fixes all of them when a pipeline is compiled; what changes from run to run is a parameter
of the pipeline. The defaults fit k8s/pipelines/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from c3d_client.core.errors import UsageError

WORKER_IMAGE, EXPORT_IMAGE = "c3d-pipelines:dev", "c3d-export:dev"

_DAY_S = 86_400


@dataclass(frozen=True)
class ClusterSettings:
    """Settings of a pipeline's pods in a cluster.

    Args:
        image: of the bulk pipelines' steps; with ``@sha256:…`` its content is fixed.
        export_image: of the steps of c3d-export-and-verify.
        image_pull_policy: ``Always``, ``IfNotPresent`` or ``Never``.
        image_pull_secrets: names of Secrets.
        cpu_request, cpu_limit: cores of a worker: ``2``, ``500m``.
        memory_request, memory_limit: of a worker: ``2Gi``.
        export_cpu_request, export_cpu_limit, export_memory_request, export_memory_limit: of a step
            that builds or verifies a model.
        accelerator, accelerator_count: such as ``nvidia.com/gpu`` and 1, for the steps that build
            or verify a model; workers decode video on cores. None by default.
        node_selector: labels that a node must have.
        tolerations: each a mapping of ``key``, ``operator``, ``value``, ``effect``,
            ``toleration_seconds``.
        pvc_mounts: claim to path, for all steps of the bulk pipelines.
        model_store_mounts: claim to path, for the steps of c3d-export-and-verify.
        secret_env: Secret to its keys, each to a variable. Secrets that do not exist are ignored.
        secret_volumes: Secret to path, for certificates and tokens; each Secret must exist.
        config_map_env: ConfigMap to its keys, each to a variable; ignored if it does not exist.
        env: variables that are not secret: ``C3D_CA: /etc/c3d/tls/ca.crt``.
        pod_labels: on every pod.
        queue: Kueue's LocalQueue; empty for none.
        scratch_size: how much a pod may write to ``/tmp``.
        scratch_class: a StorageClass for ``/tmp``; empty for the node's own disk.
        run_as_user: the number of the user and group in the pods; never 0.
        timeout_s: how long one pod may run, in seconds; 0 for no limit.
        ttl_seconds_after_finished: how long Kubernetes keeps a run's objects; 0 for ever.
        active_deadline_seconds: how long a run may take; 0 for no limit.
        parallelism: shards at a time.
        retries: how often a shard whose pod failed is retried, after the retries inside the step.
        retry_backoff, retry_backoff_max: the pause before the first retry, doubled for each
            further one, and the longest time of all attempts: ``60s``.

    Raises:
        UsageError: a value cannot be used; the message names all of them.
    """

    image: str = WORKER_IMAGE
    export_image: str = EXPORT_IMAGE
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    cpu_request: str = "2"
    cpu_limit: str = "4"
    memory_request: str = "2Gi"
    memory_limit: str = "4Gi"
    # The same as k8s/jobs/export-model: a float32 build took 5.6 GB.
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
            "c3d.dev/client": "true",  # the server's network policy admits pods with this label
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
        problems = _type_problems(self) or _value_problems(self)
        if problems:
            raise UsageError(f"cluster settings: {'; '.join(problems)}")

    @classmethod
    def read(cls, path: str | os.PathLike[str], **changes: Any) -> ClusterSettings:
        """Read settings from a YAML file; a setting that the file lacks has its default.

        Args:
            path: the file.
            changes: settings that override the file's.

        Raises:
            UsageError: the file cannot be read, holds an unknown setting, or a value cannot be
                used.
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
        known = [setting.name for setting in fields(cls)]
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
        """Return these settings with some of them changed.

        Raises:
            UsageError: a value cannot be used.
        """
        return replace(self, **changes)


_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_CPU = re.compile(r"\d+(?:\.\d+)?m?")
_BYTES = re.compile(r"\d+(?:\.\d+)?(?:[KMGTPE]i?)?")
_DURATION = re.compile(r"\d+s")
_POLICIES = ("Always", "IfNotPresent", "Never")
# A variable with such a name holds a secret, unless the name ends like that of a path.
_SECRET = re.compile(r"(?i)(secret|passw|token|credential|access_key)(?!.*_(file|path|dir)$)")
_PATTERNS = {
    "image": (_IMAGE, "an image's name"),
    "export_image": (_IMAGE, "an image's name"),
    "cpu_request": (_CPU, "cores like 2 or 500m"),
    "cpu_limit": (_CPU, "cores like 2 or 500m"),
    "export_cpu_request": (_CPU, "cores like 2 or 500m"),
    "export_cpu_limit": (_CPU, "cores like 2 or 500m"),
    "memory_request": (_BYTES, "bytes like 2Gi"),
    "memory_limit": (_BYTES, "bytes like 2Gi"),
    "export_memory_request": (_BYTES, "bytes like 2Gi"),
    "export_memory_limit": (_BYTES, "bytes like 2Gi"),
    "scratch_size": (_BYTES, "bytes like 20Gi"),
    "retry_backoff": (_DURATION, "seconds like 60s"),
    "retry_backoff_max": (_DURATION, "seconds like 1800s"),
}
_LOWEST = {
    "accelerator_count": 1,
    "run_as_user": 1,
    "timeout_s": 0,
    "ttl_seconds_after_finished": 0,
    "active_deadline_seconds": 0,
    "parallelism": 1,
    "retries": 0,
}


def _type_problems(settings: ClusterSettings) -> list[str]:
    """Return a message for each value of a wrong type."""
    types: dict[str, tuple[type, str]] = {
        "str": (str, "text"),
        "int": (int, "a whole number"),
        "tuple": (tuple, "a list"),
        "Mapping": (Mapping, "a mapping"),
    }
    problems = []
    for setting in fields(settings):
        value, declared = getattr(settings, setting.name), str(setting.type)
        outer, _, inner = declared.partition("[")
        kind, name = types[outer]
        if not isinstance(value, kind) or isinstance(value, bool):
            problems.append(f"{setting.name} is {value!r}; give {name}")
            continue
        part_kind = Mapping if "Mapping" in inner else str
        part_name = "a mapping" if part_kind is Mapping else "text, in quotes where need be"
        if isinstance(value, Mapping):
            problems += [
                f"{setting.name}: {key}: {part!r}; give {part_name}"
                for key, part in value.items()
                if not isinstance(key, str) or not isinstance(part, part_kind)
            ]
        elif isinstance(value, tuple):
            problems += [
                f"{setting.name}: {part!r}; give {part_name}"
                for part in value
                if not isinstance(part, part_kind)
            ]
    return problems


def _value_problems(settings: ClusterSettings) -> list[str]:
    """Return a message for each value that Kubeflow would accept without reporting the mistake."""
    problems = []
    for name, (pattern, expected) in _PATTERNS.items():
        text = getattr(settings, name)
        if not pattern.fullmatch(text):
            problems.append(f"{name} is {text!r}; give {expected}")
    for name, lowest in _LOWEST.items():
        number = getattr(settings, name)
        if number < lowest:
            problems.append(f"{name} is {number!r}; give {lowest} or more")
    if settings.image_pull_policy not in _POLICIES:
        problems.append(
            f"image_pull_policy is {settings.image_pull_policy!r}; give one of "
            f"{', '.join(_POLICIES)}"
        )
    problems += [
        f"env: {variable}: everybody can read a secret here; use secret_env"
        for variable in settings.env
        if _SECRET.search(variable)
    ]
    return problems
