"""Sends compiled pipelines to a cluster: once, or to be run at times; and waits for them."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from c3d_client.errors import RunError, UsageError

from c3d_pipelines.sending.backend import Backend, Refused
from c3d_pipelines.sending.cron import check_cron
from c3d_pipelines.sending.package import Package, shown

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
    from c3d_pipelines.settings import JobSettings
    from c3d_pipelines.steps.bulk import CONFIGURED
    from c3d_pipelines.steps.cache_key import digest_of_model

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
