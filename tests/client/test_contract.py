"""The numbers that client and servable share, as in the Caffe code."""

import ast
import sys
from pathlib import Path

import pytest
from c3d_client.core import contract
from c3d_export.architecture import build_c3d


def test_crop_is_that_of_caffe_and_not_of_its_ports():
    assert (contract.RESIZE_HEIGHT, contract.RESIZE_WIDTH) == (128, 171)
    assert contract.CROP_TOP == 8
    assert contract.CROP_LEFT == 29  # ports that round up have 30


def test_clip_is_16_frames_of_112_by_112_rgb_in_602112_bytes():
    assert contract.CLIP_SHAPE == (16, 112, 112, 3)
    assert contract.CLIP_BYTES == 602_112
    assert contract.CLIP_STRIDE == 8


def test_feature_size_and_classes_are_those_of_the_network():
    network = build_c3d()
    assert network.get_layer("fc6").output.shape == (None, contract.FEATURE_SIZE)
    assert network.get_layer("fc7").output.shape == (None, contract.FEATURE_SIZE)
    assert network.output.shape == (None, contract.SPORTS1M_CLASSES)


def test_signatures_are_stored_by_their_names():
    assert {name: s.name for name, s in contract.SIGNATURES.items()} == {
        name: name
        for name in (
            *("classify", "fc6_features", "fc6_features_halves", "fc7_features", "layers"),
            "model_card",
        )
    }
    assert set(contract.REQUIRED_SIGNATURES) <= set(contract.SIGNATURES)


@pytest.mark.parametrize("signature", ["classify", "fc6_features", "fc7_features", "layers"])
def test_clips_are_sent_as_uint8(signature):
    tensor = contract.SIGNATURES[signature].input
    assert (tensor.name, tensor.dtype, tensor.shape) == ("clips", "UINT8", contract.CLIP_SHAPE)


def test_layers_have_the_shapes_of_the_network():
    network = build_c3d()
    assert list(contract.LAYERS) == ["conv5b", "pool5", "fc6", "fc7", "fc8"]
    for name, spec in contract.LAYERS.items():
        shape = network.get_layer(name).output.shape[1:]
        assert spec.fits((-1, *shape)), name
    assert tuple(network.get_layer("conv5b").output.shape) == (None, 2, 7, 7, 512)
    assert tuple(network.get_layer("pool5").output.shape) == (None, 1, 4, 4, 512)
    assert [spec.name for spec in contract.LAYERS_SIGNATURE.outputs] == list(contract.LAYERS)


def test_one_layer_is_requested_with_a_filter_and_several_without():
    one = contract.LAYERS_SIGNATURE.reading("pool5")
    assert (one.name, one.outputs, one.filtered) == ("layers", (contract.LAYERS["pool5"],), True)
    two = contract.LAYERS_SIGNATURE.reading("fc7", "conv5b")
    assert [spec.name for spec in two.outputs] == ["fc7", "conv5b"]
    assert not two.filtered


def test_two_halves_are_a_clip():
    tensor = contract.FC6_FEATURES_HALVES.input
    assert (tensor.name, tensor.dtype) == ("halves", "UINT8")
    assert tensor.shape == (8, 112, 112, 3)
    assert contract.FC6_FEATURES_HALVES.output == contract.FC6_FEATURES.output


def test_largest_request_is_the_largest_batch_size_of_the_warm_up():
    assert list(contract.BATCH_SIZES) == sorted(set(contract.BATCH_SIZES))
    assert max(contract.BATCH_SIZES) == contract.MAX_BATCH_SIZE


def test_preprocessing_texts_contain_the_same_numbers():
    assert contract.PREPROCESSING == {
        "resize": "171x128 opencv-linear",
        "crop": "rows 8:120, columns 29:141",
        "wire": "RGB uint8",
    }


@pytest.mark.parametrize("name", ["contract", "errors", "text"])
def test_contract_errors_and_text_import_only_the_standard_library(name):
    source = Path(contract.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
            if node.module == "c3d_client.core.text":  # checked as well
                imported.discard("c3d_client")
    assert imported
    assert imported <= set(sys.stdlib_module_names)
