"""The check of the served model against the contract, and the texts of its differences."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from c3d_client.core.errors import ContractMismatch
from c3d_client.serving import model_info
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.client import ServingClient
from c3d_client.serving.options import ServingOptions
from support.fake_serving import LABELS, model_card, signature_defs
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2


def info_of(target, required=()):
    with ServingClient(ServingOptions(target)) as client:
        return client.model_info(required)


def changed(change):
    """Return the signatures of a valid servable with one change."""
    signatures = signature_defs()
    change(signatures)
    return signatures


def set_dims(info, *sizes):
    del info.tensor_shape.dim[:]
    for size in sizes:
        info.tensor_shape.dim.add(size=size)


class TestValidModel:
    def test_model_of_the_exporter(self, narrow_server, narrow_weights):
        info = info_of(narrow_server.target, ["classify", "fc7_features"])
        assert info.version == narrow_server.version
        assert set(info.signatures) == {
            *("classify", "fc6_features", "fc7_features", "layers", "model_card"),
            "serving_default",
        }
        assert info.card["weights"]["sha256"] == narrow_weights.sha256
        assert info.labels == tuple(f"label {n}" for n in range(487))

    def test_signature_of_the_load_is_hidden(self, fake_serving):
        """TensorFlow Serving lists it with the others."""

        def add(signatures):
            signatures["__saved_model_init_op"] = meta_graph_pb2.SignatureDef()

        assert (
            "__saved_model_init_op"
            not in info_of(fake_serving(signatures=changed(add)).target).signatures
        )
        only = fake_serving(signatures={"__saved_model_init_op": meta_graph_pb2.SignatureDef()})
        with pytest.raises(ContractMismatch, match=r"it has: none"):
            info_of(only.target)

    def test_further_signatures_are_allowed(self, fake_serving):
        def add(signatures):
            signatures["extra"] = signatures["classify"]

        info = info_of(fake_serving(signatures=changed(add), version=3).target)
        assert "extra" in info.signatures
        assert (info.version, info.labels) == (3, tuple(LABELS))

    def test_model_without_classes_is_allowed(self, fake_serving):
        def drop(signatures):
            del signatures["classify"], signatures["fc7_features"]

        server = fake_serving(signatures=changed(drop), card=model_card(labels=[]))
        assert info_of(server.target).labels == ()

    def test_card_without_labels(self):
        assert model_info.ModelInfo(1, (), {}).labels == ()


MISMATCHES = [
    (
        "no fc6_features",
        lambda s: s.pop("fc6_features"),
        r"no signature 'fc6_features' \(it has: classify, fc7_features, model_card\)",
    ),
    ("no model_card", lambda s: s.pop("model_card"), "no signature 'model_card'"),
    ("nothing", lambda s: s.clear(), r"no signature 'fc6_features' \(it has: none\)"),
    (
        "half as many frames",
        lambda s: set_dims(s["fc6_features"].inputs["clips"], -1, 8, 112, 112, 3),
        r"'fc6_features' has input clips UINT8 \[n,8,112,112,3\], "
        r"expected clips UINT8 \[n,16,112,112,3\]",
    ),
    (
        "a fixed batch",
        lambda s: set_dims(s["fc6_features"].inputs["clips"], 1, 16, 112, 112, 3),
        r"input clips UINT8 \[1,16,112,112,3\]",
    ),
    (
        "no batch",
        lambda s: set_dims(s["fc6_features"].inputs["clips"], 16, 112, 112, 3),
        r"input clips UINT8 \[16,112,112,3\]",
    ),
    (
        "an unknown rank",
        lambda s: setattr(s["fc6_features"].inputs["clips"].tensor_shape, "unknown_rank", True),
        "'fc6_features' has input clips",
    ),
    (
        "float clips",
        lambda s: setattr(s["fc6_features"].inputs["clips"], "dtype", types_pb2.DT_FLOAT),
        r"input clips FLOAT \[n,16,112,112,3\]",
    ),
    (
        "a dtype without a name here",
        lambda s: setattr(s["fc6_features"].outputs["features"], "dtype", types_pb2.DT_BFLOAT16),
        r"output features dtype 14 \[n,4096\], expected features FLOAT \[n,4096\]",
    ),
    (
        "narrow features",
        lambda s: set_dims(s["fc6_features"].outputs["features"], -1, 2048),
        r"output features FLOAT \[n,2048\]",
    ),
    (
        "an input of another name",
        lambda s: s["fc6_features"].inputs["video"].CopyFrom(s["fc6_features"].inputs.pop("clips")),
        r"input video UINT8 .* expected clips UINT8",
    ),
    (
        "a second input",
        lambda s: s["fc6_features"].inputs["mask"].CopyFrom(s["fc6_features"].inputs["clips"]),
        r"input clips UINT8 .*; mask UINT8 .* expected clips UINT8",
    ),
    (
        "a second output",
        lambda s: s["model_card"].outputs["more"].CopyFrom(s["model_card"].outputs["json"]),
        r"'model_card' has output json STRING \[n\]; more STRING \[n\]",
    ),
]


class TestMismatch:
    @pytest.mark.parametrize(
        ("change", "message"), [m[1:] for m in MISMATCHES], ids=[m[0] for m in MISMATCHES]
    )
    def test_difference_of_a_signature_is_named(self, fake_serving, change, message):
        server = fake_serving(signatures=changed(change))
        with pytest.raises(ContractMismatch, match=message) as caught:
            info_of(server.target)
        assert caught.value.target == server.target
        assert "\n" not in str(caught.value)

    def test_missing_optional_signature_matters_only_if_required(self, fake_serving):
        server = fake_serving(signatures=changed(lambda s: s.pop("classify")))
        assert info_of(server.target).version == 1
        with pytest.raises(ContractMismatch, match="no signature 'classify'"):
            info_of(server.target, ["classify"])

    @pytest.mark.parametrize(
        ("card", "message"),
        [
            (model_card(contract_version="2"), "contract version is '2', this client's is '1'"),
            (model_card(contract_version=1), "contract version is 1, this client's is '1'"),
            (b"{}", "contract version is None"),
            (b"[1]", "contract version is None"),
            (b"a card", "model card is not JSON"),
            (b"\xff\xfe\xff", "model card is not JSON"),
            (
                json.dumps({"contract_version": "1", "weights": {}}).encode(),
                "lacks mean, precision",
            ),
        ],
    )
    def test_invalid_card_is_named(self, fake_serving, card, message):
        server = fake_serving(card=card)
        with pytest.raises(ContractMismatch, match=message) as caught:
            info_of(server.target)
        assert caught.value.target == server.target

    def test_message_is_one_line_with_advice(self, fake_serving):
        with pytest.raises(ContractMismatch) as caught:
            info_of(fake_serving(card=b"").target)
        assert "c3d-export build" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_signatures_that_cannot_be_parsed(self, fake_serving):
        server = fake_serving()
        server.has_invalid_signatures = True
        with pytest.raises(ContractMismatch, match="signatures cannot be read"):
            info_of(server.target)


def test_server_without_the_method_is_a_mismatch():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ContractMismatch, match="not TensorFlow Serving") as caught:
            info_of(f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    assert caught.value.code == "UNIMPLEMENTED"


def test_shape_text():
    assert model_info.shape_text((-1, 16, 3)) == "[n,16,3]"
    assert model_info.shape_text(()) == "[]"


def test_dtype_text():
    assert model_info.dtype_text(wire.DT_UINT8) == "UINT8"
    assert model_info.dtype_text(19) == "dtype 19"
