"""A compiled pipeline under kfp.local: ``python -m c3d_pipelines.kubeflow.local_runner``.

Arguments: the run's folder, and a JSON file with the pipeline's path and its arguments. The
process that starts this one reads the log, the progress files and the data set.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from c3d_pipelines.run.processes import STOPPED, RunFolder, stop_with_parent

_EXECUTOR = "python3 -m kfp.dsl.executor_main"


def main(arguments: Sequence[str]) -> None:
    """Run the pipeline.

    Raises:
        RuntimeError: a step failed, or this version of kfp starts its steps in another way.
        TypeError: the pipeline has no such parameter, or a parameter is missing.
    """
    folder = RunFolder(Path(arguments[0]))
    job = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
    # The whole group gets SIGTERM to stop the steps; this process ends after them.
    signal.signal(signal.SIGTERM, lambda number, frame: None)

    def stop() -> None:
        folder.running.unlink(missing_ok=True)
        os.killpg(0, signal.SIGTERM)

    with folder.joined():
        stop_with_parent(stop)
        _run(folder, job["pipeline"], job["arguments"])


def _run(folder: RunFolder, path: str, parameters: dict[str, Any]) -> None:
    # About images whose names do not contain "python", and about settings for pods.
    warnings.filterwarnings("ignore", message="You may be attemping", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message="Task .* have no effect", category=UserWarning)
    from kfp import components, local
    from kfp.local import subprocess_task_handler

    def replaced(command: list[str], interpreter: str) -> list[str]:
        return step_command(command, folder)

    # kfp replaces every "python3" by the interpreter's path, unquoted, in the videos' paths too.
    assert callable(subprocess_task_handler.replace_python_executable)
    subprocess_task_handler.replace_python_executable = replaced
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder.artifacts),
        workspace_root=str(folder.temporary / "workspace"),
    )
    pipeline = components.load_component_from_file(path)
    _remove_retries(pipeline.component_spec.implementation.graph)
    pipeline(**parameters)


def step_command(command: list[str], folder: RunFolder) -> list[str]:
    """Return a step's command with this interpreter, its output in the log, and a check to stop.

    Args:
        command: as kfp made it: a shell script and its arguments.
        folder: of the run.

    Raises:
        RuntimeError: no part of the command starts kfp's executor.
    """
    indexes = [index for index, part in enumerate(command) if _EXECUTOR in part]
    if not indexes:
        raise RuntimeError(f"kfp starts its steps without {_EXECUTOR!r}; use the version pinned")
    index = indexes[0]
    executor = f"{shlex.quote(sys.executable)} -m kfp.dsl.executor_main"
    script = (
        f"[ -e {shlex.quote(str(folder.running))} ] || exit {STOPPED}\n"
        # The whole group gets SIGTERM, and the shell must not end before the step has.
        "trap : TERM\n"
        # kfp reads a step's output as UTF-8, and native libraries print other bytes too.
        f"exec >>{shlex.quote(str(folder.log))} 2>&1\n"
        + command[index].replace(_EXECUTOR, executor)
    )
    return [*command[:index], script, *command[index + 1 :]]


def _remove_retries(specification: Any) -> None:
    """Remove the steps' retries, which are for pods that are moved and pause for minutes."""
    parts = (specification.root, *specification.components.values())
    for part in parts:
        for task in part.dag.tasks.values():
            task.ClearField("retry_policy")


if __name__ == "__main__":
    main(sys.argv[1:])
