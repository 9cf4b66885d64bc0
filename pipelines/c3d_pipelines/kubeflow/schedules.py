"""Schedules on a cluster: created, replaced and removed without the loss of a run in progress.

The backend deletes the run in progress together with its schedule, and then shows it as running for
ever. So a schedule is disabled first, and is deleted when it has no run in progress.

A replacement may end at any point, and nothing is lost: the new schedule is created paused and
names the old ones in its description, then the old ones are disabled, then the new one is enabled,
and then the old ones are deleted. :func:`resume_schedule` goes on from each of these points.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from c3d_client.core.errors import UsageError

from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, Refused, Schedule, SentRun
from c3d_pipelines.kubeflow.compile import PIPELINES
from c3d_pipelines.kubeflow.submit import Package, RunOptions, run_body, wait

# A terminated run ends within seconds; its exit handler gets no time.
_TERMINATION_S = 300.0


@dataclass(frozen=True)
class RunEnd:
    """What happens to a run in progress of a schedule that is removed; by default it is kept.

    Args:
        waits: wait for its end, without a time limit.
        now: terminate it.
        every_s: the pause between two requests, in seconds.
        on_wait: called with each run that is waited for.
        on_look: called with each answer of the API about it.

    Raises:
        UsageError: both are given.
    """

    waits: bool = False
    now: bool = False
    every_s: float = 10.0
    on_wait: Callable[[SentRun], None] | None = None
    on_look: Callable[[SentRun], None] | None = None

    def __post_init__(self) -> None:
        if self.waits and self.now:
            raise UsageError("--wait and --now; give one of them")


class RunInProgress(RunError):
    """A schedule is disabled and not removed, because a run of it is in progress."""


def schedule(
    backend: Backend,
    package: Package,
    parameters: Mapping[str, Any],
    *,
    cron: str,
    name: str = "",
    enabled: bool = True,
    replace: bool = False,
    run_end: RunEnd | None = None,
    options: RunOptions | None = None,
) -> Schedule:
    """Schedule runs, one at a time; a time that was missed is not made up for.

    Args:
        backend, package, parameters, options: see :func:`~c3d_pipelines.kubeflow.submit.submit`.
        cron: six fields, seconds first.
        name: of the schedule, see :func:`full_name`; by default the pipeline's name.
        enabled: False creates a paused schedule.
        replace: replace the existing schedules of this name.
        run_end: what happens to the run in progress of a schedule that is replaced.

    Raises:
        UsageError: ``cron`` has five fields.
        RunInProgress: the new schedule is created and paused, and the old one is disabled.
        RunError: the parameters do not fit, a schedule of this name exists, or the cluster refuses
            the schedule.
        ServingError: ``model_digest`` is "ask" and the server does not answer.
    """
    cron = check_cron(cron)
    body, options = run_body(package, parameters, options)
    full = full_name(package.name, name)
    experiment = str(backend.experiment(options.experiment))
    # A schedule that an earlier release created has the name as it was given.
    listed = backend.schedules(experiment_id=experiment)
    existing = [old for old in listed if old.name in (full, name)]
    if existing and not replace:
        raise RunError(
            f"{backend.access.host}: has a schedule {existing[0].name!r} already, at "
            f"{existing[0].cron!r}; give another name, or --replace"
        )
    created = backend.create_schedule(
        cron=cron,
        enabled=enabled and not existing,
        replaces=existing,
        display_name=full,
        experiment_id=experiment,
        max_concurrency="1",
        no_catchup=True,
        **body,
    )
    if existing:
        _finish(backend, created, existing, run_end=run_end, enabled=enabled)
    return dataclasses.replace(created, enabled=enabled)


def resume_schedule(
    backend: Backend,
    existing: Sequence[Schedule],
    *,
    run_end: RunEnd | None = None,
) -> list[Schedule]:
    """Enable the schedules of a name, and finish the replacement of one by another.

    Args:
        backend: of the cluster.
        existing: the schedules of the name, see :func:`find_schedules`.
        run_end: what happens to its run in progress.

    Returns:
        Those that are enabled.

    Raises:
        RunInProgress: a run of a replaced schedule is in progress; the new one stays paused.
        RunError: a request fails.
    """
    replaced = {schedule_id for target in existing for schedule_id in target.replaces}
    resumed = [target for target in existing if target.schedule_id not in replaced]
    for target in resumed:
        old = [other for other in existing if other.schedule_id in target.replaces]
        _finish(backend, target, old, run_end=run_end, enabled=True)
    return resumed


def delete_schedule(
    backend: Backend,
    target: Schedule,
    *,
    run_end: RunEnd | None = None,
) -> None:
    """Disable a schedule, and remove it when it has no run in progress; its runs stay.

    Args:
        backend: of the cluster.
        target: the schedule.
        run_end: what happens to its run in progress.

    Raises:
        RunInProgress: the schedule is disabled and still there.
        RunError: a request fails, or the run does not end.
    """
    backend.change_schedule(target.schedule_id, "disable")
    try:
        _end_runs(backend, [target], run_end)
    except RunInProgress as error:
        raise RunInProgress(
            f"{target.name}: disabled and not deleted; {error}; --wait waits for its end, --now "
            "ends it"
        ) from None
    backend.change_schedule(target.schedule_id, "delete")


def schedules(backend: Backend, name: str | None = None, *, experiment: str) -> list[Schedule]:
    """Return the schedules of an experiment, or those of one whole name.

    Raises:
        RunError: the request fails.
    """
    experiment_id = backend.experiment(experiment, make=False)
    return backend.schedules(name, experiment_id=experiment_id) if experiment_id else []


def find_schedules(backend: Backend, name: str, *, experiment: str) -> list[Schedule]:
    """Return the schedules that a name means: whole, or without the pipeline's name before it.

    More than one is returned where one replaces another, and where the backend has several of one
    name.

    Raises:
        RunError: there is none, the name means several pipelines, or the request fails.
    """
    listed = schedules(backend, experiment=experiment)
    found = [target for target in listed if target.name == name]
    if not found:
        found = [
            s for s in listed if s.name in [full_name(pipeline, name) for pipeline in PIPELINES]
        ]
    host = backend.access.host
    if not found:
        raise RunError(f"{host}: has no schedule {name!r} in {experiment!r}")
    if len(names := sorted({target.name for target in found})) > 1:
        raise RunError(f"{host}: {name!r} is {' and '.join(names)}; give the whole name")
    ids = {target.schedule_id for target in found}
    replaced = {schedule_id for target in found for schedule_id in target.replaces}
    return found + [
        s for s in listed if s not in found and (s.schedule_id in replaced or ids & set(s.replaces))
    ]


def full_name(pipeline: str, name: str) -> str:
    """Return a schedule's display name, which begins with the pipeline's name.

    The backend names each run after the first 25 letters of the schedule's display name.
    """
    return name if name.startswith(pipeline) else f"{pipeline}-{name}".rstrip("-")


def check_cron(text: str) -> str:
    """Return a schedule's times with single spaces; the backend checks all but their number.

    Raises:
        UsageError: there are five fields; Kubeflow would refuse them or read them otherwise.
    """
    cron = " ".join(text.split())
    if not cron:
        raise UsageError(
            "cron is empty; give six fields: seconds, minutes, hours, day of the month, month, "
            "day of the week, such as '0 0 2 * * *' for each day at two"
        )
    if len(cron.split(" ")) == 5:
        raise UsageError(
            f"cron is {text!r}, five fields; Kubeflow's has six, the seconds first: '0 {cron}'"
        )
    return cron


def _finish(
    backend: Backend,
    created: Schedule,
    replaced: Sequence[Schedule],
    *,
    run_end: RunEnd | None,
    enabled: bool,
) -> None:
    """Disable the old schedules, and exchange them for the new one when they have no run."""
    name, resume = created.name, f"--resume {shlex.quote(created.name)}"
    try:
        for old in replaced:
            backend.change_schedule(old.schedule_id, "disable")
        _end_runs(backend, replaced, run_end)
        if enabled:
            backend.change_schedule(created.schedule_id, "enable")
        for old in replaced:
            backend.change_schedule(old.schedule_id, "delete")
    except RunInProgress as error:
        raise RunInProgress(
            f"{name}: the old schedule is disabled and the new one paused; {error}; after its end "
            f"give {resume}, or now with --wait or --now"
        ) from None
    except RunError as error:
        if not replaced:
            raise
        raise RunError(f"{error}; {name}: not replaced yet; {resume} goes on") from error


def _end_runs(backend: Backend, targets: Sequence[Schedule], run_end: RunEnd | None) -> None:
    """Return when disabled schedules have no run in progress."""
    run_end = run_end or RunEnd()
    gone: set[str] = set()
    while runs := [
        run for target in targets for run in backend.active_runs(target) if run.run_id not in gone
    ]:
        if not (run_end.waits or run_end.now):
            raise RunInProgress(f"its run {runs[0].name} ({runs[0].address}) is in progress")
        for run in runs:
            if run_end.on_wait is not None:
                run_end.on_wait(run)
            if run_end.waits:
                wait(backend, run, every_s=run_end.every_s, on_look=run_end.on_look)
            elif not _terminate(backend, run, run_end.every_s):
                gone.add(run.run_id)


def _terminate(backend: Backend, run: SentRun, every_s: float) -> bool:
    """End a run and wait for its end; return False if Kubernetes has lost it long ago."""
    try:
        backend.terminate(run.run_id)
    except Refused as error:
        if "not found" in str(error).lower() and error.status == 500:
            return False
        # 400: it has ended, or is being terminated already.
        if error.status != 400:
            raise
    end = time.monotonic() + _TERMINATION_S
    while not backend.run(run.run_id).ended:
        if time.monotonic() > end:
            raise RunError(
                f"{run.name} ({run.address}): has not ended {_TERMINATION_S:.0f} s after its "
                "termination; try again later"
            )
        time.sleep(every_s)
    return True
