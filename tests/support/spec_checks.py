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
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

Spec = dict[str, Any]

_RUN = "{{$.pipeline_job_uuid}}"
_SECRET = re.compile(r"(?i)secret|token|passw|credential|api_?key|access_key")
_CHANNEL = "pipelinechannel--"
# Steps whose result depends on their parameters alone; all others read what changes.
MAY_BE_CACHED = {"fetch"}


def read(path: Path) -> tuple[Spec, Spec]:
    """Return the specification and the platform document of a compiled pipeline."""
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return spec, platform


def all_problems(spec: Spec, platform: Spec) -> list[str]:
    """Return the problems that all checks find, each with the check's name."""
    return [f"{name}: {p}" for name, check in CHECKS.items() for p in check(spec, platform)]


def parse_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield keys that Kubeflow does not know and values of a wrong type."""
    parts = [
        ("pipeline", spec, pb.PipelineSpec()),
        ("deploymentSpec", spec.get("deploymentSpec", {}), pb.PipelineDeploymentConfig()),
        ("platform", platform, pb.PlatformSpec()),
    ]
    executors = _platform_executors(platform)
    parts += [(name, part, KubernetesExecutorConfig()) for name, part in executors.items()]
    for name, part, message in parts:
        try:
            json_format.ParseDict(part, message)
        except json_format.ParseError as error:
            yield f"{name}: {error}"


def reference_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield references to missing names, unused names and missing inputs."""
    components = spec["components"]
    executors = spec["deploymentSpec"]["executors"]
    used = set()
    for name, component in components.items():
        label = component.get("executorLabel")
        if label is not None and label not in executors:
            yield f"{name}: executorLabel {label} does not exist"
        if (label is None) == ("dag" not in component):
            yield f"{name}: is neither a task nor a DAG, or both"
        used.add(label)
    yield from (f"executor {name}: is not used" for name in set(executors) - used)
    for name in set(_platform_executors(platform)) ^ set(executors):
        yield f"platform: executor {name} is in one document only"
    referred = set()
    for dag_name, dag, declared in _dags(spec):
        tasks = dag["tasks"]
        for name, task in tasks.items():
            where = f"{dag_name}.{name}"
            ref = task["componentRef"]["name"]
            referred.add(ref)
            if ref not in components:
                yield f"{where}: component {ref} does not exist"
                continue
            before = task.get("dependentTasks", [])
            yield from (
                f"{where}: waits for {t}, which does not exist" for t in before if t not in tasks
            )
            yield from _input_problems(where, task, tasks, components, declared)
            yield from _iterator_problems(where, task, components[ref])
        yield from _output_problems(dag_name, dag, components)
        yield from _cycle(dag_name, tasks)
    yield from (f"component {name}: is not used" for name in set(components) - referred)


def loop_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield inputs of loop bodies that kfp.local silently replaces, and loops without a limit."""
    given = set(spec["root"]["inputDefinitions"]["parameters"])
    for dag_name, dag, _ in _dags(spec):
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


def cache_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield cached steps whose result depends on more than their parameters."""
    for dag_name, task_name, task in _tasks(spec):
        if "executorLabel" not in spec["components"].get(task["componentRef"]["name"], {}):
            continue
        options = task.get("cachingOptions")
        if options is None:
            yield f"{dag_name}.{task_name}: has no caching option"
        elif options.get("enableCache") and task_name not in MAY_BE_CACHED:
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


def run_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Yield parameters without defaults or with secrets, missing retries and a missing report."""
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
    "reference": reference_problems,
    "loop": loop_problems,
    "cache": cache_problems,
    "pod": pod_problems,
    "run": run_problems,
}


def _platform_executors(platform: Spec) -> Spec:
    kubernetes = platform.get("platforms", {}).get("kubernetes", {})
    return kubernetes.get("deploymentSpec", {}).get("executors", {})


def _dags(spec: Spec) -> Iterator[tuple[str, Spec, Spec]]:
    """Yield each DAG's name, the DAG, and its declared inputs."""
    for name, component in [("root", spec["root"]), *spec["components"].items()]:
        if "dag" in component:
            yield name, component["dag"], component.get("inputDefinitions", {})


def _tasks(spec: Spec) -> Iterator[tuple[str, str, Spec]]:
    for dag_name, dag, _ in _dags(spec):
        for name, task in dag["tasks"].items():
            yield dag_name, name, task


def _input_problems(
    where: str, task: Spec, tasks: Spec, components: Spec, declared: Spec
) -> Iterator[str]:
    required = components[task["componentRef"]["name"]].get("inputDefinitions", {})
    for kind, suffix in (("parameters", "Parameter"), ("artifacts", "Artifact")):
        given = task.get("inputs", {}).get(kind, {})
        needed = required.get(kind, {})
        item = task.get("parameterIterator", {}).get("itemInput")
        for name, definition in needed.items():
            if name not in given and not definition.get("isOptional") and name != item:
                yield f"{where}: {name} is missing"
        for name, value in given.items():
            if name not in needed:
                yield f"{where}: gets {name}, which it does not declare"
                continue
            source = value.get(f"componentInput{suffix}")
            if source is not None and source not in declared.get(kind, {}):
                yield f"{where}: {name} comes from {source}, which its DAG does not declare"
            elif source is not None and kind == "parameters":
                yield from _type_problem(where, name, declared[kind][source], needed[name])
            output = value.get(f"taskOutput{suffix}")
            if output is not None:
                yield from _producer_problems(
                    where, name, output, f"output{suffix}Key", kind, task, tasks, components, needed
                )
            final = value.get("taskFinalStatus", {}).get("producerTask")
            if final is not None and final not in tasks:
                yield f"{where}: {name} is the status of {final}, which does not exist"


def _producer_problems(
    where: str,
    name: str,
    output: Spec,
    key: str,
    kind: str,
    task: Spec,
    tasks: Spec,
    components: Spec,
    needed: Spec,
) -> Iterator[str]:
    producer = output["producerTask"]
    if producer not in tasks:
        yield f"{where}: {name} comes from task {producer}, which does not exist"
        return
    if producer not in task.get("dependentTasks", []):
        yield f"{where}: uses {name} of {producer} and does not wait for it"
    outputs = components.get(tasks[producer]["componentRef"]["name"], {}).get(
        "outputDefinitions", {}
    )
    if output[key] not in outputs.get(kind, {}):
        yield f"{where}: {name} is {output[key]} of {producer}, which has no such output"
    elif kind == "parameters":
        yield from _type_problem(where, name, outputs[kind][output[key]], needed[name])


def _type_problem(where: str, name: str, source: Spec, target: Spec) -> Iterator[str]:
    given, expected = source.get("parameterType"), target.get("parameterType")
    if given != expected:
        yield f"{where}: {name} is {given}, not {expected}"


def _iterator_problems(where: str, task: Spec, component: Spec) -> Iterator[str]:
    iterator = task.get("parameterIterator")
    if iterator is None:
        return
    items = iterator["items"].get("inputParameter")
    if items is not None and items not in task.get("inputs", {}).get("parameters", {}):
        yield f"{where}: iterates over {items}, which is not an input"
    if iterator["itemInput"] not in component.get("inputDefinitions", {}).get("parameters", {}):
        yield f"{where}: its item is {iterator['itemInput']}, which its body does not declare"


def _output_problems(dag_name: str, dag: Spec, components: Spec) -> Iterator[str]:
    for name, output in dag.get("outputs", {}).get("parameters", {}).items():
        source = output["valueFromParameter"]
        task = dag["tasks"].get(source["producerSubtask"])
        if task is None:
            yield f"{dag_name}: {name} comes from {source['producerSubtask']}, which does not exist"
            continue
        outputs = components.get(task["componentRef"]["name"], {}).get("outputDefinitions", {})
        if source["outputParameterKey"] not in outputs.get("parameters", {}):
            yield f"{dag_name}: {name} is {source['outputParameterKey']}, which is no output"


def _cycle(dag_name: str, tasks: Spec) -> Iterator[str]:
    waiting = {
        name: set(task.get("dependentTasks", [])) & set(tasks) for name, task in tasks.items()
    }
    while ready := [name for name, before in waiting.items() if not before]:
        for name in ready:
            del waiting[name]
        for before in waiting.values():
            before.difference_update(ready)
    if waiting:
        yield f"{dag_name}: {', '.join(sorted(waiting))} wait for each other"
