"""The client's message classes against the official ones: every field, and the bytes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from c3d_client.serving import wire_pb2 as wire
from google.protobuf import any_pb2, descriptor_pb2, text_format, unknown_fields, wrappers_pb2
from grpc_health.v1 import health_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    status_pb2,
)

OFFICIAL = {
    "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
    "TensorProto": tensor_pb2.TensorProto,
    "TensorInfo": meta_graph_pb2.TensorInfo,
    "SignatureDef": meta_graph_pb2.SignatureDef,
    "Int64Value": wrappers_pb2.Int64Value,
    "Any": any_pb2.Any,
    "ModelSpec": model_pb2.ModelSpec,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
    "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "StatusProto": status_pb2.StatusProto,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
    "HealthCheckRequest": health_pb2.HealthCheckRequest,
    "HealthCheckResponse": health_pb2.HealthCheckResponse,
}
ENUMS = {
    wire.DataType: types_pb2.DataType,
    wire.ModelVersionStatus.State: get_model_status_pb2.ModelVersionStatus.State,
    wire.HealthCheckResponse.ServingStatus: health_pb2.HealthCheckResponse.ServingStatus,
}
# An enum of another file, whose bytes equal those of a number.
NUMBERS_THAT_ARE_ENUMS = {"StatusProto.error_code"}

_TENSOR = """
  dtype: DT_UINT8
  tensor_shape { dim { size: 2 name: "rows" } dim { size: 3 } }
  tensor_content: "\\001\\002\\003\\377\\000\\006"
"""
_SPEC = 'name: "c3d" version { value: 7 } signature_name: "fc6_features"'
_LABELLED = 'name: "c3d" version_label: "stable" signature_name: "classify"'
_INFO = """
  name: "clips:0" dtype: DT_UINT8
  tensor_shape { dim { size: -1 } dim { size: 16 } dim { size: 112 } }
"""
_SIGNATURE = f"""
  inputs {{ key: "clips" value {{ {_INFO} }} }}
  outputs {{ key: "features" value {{ name: "features:0" dtype: DT_FLOAT }} }}
  method_name: "tensorflow/serving/predict"
"""
# In text format, from which both the client's and the official classes are filled.
EXAMPLES = [
    ("TensorShapeProto", 'dim { size: -1 name: "n" } dim { size: 0 } unknown_rank: true'),
    ("TensorProto", _TENSOR + "version_number: 3"),
    ("TensorProto", "dtype: DT_FLOAT tensor_shape { } float_val: [1.5, -0.0, inf]"),
    ("TensorProto", "dtype: DT_DOUBLE double_val: [1e300, 0.1]"),
    ("TensorProto", "dtype: DT_INT32 int_val: [-1, 0, 2147483647]"),
    ("TensorProto", "dtype: DT_INT64 int64_val: [-9223372036854775808, 5]"),
    ("TensorProto", "dtype: DT_BOOL bool_val: [true, false]"),
    ("TensorProto", 'dtype: DT_STRING string_val: ["one", "", "\\377"]'),
    ("TensorInfo", _INFO),
    ("SignatureDef", _SIGNATURE),
    ("Int64Value", "value: -5"),
    ("Any", 'type_url: "type.googleapis.com/x.Y" value: "\\001\\002"'),
    ("ModelSpec", _SPEC),
    ("ModelSpec", _LABELLED),
    ("ModelSpec", 'name: "c3d" version { value: 0 }'),
    (
        "PredictRequest",
        f'model_spec {{ {_SPEC} }} inputs {{ key: "clips" value {{ {_TENSOR} }} }}'
        f'inputs {{ key: "more" value {{ dtype: DT_INT32 int_val: 4 }} }}'
        'output_filter: "features" output_filter: "probabilities"',
    ),
    ("PredictRequest", f'model_spec {{ {_LABELLED} }} inputs {{ key: "n" value {{ }} }}'),
    (
        "PredictResponse",
        f'outputs {{ key: "features" value {{ dtype: DT_FLOAT float_val: [0.25, 4] }} }}'
        f"model_spec {{ {_SPEC} }}",
    ),
    ("GetModelMetadataRequest", f'model_spec {{ {_SPEC} }} metadata_field: "signature_def"'),
    ("SignatureDefMap", f'signature_def {{ key: "fc6_features" value {{ {_SIGNATURE} }} }}'),
    (
        "GetModelMetadataResponse",
        f'model_spec {{ {_SPEC} }} metadata {{ key: "signature_def" '
        'value { type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap" '
        'value: "\\n\\000" } }',
    ),
    ("GetModelStatusRequest", f"model_spec {{ {_SPEC} }}"),
    ("StatusProto", 'error_code: 5 error_message: "no such model"'),
    (
        "ModelVersionStatus",
        'version: 7 state: LOADING status { error_code: 13 error_message: "x" }',
    ),
    (
        "GetModelStatusResponse",
        "model_version_status { version: 8 state: AVAILABLE status { } }"
        "model_version_status { version: 7 state: END status { error_code: 3 } }",
    ),
    ("HealthCheckRequest", 'service: "c3d"'),
    ("HealthCheckResponse", "status: NOT_SERVING"),
]


def all_messages(descriptors, prefix=""):
    """Yield name and descriptor of every message, including nested ones and entries of maps."""
    for descriptor in descriptors:
        yield prefix + descriptor.name, descriptor
        yield from all_messages(descriptor.nested_types, f"{prefix}{descriptor.name}.")


OURS = dict(all_messages(wire.DESCRIPTOR.message_types_by_name.values()))


def official_descriptor(name):
    outer, *inner = name.split(".")
    descriptor = OFFICIAL[outer].DESCRIPTOR
    for part in inner:
        descriptor = descriptor.nested_types_by_name[part]
    return descriptor


def fields_of(descriptor):
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    return {field.number: field for field in proto.field}


def test_every_message_has_an_official_counterpart():
    assert set(wire.DESCRIPTOR.message_types_by_name) == set(OFFICIAL)


def test_package_name_differs_so_that_both_can_be_imported():
    assert wire.DESCRIPTOR.package == "c3d.wire"
    assert predict_pb2.DESCRIPTOR.package == "tensorflow.serving"


@pytest.mark.parametrize("name", OURS)
def test_fields_have_the_official_number_type_and_label(name):
    official = fields_of(official_descriptor(name))
    for number, field in fields_of(OURS[name]).items():
        official_message = official[number]
        assert field.name == official_message.name
        assert field.label == official_message.label
        if f"{name}.{field.name}" in NUMBERS_THAT_ARE_ENUMS:
            assert (field.type, official_message.type) == (field.TYPE_INT32, field.TYPE_ENUM)
            continue
        assert field.type == official_message.type
        if field.type in (field.TYPE_MESSAGE, field.TYPE_ENUM):
            our_field = OURS[name].fields_by_number[number]
            official_field = official_descriptor(name).fields_by_number[number]
            if field.type == field.TYPE_MESSAGE:
                inner = our_field.message_type.full_name.removeprefix("c3d.wire.")
                assert official_field.message_type is official_descriptor(inner)
            else:
                ours_enum = next(e for e in ENUMS if e.DESCRIPTOR is our_field.enum_type)
                assert official_field.enum_type is ENUMS[ours_enum].DESCRIPTOR


def test_version_and_label_exclude_each_other_as_officially():
    for spec in (wire.ModelSpec, model_pb2.ModelSpec):
        choice = spec.DESCRIPTOR.oneofs_by_name["version_choice"]
        assert {field.name for field in choice.fields} == {"version", "version_label"}


@pytest.mark.parametrize("ours", ENUMS, ids=lambda e: e.DESCRIPTOR.name)
def test_enum_values_have_the_official_numbers(ours):
    official = dict(ENUMS[ours].items())
    for name, number in ours.items():
        assert official[name] == number


def test_examples_fill_every_field_of_every_message():
    filled = {name: set() for name in OFFICIAL}
    for name, text in EXAMPLES:
        message = text_format.Parse(text, getattr(wire, name)())
        filled[name] |= {field.name for field, _ in message.ListFields()}
    assert filled == {name: {field.name for field in OURS[name].fields} for name in OFFICIAL}


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_bytes_equal_the_official_ones_in_both_directions(name, text):
    ours = text_format.Parse(text, getattr(wire, name)())
    official_message = text_format.Parse(text, OFFICIAL[name]())
    content = official_message.SerializeToString(deterministic=True)
    assert content
    assert ours.SerializeToString(deterministic=True) == content

    parsed = getattr(wire, name).FromString(content)
    assert parsed == ours
    assert not unknown_fields.UnknownFieldSet(parsed)
    assert OFFICIAL[name].FromString(ours.SerializeToString()) == official_message


def test_signature_map_of_the_server_is_unpacked():
    signatures = get_model_metadata_pb2.SignatureDefMap()
    text_format.Parse(_SIGNATURE, signatures.signature_def["fc6_features"])
    official_message = get_model_metadata_pb2.GetModelMetadataResponse()
    official_message.metadata["signature_def"].Pack(signatures)

    ours = wire.GetModelMetadataResponse.FromString(official_message.SerializeToString())
    packed = ours.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = wire.SignatureDefMap.FromString(packed.value).signature_def["fc6_features"]
    assert signature == text_format.Parse(_SIGNATURE, wire.SignatureDef())


def test_unknown_fields_are_ignored():
    official_message = meta_graph_pb2.SignatureDef(method_name="m")
    official_message.defaults["clips"].dtype = types_pb2.DT_UINT8
    assert wire.SignatureDef.FromString(official_message.SerializeToString()).method_name == "m"


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed"
)
def test_generated_files_are_up_to_date(tmp_path):
    folder = Path(wire.__file__).parent
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{folder.parents[1]}"),
            *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"),
            str(folder / "wire.proto"),
        ],
        check=True,
    )
    for name in ("wire_pb2.py", "wire_pb2.pyi"):
        generated = (tmp_path / "c3d_client/serving" / name).read_bytes()
        assert generated == (folder / name).read_bytes(), f"{name} is stale: run `make protos`"
