"""The components say what they take and give, compile each alone, and one call is all they do."""

from __future__ import annotations

import inspect
import re

import pytest
import yaml
from c3d_pipelines.kubeflow import components, export_pipeline
from c3d_pipelines.kubeflow.cluster import EXPORT_IMAGE, WORKER_IMAGE
from kfp import compiler

BULK = ("plan", "preflight", "extract", "publish", "gate", "report")
EXPORT = ("fetch", "build", "verify", "publish")
ALL = [(components, name, WORKER_IMAGE) for name in BULK] + [
    (export_pipeline, name, EXPORT_IMAGE) for name in EXPORT
]


@pytest.fixture(params=ALL, ids=lambda one: f"{one[0].__name__.rpartition('.')[2]}-{one[1]}")
def component(request):
    module, name, image = request.param
    return getattr(module, name), image


def test_a_body_is_one_call_of_the_package(component):
    made, _ = component
    source = inspect.getsource(made.python_func)
    assert len(re.findall(r"\w+_step\(", source)) == 1
    assert len(re.findall(r"^    from c3d_pipelines\.", source, re.MULTILINE)) == 1


def test_a_component_compiles_alone_and_installs_nothing(component, tmp_path):
    made, image = component
    path = tmp_path / "one.yaml"
    compiler.Compiler().compile(made, str(path))
    (executor,) = yaml.safe_load(path.read_text())["deploymentSpec"]["executors"].values()
    assert executor["container"]["image"] == image
    assert "pip install" not in " ".join(executor["container"]["command"])


def test_no_component_has_a_parameter_that_may_be_none(component):
    made, _ = component
    inputs = made.component_spec.inputs or {}
    assert not [name for name, one in inputs.items() if one.optional and name != "status"]


def test_a_body_hands_on_all_that_the_component_is_given(component):
    made, _ = component
    source = inspect.getsource(made.python_func)
    body = source[source.index('"""') :]
    # publish takes the shards' names to wait for them, and believes only what is in the dataset.
    given = set(inspect.signature(made.python_func).parameters) - {"shards"}
    handed = r"=\s*{0}(\.path|\.state)?\b|\b{0}\.log_metric"
    assert [name for name in given if not re.search(handed.format(name), body)] == []
