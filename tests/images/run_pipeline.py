"""Run a compiled pipeline with kfp.local, each step in a container as the pipeline describes it.

Arguments: a JSON text with `pipeline` (the compiled file), `root` (the artifacts' folder),
`command` (the engine's command line up to the image) and `arguments` (the pipeline's). A separate
process, because kfp.local leaves print and logging patched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def pod_options(pipeline: Path, claims: Mapping[str, str]) -> list[str]:
    """Return the engine's options for what the compiled pipeline sets for the pods of its steps.

    Args:
        pipeline: the compiled file.
        claims: for each claim's name, the folder in its place.

    Raises:
        ValueError: the steps have different settings.
    """
    import yaml

    _, platform = yaml.safe_load_all(pipeline.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    settings = []
    for executor in executors.values():
        context = executor["securityContext"]
        options = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
        for mount in executor["emptyDirMounts"]:
            options += ["--tmpfs", mount["mountPath"]]
        for mount in executor["pvcMount"]:
            options += ["--volume", f"{claims[mount['constant']]}:{mount['mountPath']}"]
        settings.append(options)
    if any(options != settings[0] for options in settings):
        raise ValueError(f"{pipeline}: the steps' pods differ")
    return settings[0]


def run_pipeline(
    pipeline: Path, root: str, arguments: Mapping[str, Any], run_task: Callable[[Any], int]
) -> None:
    """Run a compiled pipeline with kfp.local, whose tasks another function runs.

    Args:
        pipeline: the compiled file.
        root: the artifacts' folder.
        arguments: of the pipeline.
        run_task: runs a task, which has ``image``, ``full_command`` and ``pipeline_root``, and
            returns its exit code.

    Raises:
        RuntimeError: a step failed.
    """
    # About images whose names do not contain "python", and about settings for pods.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")
    warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
    from kfp import components, local
    from kfp.local import status
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    def run(task: SubprocessTaskHandler) -> status.Status:
        code = run_task(task)
        print(f"container of {task.image}: {step_of(task.full_command)} ended with {code}")
        return status.Status.FAILURE if code else status.Status.SUCCESS

    assert callable(SubprocessTaskHandler.run)
    SubprocessTaskHandler.run = run
    os.umask(0)
    os.makedirs(root, exist_ok=True)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
    loaded = components.load_component_from_file(str(pipeline))
    # kfp.local waits minutes before a retry.
    graph = loaded.component_spec.implementation.graph
    for part in (graph.root, *graph.components.values()):
        for task in part.dag.tasks.values():
            task.ClearField("retry_policy")
    loaded(**arguments)


def step_of(command: list[str]) -> str:
    """Return the name of a task's function."""
    return command[command.index("--function_to_execute") + 1]


def main(text: str) -> None:
    """Run the pipeline, each step in a container.

    Raises:
        RuntimeError: a step failed.
    """
    job: dict[str, Any] = json.loads(text)

    def run_task(task: Any) -> int:
        root, (first, *rest) = task.pipeline_root, task.full_command
        options = ["--volume", f"{root}:{root}", "--entrypoint", first]
        # The command is in place of the image's entry point, as in Kubernetes.
        done = subprocess.run(
            [*job["command"], *options, task.image, *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(done.stdout)
        return done.returncode

    run_pipeline(Path(job["pipeline"]), job["root"], job["arguments"], run_task)


if __name__ == "__main__":
    main(sys.argv[1])
