"""A compiled pipeline run on this machine, from its first step to its report.

The same YAML that a cluster runs goes through kfp.local, in a child process (`child.py`), so
that this process's `print` and logging stay as they are. This file starts it, watches it, stops it,
and says what became of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3d_client.core.errors import C3DError, UsageError
from c3d_client.core.uri import redact, scheme

from c3d_pipelines.errors import RunError, StorageError
from c3d_pipelines.kubeflow.compile import CLASSIFICATION, EXTRACTION, compiled_path
from c3d_pipelines.local.folder import GRACE_S, LocalFolder
from c3d_pipelines.local.progress import RunState, StateReader
from c3d_pipelines.local.step import DONE, FAILED, Step, read_steps
from c3d_pipelines.reports.summary import RunSummary
from c3d_pipelines.storage import LOG, SUMMARY, Storage, run_file

_PIPELINES = {"features": EXTRACTION, "classes": CLASSIFICATION}
_CHILD = (sys.executable, "-m", "c3d_pipelines.local.child")
_GATE = "gate"
_LOOK_S = 0.25
# Parameters that name places: made absolute, so that what is said and written of them stays true.
_PLACES = ("videos", "out")
# Kubeflow puts something else where these stand, in any argument.
_REPLACED = ("{{$", "/kfp-workspace")


@dataclass(frozen=True)
class LocalRun:
    """What became of a run on this machine.

    Args:
        run: the run's name in the dataset; empty where it did not get so far.
        out: the dataset's folder or bucket.
        succeeded: all steps ended well, the gate too.
        refused: the gate alone did not: more videos failed than ``max_failed``.
        error: why it did not succeed, in one line; empty otherwise.
        summary: what became of each input; None where the run did not get so far.
        log: where all that was printed is; empty where it is not kept.
    """

    run: str
    out: str
    succeeded: bool
    refused: bool
    error: str
    summary: RunSummary | None
    log: str

    @property
    def exit_code(self) -> int:
        """0 succeeded, 1 more videos failed than may, 2 nothing could be done or the run failed."""
        if self.succeeded:
            return 0
        return 1 if self.refused and self.summary is not None and self.summary.ok else 2

    def file(self, name: str) -> str:
        """The path or URL of a file of this run, such as ``report.html``."""
        return Storage(self.out).uri_of(run_file(self.run, name)).raw


def run_local(
    arguments: Mapping[str, Any],
    *,
    answer: str = "features",
    pipeline: str | os.PathLike[str] | None = None,
    keep_logs: bool = False,
    show: Callable[[RunState], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> LocalRun:
    """Run a bulk pipeline on this machine and wait for its end.

    Ctrl-C (KeyboardInterrupt) stops its processes, leaving nothing half-written, and is raised
    again; the same call goes on with what is left. A second one kills them.

    Args:
        arguments: of the pipeline; ``videos`` and ``out`` at least.
        answer: ``features`` or ``classes``; chooses the pipeline.
        pipeline: another compiled bulk pipeline, by its path.
        keep_logs: keep the folder of temporary files, whatever happens.
        show: called with how far the run is, about four times a second.
        note: called with a line that people should see while it goes on.

    Raises:
        UsageError: an argument cannot be handed to the steps.
        RunError: the run could not be started.
    """
    given = {name: _argument(name, value) for name, value in arguments.items()}
    path = compiled_path(_PIPELINES[answer]) if pipeline is None else Path(pipeline)
    folder = LocalFolder(Path(tempfile.mkdtemp(prefix="c3d-run-")))
    keep = keep_logs
    try:
        with folder.held() as end:
            folder.job.write_text(
                json.dumps({"pipeline": os.fspath(path.absolute()), "arguments": given}),
                encoding="utf-8",
            )
            with _child(folder, end, note or (lambda line: None)) as child:
                _watch(child, StateReader(folder), show)
        ended = _ended(child.returncode, folder, given)
        keep |= bool(ended.log) and Path(ended.log) == folder.log
        return ended
    finally:
        if keep_logs and note:
            note(f"kept: {folder.root}")
        if not keep:
            shutil.rmtree(folder.root, ignore_errors=True)


def _argument(name: str, value: Any) -> Any:
    """A value as the steps get it."""
    if not isinstance(value, str):
        return value
    if name in _PLACES and not scheme(value):
        if not value.strip():
            raise UsageError(f"{name} is empty; give a folder or bucket")
        value = os.path.abspath(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: {value!r} is not valid UTF-8; rename it") from None
    for part in _REPLACED:
        if part in value:
            raise UsageError(
                f"{name}: {value!r} holds {part!r}, which Kubeflow replaces; rename it"
            )
    return value


@contextlib.contextmanager
def _child(
    folder: LocalFolder, end: Callable[[], None], note: Callable[[str], None]
) -> Iterator[subprocess.Popen[bytes]]:
    """The process that runs the pipeline; no process of the run is left when the block ends."""
    environment = {
        **os.environ,
        "C3D_PROGRESS_FOLDER": str(folder.progress),
        "TMPDIR": str(folder.temporary),
        # What lies in the folder where the command runs is not the program's.
        "PYTHONSAFEPATH": "1",
    }
    try:
        with folder.log.open("ab") as log:
            child = subprocess.Popen(
                [*_CHILD, str(folder.root), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops them all
            )
    except OSError as error:
        raise RunError(f"the run cannot be started ({error})") from error
    try:
        yield child
    except KeyboardInterrupt:
        note("stopping; what is done stays done; press Ctrl-C again to kill")
        raise
    finally:
        end()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(GRACE_S + 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _watch(
    child: subprocess.Popen[bytes], reader: StateReader, show: Callable[[RunState], None] | None
) -> None:
    while True:
        try:
            child.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            if show:
                show(reader.read())
            continue
        if show:
            show(reader.read())
        return


def _ended(code: int, folder: LocalFolder, given: Mapping[str, Any]) -> LocalRun:
    steps, out = read_steps(folder), str(given.get("out", ""))
    run = next((step.run for step in steps if step.run), "")
    bad = [step for step in steps if step.state != DONE]
    error = _why(code, bad, folder) if code else ""
    summary = None
    try:
        summary = _summary(out, run)
    except C3DError as trouble:
        error = error or str(trouble)
    kept = _keep_log(folder, Storage(out), run, given) if summary else ""
    return LocalRun(
        run=run,
        out=out,
        succeeded=not error,
        refused=bool(code) and {step.name for step in bad} == {_GATE},
        error=error,
        summary=summary,
        log=kept or (str(folder.log) if error else ""),
    )


def _why(code: int, bad: Sequence[Step], folder: LocalFolder) -> str:
    """Why the run failed: what its first failed step said."""
    if code < 0:
        return f"the run's process was killed ({signal.Signals(-code).name})"
    if not bad:
        lines = folder.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"Kubeflow ended with: {lines[-1].strip() if lines else 'nothing in its log'}"
    first = bad[0]
    text = first.error if first.state == FAILED else "was killed; there may be too little memory"
    others = sum(step.name == first.name for step in bad) - 1
    return f"{first.name}: {text}" + (f" (and {others} more like it)" if others else "")


def _summary(out: str, run: str) -> RunSummary | None:
    if not run:
        return None
    text = Storage(out).read(run_file(run, SUMMARY))
    return None if text is None else RunSummary.from_json(text)


def _keep_log(folder: LocalFolder, storage: Storage, run: str, given: Mapping[str, Any]) -> str:
    """Put the log beside the run's report; says where it is then, or nothing where that failed."""
    name, log = run_file(run, LOG), folder.log.read_bytes()
    # Kubeflow prints all arguments; credentials in a URL are not for the dataset.
    for value in given.values():
        if isinstance(value, str) and redact(value) != value:
            log = log.replace(value.encode(), redact(value).encode())
    try:
        storage.write(name, log)
    except StorageError:
        return ""
    return storage.uri_of(name).raw
