"""What the local server says of its model: signatures, versions, health; over real gRPC."""

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
    def ask(self, *fields, name="c3d", version=None):
        made = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        if name is not None:
            made.model_spec.name = name
        if version is not None:
            made.model_spec.version.value = version
        return made

    def test_is_every_signature(self, stub, narrow_server):
        response = stub.GetModelMetadata(self.ask("signature_def"), timeout=TIMEOUT_S)
        assert (response.model_spec.name, response.model_spec.version.value) == ("c3d", 1)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        assert dict(signatures.signature_def) == narrow_server.servable.signatures

    def test_of_another_field_is_refused(self, stub, refusal):
        assert refusal(stub.GetModelMetadata, self.ask("signature_def", "graph")) == (
            INVALID,
            "Metadata field graph is not supported",
        )

    def test_of_no_field_is_refused(self, stub, refusal):
        code, words = refusal(stub.GetModelMetadata, self.ask())
        assert code == INVALID
        assert "at least one metadata_field" in words

    def test_of_no_model_is_refused(self, stub, refusal):
        message = self.ask("signature_def", name=None)
        assert refusal(stub.GetModelMetadata, message) == (INVALID, "Missing ModelSpec")

    @pytest.mark.parametrize(("name", "version"), [("i3d", None), ("c3d", 2)])
    def test_of_an_unknown_model_or_version_is_not_found(self, stub, refusal, name, version):
        code, words = refusal(
            stub.GetModelMetadata, self.ask("signature_def", name=name, version=version)
        )
        assert code == NOT_FOUND
        assert words.startswith("Servable not found for request: ")


class TestStatus:
    @pytest.fixture
    def status(self, narrow_channel):
        return model_service_pb2_grpc.ModelServiceStub(narrow_channel).GetModelStatus

    def ask(self, name, version=None):
        made = get_model_status_pb2.GetModelStatusRequest()
        made.model_spec.name = name
        if version is not None:
            made.model_spec.version.value = version
        return made

    @pytest.mark.parametrize("version", [None, 1])
    def test_of_the_model_is_available(self, status, version):
        (seen,) = status(self.ask("c3d", version), timeout=TIMEOUT_S).model_version_status
        assert (seen.version, seen.state) == (1, 30)
        assert (seen.status.error_code, seen.status.error_message) == (0, "")

    @pytest.mark.parametrize(("name", "version"), [("i3d", None), ("c3d", 2), ("i3d", 1)])
    def test_of_an_unknown_model_or_version_is_not_found(self, status, refusal, name, version):
        code, words = refusal(status, self.ask(name, version))
        assert code == NOT_FOUND
        assert words.startswith(f"Could not find any versions of model {name}")


def test_health_is_serving(narrow_channel):
    check = health_pb2_grpc.HealthStub(narrow_channel).Check
    response = check(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT_S)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
