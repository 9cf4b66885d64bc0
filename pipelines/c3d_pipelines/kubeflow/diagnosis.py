"""Why a run on a cluster failed or does not go on.

Kubeflow Pipelines' API returns no reasons: a failed run has the names of its workflow's nodes, and
a run whose pods cannot start is RUNNING. The reasons are where they were written: the steps' in the
data set, Argo's in the workflow, Kubernetes' in the pods and their events.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from c3d_client.core.errors import C3DError
from c3d_client.core.uri import redact

from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, SentRun
from c3d_pipelines.kubeflow.kube import Kube, KubeError, open_kube
from c3d_pipelines.kubeflow.run_pods import RUN_LABEL, look_at_pods, pod_log
from c3d_pipelines.kubeflow.workflow import (
    FAILED,
    RUNNING,
    TERMINATED,
    WAITING,
    Step,
    short_reason,
    steps_of_tasks,
    steps_of_workflow,
    title,
    workflow_message,
)
from c3d_pipelines.reports.summary import SUCCEEDED, RunSummary
from c3d_pipelines.run.errors import failure_reasons, one_line
from c3d_pipelines.run.finish import NO_REASON
from c3d_pipelines.storage import SUMMARY, Storage, run_file, run_folder

DATASET_S = 30.0  # a bucket that only the pods reach must not delay the other sources for minutes
_WATCH_S, _QUIET_S = 30.0, 300.0
_TAIL_LINES = 50
_MOST_SHARDS, _MOST_LOGS = 5, 5
_KUBEFLOW = "kubeflow"
_NOT_THERE = "has no workflow and no pod of the run"
_OWN_LINE = "c3d-pipelines: "
# Lines of Kubeflow's launcher and of argoexec, which follow those of the step.
_FOREIGN = re.compile(r"[IWEF]\d{4} |time=|Error: exit status|\s*$")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Diagnosis:
    """The state of a run and why it is so.

    Args:
        run: as the API returns it.
        steps: of the run, as far as they are known.
        reasons: why it failed or waits, one line each, with the step's name first.
        source: where the reasons are from; empty without any.
        tried: why the other sources gave none, one line each.
        commands: kubectl commands that show more; empty where they are not needed.
        lost: whether the run was removed from the cluster, though the API calls it running; None
            where that is not known.
    """

    run: SentRun
    steps: tuple[Step, ...] = ()
    reasons: tuple[str, ...] = ()
    source: str = ""
    tried: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    lost: bool | None = False

    @property
    def exit_code(self) -> int:
        """0 for a run that succeeded or goes on, 1 for one that failed, 2 if it is not known."""
        if self.run.succeeded or (not self.run.ended and self.lost is False):
            return 0
        return 2 if self.lost is None else 1


@dataclass(frozen=True)
class _Findings:
    """What a source has of a run.

    Args:
        source: its name for messages.
        steps: oldest first.
        message: of the whole run.
        namespace: of the pods.
        log: returns a step's log; None where it is gone.
        live: whether it is the cluster, and not a copy that may be older.
    """

    source: str
    steps: tuple[Step, ...]
    message: str
    namespace: str
    log: Callable[[Step], str | None]
    live: bool


class Inspector:
    """Reads the reasons of runs; close it, or use it as a context manager.

    It also reads Kubernetes' API, if there is a kubeconfig or this process is in a pod.

    Args:
        backend: of the cluster.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._kube: Kube | None = None
        self._kube_problem = "Kubernetes: no kubeconfig here"
        try:
            self._kube = open_kube()
        except KubeError as error:
            self._kube_problem = one_line(error)

    def close(self) -> None:
        """Close the connections to Kubernetes."""
        if self._kube is not None:
            self._kube.close()

    def __enter__(self) -> Inspector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def diagnose(self, run: SentRun) -> Diagnosis:
        """Return why a run failed or waits, from the first source that has a reason."""
        steps = tuple(steps_of_tasks(run.tasks))
        if run.succeeded:
            return Diagnosis(run, steps)
        tried: list[str] = []
        if run.ended and (reasons := _dataset_reasons(run, tried)):
            return Diagnosis(run, steps, tuple(reasons), f"the dataset {_out(run)}")
        if run.message:
            return Diagnosis(run, steps, (run.message,), f"the API at {self._host}")
        # Of a run that goes on, the pods are newer than what the API has.
        looks = [self._from_api, self._from_kubernetes]
        best, sources = Diagnosis(run, steps), []
        for look in looks if run.ended else reversed(looks):
            found = look(run, tried)
            if found is None:
                continue
            sources.append(found)
            reasons, explained = self._reasons(run, found)
            if not reasons:
                tried.append(f"{found.source}: has no reason")
            if explained or not best.reasons:
                source = found.source if reasons else ""
                shown = found.steps or best.steps
                best = replace(best, steps=shown, reasons=tuple(reasons), source=source)
            if explained or (reasons and not run.ended):
                return best
        namespace = next((found.namespace for found in sources if found.namespace), "")
        if run.ended or best.reasons:
            return replace(best, tried=tuple(tried), commands=self.commands(run, namespace))
        if any(found.live for found in sources):
            return best
        return self._without_schedule(best, tried, namespace)

    def _reasons(self, run: SentRun, found: _Findings) -> tuple[list[str], bool]:
        """Return the reasons that a source has, and whether they explain all failed steps."""
        stopped = [
            step for step in found.steps if step.state == FAILED or (step.reason and not run.ended)
        ]
        stopped = self._with_logs(stopped, found)
        reasons = grouped(stopped)
        if found.message and (not reasons or found.message == TERMINATED):
            return [found.message], True
        return reasons, bool(reasons) and not any(step.unexplained for step in stopped)

    def waiting(self, run: SentRun) -> list[Step] | None:
        """Return the steps of a running run that wait or failed, with their reasons.

        Returns:
            None where no source shows the run's pods.
        """
        for look in (self._from_kubernetes, self._from_api):
            found = look(run, [])
            if found is not None and found.steps:
                return [step for step in found.steps if step.reason and step.state != RUNNING]
        return None

    def logs(self, run: SentRun, step: str = "") -> Iterator[tuple[Step, str | None, str]]:
        """Yield the steps of a run with their logs.

        A log is None where it is gone or cannot be read; the text after it is then the reason.

        Args:
            run: the run.
            step: ``plan``, ``extract-3``, or ``extract`` for all shards; by default the steps that
                failed, or all where none did.

        Raises:
            RunError: no source knows the run's pods, or the run has no such step.
        """
        tried: list[str] = []
        sources = [self._from_api(run, tried), self._from_kubernetes(run, tried)]
        known_by = [found for found in sources if found is not None and found.steps]
        if not known_by:
            raise RunError(
                f"{run.name}: no source shows its pods ({'; '.join(tried) or 'it has none yet'}); "
                f"look with: {self.commands(run)[-1]}"
            )
        steps = known_by[0].steps
        own = [known for known in steps if not known.driver]
        if step:
            chosen = [s for s in own if s.name == step or s.name.rpartition("-")[0] == step]
            if not chosen:
                raise RunError(f"{run.name}: has no step {step!r}; there are {_names(own)}")
        else:
            chosen = [known for known in steps if known.state == FAILED] or own
        for known in chosen:
            yield known, *_read_log(known_by, known)

    def commands(self, run: SentRun, namespace: str = "") -> tuple[str, ...]:
        """Return the kubectl commands that show a run's pods.

        Args:
            run: the run.
            namespace: of its pods, if a source has shown it.
        """
        if not namespace and self.backend.multi_user:
            namespace = self.backend.access.namespace
        pods = f"-n {namespace or _KUBEFLOW} -l {RUN_LABEL}={run.run_id}"
        return (
            f"kubectl describe pods {pods}",
            f"kubectl logs {pods} -c main --prefix --tail 20",
        )

    @property
    def _host(self) -> str:
        return self.backend.access.host

    def _without_schedule(
        self, diagnosis: Diagnosis, tried: list[str], namespace: str
    ) -> Diagnosis:
        """Return the diagnosis of a run that has no pods where this process looks for them.

        Deleting a schedule as Kubeflow does it removes the workflow of its last run, and the API
        calls that run RUNNING for ever.
        """
        run = diagnosis.run
        try:
            if not run.schedule_id or self.backend.has_schedule(run.schedule_id):
                return diagnosis
        except RunError:
            return diagnosis
        absent = any(line.endswith(_NOT_THERE) for line in tried)
        reason = "the schedule that started it was deleted" + (
            f", and with it its workflow and pods: the API calls it {run.state} for ever, and the "
            "next run does what it left"
            if absent
            else f"; if its workflow was deleted too, the API calls it {run.state} for ever"
        )
        return replace(
            diagnosis,
            reasons=(reason,),
            source=f"the API at {self._host}",
            tried=tuple(tried),
            commands=self.commands(run, namespace),
            lost=True if absent else None,
        )

    def _from_api(self, run: SentRun, tried: list[str]) -> _Findings | None:
        """Return what Argo's workflow has, which version 1 of Kubeflow's API returns."""
        try:
            workflow = self.backend.workflow(run.run_id)
            steps = steps_of_workflow(workflow)
        except RunError as error:
            tried.append(one_line(error))
            return None
        name = str(workflow["metadata"]["name"])
        namespace = str(workflow["metadata"].get("namespace") or "")

        def log(step: Step) -> str | None:
            node = f"{name}-{step.pod.rpartition('-')[2]}"
            return self.backend.log(run.run_id, step.pod, node=node, namespace=namespace)

        return _Findings(
            source=f"the API at {self._host}",
            steps=tuple(steps),
            message=workflow_message(workflow),
            namespace=namespace,
            log=log,
            live=False,
        )

    def _from_kubernetes(self, run: SentRun, tried: list[str]) -> _Findings | None:
        kube = self._kube
        if kube is None:
            tried.append(self._kube_problem)
            return None
        try:
            seen = look_at_pods(kube, run.run_id, self.backend.access.namespace)
        except KubeError as error:
            tried.append(one_line(error))
            return None
        source = f"Kubernetes ({kube.name})"
        if not seen.namespace:
            searched = () if self.backend.multi_user else seen.searched
            where = f" in {', '.join(searched)}" if searched else ""
            tried.append(f"{source}: {_NOT_THERE}{where}")
            return None

        def log(step: Step) -> str | None:
            return pod_log(kube, seen.namespace, step.pod)

        return _Findings(
            source=source,
            steps=seen.steps,
            message=seen.message,
            namespace=seen.namespace,
            log=log,
            live=True,
        )

    def _with_logs(self, steps: list[Step], found: _Findings) -> list[Step]:
        """Return failed steps with the reasons that their logs have."""
        explained, read = [], 0
        for step in steps:
            if step.unexplained and not step.driver and read < _MOST_LOGS:
                read += 1
                text, _ = _read_log([found], step)
                if reason := reason_in_log(text or ""):
                    step = replace(step, reason=reason)
            explained.append(step)
        return explained


class Watch:
    """Names what keeps a running run from going on, each cause once.

    Args:
        inspector: of the run's cluster.
        note: called with each line.
        every_s: the shortest pause between two looks at the pods, in seconds.
        quiet_s: after how long without a change of any step a run whose pods nothing shows is
            mentioned, in seconds.
    """

    def __init__(
        self,
        inspector: Inspector,
        note: Callable[[str], None],
        *,
        every_s: float = _WATCH_S,
        quiet_s: float = _QUIET_S,
    ) -> None:
        self._inspector, self._note = inspector, note
        self._every_s, self._quiet_s = every_s, quiet_s
        self._looked: float | None = None
        self._named: set[tuple[str, str, str]] = set()
        self._state: object = None
        self._changed = time.monotonic()
        self._mentioned = False

    def look(self, run: SentRun) -> None:
        """Look at a run that goes on; never raises for a source that does not answer."""
        now = time.monotonic()
        state = (run.state, sorted(run.tasks))
        if state != self._state:
            self._state, self._changed, self._mentioned = state, now, False
        if run.ended or (self._looked is not None and now - self._looked < self._every_s):
            return
        self._looked = now
        steps = self._inspector.waiting(run)
        if steps is not None:
            keyed = {(step.title, step.state, _kind(step.reason)): step for step in steps}
            for line in grouped(step for key, step in keyed.items() if key not in self._named):
                self._note(line)
            self._named |= keyed.keys()
        elif now - self._changed >= self._quiet_s and not self._mentioned:
            self._mentioned = True
            minutes = round((now - self._changed) / 60) or 1
            command = self._inspector.commands(run)[0]
            self._note(
                f"no step has changed for {minutes} min, and the API does not show why; long "
                f"shards are usual, pods that cannot start are not: {command}"
            )


def grouped(steps: Iterable[Step]) -> list[str]:
    """Return one line for each reason, with the steps that have it.

    >>> grouped(Step(f"extract-{shard}", "failed", "OOMKilled") for shard in (0, 1))
    ['extract of shards 0 and 1 failed: OOMKilled']
    """
    groups: dict[tuple[str, str, str], list[Step]] = {}
    for step in steps:
        kind = step.title.rpartition(" of shard ")[0] or step.title
        # The same reason differs from pod to pod in names and pauses.
        groups.setdefault((kind, step.state, _kind(step.reason)), []).append(step)
    lines = []
    for (kind, state, _), members in groups.items():
        name = members[0].title
        if len(members) > 1 and " of shard " in name:
            shards = sorted(int(step.title.rpartition(" ")[2]) for step in members)
            shown = [str(shard) for shard in shards[:_MOST_SHARDS]]
            more = len(shards) - len(shown)
            last = f"{more} more" if more else shown.pop()
            name = f"{kind} of shards {', '.join(shown)} and {last}"
        verb = {FAILED: "failed", WAITING: "cannot start"}.get(state, state)
        reason = members[0].reason
        lines.append(f"{name} {verb}: {reason}" if reason else f"{name} {verb}")
    return lines


def reason_in_log(log: str) -> str:
    """Return the last line of a step's log that has a reason; empty where there is none."""
    lines = [line.strip() for line in log.splitlines()[-_TAIL_LINES:]]
    own = [line for line in lines if line.startswith(_OWN_LINE)]
    others = [line for line in lines if not _FOREIGN.match(line)]
    return short_reason((own or others or [""])[-1].removeprefix(_OWN_LINE))


def _read_log(sources: Iterable[_Findings], step: Step) -> tuple[str | None, str]:
    """Return a step's log from the first source that has it, else None and the reason."""
    problem = f"no log is left of the pod {step.pod}"
    for found in sources:
        try:
            if (text := found.log(step)) is not None:
                return text, ""
        except RunError as error:
            problem = one_line(error)
    return None, problem


def _names(steps: Iterable[Step]) -> str:
    """Return the names by which a user may ask for steps."""
    kinds: dict[str, list[Step]] = {}
    for step in steps:
        kinds.setdefault(step.title.partition(" of shard ")[0], []).append(step)
    names = []
    for members in kinds.values():
        shards = sorted((step.name for step in members), key=lambda name: (len(name), name))
        names.append(shards[0] if len(shards) == 1 else f"{shards[0]} to {shards[-1]}")
    return ", ".join(names) or "none yet"


def _kind(reason: str) -> str:
    """Return what the same reason of two pods, or of one pod at two times, has in common."""
    if reason.startswith(("ErrImagePull", "ImagePullBackOff")):
        return "ImagePull"  # the two alternate
    return re.sub(r"\d+", "#", reason)


def _out(run: SentRun) -> str:
    out = run.arguments.get("out")
    return redact(out) if isinstance(out, str) else ""


def _dataset_reasons(run: SentRun, tried: list[str]) -> list[str]:
    """Return the reasons that the steps of an ended run wrote into its data set."""
    out = run.arguments.get("out")
    if not isinstance(out, str):
        return []  # of a pipeline without a data set
    name = f"dataset {_out(run)}"
    try:
        storage = Storage(out)
        if storage.is_local and not storage.path_of(run_folder(run.run_id)).is_dir():
            tried.append(f"{name}: this machine does not have the run's folder")
            return []
        reasons = _within(DATASET_S, lambda: _written_reasons(storage, run.run_id))
    except C3DError as error:
        tried.append(f"{name}: {one_line(error).removeprefix(f'{_out(run)}: ')}")
        return []
    if not reasons:
        tried.append(f"{name}: has no reason and no report of the run")
    return reasons


def _written_reasons(storage: Storage, run: str) -> list[str]:
    failures = failure_reasons(storage, run)
    if failures:
        return [f"{title(step)}: {reason}" for step, reason in failures.items()]
    text = storage.read(run_file(run, SUMMARY))
    summary = RunSummary.from_json(text) if text else None
    if summary is None or summary.state == SUCCEEDED or summary.message in ("", NO_REASON):
        return []
    return [summary.message]


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return a call's result, or raise RunError after a time; the call then goes on unseen."""
    results: queue.SimpleQueue[tuple[_T | None, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((call(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=work, name="dataset", daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise RunError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
