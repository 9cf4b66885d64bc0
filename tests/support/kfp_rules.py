"""Rules by which the API of Kubeflow Pipelines refuses bodies, pipelines and parameters.

Pipelines are compared with their messages (kfp-pipeline-spec): unknown fields, values of other
types and parameters that do not fit are errors, as in the real API. It is stricter in one thing: it
refuses times of five fields, which the real API reads as something else.
"""

from __future__ import annotations

import json
import re

from google.protobuf import json_format, struct_pb2
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2 as messages

MAX_PARAMETER_BYTES = 10_000
_JSON_KINDS = {"STRING": "string_value", "BOOLEAN": "bool_value", "LIST": "list_value"}
_JSON_KINDS |= {"STRUCT": "struct_value", "NUMBER_INTEGER": "number_value"}
_JSON_KINDS |= {"NUMBER_DOUBLE": "number_value"}
# Fields that only the server sets.
_SERVER_FIELDS = {
    "run_id",
    "recurring_run_id",
    "created_at",
    "state",
    "state_history",
    "finished_at",
}


class Refusal(Exception):
    """An error answer as gRPC's gateway writes it."""

    def __init__(self, message: str, *, code: int = 3, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        same = {"code": code, "message": message}
        details = [{"@type": "type.googleapis.com/google.rpc.Status", **same}]
        self.body = {"error": message, **same, "details": details}


def check_body(model: type, body: object) -> None:
    """Check that a body has only fields of the API's model that a client may set."""
    if not isinstance(body, dict):
        raise Refusal(f"{body!r} is no {model.__name__}")
    for field in body:
        if field not in model.attribute_map.values():
            raise Refusal(f"proto: (line 1): unknown field {field!r} in {model.__name__}")
        if field in _SERVER_FIELDS:
            raise Refusal(f"{field} must not be set by the client")


def check_run(body: dict) -> None:
    """Check the fields that a run and a recurring run share."""
    if not body.get("display_name"):
        raise Refusal("The run name is empty. Please specify a valid name")
    account = body.get("service_account")
    if account is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", account):
        raise Refusal(f"service_account {account!r} is no name of a ServiceAccount")
    spec = check_pipeline(body.get("pipeline_spec"))
    config = body.get("runtime_config", {})
    check_parameters(spec, config.get("parameters", {}))
    root = config.get("pipeline_root")
    if root is not None and not re.match(r"(s3|gs|minio)://.+|/", root):
        raise Refusal(f"pipeline_root {root!r} cannot store artifacts")


def check_pipeline(body: object) -> messages.PipelineSpec:
    """Return a pipeline's message, parsed as strictly as the server and its compiler parse it."""
    if not isinstance(body, dict):
        raise Refusal("no pipeline spec is provided")
    both = "pipeline_spec" in body
    if both and set(body) - {"pipeline_spec", "platform_spec"}:
        raise Refusal(f"unknown documents {sorted(body)}")
    try:
        spec = json_format.ParseDict(
            body["pipeline_spec"] if both else body, messages.PipelineSpec()
        )
        deployment = json_format.MessageToDict(spec.deployment_spec)
        config = json_format.ParseDict(deployment, messages.PipelineDeploymentConfig())
        platform = json_format.ParseDict(
            body.get("platform_spec", {}) if both else {}, messages.PlatformSpec()
        )
        kubernetes = platform.platforms["kubernetes"].deployment_spec.executors
        for label, executor in kubernetes.items():
            json_format.ParseDict(json_format.MessageToDict(executor), KubernetesExecutorConfig())
            if label not in config.executors:
                raise Refusal(f"platform spec of {label}, which does not exist")
    except json_format.ParseError as error:
        raise Refusal(f"invalid v2 pipeline spec: {error}") from error
    if spec.schema_version != "2.1.0":
        version = f"the pipeline spec has version {spec.schema_version}"
        raise Refusal(f"KFP only supports schema version 2.1.0, but {version}")
    name = spec.pipeline_info.name
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name):
        raise Refusal(f"invalid v2 pipeline spec: name {name!r}")
    if not spec.HasField("root"):
        raise Refusal("invalid v2 pipeline spec: root component is empty")
    for part in (spec.root, *spec.components.values()):
        for task in part.dag.tasks.values():
            if task.component_ref.name not in spec.components:
                raise Refusal(f"component {task.component_ref.name!r} is not there")
        if part.executor_label and part.executor_label not in config.executors:
            raise Refusal(f"executor {part.executor_label!r} is not there")
    return spec


def check_parameters(spec: messages.PipelineSpec, parameters: dict) -> None:
    """Check a run's parameters as validatePipelineJobInputs does."""
    text = json.dumps(parameters, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    if len(text.encode()) > MAX_PARAMETER_BYTES:
        raise Refusal(f"The input parameter length exceed maximum size of {MAX_PARAMETER_BYTES}")
    declared = spec.root.input_definitions.parameters
    given = json_format.ParseDict(parameters, struct_pb2.Struct()).fields
    for name, parameter in declared.items():
        if name not in given:
            if not parameter.is_optional and not parameter.HasField("default_value"):
                raise Refusal(
                    f"parameter {name} is not optional, yet has neither default value nor user "
                    "provided value"
                )
            continue
        kind = messages.ParameterType.ParameterTypeEnum.Name(parameter.parameter_type)
        if given[name].WhichOneof("kind") != _JSON_KINDS.get(kind):
            raise Refusal(f"input parameter {name} requires type {kind}")
    extra = sorted(set(given) - set(declared))
    if extra:
        raise Refusal(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")


def check_six_fields(cron: str) -> None:
    """Check that a schedule's times have six fields within their ranges."""
    fields = cron.split()
    if len(fields) != 6:
        message = (
            "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron)"
        )
        raise Refusal(f"{message}. Error: Expected 6 fields, found {len(fields)}: {cron}")
    for field, high in zip(fields, (59, 59, 23, 31, 12, 6), strict=True):
        for number in re.findall(r"\d+", re.sub(r"/\d+", "", field)):
            if int(number) > high:
                raise Refusal(f"End of range ({number}) above maximum ({high}): {cron}")
