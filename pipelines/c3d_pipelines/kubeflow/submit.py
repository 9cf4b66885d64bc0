"""Sends compiled pipelines to a cluster: once, or to be run at times; and waits for them."""

from __future__ import annotations

import difflib
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

from c3d_client.core.errors import UsageError
from c3d_client.core.uri import redact, scheme

from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, Refused

EXPERIMENT = "c3d"
ASK = "ask"
_ENDED = frozenset(("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"))
_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MOST_NAMED = 5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """How a run is started, beside its parameters.

    Args:
        experiment: what the runs are grouped by; it is made where it is not there.
        pipeline_root: where artifacts go, such as ``s3://bucket/artifacts``; the cluster's own by
            default.
        service_account: of the pods, in Kubernetes; the cluster's own by default.
        cached: take earlier results where a task allows it; False has all tasks work.

    Raises:
        UsageError: one of them cannot be right.
    """

    experiment: str = EXPERIMENT
    pipeline_root: str | None = None
    service_account: str | None = None
    cached: bool = True

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise UsageError("experiment is empty; give a name")
        if self.service_account is not None and not _ACCOUNT.fullmatch(self.service_account):
            raise UsageError(
                f"service_account is {self.service_account!r}; give a Kubernetes ServiceAccount"
            )
        if self.pipeline_root is not None and "://" not in self.pipeline_root:
            raise UsageError(f"pipeline_root is {self.pipeline_root!r}; give a bucket, s3://…")


@dataclass(frozen=True)
class SentRun:
    """A run in the cluster: where to look at it, its state, and what it says of its failure."""

    run_id: str
    name: str
    url: str
    state: str = "PENDING"
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it goes on no more."""
        return self.state in _ENDED

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.state == "SUCCEEDED"


@dataclass(frozen=True)
class Schedule:
    """Runs that the cluster starts at times."""

    schedule_id: str
    name: str
    cron: str
    enabled: bool
    url: str


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
        backend: the cluster's; checked before (:meth:`Backend.check`).
        package: the compiled pipeline.
        parameters: what it is given; text is read as what the pipeline wants. ``model_digest``
            "ask" asks the server which model it serves, and the run is for that one alone.
        name: the run's; the pipeline's with the time by default.

    Raises:
        RunError: the parameters do not fit, or the cluster does not take it.
        ServingError: the server was to be asked and does not answer.
    """
    body, options = _body(package, parameters, options)
    name = name or f"{package.name} {datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S}"
    experiment = backend.experiment(options.experiment)
    made = backend.create_run(display_name=name, experiment_id=experiment, **body)
    return _sent(backend, made)


def schedule(
    backend: Backend,
    package: Package,
    parameters: Mapping[str, Any],
    *,
    cron: str,
    name: str = "",
    enabled: bool = True,
    replace: bool = False,
    options: RunOptions | None = None,
) -> Schedule:
    """Have runs started at times; one at a time, and none for times that were missed.

    Args:
        cron: six fields, seconds first.
        name: the schedule's; the pipeline's by default.
        enabled: False to start none until it is told to.
        replace: take the place of one with this name.

    Raises:
        UsageError: the times are not as Kubeflow wants them.
        RunError: the parameters do not fit, there is such a schedule, or the cluster does not take
            it.
        ServingError: the server was to be asked and does not answer.
    """
    cron = check_cron(cron)
    body, options = _body(package, parameters, options)
    name = name or package.name
    experiment = backend.experiment(options.experiment)
    before = backend.schedules(name, experiment_id=str(experiment))
    if before and not replace:
        times = _schedule(backend, before[0]).cron
        raise RunError(
            f"{backend.access.host}: has a schedule {name!r} already, at {times!r}; give another "
            "name, or --replace"
        )
    made = backend.create_schedule(
        cron=cron,
        enabled=enabled,
        display_name=name,
        experiment_id=experiment,
        max_concurrency="1",
        no_catchup=True,
        **body,
    )
    for one in before:
        backend.change_schedule(str(one.recurring_run_id), "delete")
    return _schedule(backend, made)


def schedules(backend: Backend, name: str | None = None, *, experiment: str) -> list[Schedule]:
    """The schedules of an experiment, or those of a name there.

    Raises:
        RunError: they cannot be listed.
    """
    found = backend.experiment(experiment, make=False)
    if found is None:
        return []
    return [_schedule(backend, one) for one in backend.schedules(name, experiment_id=found)]


def wait(
    backend: Backend,
    sent: SentRun,
    *,
    every_s: float = 10.0,
    patience_s: float = 600.0,
    on_state: Callable[[SentRun], None] | None = None,
) -> SentRun:
    """Wait until a run ends, however long that takes.

    Args:
        every_s: how often to ask, in seconds.
        patience_s: how long the API may be away, in seconds.
        on_state: called with each new state.

    Raises:
        RunError: the API stays away, or does not let this user ask; the run goes on.
    """
    away_since: float | None = None
    while True:
        try:
            now = _sent(backend, backend.run(sent.run_id))
            away_since = None
        except Refused as error:
            away_since = time.monotonic() if away_since is None else away_since
            if not error.passes or time.monotonic() - away_since > patience_s:
                raise RunError(f"{error}; the run goes on: {sent.url}") from error
            _logger.info("asking for the run again: %s", error)
        else:
            if now.state != sent.state and on_state is not None:
                on_state(now)
            sent = now
            if now.ended:
                return now
        time.sleep(every_s)


def _body(
    package: Package, parameters: Mapping[str, Any], options: RunOptions | None
) -> tuple[dict[str, Any], RunOptions]:
    """What a run and a schedule have in common; nothing was asked of the cluster yet."""
    options = options or RunOptions()
    arguments = package.arguments(parameters)
    if arguments.get("model_digest") == ASK:
        arguments = package.arguments({**arguments, "model_digest": served_model(arguments)})
    _logger.info("%s: %s", package.name, shown(arguments))
    runtime = {"parameters": arguments, "pipeline_root": options.pipeline_root}
    return {
        "pipeline_spec": package.to_body(cached=options.cached),
        "runtime_config": {key: value for key, value in runtime.items() if value is not None},
        "service_account": options.service_account,
    }, options


def served_model(arguments: Mapping[str, Any]) -> str:
    """The digest of the model that a run's server has, as the run's own preflight says it.

    Raises:
        UsageError: no server is named that can be reached from here.
        ServingError: it does not answer.
    """
    from c3d_pipelines.run.cache_key import digest_of_model
    from c3d_pipelines.run.steps import CONFIGURED
    from c3d_pipelines.settings import JobSettings

    server = arguments.get("server", CONFIGURED)
    if server == CONFIGURED:
        raise UsageError("model_digest is 'ask' and no server is named; give server=HOST:PORT")
    asked = {name: arguments[name] for name in ("model", "model_version") if name in arguments}
    with JobSettings(out=os.devnull, run=ASK, server=server, **asked).client() as client:
        return digest_of_model(client.provenance())


def _sent(backend: Backend, run: Any) -> SentRun:
    if not run.run_id or not (run.state is None or isinstance(run.state, str)):
        raise Refused(f"{backend.access.host}: answers without saying which run it is", 502)
    state = run.state or "PENDING"
    return SentRun(
        run_id=run.run_id,
        name=run.display_name or "",
        url=f"{backend.access.ui}/#/runs/details/{run.run_id}",
        state="PENDING" if state == "RUNTIME_STATE_UNSPECIFIED" else state,
        message=_why(run) if state in _ENDED and state != "SUCCEEDED" else "",
    )


def _why(run: Any) -> str:
    """What a run says of its failure: its own words, and the tasks that failed."""
    tasks = (run.run_details and run.run_details.task_details) or []
    failed = {task.display_name: task for task in tasks if task.state == "FAILED"}
    said = [
        f"{name}: {task.error.message}" if task.error and task.error.message else name
        for name, task in failed.items()
    ]
    if len(said) > _MOST_NAMED:
        said = [*said[:_MOST_NAMED], f"and {len(said) - _MOST_NAMED} more"]
    own = [run.error.message] if run.error and run.error.message else []
    return " ".join("; ".join(own + said).split())


def _schedule(backend: Backend, made: Any) -> Schedule:
    if not made.recurring_run_id:
        raise Refused(f"{backend.access.host}: answers without saying which schedule it is", 502)
    times = made.trigger and made.trigger.cron_schedule
    return Schedule(
        schedule_id=made.recurring_run_id,
        name=made.display_name or "",
        cron=(times and times.cron) or "",
        enabled=made.mode == "ENABLE" if made.mode else made.status == "ENABLED",
        url=f"{backend.access.ui}/#/recurringrun/details/{made.recurring_run_id}",
    )


_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
_DAYS = "sun mon tue wed thu fri sat"
_FIELDS = (
    ("seconds", 0, 59, ()),
    ("minutes", 0, 59, ()),
    ("hours", 0, 23, ()),
    ("days of the month", 1, 31, ()),
    (
        "months",
        1,
        12,
        tuple(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ),
    ("days of the week", 0, 6, tuple(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])),
)
_WORDS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = re.compile(r"@every ([0-9]+(\.[0-9]+)?(h|m|s))+")


def check_cron(text: str) -> str:
    """The times of a schedule, checked; as Kubeflow wants them.

    Raises:
        UsageError: they are not; the message says how to write them.
    """
    cron = " ".join(text.split())
    if cron in _WORDS or _EVERY.fullmatch(cron):
        return cron
    if cron.startswith("@"):
        raise UsageError(f"cron is {text!r}; give six fields, or {', '.join(_WORDS)}")
    fields = cron.split(" ")
    if len(fields) == len(_FIELDS) - 1:
        raise UsageError(
            f"cron is {text!r}, five fields; Kubeflow's has six, the seconds first: '0 {cron}'"
        )
    if len(fields) != len(_FIELDS):
        raise UsageError(
            f"cron is {text!r}; give six fields: seconds, minutes, hours, day of the month, month, "
            "day of the week, such as '0 0 2 * * *' for each day at two"
        )
    for value, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in value.split(","):
            if not _is_part(part, low, high, names):
                known = f", {names[0]} to {names[-1]}" if names else ""
                raise UsageError(
                    f"cron is {text!r}: {value!r} is not for {name}; give {low} to {high}{known}, "
                    "*, a-b, */n, or several with commas"
                )
    return cron


def _is_part(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return True
    ends = [_number(end, low, names) for end in span.split("-")]
    if len(ends) > 2 or None in ends:
        return False
    numbers = [end for end in ends if end is not None]
    return low <= numbers[0] <= numbers[-1] <= high


def _number(text: str, low: int, names: tuple[str, ...]) -> int | None:
    if text.isascii() and text.isdecimal():
        return int(text)
    return names.index(text.lower()) + low if text.lower() in names else None


MAX_PARAMETER_BYTES = 10_000  # the backend's own limit
PLACES = ("videos", "out", "store")  # parameters that name a folder or bucket
_KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}
_IN_WORDS = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list in JSON",
    "STRUCT": "an object in JSON",
}


@dataclass(frozen=True)
class Parameter:
    """What a pipeline may be given: a kind, and a default or None."""

    name: str
    kind: str
    default: Any = None
    optional: bool = False


class Package:
    """A compiled pipeline.

    Args:
        path: a YAML file as kfp's compiler writes it.

    Raises:
        RunError: it cannot be read, or is no compiled pipeline.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import yaml
        from google.protobuf import json_format
        from kfp.pipeline_spec import pipeline_spec_pb2 as messages

        self.path = os.fspath(path)
        try:
            with open(self.path, encoding="utf-8") as file:
                documents = [one for one in yaml.safe_load_all(file) if one is not None]
            spec, *platforms = documents or [None]
            if not isinstance(spec, dict) or "pipelineInfo" not in spec or len(platforms) > 1:
                raise ValueError("no pipeline in it")
            platform = platforms[0] if platforms else {}
            # As kfp's client does: what is sent is what the messages hold.
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
            said = " ".join(str(error).split())
            raise RunError(
                f"{self.path}: is not a pipeline that c3d-pipelines compile wrote ({said})"
            ) from error

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What it may be given."""
        found = self._spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
        return {
            name: Parameter(
                name,
                str(said.get("parameterType", "")),
                said.get("defaultValue"),
                bool(said.get("isOptional", False)),
            )
            for name, said in found.items()
        }

    @property
    def mounts(self) -> list[str]:
        """The folders of volumes that all pods which mount any see."""
        platform = self._platform.get("platforms", {}).get("kubernetes", {})
        executors = platform.get("deploymentSpec", {}).get("executors", {})
        found = {
            mount["mountPath"] for said in executors.values() for mount in said.get("pvcMount", ())
        }
        return sorted(found)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a run is given, checked: text is read as what the pipeline wants.

        Raises:
            RunError: a name is unknown or missing, a value is of another kind or names a folder
                that the pods do not see, or all of it is too long; all are named at once.
        """
        known = self.parameters
        wrong = [_unknown(name, known) for name in given if name not in known]
        wrong += [
            f"{name} is missing"
            for name, one in known.items()
            if name not in given and one.default is None and not one.optional
        ]
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name in known:
                try:
                    values[name] = _value(value, known[name].kind)
                except ValueError as error:
                    wrong.append(f"{name} is {_seen(value)}, not {error}")
        settled = {name: one.default for name, one in known.items()} | values
        for name in PLACES:
            wrong += self._unseen(name, settled.get(name))
            if isinstance(values.get(name), str) and redact(values[name]) != values[name]:
                wrong.append(f"{name} holds credentials, which all who see the run may read")
        size = _bytes(values)
        if size > MAX_PARAMETER_BYTES:
            longest = max(values, key=lambda name: _bytes(values[name]))
            wrong.append(
                f"they take {size} bytes, and Kubeflow takes {MAX_PARAMETER_BYTES}; {longest} is "
                "the longest: put it into a file and name that"
            )
        if wrong:
            raise RunError(f"{self.name}: the parameters cannot be sent: {'; '.join(wrong)}")
        return values

    def to_body(self, *, cached: bool = True) -> dict[str, Any]:
        """The pipeline as the API takes it.

        Args:
            cached: leave it to each task whether it takes earlier results; else none does. (kfp's
                own ``enable_caching`` says it to the outermost tasks alone.)
        """
        spec = json.loads(json.dumps(self._spec))
        if not cached:
            for part in (spec["root"], *spec.get("components", {}).values()):
                for task in part.get("dag", {}).get("tasks", {}).values():
                    task["cachingOptions"] = {}
        return {"pipeline_spec": spec, "platform_spec": self._platform} if self._platform else spec

    def _unseen(self, name: str, place: Any) -> list[str]:
        if not isinstance(place, str) or scheme(place) not in ("", "file"):
            return []
        path = place.removeprefix("file://")
        if not path.strip():
            return [f"{name} is empty"]
        normal = posixpath.normpath(path)
        mounts = [posixpath.normpath(mount) for mount in self.mounts]
        if any(normal == mount or normal.startswith(f"{mount}/") for mount in mounts):
            return []
        below = " or ".join(mounts) or "none is mounted"
        return [
            f"{name} is {place!r}, a path that the pods do not see; give s3://, gs://, or a path "
            f"on a mounted volume ({below})"
        ]


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
    return f"there is no parameter {name!r}{hint}"


def _value(given: Any, kind: str) -> Any:
    """A value of a parameter's kind; ValueError says which one that is."""
    wanted = _IN_WORDS.get(kind)
    if wanted is None:
        raise ValueError(f"of the kind {kind}, which no one can give")
    value = given
    if isinstance(given, str) and kind != "STRING":
        try:
            value = json.loads(given.strip().lower() if kind == "BOOLEAN" else given)
        except ValueError:
            raise ValueError(wanted) from None
    is_flag = isinstance(value, bool)
    if is_flag != (kind == "BOOLEAN") or not isinstance(value, _KINDS[kind]):
        raise ValueError(wanted)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(wanted)
    if isinstance(value, str) and not value.strip():
        raise ValueError("something")
    return value


def _seen(value: Any) -> str:
    return repr(redact(value) if isinstance(value, str) else value)[:80]


def _bytes(values: Any) -> int:
    """What values take as the backend counts them: compact JSON as Go writes it."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return len(text.encode("utf-8", "surrogatepass")) + 5 * sum(map(text.count, "<>&"))


def shown(arguments: Mapping[str, Any]) -> str:
    """Arguments in one line, without what may be secret in addresses."""
    return ", ".join(
        f"{name}={redact(value) if isinstance(value, str) else json.dumps(value)}"
        for name, value in arguments.items()
    )
