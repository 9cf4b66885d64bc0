"""The local server's metadata, model status, health and other methods, over real gRPC."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
SERVING = health_pb2.HealthCheckResponse.SERVING
TIMEOUT_S = 60


@pytest.fixture
def stub(narrow_channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(narrow_channel)


class TestMetadata:
    def request(self, *fields, name="c3d", version=None):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        if name is not None:
            request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        return request

    def test_response_has_every_signature_also_that_of_the_load(self, stub, narrow_base):
        response = stub.GetModelMetadata(self.request("signature_def"), timeout=TIMEOUT_S)
        assert (response.model_spec.name, response.model_spec.version.value) == ("c3d", 1)
        assert not response.model_spec.signature_name
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        saved_model = saved_model_pb2.SavedModel.FromString(
            (narrow_base / "1" / "saved_model.pb").read_bytes()
        )
        assert signatures.signature_def == saved_model.meta_graphs[0].signature_def
        assert "__saved_model_init_op" in signatures.signature_def

    def test_other_fields_are_refused(self, stub, refusal):
        assert refusal(stub.GetModelMetadata, self.request("signature_def", "graph")) == (
            INVALID,
            "Metadata field graph is not supported",
        )

    def test_fields_are_checked_before_the_model(self, stub, refusal):
        for fields, message in (
            ((), "GetModelMetadataRequest must specify at least one metadata_field"),
            (("graph",), "Metadata field graph is not supported"),
        ):
            request = self.request(*fields, name="i3d")
            assert refusal(stub.GetModelMetadata, request) == (INVALID, message)

    def test_request_without_a_model_is_refused(self, stub, refusal):
        message = self.request("signature_def", name=None)
        assert refusal(stub.GetModelMetadata, message) == (INVALID, "Missing ModelSpec")

    def test_unknown_model_version_or_label_is_refused(self, stub, refusal):
        for spec, code, message in (
            ({"name": "i3d"}, NOT_FOUND, "Servable not found for request: Latest(i3d)"),
            (
                {"name": "c3d", "version": {"value": 2}},
                NOT_FOUND,
                "Servable not found for request: Specific(c3d, 2)",
            ),
            (
                {"name": "c3d", "version_label": "stable"},
                INVALID,
                "Unrecognized servable version label: stable",
            ),
            ({}, INVALID, "ModelSpec has no name specified."),
        ):
            request = get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=spec, metadata_field=["signature_def"]
            )
            assert refusal(stub.GetModelMetadata, request) == (code, message), spec


class TestStatus:
    @pytest.fixture
    def status(self, narrow_channel):
        return model_service_pb2_grpc.ModelServiceStub(narrow_channel).GetModelStatus

    def test_served_version_is_available(self, status):
        for spec in (
            {"name": "c3d"},
            {"name": "c3d", "version": {"value": 1}},
            {"name": "c3d", "version_label": "ignored"},
        ):
            request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            (state,) = status(request, timeout=TIMEOUT_S).model_version_status
            assert (state.version, state.state) == (1, 30), spec
            assert state.HasField("status"), spec
            assert (state.status.error_code, state.status.error_message) == (0, ""), spec

    def test_request_without_a_model_is_refused(self, status, refusal):
        request = get_model_status_pb2.GetModelStatusRequest()
        assert refusal(status, request) == (INVALID, "Missing ModelSpec")

    def test_unknown_model_or_version_is_not_found(self, status, refusal):
        for spec, message in (
            ({"name": "i3d"}, "Could not find any versions of model i3d"),
            ({"name": "c3d", "version": {"value": 7}}, "Could not find version 7 of model c3d"),
            ({"name": "i3d", "version": {"value": 1}}, "Could not find version 1 of model i3d"),
            ({"signature_name": "classify"}, "Could not find any versions of model "),
        ):
            request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            assert refusal(status, request) == (NOT_FOUND, message), spec


class TestHealth:
    @pytest.fixture
    def health(self, narrow_channel):
        return health_pb2_grpc.HealthStub(narrow_channel)

    def test_server_and_its_services_are_serving(self, health):
        for service in (
            *("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"),
            *("PredictionService", "ModelService"),
        ):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request, timeout=TIMEOUT_S).status == SERVING, service
            updates = health.Watch(request, timeout=TIMEOUT_S)
            assert next(updates).status == SERVING, service
            updates.cancel()

    def test_other_names_are_not_known(self, health, refusal):
        request = health_pb2.HealthCheckRequest(service="tensorflow.serving.SessionService")
        assert refusal(health.Check, request)[0] == NOT_FOUND
        updates = health.Watch(request, timeout=TIMEOUT_S)
        assert next(updates).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        updates.cancel()


class TestOtherMethods:
    def test_classify_and_regress_find_no_input_for_examples(self, stub, refusal):
        for method, request, kind in (
            (stub.Classify, classification_pb2.ClassificationRequest(), "classification"),
            (stub.Regress, regression_pb2.RegressionRequest(), "regression"),
        ):
            assert refusal(method, request) == (INVALID, "Missing ModelSpec")
            request.model_spec.name = "c3d"
            code, message = refusal(method, request)
            assert code == INVALID
            assert message.startswith(
                f'No {kind} inputs found in SignatureDef: inputs {{\n  key: "clips"\n'
            )
            request.model_spec.signature_name = "fc9"
            assert refusal(method, request) == (
                INVALID,
                "No signature was found with the name: fc9",
            )

    def test_multi_inference_finds_no_input_for_examples(self, stub, refusal):
        for kind, name in (("classification", "classify"), ("regression", "regress")):
            request = inference_pb2.MultiInferenceRequest()
            request.tasks.add(method_name=f"tensorflow/serving/{name}").model_spec.name = "c3d"
            code, message = refusal(stub.MultiInference, request)
            assert code == INVALID
            assert message.startswith(f"No {kind} inputs found in SignatureDef: ")

    def test_configuration_cannot_be_reloaded(self, narrow_channel, refusal):
        reload = model_service_pb2_grpc.ModelServiceStub(narrow_channel).HandleReloadConfigRequest
        request = model_management_pb2.ReloadConfigRequest()
        assert refusal(reload, request) == (
            INVALID,
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported",
        )
        request.config.model_config_list.config.add(name="c3d", base_path="/models/c3d")
        code, message = refusal(reload, request)
        assert code == UNIMPLEMENTED
        assert "cannot load other models" in message

    def test_other_services_are_not_implemented(self, narrow_channel, refusal):
        for method in (
            "/tensorflow.serving.SessionService/SessionRun",
            "/tensorflow.ProfilerService/Profile",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ):
            assert refusal(narrow_channel.unary_unary(method), b"")[0] == UNIMPLEMENTED, method
