"""The compiled pipelines have no problem, and the checks find pipelines broken on purpose."""

from __future__ import annotations

import copy

import pytest
from c3d_pipelines.kubeflow.compile import PIPELINES, compiled_path
from support import spec_checks


def part_of(document, *path):
    """Return a part of a document by its keys."""
    for key in path:
        document = document[key]
    return document


def rename(new, *path):
    """Return a change that misspells the last key of a path."""

    def mutate(document):
        parent = part_of(document, *path[:-1])
        parent[new] = parent.pop(path[-1])

    return mutate


def put(value, *path):
    """Return a change that sets a value."""

    def mutate(document):
        part_of(document, *path[:-1])[path[-1]] = value

    return mutate


def drop(*path):
    """Return a change that removes a key."""

    def mutate(document):
        del part_of(document, *path[:-1])[path[-1]]

    return mutate


ROOT = ("root", "dag", "tasks")
RUN = ("components", "comp-exit-handler-1", "dag", "tasks")
BODY = ("components", "comp-for-loop-2", "dag", "tasks", "extract")
LOOP = (*RUN, "for-loop-2")
POD = ("deploymentSpec", "executors", "exec-extract", "container")
PLATFORM = ("platforms", "kubernetes")
PLATFORM_POD = (*PLATFORM, "deploymentSpec", "executors", "exec-extract")
GIVEN = ("root", "inputDefinitions", "parameters")
RESULT = {"taskOutputParameter": {"producerTask": "preflight", "outputParameterKey": "Output"}}


def use_another_tasks_result(spec):
    """Change the loop as kfp compiles it for a body with another task's parameter."""
    channel = "pipelinechannel--preflight-Output"
    part_of(spec, *LOOP, "inputs", "parameters")[channel] = RESULT
    declared = part_of(spec, "components", "comp-for-loop-2", "inputDefinitions", "parameters")
    declared[channel] = {"parameterType": "STRING"}
    inputs = part_of(spec, *BODY, "inputs", "parameters")
    inputs["model_digest"] = {"componentInputParameter": channel}


def loop_in_a_loop(spec):
    part_of(spec, *BODY)["parameterIterator"] = {
        "itemInput": "shard",
        "items": {"inputParameter": "shard"},
    }


def optional_parameter(spec):
    part_of(spec, *GIVEN)["labels"] = {"parameterType": "STRING", "isOptional": True}


# Pipeline documents: the change, the check that finds it, and a part of the check's message.
IN_SPEC = {
    "a misspelt key of the pipeline": (rename("componets", "components"), "parse", "componets"),
    "a misspelt key of a task": (
        rename("componentRefs", *RUN, "plan", "componentRef"),
        "parse",
        "componentRefs",
    ),
    "a misspelt key of caching": (
        put({"enableCaching": True}, *BODY, "cachingOptions"),
        "parse",
        "enableCaching",
    ),
    "a misspelt key of retrying": (
        rename("maxRetries", *BODY, "retryPolicy", "maxRetryCount"),
        "parse",
        "maxRetries",
    ),
    "a misspelt key of a container": (rename("images", *POD, "image"), "parse", "images"),
    "a misspelt key of resources": (
        rename("resourceMemLimit", *POD, "resources", "resourceMemoryLimit"),
        "parse",
        "resourceMemLimit",
    ),
    "a value of another type": (
        put("many", *BODY, "retryPolicy", "maxRetryCount"),
        "parse",
        "many",
    ),
    "an unknown type of parameter": (
        put("TEXT", *GIVEN, "videos", "parameterType"),
        "parse",
        "TEXT",
    ),
    "a missing component": (drop("components", "comp-gate"), "reference", "comp-gate"),
    "an unused component": (drop(*RUN, "gate"), "reference", "is not used"),
    "another executor's label": (
        put("exec-gaet", "components", "comp-gate", "executorLabel"),
        "reference",
        "exec-gaet",
    ),
    "an input that its DAG does not declare": (
        drop(
            *("components", "comp-exit-handler-1", "inputDefinitions", "parameters"),
            "pipelinechannel--stride",
        ),
        "reference",
        "pipelinechannel--stride",
    ),
    "an input that a loop does not declare": (
        drop(
            *("components", "comp-for-loop-2", "inputDefinitions", "parameters"),
            "pipelinechannel--model_digest",
        ),
        "reference",
        "pipelinechannel--model_digest",
    ),
    "an input that its step does not declare": (
        put({"runtimeValue": {"constant": 1}}, *RUN, "gate", "inputs", "parameters", "most"),
        "reference",
        "most",
    ),
    "a missing input": (
        drop(*RUN, "gate", "inputs", "parameters", "max_failed"),
        "reference",
        "max_failed is missing",
    ),
    "a missing artifact": (
        drop(*BODY, "inputs", "artifacts", "settings"),
        "reference",
        "settings is missing",
    ),
    "a task that waits for a missing one": (
        put(["publisch"], *RUN, "gate", "dependentTasks"),
        "reference",
        "publisch",
    ),
    "a task that does not wait for its input": (
        drop(*RUN, "publish", "dependentTasks"),
        "reference",
        "does not wait",
    ),
    "an unknown output": (
        put(
            "plans",
            *(*LOOP, "inputs", "artifacts", "pipelinechannel--plan-plan"),
            *("taskOutputArtifact", "outputArtifactKey"),
        ),
        "reference",
        "plans",
    ),
    "a parameter of another type than its step has": (
        put("STRING", *GIVEN, "max_failed", "parameterType"),
        "reference",
        "max_failed is STRING",
    ),
    "a loop over something that is not an input": (
        put("shards", *LOOP, "parameterIterator", "items", "inputParameter"),
        "reference",
        "iterates over shards",
    ),
    "a loop whose body does not declare its item": (
        put("item", *LOOP, "parameterIterator", "itemInput"),
        "reference",
        "its item is item",
    ),
    "tasks that wait for each other": (
        put(["gate"], *RUN, "plan", "dependentTasks"),
        "reference",
        "wait for each other",
    ),
    "a status of a missing task": (
        put(
            "exit-handler-2",
            *(*ROOT, "report", "inputs", "parameters", "status"),
            *("taskFinalStatus", "producerTask"),
        ),
        "reference",
        "exit-handler-2",
    ),
    "another task's result in a loop": (
        use_another_tasks_result,
        "loop",
        "model_digest is another task's parameter",
    ),
    "a loop in a loop": (loop_in_a_loop, "loop", "a loop or a condition in a loop"),
    "a condition in a loop": (
        put({"condition": "inputs.x == 'y'"}, *BODY, "triggerPolicy"),
        "loop",
        "a loop or a condition in a loop",
    ),
    "a loop without a limit": (drop(*LOOP, "iteratorPolicy"), "loop", "no limit"),
    "a cached plan": (
        put({"enableCache": True}, *RUN, "plan", "cachingOptions"),
        "cache",
        "plan: must not be cached",
    ),
    "a cached report": (
        put({"enableCache": True}, *ROOT, "report", "cachingOptions"),
        "cache",
        "report: must not be cached",
    ),
    "a step without a caching option": (
        drop(*RUN, "publish", "cachingOptions"),
        "cache",
        "has no caching option",
    ),
    "a cached shard": (
        put({"enableCache": True}, *BODY, "cachingOptions"),
        "cache",
        "extract: must not be cached",
    ),
    "a pod that installs packages": (
        put(["sh", "-c", "python3 -m pip install kfp"], *POD, "command"),
        "pod",
        "installs packages",
    ),
    "a pod without an image": (put("", *POD, "image"), "pod", "no image"),
    "a pod without limits": (
        drop(*POD, "resources", "resourceMemoryLimit"),
        "pod",
        "no MemoryLimit",
    ),
    "a secret in a container's environment": (
        put([{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}], *POD, "env"),
        "pod",
        "is readable by everybody",
    ),
    "an optional parameter": (optional_parameter, "run", "labels: no default"),
    "an empty default": (put("", *GIVEN, "model", "defaultValue"), "run", "model: no default"),
    "a secret as a parameter": (
        put(
            {"parameterType": "STRING", "defaultValue": "x", "isOptional": True},
            *(*GIVEN, "s3_token"),
        ),
        "run",
        "s3_token: Kubeflow shows it",
    ),
    "shards without retries": (drop(*BODY, "retryPolicy"), "run", "is not retried"),
    "retries without a pause": (
        drop(*BODY, "retryPolicy", "backoffDuration"),
        "run",
        "is not retried",
    ),
    "a run's name that no backend replaces": (
        put(
            "run-{{$.pipeline_job_uuid}}",
            *(*RUN, "plan", "inputs", "parameters", "run", "runtimeValue", "constant"),
        ),
        "run",
        "run is 'run-",
    ),
    "a report only after success": (
        drop(*ROOT, "report", "triggerPolicy"),
        "run",
        "does not run when the run fails",
    ),
}

# Platform documents, likewise.
IN_PLATFORM = {
    "a misspelt key of the platform": (
        rename("pipelineConfigs", *PLATFORM, "pipelineConfig"),
        "parse",
        "pipelineConfigs",
    ),
    "a misspelt key of a run's lifetime": (
        rename("ttl", *PLATFORM, "pipelineConfig", "resourceTtlOnCompletion"),
        "parse",
        "ttl",
    ),
    # PlatformSpec alone accepts these: an executor's entry has any form there.
    "a misspelt key of a pod": (
        rename("nodeSelectors", *PLATFORM_POD, "pvcMount"),
        "parse",
        "nodeSel",
    ),
    "a misspelt key of a mount": (
        rename("path", *PLATFORM_POD, "pvcMount", 0, "mountPath"),
        "parse",
        "path",
    ),
    "a misspelt key of a security context": (
        rename("runAsNonroot", *PLATFORM_POD, "securityContext", "runAsNonRoot"),
        "parse",
        "runAsNonroot",
    ),
    "a step without an entry": (drop(*PLATFORM_POD), "reference", "exec-extract is in one"),
    "a pod that runs as root": (
        put("0", *PLATFORM_POD, "securityContext", "runAsUser"),
        "pod",
        "may be root",
    ),
    "a pod without a user": (drop(*PLATFORM_POD, "securityContext"), "pod", "may be root"),
    "a secret that must exist": (
        put([{"secretName": "s3", "keyToEnv": []}], *PLATFORM_POD, "secretAsEnv"),
        "pod",
        "does not start without Secret s3",
    ),
}


@pytest.fixture(scope="module")
def compiled():
    return spec_checks.read(compiled_path("c3d-bulk-extraction"))


@pytest.mark.parametrize("name", PIPELINES)
def test_compiled_pipeline_has_no_problem(name):
    assert spec_checks.all_problems(*spec_checks.read(compiled_path(name))) == []


def test_checks_find_each_problem(compiled):
    for index, cases in enumerate((IN_SPEC, IN_PLATFORM)):
        for case, (change, check, message) in cases.items():
            documents = copy.deepcopy(compiled)
            change(documents[index])
            assert documents[index] != compiled[index], case
            problems = list(spec_checks.CHECKS[check](*documents))
            assert any(message in problem for problem in problems), (case, problems)
