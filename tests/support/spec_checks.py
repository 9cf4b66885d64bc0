"""What must be true of every compiled pipeline, asked of its YAML alone.

Each check takes the two documents of the file and gives the problems that it finds, in words.
test_spec_checks.py proves each of them with pipelines that were broken on purpose.
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
# The steps that a cache may stand in for; all others look at what changes.
MAY_BE_CACHED = {"extract", "fetch"}


def read(path: Path) -> tuple[Spec, Spec]:
    """The specification and the platform document of a compiled pipeline."""
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return spec, platform


def all_problems(spec: Spec, platform: Spec) -> list[str]:
    """What any check finds, each with the check's name before it."""
    return [f"{name}: {p}" for name, check in CHECKS.items() for p in check(spec, platform)]


def parse_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Every key is one that Kubeflow knows, and every value of its kind."""
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
    """Every name that is used is there, and everything that is needed is given."""
    components = spec["components"]
    executors = spec["deploymentSpec"]["executors"]
    used = set()
    for name, component in components.items():
        label = component.get("executorLabel")
        if label is not None and label not in executors:
            yield f"{name}: executorLabel {label} is not there"
        if (label is None) == ("dag" not in component):
            yield f"{name}: is neither a task nor a DAG, or both"
        used.add(label)
    yield from (f"executor {name}: nobody uses it" for name in set(executors) - used)
    for name in set(_platform_executors(platform)) ^ set(executors):
        yield f"platform: executor {name} is in one document only"
    referred = set()
    for place, dag, declared in _dags(spec):
        tasks = dag["tasks"]
        for name, task in tasks.items():
            where = f"{place}.{name}"
            ref = task["componentRef"]["name"]
            referred.add(ref)
            if ref not in components:
                yield f"{where}: component {ref} is not there"
                continue
            before = task.get("dependentTasks", [])
            yield from (f"{where}: waits for {t}, not there" for t in before if t not in tasks)
            yield from _input_problems(where, task, tasks, components, declared)
            yield from _iterator_problems(where, task, components[ref])
        yield from _output_problems(place, dag, components)
        yield from _cycle(place, tasks)
    yield from (f"component {name}: nobody uses it" for name in set(components) - referred)


def loop_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Loop bodies use only what kfp.local does not silently put something else in the place of."""
    given = set(spec["root"]["inputDefinitions"]["parameters"])
    for place, dag, _ in _dags(spec):
        for name, task in dag["tasks"].items():
            if "parameterIterator" not in task:
                continue
            item = task["parameterIterator"]["itemInput"]
            if not task.get("iteratorPolicy", {}).get("parallelismLimit"):
                yield f"{place}.{name}: no limit to how many at a time"
            loop = spec["components"].get(task["componentRef"]["name"], {})
            for inner, body in loop.get("dag", {"tasks": {}})["tasks"].items():
                if "parameterIterator" in body or "condition" in body.get("triggerPolicy", {}):
                    yield f"{place}.{name}.{inner}: a loop or a condition in a loop"
                for key, value in body.get("inputs", {}).get("parameters", {}).items():
                    source = value.get("componentInputParameter", item)
                    if source != item and source.removeprefix(_CHANNEL) not in given:
                        yield f"{place}.{name}.{inner}: {key} is another task's parameter"


def cache_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Only steps whose parameters say all that their result hangs on may be cached."""
    for place, task_name, task in _tasks(spec):
        if "executorLabel" not in spec["components"].get(task["componentRef"]["name"], {}):
            continue
        options = task.get("cachingOptions")
        if options is None:
            yield f"{place}.{task_name}: does not say whether it may be cached"
        elif options.get("enableCache") and task_name not in MAY_BE_CACHED:
            yield f"{place}.{task_name}: must not be cached"
        if task_name == "extract":
            parameters = task.get("inputs", {}).get("parameters", {})
            if set(parameters) != {"shard", "model_digest"}:
                yield f"{place}.{task_name}: its cache's key is {sorted(parameters)}"
            if not (options or {}).get("enableCache"):
                yield f"{place}.{task_name}: is not cached"


def pod_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Pods install nothing, hold no secret, are not root, and say what they need."""
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        if "pip install" in " ".join([*container.get("command", []), *container.get("args", [])]):
            yield f"{name}: installs packages when it starts"
        if not container.get("image"):
            yield f"{name}: no image"
        resources = container.get("resources", {})
        for key in ("CpuRequest", "CpuLimit", "MemoryRequest", "MemoryLimit"):
            if not resources.get(f"resource{key}"):
                yield f"{name}: no {key}"
        for variable in container.get("env", []):
            if _SECRET.search(variable["name"]) and not variable["name"].endswith("_FILE"):
                yield f"{name}: {variable['name']} is in the open"
    for name, executor in _platform_executors(platform).items():
        context = executor.get("securityContext", {})
        if not context.get("runAsNonRoot") or not int(context.get("runAsUser", 0)):
            yield f"{name}: may be root"
        for secret in executor.get("secretAsEnv", []):
            if not secret.get("optional"):
                yield f"{name}: does not start without Secret {secret.get('secretName')}"


def run_problems(spec: Spec, platform: Spec) -> Iterator[str]:
    """Parameters have defaults and are no secrets; shards are retried; the end is reported."""
    for name, parameter in spec["root"].get("inputDefinitions", {}).get("parameters", {}).items():
        if parameter.get("defaultValue") in (None, ""):
            yield f"parameter {name}: no default, or an empty one"
        if _SECRET.search(name):
            yield f"parameter {name}: Kubeflow shows it to everybody"
    for place, name, task in _tasks(spec):
        policy = task.get("retryPolicy", {})
        if name == "extract" and not (
            policy.get("maxRetryCount") and policy.get("backoffDuration")
        ):
            yield f"{place}.{name}: is not tried again"
        for key, value in task.get("inputs", {}).get("parameters", {}).items():
            constant = value.get("runtimeValue", {}).get("constant")
            if key == "run" and constant != _RUN:
                yield f"{place}.{name}: run is {constant!r}, not {_RUN}"
            elif isinstance(constant, str) and "{{" in constant and constant != _RUN:
                yield f"{place}.{name}: {key}: {constant!r} is replaced as a whole or not at all"
    names = {name for _, name, _ in _tasks(spec)}
    if "extract" in names:
        last = spec["root"]["dag"]["tasks"].get("report", {})
        strategy = last.get("triggerPolicy", {}).get("strategy")
        status = last.get("inputs", {}).get("parameters", {}).get("status", {})
        if strategy != "ALL_UPSTREAM_TASKS_COMPLETED" or "taskFinalStatus" not in status:
            yield "report: is not done when the run fails"


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
    """Each DAG: its place, itself, and what it declares."""
    for name, component in [("root", spec["root"]), *spec["components"].items()]:
        if "dag" in component:
            yield name, component["dag"], component.get("inputDefinitions", {})


def _tasks(spec: Spec) -> Iterator[tuple[str, str, Spec]]:
    for place, dag, _ in _dags(spec):
        for name, task in dag["tasks"].items():
            yield place, name, task


def _input_problems(
    where: str, task: Spec, tasks: Spec, components: Spec, declared: Spec
) -> Iterator[str]:
    wanted = components[task["componentRef"]["name"]].get("inputDefinitions", {})
    for kind, word in (("parameters", "Parameter"), ("artifacts", "Artifact")):
        given = task.get("inputs", {}).get(kind, {})
        needed = wanted.get(kind, {})
        item = task.get("parameterIterator", {}).get("itemInput")
        for name, definition in needed.items():
            if name not in given and not definition.get("isOptional") and name != item:
                yield f"{where}: {name} is not given"
        for name, value in given.items():
            if name not in needed:
                yield f"{where}: is given {name}, which it does not declare"
                continue
            source = value.get(f"componentInput{word}")
            if source is not None and source not in declared.get(kind, {}):
                yield f"{where}: {name} comes from {source}, which its DAG does not declare"
            elif source is not None and kind == "parameters":
                yield from _type_problem(where, name, declared[kind][source], needed[name])
            output = value.get(f"taskOutput{word}")
            if output is not None:
                yield from _producer_problems(
                    where, name, output, f"output{word}Key", kind, task, tasks, components, needed
                )
            final = value.get("taskFinalStatus", {}).get("producerTask")
            if final is not None and final not in tasks:
                yield f"{where}: {name} is the status of {final}, which is not there"


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
        yield f"{where}: {name} comes from task {producer}, which is not there"
        return
    if producer not in task.get("dependentTasks", []):
        yield f"{where}: takes {name} from {producer} and does not wait for it"
    made = components.get(tasks[producer]["componentRef"]["name"], {}).get("outputDefinitions", {})
    if output[key] not in made.get(kind, {}):
        yield f"{where}: {name} is {output[key]} of {producer}, which does not make that"
    elif kind == "parameters":
        yield from _type_problem(where, name, made[kind][output[key]], needed[name])


def _type_problem(where: str, name: str, made: Spec, wanted: Spec) -> Iterator[str]:
    if made.get("parameterType") != wanted.get("parameterType"):
        yield f"{where}: {name} is {made.get('parameterType')}, not {wanted.get('parameterType')}"


def _iterator_problems(where: str, task: Spec, component: Spec) -> Iterator[str]:
    iterator = task.get("parameterIterator")
    if iterator is None:
        return
    items = iterator["items"].get("inputParameter")
    if items is not None and items not in task.get("inputs", {}).get("parameters", {}):
        yield f"{where}: goes over {items}, which it is not given"
    if iterator["itemInput"] not in component.get("inputDefinitions", {}).get("parameters", {}):
        yield f"{where}: its item is {iterator['itemInput']}, which its body does not declare"


def _output_problems(place: str, dag: Spec, components: Spec) -> Iterator[str]:
    for name, output in dag.get("outputs", {}).get("parameters", {}).items():
        source = output["valueFromParameter"]
        task = dag["tasks"].get(source["producerSubtask"])
        if task is None:
            yield f"{place}: {name} comes from {source['producerSubtask']}, which is not there"
            continue
        made = components.get(task["componentRef"]["name"], {}).get("outputDefinitions", {})
        if source["outputParameterKey"] not in made.get("parameters", {}):
            yield f"{place}: {name} is {source['outputParameterKey']}, which nobody makes"


def _cycle(place: str, tasks: Spec) -> Iterator[str]:
    waiting = {
        name: set(task.get("dependentTasks", [])) & set(tasks) for name, task in tasks.items()
    }
    while ready := [name for name, before in waiting.items() if not before]:
        for name in ready:
            del waiting[name]
        for before in waiting.values():
            before.difference_update(ready)
    if waiting:
        yield f"{place}: {', '.join(sorted(waiting))} wait for each other"
