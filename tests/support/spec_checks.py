"""Checks of a compiled pipeline's YAML.

Each check takes the file's two documents and yields a message for each problem.
test_spec_checks.py tests the checks with pipelines that are broken on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from support.kfp_rules import Refusal, check_pipeline

Spec = dict[str, Any]

_RUN = "{{$.pipeline_job_uuid}}"
_SECRET = re.compile(r"(?i)secret|token|passw|credential|api_?key|access_key")
_CHANNEL = "pipelinechannel--"


def read(path: Path) -> tuple[Spec, Spec]:
    """Return the specification and the platform document of a compiled pipeline."""
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return spec, platform


def all_problems(spec: Spec, platform: Spec) -> list[str]:
    """Return the problems that all checks find, each with the check's name."""
    return [f"{name}: {p}" for name, check in CHECKS.items() for p in check(spec, platform)]


def parse_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield what Kubeflow's API does not accept: unknown keys, other types, missing parts."""
    try:
        check_pipeline({"pipeline_spec": spec, "platform_spec": platform})
    except Refusal as refusal:
        yield str(refusal)


def loop_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield inputs of loop bodies that kfp.local silently replaces, and loops without a limit."""
    given = set(spec["root"]["inputDefinitions"]["parameters"])
    for dag_name, dag in _dags(spec):
        for name, task in dag["tasks"].items():
            if "parameterIterator" not in task:
                continue
            item = task["parameterIterator"]["itemInput"]
            if not task.get("iteratorPolicy", {}).get("parallelismLimit"):
                yield f"{dag_name}.{name}: no limit of parallel iterations"
            loop = spec["components"].get(task["componentRef"]["name"], {})
            for inner, body in loop.get("dag", {"tasks": {}})["tasks"].items():
                if "parameterIterator" in body or "condition" in body.get("triggerPolicy", {}):
                    yield f"{dag_name}.{name}.{inner}: a loop or a condition in a loop"
                for key, value in body.get("inputs", {}).get("parameters", {}).items():
                    source = value.get("componentInputParameter", item)
                    if source != item and source.removeprefix(_CHANNEL) not in given:
                        yield f"{dag_name}.{name}.{inner}: {key} is another task's parameter"


def condition_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield conditions that kfp.local takes as false, whatever the value."""
    for dag_name, dag in _dags(spec):
        for name, task in dag["tasks"].items():
            condition = task.get("triggerPolicy", {}).get("condition", "")
            for channel in re.findall(rf"'({_CHANNEL}[^']+)'", condition):
                value = task["inputs"]["parameters"][channel]
                if "taskOutputParameter" in value and not channel.endswith("-Output"):
                    yield f"{dag_name}.{name}: its condition is on {channel}, not on Output"


def type_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield parameters that have another type where they are used: the backend refuses them.

    kfp's compiler makes a loop's item a STRING where the list's type has no item type.
    """
    for dag_name, component in [("root", spec["root"]), *spec["components"].items()]:
        given = component.get("inputDefinitions", {}).get("parameters", {})
        for name, task in component.get("dag", {"tasks": {}})["tasks"].items():
            inner = spec["components"].get(task["componentRef"]["name"], {})
            expected = inner.get("inputDefinitions", {}).get("parameters", {})
            for key, value in task.get("inputs", {}).get("parameters", {}).items():
                types = [
                    parameters.get(used, {}).get("parameterType")
                    for parameters, used in (
                        (given, value.get("componentInputParameter", "")),
                        (expected, key),
                    )
                ]
                if None not in types and types[0] != types[1]:
                    yield f"{dag_name}.{name}: {key} is {types[0]}, and {types[1]} is expected"


def cache_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield steps that Kubeflow may take from its cache: their results depend on what changes."""
    for dag_name, task_name, task in _tasks(spec):
        if "executorLabel" not in spec["components"].get(task["componentRef"]["name"], {}):
            continue
        options = task.get("cachingOptions")
        if options is None:
            yield f"{dag_name}.{task_name}: has no caching option"
        elif options.get("enableCache"):
            yield f"{dag_name}.{task_name}: must not be cached"


def pod_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield pods that install packages, hold secrets, run as root, or lack resources."""
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        if "pip install" in " ".join([*container.get("command", []), *container.get("args", [])]):
            yield f"{name}: installs packages at its start"
        if not container.get("image"):
            yield f"{name}: no image"
        resources = container.get("resources", {})
        for key in ("CpuRequest", "CpuLimit", "MemoryRequest", "MemoryLimit"):
            if not resources.get(f"resource{key}"):
                yield f"{name}: no {key}"
        for variable in container.get("env", []):
            if _SECRET.search(variable["name"]) and not variable["name"].endswith("_FILE"):
                yield f"{name}: {variable['name']} is readable by everybody"
    for name, executor in _platform_executors(platform).items():
        context = executor.get("securityContext", {})
        if not context.get("runAsNonRoot") or not int(context.get("runAsUser", 0)):
            yield f"{name}: may be root"
        for secret in executor.get("secretAsEnv", []):
            if not secret.get("optional"):
                yield f"{name}: does not start without Secret {secret.get('secretName')}"


def _ends_early(policy: Spec, timeout_s: int) -> bool:
    """Return whether the time for all attempts of a task is shorter than they may be."""
    first_s, total_s = (
        int(policy.get(name, "0s").removesuffix("s"))
        for name in ("backoffDuration", "backoffMaxDuration")
    )
    retries, factor = policy["maxRetryCount"], policy["backoffFactor"]
    pauses_s = sum(first_s * factor**retry for retry in range(retries))
    return total_s <= (retries + 1) * timeout_s + pauses_s


def run_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield parameters without defaults or with secrets, wrong retries and a missing report."""
    for name, parameter in spec["root"].get("inputDefinitions", {}).get("parameters", {}).items():
        if parameter.get("defaultValue") in (None, ""):
            yield f"parameter {name}: no default, or an empty one"
        if _SECRET.search(name):
            yield f"parameter {name}: Kubeflow shows it to everybody"
    for dag_name, name, task in _tasks(spec):
        policy = task.get("retryPolicy", {})
        if name == "extract" and not (
            policy.get("maxRetryCount") and policy.get("backoffDuration")
        ):
            yield f"{dag_name}.{name}: is not retried"
        label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        timeout_s = int(pods.get(label, {}).get("activeDeadlineSeconds", 0))
        if policy and _ends_early(policy, timeout_s):
            yield f"{dag_name}.{name}: its retries end before the last attempt does"
        for key, value in task.get("inputs", {}).get("parameters", {}).items():
            constant = value.get("runtimeValue", {}).get("constant")
            if key == "run" and constant != _RUN:
                yield f"{dag_name}.{name}: run is {constant!r}, not {_RUN}"
            elif isinstance(constant, str) and "{{" in constant and constant != _RUN:
                yield f"{dag_name}.{name}: {key}: {constant!r} is replaced as a whole or not at all"
    names = {name for _, name, _ in _tasks(spec)}
    if "extract" in names:
        last = spec["root"]["dag"]["tasks"].get("report", {})
        strategy = last.get("triggerPolicy", {}).get("strategy")
        status = last.get("inputs", {}).get("parameters", {}).get("status", {})
        if strategy != "ALL_UPSTREAM_TASKS_COMPLETED" or "taskFinalStatus" not in status:
            yield "report: does not run when the run fails"


CHECKS = {
    "parse": parse_problems,
    "loop": loop_problems,
    "condition": condition_problems,
    "type": type_problems,
    "cache": cache_problems,
    "pod": pod_problems,
    "run": run_problems,
}


def _platform_executors(platform: Spec) -> Spec:
    kubernetes = platform.get("platforms", {}).get("kubernetes", {})
    return kubernetes.get("deploymentSpec", {}).get("executors", {})


def _dags(spec: Spec) -> Iterator[tuple[str, Spec]]:
    for name, component in [("root", spec["root"]), *spec["components"].items()]:
        if "dag" in component:
            yield name, component["dag"]


def _tasks(spec: Spec) -> Iterator[tuple[str, str, Spec]]:
    for dag_name, dag in _dags(spec):
        for name, task in dag["tasks"].items():
            yield dag_name, name, task
