"""Draws the tasks of a compiled pipeline as Mermaid text, which GitHub shows as a picture.

Made of the YAML and nothing else, so the picture is what Kubeflow runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from c3d_client.core.errors import UsageError

_STYLES = (
    "classDef task fill:#eef3fb,stroke:#3b6ea5,color:#12263f",
    "classDef cached fill:#e9f6ec,stroke:#3a8a50,color:#12331b",
    "classDef last fill:#fdf3e3,stroke:#b9791f,color:#3d2a08",
)
_FRAME = "fill:#f6f7f9,stroke:#9aa5b4,color:#2b3440"


def to_mermaid(path: str | os.PathLike[str]) -> str:
    """A compiled pipeline as a Mermaid flowchart: a box a task, a frame a loop, an arrow an order.

    Arrows that others imply are left out. The task that is done whatever happens has a dotted one.

    Args:
        path: of the YAML.

    Returns:
        Lines of text, without the fence that Markdown wants around them.

    Raises:
        UsageError: the file cannot be read, or is no compiled pipeline.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            spec = next(yaml.safe_load_all(file))
        tasks, components = spec["root"]["dag"]["tasks"], spec["components"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    except (StopIteration, KeyError, TypeError):
        raise UsageError(f"{path}: is no compiled pipeline") from None
    lines = ["flowchart LR", *_drawn(tasks, components, indent=1)]
    return "\n".join([*lines, *(f"  {style}" for style in _STYLES)]) + "\n"


def _drawn(
    tasks: Mapping[str, Any], components: Mapping[str, Any], *, indent: int
) -> Iterator[str]:
    space = "  " * indent
    for name, task in _in_order(tasks):
        inner = components[task["componentRef"]["name"]].get("dag")
        if inner is None:
            yield f'{space}{name}["{_words(name, task)}"]:::{_kind(task)}'
            continue
        yield f'{space}subgraph {name}["{_title(task)}"]'
        yield f"{space}  direction LR"
        yield from _drawn(inner["tasks"], components, indent=indent + 1)
        yield f"{space}end"
        yield f"{space}style {name} {_FRAME}"
    for name, task in _in_order(tasks):
        arrow = "-. in any case .->" if "triggerPolicy" in task else "-->"
        for before in _direct(name, tasks):
            yield f"{space}{before} {arrow} {name}"


def _words(name: str, task: Mapping[str, Any]) -> str:
    """A task's name, and what Kubeflow does when it fails or has been done before."""
    notes = []
    if task.get("cachingOptions", {}).get("enableCache"):
        given = task.get("inputs", {}).get("parameters", {})
        notes.append(f"cached by {', '.join(sorted(given))}")
    retries = task.get("retryPolicy", {}).get("maxRetryCount", 0)
    if retries:
        notes.append(f"{retries} retries")
    small = "".join(f"<br/><small>{note}</small>" for note in notes)
    return f"<b>{name}</b>{small}"


def _title(task: Mapping[str, Any]) -> str:
    if "parameterIterator" in task:
        limit = task.get("iteratorPolicy", {}).get("parallelismLimit")
        return f"for each shard, {limit} at a time" if limit else "for each shard"
    return "the run"


def _kind(task: Mapping[str, Any]) -> str:
    if "triggerPolicy" in task:
        return "last"
    return "cached" if task.get("cachingOptions", {}).get("enableCache") else "task"


def _in_order(tasks: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Tasks after those that they wait for; by name where that leaves a choice."""
    ordered: dict[str, Mapping[str, Any]] = {}
    while len(ordered) < len(tasks):
        ready = [
            name
            for name in sorted(tasks)
            if name not in ordered and set(tasks[name].get("dependentTasks", ())) <= set(ordered)
        ]
        if not ready:
            raise UsageError(
                f"tasks wait for each other: {', '.join(sorted(set(tasks) - set(ordered)))}"
            )
        ordered[ready[0]] = tasks[ready[0]]
    return list(ordered.items())


def _direct(name: str, tasks: Mapping[str, Any]) -> list[str]:
    """The tasks that one waits for, without those that they wait for themselves."""

    def before(one: str) -> set[str]:
        direct = set(tasks[one].get("dependentTasks", ()))
        return direct.union(*(before(other) for other in direct))

    direct = set(tasks[name].get("dependentTasks", ()))
    return sorted(direct.difference(*(before(other) for other in direct)))
