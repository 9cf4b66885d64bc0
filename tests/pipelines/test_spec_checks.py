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
WORK = ("components", "comp-condition-2", "dag", "tasks")
LOOP = (*WORK, "for-loop-3")
LOOPED = ("components", "comp-for-loop-3")
BODY = (*LOOPED, "dag", "tasks", "extract")
POD = ("deploymentSpec", "executors", "exec-extract", "container")
PLATFORM = ("platforms", "kubernetes")
PLATFORM_POD = (*PLATFORM, "deploymentSpec", "executors", "exec-extract")
CONTEXT = ("securityContext",)
GIVEN = ("root", "inputDefinitions", "parameters")
CONDITION = (*RUN, "condition-2")


def use_another_tasks_result(spec):
    """Change the loop as kfp compiles it for a body with another task's parameter."""
    inputs = part_of(spec, *BODY, "inputs", "parameters")
    inputs["model_digest"] = {"componentInputParameter": "pipelinechannel--plan-Output"}


def items_without_a_type(spec):
    """Change the loop as kfp compiles it for a list without a type of its items."""
    declared = part_of(spec, *LOOPED, "inputDefinitions", "parameters")
    declared["pipelinechannel--plan-shards-loop-item"]["parameterType"] = "STRING"


def condition_on_another_result(spec):
    """Change the condition as kfp compiles it for a result that is not named Output."""
    policy = part_of(spec, *CONDITION, "triggerPolicy")
    policy["condition"] = policy["condition"].replace("plan-Output", "plan-shards")


def loop_in_a_loop(spec):
    part_of(spec, *BODY)["parameterIterator"] = {
        "itemInput": "shard",
        "items": {"inputParameter": "shard"},
    }


def optional_parameter(spec):
    part_of(spec, *GIVEN)["labels"] = {"parameterType": "STRING", "isOptional": True}


# The check that finds a problem, a part of its message, and the change that makes the problem.
IN_SPEC = [
    ("parse", "componets", rename("componets", "components")),
    ("parse", "componentRefs", rename("componentRefs", *RUN, "plan", "componentRef")),
    ("parse", "enableCaching", put({"enableCaching": True}, *BODY, "cachingOptions")),
    ("parse", "maxRetries", rename("maxRetries", *BODY, "retryPolicy", "maxRetryCount")),
    ("parse", "images", rename("images", *POD, "image")),
    ("parse", "resourceMem", rename("resourceMem", *POD, "resources", "resourceMemoryLimit")),
    ("parse", "many", put("many", *BODY, "retryPolicy", "maxRetryCount")),
    ("parse", "TEXT", put("TEXT", *GIVEN, "videos", "parameterType")),
    ("parse", "comp-plan", drop("components", "comp-plan")),
    ("parse", "exec-paln", put("exec-paln", "components", "comp-plan", "executorLabel")),
    ("loop", "model_digest is another task's parameter", use_another_tasks_result),
    ("loop", "a loop or a condition in a loop", loop_in_a_loop),
    (
        "loop",
        "a loop or a condition in a loop",
        put({"condition": "inputs.x == 'y'"}, *BODY, "triggerPolicy"),
    ),
    ("loop", "no limit", drop(*LOOP, "iteratorPolicy")),
    ("condition", "plan-shards, not on Output", condition_on_another_result),
    ("type", "is STRING, and NUMBER_INTEGER is expected", items_without_a_type),
    ("type", "videos is NUMBER_DOUBLE", put("NUMBER_DOUBLE", *GIVEN, "videos", "parameterType")),
    (
        "cache",
        "plan: must not be cached",
        put({"enableCache": True}, *RUN, "plan", "cachingOptions"),
    ),
    (
        "cache",
        "report: must not be cached",
        put({"enableCache": True}, *ROOT, "report", "cachingOptions"),
    ),
    ("cache", "has no caching option", drop(*WORK, "publish", "cachingOptions")),
    (
        "cache",
        "extract: must not be cached",
        put({"enableCache": True}, *BODY, "cachingOptions"),
    ),
    ("pod", "installs packages", put(["sh", "-c", "python3 -m pip install kfp"], *POD, "command")),
    ("pod", "no image", put("", *POD, "image")),
    ("pod", "no MemoryLimit", drop(*POD, "resources", "resourceMemoryLimit")),
    ("pod", "is readable by everybody", put([{"name": "AWS_SECRET", "value": "x"}], *POD, "env")),
    ("run", "labels: no default", optional_parameter),
    ("run", "model: no default", put("", *GIVEN, "model", "defaultValue")),
    ("run", "s3_token: Kubeflow shows it", put({"defaultValue": "x"}, *GIVEN, "s3_token")),
    ("run", "is not retried", drop(*BODY, "retryPolicy")),
    ("run", "is not retried", drop(*BODY, "retryPolicy", "backoffDuration")),
    ("run", "retries end before", drop(*BODY, "retryPolicy", "backoffMaxDuration")),
    # Four attempts of 12 hours, and pauses of 60, 120 and 240 s.
    ("run", "retries end before", put("173220s", *BODY, "retryPolicy", "backoffMaxDuration")),
    (
        "run",
        "run is 'run-",
        put(
            "run-{{$.pipeline_job_uuid}}",
            *(*RUN, "plan", "inputs", "parameters", "run", "runtimeValue", "constant"),
        ),
    ),
    ("run", "does not run when the run fails", drop(*ROOT, "report", "triggerPolicy")),
]
IN_PLATFORM = [
    ("parse", "pipelineConfigs", put({}, *PLATFORM, "pipelineConfigs")),
    ("parse", "ttl", put({"ttl": 1}, *PLATFORM, "pipelineConfig")),
    # PlatformSpec alone accepts these: an executor's entry has any form there.
    ("parse", "nodeSel", rename("nodeSelectors", *PLATFORM_POD, "pvcMount")),
    ("parse", "path", rename("path", *PLATFORM_POD, "pvcMount", 0, "mountPath")),
    ("parse", "runAsNonroot", rename("runAsNonroot", *PLATFORM_POD, *CONTEXT, "runAsNonRoot")),
    ("parse", "exec-other", rename("exec-other", *PLATFORM_POD)),
    ("pod", "may be root", put("0", *PLATFORM_POD, *CONTEXT, "runAsUser")),
    ("pod", "may be root", drop(*PLATFORM_POD, *CONTEXT)),
    (
        "pod",
        "does not start without Secret s3",
        put([{"secretName": "s3", "keyToEnv": []}], *PLATFORM_POD, "secretAsEnv"),
    ),
]


@pytest.fixture(scope="module")
def compiled():
    return spec_checks.read(compiled_path("c3d-bulk-extraction"))


@pytest.mark.parametrize("name", PIPELINES)
def test_compiled_pipeline_has_no_problem(name):
    assert spec_checks.all_problems(*spec_checks.read(compiled_path(name))) == []


def test_checks_find_each_problem(compiled):
    for index, cases in enumerate((IN_SPEC, IN_PLATFORM)):
        for check, message, change in cases:
            documents = copy.deepcopy(compiled)
            change(documents[index])
            assert documents[index] != compiled[index], (check, message)
            problems = list(spec_checks.CHECKS[check](*documents))
            assert any(message in problem for problem in problems), (message, problems)
