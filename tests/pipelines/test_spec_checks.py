"""The compiled pipelines have nothing wrong, and what is broken on purpose is found."""

from __future__ import annotations

import copy

import pytest
from c3d_pipelines.kubeflow.compile import PIPELINES, compiled_path
from support import spec_checks


def at(document, *path):
    """A part of a document, by its keys."""
    for key in path:
        document = document[key]
    return document


def rename(new, *path):
    """Misspell the last key of a path."""

    def mutate(document):
        parent = at(document, *path[:-1])
        parent[new] = parent.pop(path[-1])

    return mutate


def put(value, *path):
    """Set a value, new or another one."""

    def mutate(document):
        at(document, *path[:-1])[path[-1]] = value

    return mutate


def drop(*path):
    """Take a key away."""

    def mutate(document):
        del at(document, *path[:-1])[path[-1]]

    return mutate


ROOT = ("root", "dag", "tasks")
RUN = ("components", "comp-exit-handler-1", "dag", "tasks")
BODY = ("components", "comp-for-loop-2", "dag", "tasks", "extract")
LOOP = (*RUN, "for-loop-2")
POD = ("deploymentSpec", "executors", "exec-extract", "container")
PLATFORM = ("platforms", "kubernetes")
PLACED = (*PLATFORM, "deploymentSpec", "executors", "exec-extract")
GIVEN = ("root", "inputDefinitions", "parameters")
RESULT = {"taskOutputParameter": {"producerTask": "preflight", "outputParameterKey": "Output"}}


def take_another_tasks_result(spec):
    """What kfp compiles when a loop's body is given another task's parameter: the silent trap."""
    channel = "pipelinechannel--preflight-Output"
    at(spec, *LOOP, "inputs", "parameters")[channel] = RESULT
    declared = at(spec, "components", "comp-for-loop-2", "inputDefinitions", "parameters")
    declared[channel] = {"parameterType": "STRING"}
    inputs = at(spec, *BODY, "inputs", "parameters")
    inputs["model_digest"] = {"componentInputParameter": channel}


def loop_in_a_loop(spec):
    at(spec, *BODY)["parameterIterator"] = {
        "itemInput": "shard",
        "items": {"inputParameter": "shard"},
    }


def optional_parameter(spec):
    at(spec, *GIVEN)["labels"] = {"parameterType": "STRING", "isOptional": True}


# In the pipeline's document: how it is broken, the check that has to see it, a word that it says.
IN_SPEC = {
    "a misspelt key of the pipeline": (rename("componets", "components"), "parse", "componets"),
    "a misspelt key of a task": (
        rename("componentRefs", *RUN, "plan", "componentRef"),
        "parse",
        "componentRefs",
    ),
    "a misspelt key of caching": (
        rename("enableCaching", *BODY, "cachingOptions", "enableCache"),
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
    "a value of another kind": (
        put("many", *BODY, "retryPolicy", "maxRetryCount"),
        "parse",
        "many",
    ),
    "a kind of parameter that there is not": (
        put("TEXT", *GIVEN, "videos", "parameterType"),
        "parse",
        "TEXT",
    ),
    "a component that is not there": (drop("components", "comp-gate"), "reference", "comp-gate"),
    "a component that nobody uses": (drop(*RUN, "gate"), "reference", "nobody uses"),
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
    "an input that is not given": (
        drop(*RUN, "gate", "inputs", "parameters", "max_failed"),
        "reference",
        "max_failed is not given",
    ),
    "an artifact that is not given": (
        drop(*BODY, "inputs", "artifacts", "settings"),
        "reference",
        "settings is not given",
    ),
    "a task that waits for one that is not there": (
        put(["publisch"], *RUN, "gate", "dependentTasks"),
        "reference",
        "publisch",
    ),
    "a task that does not wait for what it takes": (
        drop(*RUN, "publish", "dependentTasks"),
        "reference",
        "does not wait",
    ),
    "an output that nobody makes": (
        put(
            "plans",
            *(*LOOP, "inputs", "artifacts", "pipelinechannel--plan-plan"),
            *("taskOutputArtifact", "outputArtifactKey"),
        ),
        "reference",
        "plans",
    ),
    "a parameter of another kind than its step wants": (
        put("STRING", *GIVEN, "max_failed", "parameterType"),
        "reference",
        "max_failed is STRING",
    ),
    "a loop over what it is not given": (
        put("shards", *LOOP, "parameterIterator", "items", "inputParameter"),
        "reference",
        "goes over shards",
    ),
    "a loop whose body does not know its item": (
        put("item", *LOOP, "parameterIterator", "itemInput"),
        "reference",
        "its item is item",
    ),
    "tasks that wait for each other": (
        put(["gate"], *RUN, "plan", "dependentTasks"),
        "reference",
        "wait for each other",
    ),
    "a status of a task that is not there": (
        put(
            "exit-handler-2",
            *(*ROOT, "report", "inputs", "parameters", "status"),
            *("taskFinalStatus", "producerTask"),
        ),
        "reference",
        "exit-handler-2",
    ),
    "another task's result in a loop": (
        take_another_tasks_result,
        "loop",
        "model_digest is another task's parameter",
    ),
    "a loop in a loop": (loop_in_a_loop, "loop", "a loop or a condition in a loop"),
    "a condition in a loop": (
        put({"condition": "inputs.x == 'y'"}, *BODY, "triggerPolicy"),
        "loop",
        "a loop or a condition in a loop",
    ),
    "as many pods as there are shards": (drop(*LOOP, "iteratorPolicy"), "loop", "no limit"),
    "a plan from the cache": (
        put({"enableCache": True}, *RUN, "plan", "cachingOptions"),
        "cache",
        "plan: must not be cached",
    ),
    "a report from the cache": (
        put({"enableCache": True}, *ROOT, "report", "cachingOptions"),
        "cache",
        "report: must not be cached",
    ),
    "a step that leaves caching to the submitter": (
        drop(*RUN, "publish", "cachingOptions"),
        "cache",
        "does not say",
    ),
    "shards that are known without the model": (
        drop(*BODY, "inputs", "parameters", "model_digest"),
        "cache",
        "its cache's key is ['shard']",
    ),
    "shards without a cache": (put({}, *BODY, "cachingOptions"), "cache", "is not cached"),
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
        "is in the open",
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
    "shards that are not tried again": (drop(*BODY, "retryPolicy"), "run", "is not tried again"),
    "retries without a pause": (
        drop(*BODY, "retryPolicy", "backoffDuration"),
        "run",
        "is not tried again",
    ),
    "a run's name that no backend gives": (
        put(
            "run-{{$.pipeline_job_uuid}}",
            *(*RUN, "plan", "inputs", "parameters", "run", "runtimeValue", "constant"),
        ),
        "run",
        "run is 'run-",
    ),
    "a report only of what went well": (
        drop(*ROOT, "report", "triggerPolicy"),
        "run",
        "is not done when the run fails",
    ),
}

# In the platform's document.
IN_PLATFORM = {
    "a misspelt key of the platform": (
        rename("pipelineConfigs", *PLATFORM, "pipelineConfig"),
        "parse",
        "pipelineConfigs",
    ),
    "a misspelt key of a run's end": (
        rename("ttl", *PLATFORM, "pipelineConfig", "resourceTtlOnCompletion"),
        "parse",
        "ttl",
    ),
    # PlatformSpec alone would take these: an executor's entry is a free form to it.
    "a misspelt key of a pod": (rename("nodeSelectors", *PLACED, "pvcMount"), "parse", "nodeSel"),
    "a misspelt key of a mount": (
        rename("path", *PLACED, "pvcMount", 0, "mountPath"),
        "parse",
        "path",
    ),
    "a misspelt key of a security context": (
        rename("runAsNonroot", *PLACED, "securityContext", "runAsNonRoot"),
        "parse",
        "runAsNonroot",
    ),
    "a step that is nowhere placed": (drop(*PLACED), "reference", "exec-extract is in one"),
    "a pod of root": (put("0", *PLACED, "securityContext", "runAsUser"), "pod", "may be root"),
    "a pod of anybody": (drop(*PLACED, "securityContext"), "pod", "may be root"),
    "a secret that must be there": (
        put([{"secretName": "s3", "keyToEnv": []}], *PLACED, "secretAsEnv"),
        "pod",
        "does not start without Secret s3",
    ),
}


@pytest.fixture(scope="module")
def compiled():
    return spec_checks.read(compiled_path("c3d-bulk-extraction"))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_compiled_pipeline_has_no_problem(name):
    assert spec_checks.all_problems(*spec_checks.read(compiled_path(name))) == []


@pytest.mark.parametrize("name", IN_SPEC)
def test_what_is_broken_in_a_pipeline_is_found(compiled, name):
    mutate, check, word = IN_SPEC[name]
    spec, platform = copy.deepcopy(compiled)
    mutate(spec)
    assert spec != compiled[0]
    _assert_found(spec, platform, check, word)


@pytest.mark.parametrize("name", IN_PLATFORM)
def test_what_is_broken_in_a_platform_document_is_found(compiled, name):
    mutate, check, word = IN_PLATFORM[name]
    spec, platform = copy.deepcopy(compiled)
    mutate(platform)
    assert platform != compiled[1]
    _assert_found(spec, platform, check, word)


def _assert_found(spec, platform, check, word):
    found = list(spec_checks.CHECKS[check](spec, platform))
    assert any(word in problem for problem in found), found
