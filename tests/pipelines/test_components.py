"""The components: one call each, nothing installed, parameters as declared."""

from __future__ import annotations

import inspect
import re

import pytest
import yaml
from c3d_pipelines.kubeflow import export_pipeline, pipeline
from c3d_pipelines.kubeflow.cluster import EXPORT_IMAGE, WORKER_IMAGE
from c3d_pipelines.kubeflow.compile import CLASSIFICATION, EXTRACTION, compiled_path
from c3d_pipelines.parameters import PARAMETERS
from kfp import compiler

BULK = ("plan", "extract", "publish", "report")
EXPORT = ("fetch", "build", "verify", "publish")
COMPONENTS = {
    **{f"bulk {name}": (getattr(pipeline, name), WORKER_IMAGE) for name in BULK},
    **{f"export {name}": (getattr(export_pipeline, name), EXPORT_IMAGE) for name in EXPORT},
}
KUBEFLOW_TYPES = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN"}


def test_body_is_one_call_of_the_package():
    for name, (component, _) in COMPONENTS.items():
        source = inspect.getsource(component.python_func)
        assert len(re.findall(r"\w+_step\(", source)) == 1, name
        assert len(re.findall(r"^    from c3d_pipelines\.", source, re.MULTILINE)) == 1, name


@pytest.mark.long
def test_component_compiles_alone_and_installs_nothing(tmp_path):
    for name, (component, image) in COMPONENTS.items():
        path = tmp_path / f"{name}.yaml"
        compiler.Compiler().compile(component, str(path))
        (executor,) = yaml.safe_load(path.read_text())["deploymentSpec"]["executors"].values()
        assert executor["container"]["image"] == image, name
        assert "pip install" not in " ".join(executor["container"]["command"]), name


def test_no_component_has_an_optional_parameter():
    for name, (component, _) in COMPONENTS.items():
        inputs = component.component_spec.inputs or {}
        optional = {key for key, parameter in inputs.items() if parameter.optional}
        assert optional <= {"status"}, name


def test_body_passes_on_all_parameters():
    for name, (component, _) in COMPONENTS.items():
        source = inspect.getsource(component.python_func)
        body = source[source.index('"""') :]
        # publish depends on the shards' names only to run after extract; it reads the dataset.
        parameters = set(inspect.signature(component.python_func).parameters) - {"shards"}
        use = r"=\s*{0}(\.path|\.state)?\b|\b{0}\.log_metric"
        unused = [key for key in parameters if not re.search(use.format(key), body)]
        assert unused == [], name


def test_pipelines_have_the_declared_parameters():
    for name, out in ((EXTRACTION, "/data/features"), (CLASSIFICATION, "/data/classes")):
        specification = next(yaml.safe_load_all(compiled_path(name).read_text()))
        compiled = specification["root"]["inputDefinitions"]["parameters"]
        assert set(compiled) == set(PARAMETERS), name
        for key, parameter in PARAMETERS.items():
            default = out if key == "out" else parameter.default
            definition = compiled[key]
            assert definition["defaultValue"] == default, (name, key)
            assert definition["parameterType"] == KUBEFLOW_TYPES[parameter.type], (name, key)
            assert definition["description"] == f"{parameter.help}.", (name, key)


def test_plan_component_has_the_declared_types():
    signature = inspect.signature(pipeline.plan.python_func)
    of_step = {"run", "answer", "shards", "plan", "settings"}
    assert set(signature.parameters) - of_step == set(PARAMETERS)
    for name, parameter in PARAMETERS.items():
        assert signature.parameters[name].annotation is parameter.type, name
