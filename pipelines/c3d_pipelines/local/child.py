"""The process that runs a compiled pipeline with kfp.local, for `local_run`.

A process of its own because kfp.local leaves `print` and root logging patched. What it prints goes
to the run's log.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from c3d_pipelines.local.folder import GRACE_S, LocalFolder
from c3d_pipelines.local.step import STOPPED

_EXECUTOR = "python3 -m kfp.dsl.executor_main"


def main(folder: LocalFolder, parent: int) -> None:
    """Run the pipeline of a folder's job.

    Args:
        folder: of the run.
        parent: the process that started this one.

    Raises:
        RuntimeError: a step failed, or kfp starts steps in another way than it did.
        TypeError: the pipeline has no such parameter, or one is missing.
    """
    folder.when_over(lambda: _end(folder, parent))
    # Of images whose names do not say that there is Python in them, and of limits for pods.
    warnings.filterwarnings("ignore", message="You may be attemping", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message="Task .* have no effect", category=UserWarning)
    from kfp import components, local
    from kfp.local import subprocess_task_handler

    def as_given(command: list[str], _: str) -> list[str]:
        return step_command(command, folder)

    # kfp's own writes the interpreter's path over every "python3", in the videos' paths too, and
    # unquoted into a shell's line.
    assert callable(subprocess_task_handler.replace_python_executable)
    subprocess_task_handler.replace_python_executable = as_given
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder.artifacts),
        workspace_root=str(folder.temporary / "workspace"),
    )
    job = json.loads(folder.job.read_text(encoding="utf-8"))
    pipeline = components.load_component_from_file(job["pipeline"])
    _without_retries(pipeline.component_spec.implementation.graph)
    pipeline(**job["arguments"])


def step_command(command: list[str], folder: LocalFolder) -> list[str]:
    """A step's command as kfp made it, with `step.py` as its executor.

    Args:
        command: what to run: a shell's script, and arguments that stay as they are.
        folder: of the run.

    Raises:
        RuntimeError: no part of it starts kfp's executor.
    """
    places = [n for n, part in enumerate(command) if _EXECUTOR in part]
    if not places:
        raise RuntimeError(f"kfp starts its steps without {_EXECUTOR!r}; use the version pinned")
    script = command[places[0]]
    step = f"{shlex.quote(sys.executable)} -m c3d_pipelines.local.step "
    step += shlex.quote(str(folder.root))
    # The shell looks for the lease first: a run that is over is through its last steps at once.
    going_on = f"[ -e {shlex.quote(str(folder.lease))} ] || exit {STOPPED}\n"
    changed = going_on + script.replace(_EXECUTOR, step)
    return [*command[: places[0]], changed, *command[places[0] + 1 :]]


def _without_retries(specification: Any) -> None:
    """Take the steps' retries out: they are for pods that are moved, after minutes of sleep.

    Whatever mends itself, a step waits for itself.
    """
    for dag in (specification.root.dag, *(one.dag for one in specification.components.values())):
        for task in dag.tasks.values():
            task.ClearField("retry_policy")


def _end(folder: LocalFolder, parent: int) -> None:
    """Wait for the steps at work, and end this process with all that is left of them."""
    end = time.monotonic() + GRACE_S + 2
    while folder.has_steps() and time.monotonic() < end:
        time.sleep(0.05)
    if os.getppid() != parent:  # nobody is left to do it
        shutil.rmtree(folder.root, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(LocalFolder(Path(sys.argv[1])), int(sys.argv[2]))
