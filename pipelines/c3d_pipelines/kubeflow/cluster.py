"""Settings of a pipeline's pods in a cluster: image, resources, volumes, secrets, nodes.

Kubeflow fixes all of them when a pipeline is compiled; what changes from run to run is a parameter
of the pipeline. The defaults fit k8s/pipelines/ and k8s/setup/.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any

from c3d_client.core.errors import UsageError

_log = logging.getLogger(__name__)

WORKER_IMAGE, EXPORT_IMAGE = "c3d-pipelines:dev", "c3d-export:dev"

_DAY_S = 86_400
# What Kubeflow also counts as time of a task's attempts: waits for a node, for an image or in
# Kueue's queue. The other is for attempts without a limit of their own.
_WAITING_DAYS, _UNLIMITED_DAYS = 1, 30
# Kubernetes and Argo keep seconds and counts as int32; as a duration that is 68 years.
_MOST = 2**31 - 1
# Settings of release 0.1.0 without an effect, and why. A settings file may still hold them.
_RETIRED = {
    "scratch_class": "the volume of a finished pod stayed until its run was removed; /tmp is a "
    "folder of the node, limited by scratch_size",
    "ttl_seconds_after_finished": "Kubeflow Pipelines sets how long a run's objects stay: 2.17 "
    "removes them an hour after the run's end",
    "retry_backoff_max": "it is computed from timeout_s, retries and retry_backoff",
}
# Texts that Kubeflow would accept without reporting a mistake: their pattern, how to name them, and
# the metavar of their options.
_IMAGE = (
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    "an image's name",
    None,
)
_CPU = (r"\d+(?:\.\d+)?m?", "cores like 2 or 500m", "CORES")
_BYTES = (r"\d+(?:\.\d+)?(?:[KMGTPE]i?)?", "bytes like 2Gi", "BYTES")
_DURATION = (r"\d{1,9}s", "seconds like 60s", None)
_ANY = ("(?s).*", "text", None)
_POLICIES = ("Always", "IfNotPresent", "Never")
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{prefix: Decimal(1000) ** (power + 1) for power, prefix in enumerate("KMGTPE")},
    **{f"{prefix}i": Decimal(1024) ** (power + 1) for power, prefix in enumerate("KMGTPE")},
}
# A variable with such a name holds a secret, unless the name ends like that of a path.
_SECRET = re.compile(r"(?i)(secret|passw|token|credential|access_key)(?!.*_(file|path|dir)$)")


def _setting(
    default: Any,
    description: str,
    rule: tuple[str, str, str | None] = _ANY,
    *,
    option: str | None = None,
    metavar: str | None = None,
    choices: Sequence[str] = (),
    low: int = 0,
) -> Any:
    """Declare a setting.

    Args:
        default: its value where none is given.
        description: help of its option.
        rule: what a text must be.
        option: how the commands write it, by default as its name; empty if only a file can have it.
        metavar: of the option's value.
        choices: the allowed texts; empty where others are allowed.
        low: smallest number.
    """
    metadata = {
        "help": description,
        "rule": rule,
        "option": option,
        "metavar": metavar or rule[2],
        "choices": choices,
        "low": low,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Settings of a pipeline's pods in a cluster; each is described by its help text.

    Raises:
        UsageError: a value cannot be used; the message names all of them.
    """

    image: str = _setting(
        WORKER_IMAGE, "Image of the bulk pipelines; NAME@sha256:... fixes its content.", _IMAGE
    )
    export_image: str = _setting(EXPORT_IMAGE, "Image of c3d-export-and-verify.", _IMAGE)
    image_pull_policy: str = _setting("IfNotPresent", "IfNotPresent by default.", choices=_POLICIES)
    image_pull_secrets: tuple[str, ...] = _setting(
        (), "Secret to pull images with.", option="--image-pull-secret", metavar="SECRET"
    )
    cpu_request: str = _setting("1", "CPU request of a worker.", _CPU)
    cpu_limit: str = _setting("4", "CPU limit of a step.", _CPU)
    # Also of the steps without videos. For a dataset of 100,000 videos plan takes 0.5 GiB and
    # publish 0.4; for a million plan takes 2.0, publish 2.5 and report 2.6.
    memory_request: str = _setting("2Gi", "Memory request of a step, such as 2Gi.", _BYTES)
    memory_limit: str = _setting("4Gi", "Memory limit of a step.", _BYTES)
    small_cpu_request: str = _setting("500m", "Of a step without videos.", _CPU, option="")
    # A float32 build took 3.8 GB, or 5.9 GB with direct convolution.
    export_cpu_request: str = _setting("1", "Of a step that builds a model.", _CPU, option="")
    export_cpu_limit: str = _setting("4", "Of a step that builds a model.", _CPU, option="")
    export_memory_request: str = _setting(
        "6Gi", "Of a step that builds a model.", _BYTES, option=""
    )
    export_memory_limit: str = _setting("8Gi", "Of a step that builds a model.", _BYTES, option="")
    accelerator: str = _setting("", "For building models: nvidia.com/gpu.", metavar="RESOURCE")
    accelerator_count: int = _setting(1, "Of a step with a model.", option="", low=1)
    node_selector: Mapping[str, str] = _setting(
        {}, "Label that a node must have.", metavar="LABEL=VALUE"
    )
    tolerations: tuple[Mapping[str, Any], ...] = _setting(
        (),
        "A taint to tolerate, written as for kubectl taint.",
        option="--toleration",
        metavar="KEY[=VALUE][:EFFECT]",
    )
    pvc_mounts: Mapping[str, str] = _setting(
        {"c3d-pipelines-data": "/data"},
        "A volume claim to mount, instead of the default one.",
        option="--pvc",
        metavar="CLAIM=PATH",
    )
    model_store_mounts: Mapping[str, str] = _setting(
        {"c3d-models": "/models"}, "Claim to path, for c3d-export-and-verify.", option=""
    )
    secret_env: Mapping[str, Mapping[str, str]] = _setting(
        {},
        "A variable from a Secret; ignored if there is no such Secret.",
        metavar="SECRET.KEY=VARIABLE",
    )
    # Unlike those of secret_env, each of these Secrets must exist.
    secret_volumes: Mapping[str, str] = _setting(
        {}, "Certificates and tokens as files.", option="--secret-volume", metavar="SECRET=PATH"
    )
    config_map_env: Mapping[str, Mapping[str, str]] = _setting(
        {"c3d-pipelines-config": {"target": "C3D_SERVER"}},
        "ConfigMap to its keys, each to a variable; ignored if it does not exist.",
        option="",
    )
    env: Mapping[str, str] = _setting(
        {}, "A variable that is not secret: everybody can read it.", metavar="VARIABLE=VALUE"
    )
    pod_labels: Mapping[str, str] = _setting(
        {
            "app.kubernetes.io/name": "c3d-pipelines",
            "app.kubernetes.io/component": "worker",
            "app.kubernetes.io/part-of": "c3d",
            "c3d.dev/client": "true",  # the server's network policy admits pods with this label
        },
        "Labels on every pod.",
        option="",
    )
    queue: str = _setting("", "Kueue's LocalQueue.", metavar="NAME")
    scratch_size: str = _setting(
        "20Gi", "How much a pod may write to /tmp, on its node's disk.", _BYTES
    )
    run_as_user: int = _setting(65532, "User and group in the pods; never root.", option="", low=1)
    timeout_s: int = _setting(
        _DAY_S // 2,
        "How long a pod may run; 0 for no limit.",
        option="--pod-timeout",
        metavar="SECONDS",
    )
    active_deadline_seconds: int = _setting(
        0, "How long a run may take; 0 for no limit.", option="--run-timeout", metavar="SECONDS"
    )
    parallelism: int = _setting(20, "Shards at a time.", metavar="N", low=1)
    retries: int = _setting(3, "How often Kubeflow retries a task whose pod was lost.", metavar="N")
    retry_backoff: str = _setting(
        "60s", "Pause before the first retry, doubled for each further one.", _DURATION, option=""
    )

    def __post_init__(self) -> None:
        for name in ("image_pull_secrets", "tolerations"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if problems := list(_problems(self)):
            raise UsageError(f"cluster settings: {'; '.join(problems)}")

    @property
    def retry_s(self) -> int:
        """Seconds from a task's start after which Kubeflow ends its attempts.

        It is longer than all attempts, with their pauses and a day of waiting for nodes: a task is
        not retried after that time, and an attempt that is still running then is killed.
        """
        # After 31 doublings even a second is longer than Kubernetes can write.
        pauses_s = int(self.retry_backoff.removesuffix("s")) * ((1 << min(self.retries, 31)) - 1)
        attempts_s = (self.retries + 1) * self.timeout_s
        days = math.ceil((attempts_s + pauses_s) / _DAY_S) + _WAITING_DAYS
        return min(max(days, 0 if self.timeout_s else _UNLIMITED_DAYS) * _DAY_S, _MOST)

    @classmethod
    def read(cls, path: str | os.PathLike[str], **changes: Any) -> ClusterSettings:
        """Read settings from a YAML file; a setting that the file lacks has its default.

        Args:
            path: the file.
            changes: settings that override the file's.

        Raises:
            UsageError: the file cannot be read, holds an unknown setting, or a value cannot be
                used. A setting of an earlier release without an effect is logged as a warning.
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
        for name in [name for name in values if name in _RETIRED]:
            del values[name]
            _log.warning("%s: %s has no effect since 0.2.0: %s", path, name, _RETIRED[name])
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


def amount(text: str) -> Decimal:
    """Return the number of a quantity of Kubernetes, such as 500m or 2Gi.

    Raises:
        ArithmeticError: the text is no quantity.
    """
    number = text.rstrip("KMGTPEim")
    return Decimal(number) * _UNITS[text[len(number) :]]


def _problems(settings: ClusterSettings) -> Iterator[str]:
    """Yield a message for each value of a wrong type or out of its range."""
    types: dict[str, tuple[type[Any], str]] = {
        "str": (str, "text"),
        "int": (int, "a whole number"),
        "tuple": (tuple, "a list"),
        "Mapping": (Mapping, "a mapping"),
    }
    for setting in fields(settings):
        name, value, declared = setting.name, getattr(settings, setting.name), setting.metadata
        outer, _, inner = str(setting.type).partition("[")
        kind, expected = types[outer]
        if not isinstance(value, kind) or isinstance(value, bool):
            yield f"{name} is {value!r}; give {expected}"
        elif kind is str:
            if not re.fullmatch(declared["rule"][0], value):
                yield f"{name} is {value!r}; give {declared['rule'][1]}"
            elif declared["choices"] and value not in declared["choices"]:
                yield f"{name} is {value!r}; give one of {', '.join(declared['choices'])}"
        elif kind is int:
            if not declared["low"] <= value <= _MOST:
                yield f"{name} is {value!r}; give {declared['low']} to {_MOST}"
        else:
            parts = dict(value) if kind is Mapping else {str(part): part for part in value}
            part_kind = types["Mapping" if "Mapping" in inner else "str"]
            for key, part in parts.items():
                if not isinstance(key, str) or not isinstance(part, part_kind[0]):
                    yield f"{name}: {key}: {part!r}; give {part_kind[1]}"
    for name in ("cpu", "memory", "export_cpu", "export_memory"):
        request, limit = (getattr(settings, f"{name}_{end}") for end in ("request", "limit"))
        with contextlib.suppress(ArithmeticError, TypeError):  # reported above
            if amount(request) > amount(limit):
                yield f"{name}_request is {request!r}; give at most {name}_limit, {limit!r}"
    if isinstance(settings.env, Mapping):
        for variable in settings.env:
            if _SECRET.search(str(variable)):
                yield f"env: {variable}: everybody can read a secret here; use secret_env"
