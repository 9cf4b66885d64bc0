"""Keras 2 weight files as their writers left them: names, attributes, backends, and damage."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from c3d_export.errors import WeightsError
from c3d_export.weights import read_weights

LAYERS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
LAYERS = (*LAYERS, "fc6", "fc7", "fc8")
WITHOUT_WEIGHTS = ("input_1", "pool1", "zero_padding3d_1", "flatten_1", "dropout_1")


def write_keras2(
    path: Path,
    arrays,
    *,
    scope: str = "{layer}",
    attributes: type = bytes,
    inside: str = "/",
    backend: str | None = "tensorflow",
    without_weights=WITHOUT_WEIGHTS,
) -> Path:
    """Write a file as Keras 2's save_weights does, or, ``inside`` a group, as its save does."""

    def text(value: str):
        return value.encode() if attributes is bytes else value

    def texts(values):
        return [text(value) for value in values] or np.array([], "S1")

    with h5py.File(path, "w") as file:
        root = file.require_group(inside)
        root.attrs["layer_names"] = texts([*without_weights, *LAYERS])
        root.attrs["keras_version"] = text("2.2.4")
        if backend is not None:
            root.attrs["backend"] = text(backend)
        for layer in without_weights:
            root.create_group(layer).attrs["weight_names"] = texts([])
        for layer in LAYERS:
            group = root.create_group(layer)
            names = []
            for part in ("kernel", "bias"):
                if (array := arrays.get(f"{layer}/{part}")) is not None:
                    names.append(f"{scope.format(layer=layer)}/{part}:0")
                    group.create_dataset(names[-1], data=array)
            group.attrs["weight_names"] = texts(names)
    return path


def refused(path, words):
    with pytest.raises(WeightsError, match=words) as caught:
        read_weights(str(path))
    assert path.name in str(caught.value)


class TestReads:
    @pytest.mark.parametrize("scope", ["{layer}", "{layer}_1", "c3d/{layer}"])
    @pytest.mark.parametrize("attributes", [bytes, str])
    def test_either_writers_names_and_attributes(self, tmp_path, tiny_weights, scope, attributes):
        path = write_keras2(
            tmp_path / "c3d.h5", tiny_weights.arrays, scope=scope, attributes=attributes
        )
        weights = read_weights(str(path))
        assert weights.sha256 == tiny_weights.sha256
        assert (weights.source, weights.format) == ("c3d.h5", "keras2-hdf5")
        assert not weights.random

    def test_the_weights_inside_a_saved_model(self, tmp_path, tiny_weights):
        path = write_keras2(tmp_path / "model.h5", tiny_weights.arrays, inside="model_weights")
        assert read_weights(str(path)).sha256 == tiny_weights.sha256

    def test_a_file_of_layers_with_weights_alone(self, tmp_path, tiny_weights):
        path = write_keras2(tmp_path / "c3d.h5", tiny_weights.arrays, without_weights=())
        assert read_weights(str(path)).sha256 == tiny_weights.sha256

    def test_a_file_that_names_no_backend(self, tmp_path, tiny_weights):
        path = write_keras2(tmp_path / "c3d.h5", tiny_weights.arrays, backend=None)
        assert read_weights(str(path)).sha256 == tiny_weights.sha256

    def test_by_name_and_not_by_order(self, tmp_path, tiny_weights):
        path = write_keras2(tmp_path / "c3d.h5", tiny_weights.arrays)
        with h5py.File(path, "r+") as file:
            file.attrs["layer_names"] = file.attrs["layer_names"][::-1]
        assert read_weights(str(path)).sha256 == tiny_weights.sha256

    def test_the_same_weights_with_a_digest_of_the_file_beside(self, tmp_path, tiny_weights):
        one = write_keras2(tmp_path / "one.h5", tiny_weights.arrays)
        two = write_keras2(tmp_path / "two.h5", tiny_weights.arrays, scope="{layer}_1")
        np.savez(tmp_path / "three.npz", **tiny_weights.arrays)
        read = [read_weights(str(path)) for path in (one, two, tmp_path / "three.npz")]
        assert {weights.sha256 for weights in read} == {tiny_weights.sha256}
        assert len({weights.file_sha256 for weights in read}) == 3


class TestRefuses:
    @pytest.mark.parametrize("attributes", [bytes, str])
    def test_theanos_layout(self, tmp_path, tiny_weights, attributes):
        path = write_keras2(
            tmp_path / "c3d.h5", tiny_weights.arrays, backend="theano", attributes=attributes
        )
        refused(path, r"written by Keras on theano with a kernel of shape \[3, 3, 3, 3, 1\]")

    def test_a_missing_layer(self, tmp_path, tiny_weights):
        arrays = {k: v for k, v in tiny_weights.arrays.items() if not k.startswith("conv4b/")}
        path = write_keras2(tmp_path / "c3d.h5", arrays)
        refused(path, "not C3D's weights: conv4b/kernel, conv4b/bias missing")

    def test_a_wrong_shape(self, tmp_path, tiny_weights):
        wide = np.zeros((4096, 4), np.float32)
        path = write_keras2(tmp_path / "c3d.h5", {**tiny_weights.arrays, "fc8/kernel": wide})
        refused(path, r"fc8/kernel has shape \[4096, 4\], expected \[4096, 3\]")

    def test_nan(self, tmp_path, tiny_weights):
        bias = np.full_like(tiny_weights.arrays["fc7/bias"], np.nan)
        path = write_keras2(tmp_path / "c3d.h5", {**tiny_weights.arrays, "fc7/bias": bias})
        refused(path, "fc7/bias holds NaN or infinity")

    def test_a_network_of_2d_convolutions(self, tmp_path, tiny_weights):
        flat = np.zeros((3, 3, 3, 64), np.float32)
        path = write_keras2(tmp_path / "vgg.h5", {**tiny_weights.arrays, "conv1/kernel": flat})
        refused(path, r"conv1/kernel has shape \[3, 3, 3, 64\]: .* 2-D convolutions, not C3D")

    def test_another_networks_layers(self, tmp_path):
        path = tmp_path / "vgg.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"block1_conv1"]
            group = file.create_group("block1_conv1")
            group.attrs["weight_names"] = [b"block1_conv1/kernel:0"]
            group["block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 64), np.float32)
        refused(path, r"layer 'block1_conv1' is not one of C3D's \(conv1, conv2, ")

    def test_a_file_cut_short(self, tmp_path, tiny_weights):
        path = write_keras2(tmp_path / "c3d.h5", tiny_weights.arrays)
        path.write_bytes(path.read_bytes()[:1_000_000])
        refused(path, "a damaged HDF5 file")

    def test_an_hdf5_file_of_something_else(self, tmp_path):
        path = tmp_path / "features.h5"
        with h5py.File(path, "w") as file:
            file["features"] = np.zeros(4096, np.float32)
        refused(path, "an HDF5 file without Keras's `layer_names`; not a weight file")

    def test_a_layer_that_is_named_and_not_there(self, tmp_path):
        path = tmp_path / "c3d.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
        refused(path, "a damaged HDF5 file .*conv1")

    def test_a_group_where_numbers_should_be(self, tmp_path):
        path = tmp_path / "c3d.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
            file.create_group("conv1/conv1/kernel:0")
            file["conv1"].attrs["weight_names"] = [b"conv1/kernel:0"]
        refused(path, "a damaged HDF5 file")

    def test_text_where_numbers_should_be(self, tmp_path):
        path = tmp_path / "c3d.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
            file["conv1/kernel:0"] = "text"
            file["conv1"].attrs["weight_names"] = [b"kernel:0"]
        refused(path, "a damaged HDF5 file")
