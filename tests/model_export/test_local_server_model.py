"""The local server's metadata, model status and health, over real gRPC."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
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

    def test_response_has_every_signature(self, stub, narrow_server):
        response = stub.GetModelMetadata(self.request("signature_def"), timeout=TIMEOUT_S)
        assert (response.model_spec.name, response.model_spec.version.value) == ("c3d", 1)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        assert dict(signatures.signature_def) == narrow_server.servable.signatures

    def test_other_fields_are_refused(self, stub, refusal):
        assert refusal(stub.GetModelMetadata, self.request("signature_def", "graph")) == (
            INVALID,
            "Metadata field graph is not supported",
        )

    def test_request_without_a_field_is_refused(self, stub, refusal):
        code, details = refusal(stub.GetModelMetadata, self.request())
        assert code == INVALID
        assert "at least one metadata_field" in details

    def test_request_without_a_model_is_refused(self, stub, refusal):
        message = self.request("signature_def", name=None)
        assert refusal(stub.GetModelMetadata, message) == (INVALID, "Missing ModelSpec")

    def test_unknown_model_or_version_is_not_found(self, stub, refusal):
        for name, version in (("i3d", None), ("c3d", 2)):
            message = self.request("signature_def", name=name, version=version)
            code, details = refusal(stub.GetModelMetadata, message)
            assert code == NOT_FOUND, (name, version)
            assert details.startswith("Servable not found for request: "), (name, version)


class TestStatus:
    @pytest.fixture
    def status(self, narrow_channel):
        return model_service_pb2_grpc.ModelServiceStub(narrow_channel).GetModelStatus

    def request(self, name, version=None):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        return request

    def test_served_version_is_available(self, status):
        for version in (None, 1):
            (state,) = status(self.request("c3d", version), timeout=TIMEOUT_S).model_version_status
            assert (state.version, state.state) == (1, 30)
            assert (state.status.error_code, state.status.error_message) == (0, "")

    def test_unknown_model_or_version_is_not_found(self, status, refusal):
        for name, version in (("i3d", None), ("c3d", 2), ("i3d", 1)):
            code, details = refusal(status, self.request(name, version))
            assert code == NOT_FOUND, (name, version)
            assert details.startswith(f"Could not find any versions of model {name}")


def test_health_check_is_serving(narrow_channel):
    check = health_pb2_grpc.HealthStub(narrow_channel).Check
    response = check(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT_S)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
