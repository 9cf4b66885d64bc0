"""Compiled pipelines on a cluster: start a run and wait for its end."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
import os
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from c3d_client import ServingOptions
from c3d_client.core.errors import UsageError
from c3d_client.core.provenance import Provenance
from c3d_client.core.uri import Uri, redact

from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, Refused, SentRun
from c3d_pipelines.kubeflow.compile import CLASSIFICATION, EXTRACTION
from c3d_pipelines.parameters import CONFIGURED, NO_PCA, PARAMETERS, require_few_shards

EXPERIMENT = "c3d"
ASK = "ask"
_SERVER_PATIENCE_S = 5.0  # as `c3d status` waits
MAX_PARAMETER_BYTES = 10_000  # the backend's own limit
_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_PATHS = ("videos", "out", "store", "pca")  # parameters that name a folder, bucket or file
# Kubeflow's name of a parameter's type: the name for messages, and the types in Python.
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "STRING": ("text", (str,)),
    "NUMBER_INTEGER": ("a whole number", (int,)),
    "NUMBER_DOUBLE": ("a number", (int, float)),
    "BOOLEAN": ("true or false", (bool,)),
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """How a run is started, in addition to its parameters.

    Args:
        experiment: the group of the runs; created if it does not exist.
        pipeline_root: where artifacts are stored, such as ``s3://bucket/artifacts``; the cluster's
            default if None.
        service_account: Kubernetes ServiceAccount of the pods; the cluster's default if None.

    Raises:
        UsageError: a value cannot be used.
    """

    experiment: str = EXPERIMENT
    pipeline_root: str | None = None
    service_account: str | None = None

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise UsageError("experiment is empty; give a name")
        if self.service_account is not None and not _ACCOUNT.fullmatch(self.service_account):
            raise UsageError(
                f"service_account is {self.service_account!r}; give a Kubernetes ServiceAccount"
            )
        if self.pipeline_root is not None and "://" not in self.pipeline_root:
            raise UsageError(f"pipeline_root is {self.pipeline_root!r}; give a bucket, s3://…")


class Package:
    """A compiled pipeline.

    Args:
        path: a YAML file of kfp's compiler, which is not read again.

    Raises:
        RunError: the file cannot be read, or is not a compiled pipeline.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import yaml
        from google.protobuf import json_format
        from kfp.pipeline_spec import pipeline_spec_pb2 as messages

        self.path = os.fspath(path)
        try:
            with open(self.path, encoding="utf-8") as file:
                self.text = file.read()
            documents = [part for part in yaml.safe_load_all(self.text) if part is not None]
            spec, *platforms = documents or [None]
            if not isinstance(spec, dict) or "pipelineInfo" not in spec or len(platforms) > 1:
                raise ValueError("no pipeline in it")
            platform = platforms[0] if platforms else {}
            # Through the messages, as kfp's client does, so that unknown fields are errors.
            self._spec: dict[str, Any] = json_format.MessageToDict(
                json_format.ParseDict(spec, messages.PipelineSpec())
            )
            self._platform: dict[str, Any] = json_format.MessageToDict(
                json_format.ParseDict(platform, messages.PlatformSpec())
            )
            self.name = str(self._spec["pipelineInfo"]["name"])
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, json_format.ParseError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise RunError(
                f"{self.path}: is not a pipeline that c3d-pipelines compile wrote ({reason})"
            ) from error

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The definitions of the pipeline's parameters by name, as the compiler wrote them."""
        declared = self._spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
        return dict(declared)

    @property
    def description(self) -> str:
        """What the pipeline does, in a sentence."""
        return str(self._spec["pipelineInfo"].get("description", ""))

    @property
    def digest(self) -> str:
        """SHA-256 of the content, the same for all files with the same content."""
        content = json.dumps([self._spec, self._platform], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def pods(self) -> list[dict[str, Any]]:
        """The Kubernetes settings of the pods, one mapping for each component."""
        platform = self._platform.get("platforms", {}).get("kubernetes", {})
        return list(platform.get("deploymentSpec", {}).get("executors", {}).values())

    @property
    def mounts(self) -> list[str]:
        """The folders where the pods mount volumes, sorted."""
        return sorted(
            {mount["mountPath"] for pod in self.pods for mount in pod.get("pvcMount", ())}
        )

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check a run's parameters and convert text to the parameters' types.

        Raises:
            RunError: a name is unknown or missing, a value has another type, is out of its range
                or names a folder that the pods do not mount, or all values together are too long.
                The message names all problems.
        """
        known = self.parameters
        problems, values = [], {}
        for name, value in given.items():
            if name not in known:
                problems.append(_unknown(name, known))
                continue
            try:
                values[name] = _converted(value, known[name]["parameterType"])
            except ValueError as error:
                shown_value = repr(redact(value) if isinstance(value, str) else value)[:80]
                problems.append(f"{name} is {shown_value}, not {error}")
                continue
            if self.name in (EXTRACTION, CLASSIFICATION):
                problems += _out_of_range(name, values[name])
        effective = {name: known[name].get("defaultValue") for name in known} | values
        problems += [
            f"{name} is missing"
            for name, parameter in known.items()
            if not (name in given or parameter.get("isOptional") or "defaultValue" in parameter)
        ]
        for name in _PATHS:
            if name != "pca" or effective.get(name) != NO_PCA:
                problems += self._unmounted(name, effective.get(name))
            if isinstance(values.get(name), str) and redact(values[name]) != values[name]:
                problems.append(f"{name} holds credentials, which all who see the run may read")
        if isinstance(values.get("server"), str) and values["server"] != CONFIGURED:
            try:
                options = ServingOptions(values["server"])
            except UsageError as error:
                problems.append(str(error))
            else:
                if options.local_path is not None:
                    problems.append(
                        f"server is {options.target!r}, which is for runs on one machine; give "
                        "HOST:PORT, an address that the pods reach"
                    )
        size = _json_bytes(values)
        if size > MAX_PARAMETER_BYTES:
            longest = max(values, key=lambda name: _json_bytes(values[name]))
            problems.append(
                f"they have {size} bytes, and Kubeflow accepts {MAX_PARAMETER_BYTES}; {longest} "
                "is the longest: put it into a file and give the file's address"
            )
        if problems:
            raise RunError(f"{self.name}: the parameters cannot be sent: {'; '.join(problems)}")
        return values

    def to_body(self) -> dict[str, Any]:
        """Return the pipeline as the body of an API request."""
        if not self._platform:
            return self._spec
        return {"pipeline_spec": self._spec, "platform_spec": self._platform}

    def _unmounted(self, name: str, uri: Any) -> list[str]:
        """Return a problem if the URI is a path outside of the mounted volumes."""
        if not isinstance(uri, str) or not Uri(uri).is_local:
            return []
        path = uri.removeprefix("file://")
        if not path.strip():
            return [f"{name} is empty"]
        normal = posixpath.normpath(path)
        mounts = [posixpath.normpath(mount) for mount in self.mounts]
        if any(normal == mount or normal.startswith(f"{mount}/") for mount in mounts):
            return []
        below = " or ".join(mounts) or "none is mounted"
        return [
            f"{name} is {uri!r}, a path that the pods do not see; give s3://, gs://, or a path "
            f"on a mounted volume ({below})"
        ]


def submit(
    backend: Backend,
    package: Package,
    parameters: Mapping[str, Any],
    *,
    name: str = "",
    options: RunOptions | None = None,
) -> SentRun:
    """Start a run.

    Args:
        backend: of the cluster; see :meth:`Backend.check`.
        package: the compiled pipeline.
        parameters: of the pipeline; text is converted to the parameter's type. With
            ``model_digest`` "ask" the digest of the model that ``server`` serves now is used; this
            machine must reach that address too.
        name: of the run; by default the pipeline's name and the time.
        options: how to start the run.

    Raises:
        RunError: the parameters do not fit, or the cluster refuses the run.
        ServingError: ``model_digest`` is "ask" and the server does not answer.
    """
    body, options = run_body(package, parameters, options)
    name = name or f"{package.name} {datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S}"
    experiment = backend.experiment(options.experiment)
    return backend.create_run(display_name=name, experiment_id=experiment, **body)


def wait(
    backend: Backend,
    sent: SentRun,
    *,
    every_s: float = 10.0,
    patience_s: float = 600.0,
    on_state: Callable[[SentRun], None] | None = None,
    on_look: Callable[[SentRun], None] | None = None,
) -> SentRun:
    """Wait until a run ends, without a time limit.

    Args:
        backend: of the cluster.
        sent: the run.
        every_s: the pause between two requests, in seconds.
        patience_s: how long the API may be away, in seconds.
        on_state: called with each new state.
        on_look: called with each answer of the API.

    Raises:
        RunError: the API stays away or refuses the user; the run goes on.
    """
    away_since: float | None = None
    while True:
        try:
            now = backend.run(sent.run_id)
            away_since = None
        except Refused as error:
            away_since = time.monotonic() if away_since is None else away_since
            if not error.is_transient or time.monotonic() - away_since > patience_s:
                raise RunError(f"{error}; the run goes on: {sent.address}") from error
            _logger.info("the state of the run is requested again: %s", error)
        else:
            if now.state != sent.state and on_state is not None:
                on_state(now)
            sent = now
            if on_look is not None:
                on_look(now)
            if now.ended:
                return now
        time.sleep(every_s)


def served_model(arguments: Mapping[str, Any]) -> str:
    """Return the digest of the model that a run's server serves, as the preflight step does.

    Raises:
        UsageError: the arguments name no server.
        ServingError: the server does not answer.
    """
    from c3d_pipelines.run.steps import digest_of_model
    from c3d_pipelines.settings import JobSettings

    server = arguments.get("server", CONFIGURED)
    if server == CONFIGURED:
        raise UsageError(
            "model_digest is 'ask' and no server is named; give server=HOST:PORT, an address that "
            "this machine reaches too"
        )
    model = {name: arguments[name] for name in ("model", "model_version") if name in arguments}
    settings = JobSettings(
        out=os.devnull, run=ASK, server=server, patience_s=_SERVER_PATIENCE_S, **model
    )
    with settings.client() as client:
        return digest_of_model(Provenance(client.provenance()))


def shown(arguments: Mapping[str, Any]) -> str:
    """Return arguments in one line, with secrets in addresses redacted."""
    return ", ".join(
        f"{name}={redact(value) if isinstance(value, str) else json.dumps(value)}"
        for name, value in arguments.items()
    )


def run_body(
    package: Package, parameters: Mapping[str, Any], options: RunOptions | None
) -> tuple[dict[str, Any], RunOptions]:
    """Return the fields that a run and a schedule share; sends nothing to the cluster."""
    options = options or RunOptions()
    arguments = package.arguments(parameters)
    if arguments.get("model_digest") == ASK:
        arguments = package.arguments({**arguments, "model_digest": served_model(arguments)})
    _logger.info("%s: %s", package.name, shown(arguments))
    runtime = {"parameters": arguments, "pipeline_root": options.pipeline_root}
    return {
        "pipeline_spec": package.to_body(),
        "runtime_config": {key: value for key, value in runtime.items() if value is not None},
        "service_account": options.service_account,
    }, options


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=3)
    hint = f"did you mean {near[0]}? " if near else ""
    names = ", ".join([*near, *sorted(known.keys() - set(near))])
    return f"there is no parameter {name!r}; {hint}there are {names}"


def _out_of_range(name: str, value: Any) -> list[str]:
    """Return a problem if a value of a bulk pipeline's parameter is none that its steps accept."""
    parameter = PARAMETERS.get(name)
    if parameter is None:
        return []
    if parameter.choices and value not in parameter.choices:
        return [f"{name} is {value!r}; give one of {', '.join(parameter.choices)}"]
    if parameter.low is not None and value < parameter.low:
        return [f"{name} is {value:g}; give {parameter.low:g} or more"]
    if parameter.high is not None and value > parameter.high:
        return [f"{name} is {value:g}; give {parameter.high:g} or less"]
    if name == "max_shards":
        try:
            require_few_shards(value)
        except UsageError as error:
            return [str(error)]
    return []


def _converted(value: Any, type_: str) -> Any:
    """Return a value in a parameter's type; the message of ValueError names the type."""
    if type_ not in _TYPES:
        return value  # of no pipeline of this package; the backend checks it
    expected, types = _TYPES[type_]
    if isinstance(value, str) and type_ != "STRING":
        try:
            value = json.loads(value.strip().lower() if type_ == "BOOLEAN" else value)
        except ValueError:
            raise ValueError(expected) from None
    if not isinstance(value, types) or isinstance(value, bool) != (type_ == "BOOLEAN"):
        raise ValueError(expected)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(expected)
    if isinstance(value, str) and not value.strip():
        raise ValueError("a value")
    return value


def _json_bytes(values: Any) -> int:
    """Return the size of values as the backend counts it: compact JSON as Go writes it."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return len(text.encode("utf-8", "surrogatepass")) + 5 * sum(map(text.count, "<>&"))
