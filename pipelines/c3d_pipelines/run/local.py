"""A bulk run on this machine, from the videos to the report.

The steps are the functions that a cluster's pods call, in the same order: with nothing to do only
plan, preflight and report. They run in this process; each shard runs in a separate process, two at
a time.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from c3d_client.core.arguments import kind_of, path_text
from c3d_client.core.errors import C3DError, UsageError
from c3d_client.core.text import escape_bytes
from c3d_client.core.uri import Uri, redact
from c3d_client.parallel import core_count

from c3d_pipelines.errors import StorageError
from c3d_pipelines.parameters import NO_PCA, JobParameters
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.run import steps
from c3d_pipelines.run.errors import failure_reasons, failure_text, write_reason
from c3d_pipelines.run.finish import report_step
from c3d_pipelines.run.processes import RunFolder, start_process, stop_processes
from c3d_pipelines.run.shard_process import PLAN, SETTINGS
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import LOG, SUMMARY, Storage, run_file, storage_of_run

SHARDS_AT_A_TIME = 2
_SHARD_PROCESS = "c3d_pipelines.run.shard_process"
_PIPELINE_PROCESS = "c3d_pipelines.kubeflow.local_runner"
_SHOW_EVERY_S = 0.25
_POLL_S = 0.05
# Parameters that name folders: made absolute, so that the dataset records where they are.
_FOLDERS = ("videos", "out")
# Kubeflow replaces these in any argument of a compiled pipeline.
_REPLACED = ("{{$", "/kfp-workspace")


@dataclass(frozen=True)
class RunState:
    """Progress of a run.

    Args:
        step: the current step, such as ``extract``; empty before the first.
        videos: to be done by this run; None while there is no plan.
        skipped: inputs of which the plan found nothing, or nothing new, to do.
        shards: to be done; 0 while there is no plan.
        shards_done: how many of them are done.
        done: videos that have their row: ``ok`` and ``failed`` together.
        ok: videos with features.
        failed: videos without.
        clips: answered by the server.
        notes: lines of the plan about the inputs: what was left out or newly taken.
    """

    step: str = ""
    videos: int | None = None
    skipped: int = 0
    shards: int = 0
    shards_done: int = 0
    done: int = 0
    ok: int = 0
    failed: int = 0
    clips: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalRun:
    """Result of a run on this machine.

    Args:
        run: the run's name in the dataset; empty if the run did not get that far.
        out: the dataset's folder or bucket.
        succeeded: all steps succeeded, the gate too.
        refused: only the gate failed: more videos failed than ``max_failed`` and
            ``max_failed_share`` allow.
        error: why the run did not succeed, in one line; empty otherwise.
        summary: the result of each input; None if the run did not get that far.
        log: the file with the run's output; empty if it was not stored.
        notes: lines of the plan about the inputs: what was left out or newly taken.
    """

    run: str
    out: str
    succeeded: bool
    refused: bool
    error: str
    summary: RunSummary | None
    log: str
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 succeeded, 1 more videos failed than allowed, 2 nothing was done or the run failed."""
        if self.succeeded:
            return 0
        return 1 if self.refused and self.summary is not None and self.summary.ok else 2

    def file(self, name: str) -> str:
        """Return the path or URL of a file of this run, such as ``report.html``."""
        return Storage(self.out).uri_of(run_file(self.run, name)).raw


def run_local(
    arguments: Mapping[str, Any],
    *,
    answer: str = "features",
    pipeline: str | os.PathLike[str] | None = None,
    keep_logs: bool = False,
    show: Callable[[RunState], None] | None = None,
    note: Callable[[str], None] | None = None,
    capture_output: bool = False,
) -> LocalRun:
    """Do a bulk run on this machine and wait for its end.

    Ctrl-C (KeyboardInterrupt) stops the run's processes, leaves no unfinished file, and is raised
    again; the same call then continues with what is left. A second Ctrl-C kills the processes.

    Args:
        arguments: parameters of the bulk pipelines; ``videos`` and ``out`` at least.
        answer: ``features`` or ``classes``.
        pipeline: path of a compiled bulk pipeline, which then runs under ``kfp.local``.
        keep_logs: keep the folder of temporary files in any case.
        show: called with the progress at each step, and about four times a second during shards.
        note: called with a line that the user should see during the run.
        capture_output: send all output of this process to the run's log during the run, also
            what native libraries print to the file descriptors 1 and 2. For commands.

    Raises:
        UsageError: an argument cannot be used.
        RunError: the run could not be started.
    """
    if not isinstance(arguments, Mapping):
        raise UsageError(
            f"arguments is {kind_of(arguments)}; give a dict of parameters, such as "
            '{"videos": "videos", "out": "dataset"}'
        )
    checked = {
        name: _argument(name, value, compiled=pipeline is not None)
        for name, value in arguments.items()
    }
    with RunFolder.create() as folder:
        keep = keep_logs
        run: _Run
        if pipeline is None:
            run = _StepsRun(folder, checked, show, note, answer=answer)
        else:
            run = _CompiledRun(folder, checked, show, note, pipeline=Path(pipeline))
        try:
            with _output_in(folder.log) if capture_output else contextlib.nullcontext():
                run.run()
                result = run.result()
            keep |= result.log == str(folder.log)
            return result
        finally:
            if keep_logs and note:
                note(f"kept: {folder.root}")
            if not keep:
                shutil.rmtree(folder.root, ignore_errors=True)


def _argument(name: str, value: Any, *, compiled: bool) -> Any:
    """Return a parameter's value, checked; folders as absolute paths."""
    if name in _FOLDERS:
        value = path_text(value, name)
    if not isinstance(value, str):
        return value
    if name == "pca" and value not in ("", NO_PCA) and not Uri(value).scheme:
        value = os.path.abspath(value)
    if name in _FOLDERS and not Uri(value).scheme:
        if not value.strip():
            raise UsageError(f"{name} is empty; give a folder or bucket")
        value = os.path.abspath(value)
        # The dataset itself needs a name that pyarrow and the manifests can hold.
        if name == "videos":
            value = Uri.of_path(value).raw
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = escape_bytes(value)
        raise UsageError(f"{name}: {shown} is not valid UTF-8; rename it") from None
    for part in _REPLACED if compiled else ():
        if part in value:
            raise UsageError(
                f"{name}: {value!r} holds {part!r}, which Kubeflow replaces; rename it"
            )
    return value


@contextlib.contextmanager
def _output_in(log: Path) -> Iterator[None]:
    """Send this process's file descriptors 1 and 2 to a file within the block."""
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        with log.open("ab") as file:
            for descriptor in saved:
                os.dup2(file.fileno(), descriptor)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)


@dataclass
class _Run(abc.ABC):
    """A run in progress: its parameters, failures and state.

    Args:
        folder: of the temporary files.
        arguments: the parameters of the run, checked.
        on_state: called with the progress.
        note: called with lines for the user.
    """

    folder: RunFolder
    arguments: Mapping[str, Any]
    on_state: Callable[[RunState], None] | None
    note: Callable[[str], None] | None
    name: str = ""
    failures: list[tuple[str, str]] = field(default_factory=list)
    state: RunState = field(default_factory=RunState)
    shown_at: float = 0.0
    stopping: bool = False

    @property
    def out(self) -> str:
        return str(self.arguments.get("out", ""))

    @abc.abstractmethod
    def run(self) -> None:
        """Do the run; the failures of its steps are in ``failures``."""

    def result(self) -> LocalRun:
        error, summary = self.error, None
        try:
            text = Storage(self.out).read(run_file(self.name, SUMMARY)) if self.name else None
            summary = None if text is None else RunSummary.from_json(text)
        except C3DError as failure:
            error = error or str(failure)
        log = self._store_log() if summary else ""
        if not log and error and self.folder.log.exists():
            log = str(self.folder.log)
        return LocalRun(
            run=self.name,
            out=self.out,
            succeeded=not error,
            refused={step for step, _ in self.failures} == {steps.GATE},
            error=error,
            summary=summary,
            log=log,
            notes=self.state.notes,
        )

    @property
    def error(self) -> str:
        """The first failure, and how many of the same step there are; empty without any."""
        if not self.failures:
            return ""
        name, text = self.failures[0]
        others = sum(step == name for step, _ in self.failures) - 1
        text = f"{name}: {text}" if name else text
        return text + (f" (and {others} more like it)" if others else "")

    def log(self, text: str) -> None:
        with self.folder.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

    def show(self, **changes: Any) -> None:
        """Show the progress: at once when something changes, else not too often."""
        self.state = replace(self.state, **changes)
        now = time.monotonic()
        if self.on_state is None or (not changes and now - self.shown_at < _SHOW_EVERY_S):
            return
        self.shown_at = now
        counts: dict[str, Any] = _progress_counts(self.folder.progress)
        self.state = replace(self.state, **counts)
        self.on_state(self.state)

    def note_stopping(self) -> None:
        if self.note and not self.stopping:
            self.note("stopping; what is done stays done; press Ctrl-C again to kill")
        self.stopping = True

    def _store_log(self) -> str:
        """Write the log next to the run's report; return its URI, or nothing if that fails."""
        if not self.folder.log.exists():
            return ""
        for stream in (sys.stdout, sys.stderr):  # what Python still buffers belongs into the log
            stream.flush()
        storage = storage_of_run(self.out, self.name)
        name, log = run_file(self.name, LOG), self.folder.log
        text = log.read_bytes()
        # Steps print their parameters, and credentials in a URL must not get into the dataset.
        for value in self.arguments.values():
            if isinstance(value, str) and redact(value) != value:
                text = text.replace(value.encode(), redact(value).encode())
        try:
            storage.write(name, text)
        except StorageError:
            return ""
        return storage.uri_of(name).raw


class _StepFailed(Exception):
    """A step failed; the steps that need its result are left out."""


@dataclass
class _StepsRun(_Run):
    """A run whose steps are called here, with a process for each shard."""

    answer: str = "features"
    parameters: JobParameters = field(default_factory=JobParameters)
    # Environment variables for the processes of the shards.
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> None:
        try:
            self.parameters = JobParameters.of(self.arguments)
        except UsageError as error:
            self.failures.append(("", str(error)))
            return
        self.name = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with contextlib.suppress(_StepFailed), contextlib.ExitStack() as until_published:
            shards = self._plan()
            self._preflight(until_published)
            if shards:
                self._extract(shards)
                self._publish()
        with contextlib.suppress(_StepFailed), self._step("report"):
            report_step(
                out=self.out,
                run=self.name,
                state="FAILED" if self.failures else "SUCCEEDED",
                message=self.error,
                page_path=self._artifact("report/page"),
                text_path=self._artifact("report/text"),
            )

    def _plan(self) -> list[int]:
        with self._step("plan"):
            shards = steps.plan_shards(
                **{**asdict(self.parameters), "out": self.out},
                run=self.name,
                answer=self.answer,
                plan_path=self._artifact(PLAN),
                settings_path=self._artifact("settings"),
            )
            plan = _plan_state(self._artifact(PLAN))
        self.show(**plan)
        return shards

    def _preflight(self, until_published: contextlib.ExitStack) -> None:
        with self._step("preflight"):
            settings = JobSettings.from_json(Path(self._artifact("settings")).read_text("utf-8"))
            server = None
            if settings.serving().local_path is not None:
                # One server for the preflight and the processes of all shards.
                server = until_published.enter_context(settings.client()).serving
            digest = steps.preflight_step(
                out=self.out,
                run=self.name,
                model_digest=self.parameters.model_digest,
                settings_path=self._artifact("settings"),
                checked_path=self._artifact(SETTINGS),
            )
        self.variables = server.environment() if server is not None else {}
        self.log(f"preflight: the model is {digest}")

    def _extract(self, shards: Sequence[int]) -> None:
        with self._step("extract"):
            cores = core_count()
            if len(shards) > 1:
                cores = max(1, cores // SHARDS_AT_A_TIME)
            waiting, running = list(shards), dict[int, subprocess.Popen[bytes]]()
            try:
                while waiting or running:
                    while waiting and len(running) < SHARDS_AT_A_TIME:
                        shard = waiting.pop(0)
                        running[shard] = start_process(
                            _SHARD_PROCESS,
                            [str(shard), self.parameters.model_digest, str(cores)],
                            self.folder,
                            variables=self.variables,
                        )
                    time.sleep(_POLL_S)
                    for shard, process in list(running.items()):
                        if process.poll() is not None:
                            del running[shard]
                            self._shard_ended(shard, process)
                    self.show()
            except KeyboardInterrupt:
                stop_processes(list(running.values()), notify=self.note_stopping)
                raise
            finally:
                stop_processes(list(running.values()))
            if self.failures:
                raise _StepFailed

    def _shard_ended(self, shard: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        if process.returncode == 0:
            self.show(shards_done=min(self.state.shards_done + 1, self.state.shards))
            return
        reason_file = self.folder.reason_file(shard)
        if reason_file.exists():
            reason = reason_file.read_text(encoding="utf-8")
        else:
            reason = f"shard {shard}: its process {_end_of(process.returncode)}"
            write_reason(f"extract-{shard}", reason, out=self.out, run=self.name)
        self.failures.append(("extract", reason))
        self.log(f"extract: {reason}")

    def _publish(self) -> None:
        with self._step("publish"):
            unsuccessful, figures = steps.publish_step(
                plan_path=self._artifact(PLAN), settings_path=self._artifact(SETTINGS)
            )
        with self._step(steps.GATE):
            steps.gate_step(
                unsuccessful=unsuccessful,
                max_failed=self.parameters.max_failed,
                max_failed_share=self.parameters.max_failed_share,
                inputs=figures["inputs"],
                out=self.out,
                run=self.name,
            )

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Show and log a step, and record its failure."""
        self.show(step=name)
        self.log(f"{name}: begins")
        hook = sys.excepthook
        try:
            yield
        except KeyboardInterrupt:
            self.note_stopping()
            raise
        except _StepFailed:
            raise
        except Exception as error:  # also a defect: the run still ends with its report
            self.failures.append((name, failure_text(error)))
            known = isinstance(error, C3DError)
            self.log(f"{name}: {failure_text(error)}" if known else traceback.format_exc())
            raise _StepFailed from error
        finally:
            sys.excepthook = hook  # steps set it for pods, where an error ends the process
        self.log(f"{name}: done")

    def _artifact(self, name: str) -> str:
        return str(self.folder.artifacts / name)


@dataclass
class _CompiledRun(_Run):
    """A run of a compiled pipeline under ``kfp.local``, in a separate process.

    A separate process, because ``kfp.local`` leaves ``print`` and the root logger patched.
    """

    pipeline: Path = Path()

    def run(self) -> None:
        before = self._runs()
        job = self.folder.artifacts / "job.json"
        job.write_text(
            json.dumps(
                {"pipeline": os.fspath(self.pipeline.absolute()), "arguments": self.arguments}
            )
        )
        self.folder.running.touch()
        process = start_process(_PIPELINE_PROCESS, [str(job)], self.folder)
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
                self.show(**self._planned())
        except KeyboardInterrupt:
            stop_processes([process], notify=self.note_stopping)
            raise
        finally:
            stop_processes([process])
        self.name = max(self._runs() - before, default="")
        if process.returncode:
            self.failures = self._reasons(process.returncode)

    def _runs(self) -> set[str]:
        """Return the names of the runs in the dataset."""
        with contextlib.suppress(C3DError):
            return {name.split("/")[1] for name in Storage(self.out).names("runs")}
        return set()

    def _planned(self) -> dict[str, Any]:
        """Return the counts of the plan, once it is written."""
        if self.state.videos is not None:
            return {}
        with contextlib.suppress(OSError, ValueError):
            for path in self.folder.artifacts.glob("*/plan/plan"):
                return {"step": "extract", **_plan_state(path)}
        return {}

    def _reasons(self, code: int) -> list[tuple[str, str]]:
        if code < 0:
            return [("", f"the run's process {_end_of(code)}")]
        reasons: dict[str, str] = {}
        if self.name:
            with contextlib.suppress(C3DError):  # storage that is away may be the reason
                reasons = failure_reasons(Storage(self.out), self.name)
        if reasons:
            return [(step.partition("-")[0], text) for step, text in reasons.items()]
        lines = self.folder.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else "nothing in its log"
        return [("", f"Kubeflow ended with: {last}")]


def _end_of(code: int) -> str:
    """Return how a process with an exit code ended, for a message."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL); there may be too little memory"
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with exit code {code}; the log tells more"


def _plan_state(plan: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of :class:`RunState` that a plan has."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from c3d_pipelines.inputs.plan import DO, read_notes

    # Columns and not rows: a plan may have millions of rows.
    with pq.ParquetFile(plan, pre_buffer=False) as file:
        inputs = file.read(["decision", "shard"], use_threads=False)
    to_do = inputs.filter(pc.equal(inputs["decision"], DO))
    return {
        "videos": len(to_do),
        "skipped": len(inputs) - len(to_do),
        "shards": len(to_do["shard"].unique()),
        "notes": tuple(read_notes(plan)),
    }


def _progress_counts(progress: Path) -> dict[str, int]:
    """Sum up the progress files of all shards."""
    counts = {"done": 0, "ok": 0, "failed": 0, "clips": 0}
    for path in progress.glob("[!.]*.json"):
        with contextlib.suppress(OSError, ValueError):
            values = json.loads(path.read_bytes())
            for name in counts:
                counts[name] += int(values[name])
    return counts
