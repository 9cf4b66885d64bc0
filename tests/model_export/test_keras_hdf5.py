"""Keras 2 weight files of different writers: names, attributes, backends, and damage."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from c3d_export.errors import WeightsError
from c3d_export.weights import read_weights
from c3d_export.weights.canonical import LAYERS

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


class TestReading:
    def test_files_of_every_writer_have_the_same_weights(self, tmp_path, tiny_weights):
        styles = [
            {"scope": scope, "attributes": attributes}
            for scope in ("{layer}", "{layer}_1", "c3d/{layer}")
            for attributes in (bytes, str)
        ]
        styles += [
            {"inside": "model_weights"},  # a saved model
            {"without_weights": ()},
            {"backend": None},
        ]
        for style in styles:
            weights = read_weights(
                str(write_keras2(tmp_path / "c3d.h5", tiny_weights.arrays, **style))
            )
            assert weights.sha256 == tiny_weights.sha256, style
            assert (weights.source, weights.format) == ("c3d.h5", "keras2-hdf5"), style
            assert not weights.random, style

    def test_layers_are_read_by_name_and_not_by_order(self, tmp_path, tiny_weights):
        path = write_keras2(tmp_path / "c3d.h5", tiny_weights.arrays)
        with h5py.File(path, "r+") as file:
            file.attrs["layer_names"] = file.attrs["layer_names"][::-1]
        assert read_weights(str(path)).sha256 == tiny_weights.sha256

    def test_file_digest_differs_where_the_arrays_digest_is_equal(self, tmp_path, tiny_weights):
        paths = [
            write_keras2(tmp_path / "one.h5", tiny_weights.arrays),
            write_keras2(tmp_path / "two.h5", tiny_weights.arrays, scope="{layer}_1"),
            tmp_path / "three.npz",
        ]
        np.savez(paths[2], **tiny_weights.arrays)
        weights = [read_weights(str(path)) for path in paths]
        assert {each.sha256 for each in weights} == {tiny_weights.sha256}
        assert len({each.file_sha256 for each in weights}) == 3


def check_error(path, match):
    with pytest.raises(WeightsError, match=match) as caught:
        read_weights(str(path))
    assert path.name in str(caught.value)


class TestErrors:
    def test_theano_layout_under_keras_2_is_an_error(self, tmp_path, tiny_weights):
        for attributes in (bytes, str):
            path = write_keras2(
                tmp_path / "c3d.h5", tiny_weights.arrays, backend="theano", attributes=attributes
            )
            check_error(path, r"written by Keras on theano with a kernel of shape \[3, 3, 3, 3, 1")

    def test_missing_layer_is_an_error(self, tmp_path, tiny_weights):
        arrays = {k: v for k, v in tiny_weights.arrays.items() if not k.startswith("conv4b/")}
        path = write_keras2(tmp_path / "c3d.h5", arrays)
        check_error(path, "not C3D's weights: conv4b/kernel, conv4b/bias missing")

    def test_wrong_arrays_are_an_error(self, tmp_path, tiny_weights):
        nan = np.full_like(tiny_weights.arrays["fc7/bias"], np.nan)
        for key, array, match in (
            (
                "fc8/kernel",
                np.zeros((4096, 4), np.float32),
                r"fc8/kernel has shape \[4096, 4\], expected \[4096, 3\]",
            ),
            ("fc7/bias", nan, "fc7/bias holds NaN or infinity"),
            (
                "conv1/kernel",
                np.zeros((3, 3, 3, 64), np.float32),
                r"conv1/kernel has shape \[3, 3, 3, 64\]: .* 2-D convolutions, not C3D",
            ),
        ):
            path = write_keras2(tmp_path / "c3d.h5", {**tiny_weights.arrays, key: array})
            check_error(path, match)

    def test_layers_of_another_network_are_an_error(self, tmp_path):
        path = tmp_path / "vgg.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"block1_conv1"]
            group = file.create_group("block1_conv1")
            group.attrs["weight_names"] = [b"block1_conv1/kernel:0"]
            group["block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 64), np.float32)
        check_error(path, r"layer 'block1_conv1' is not one of C3D's \(conv1, conv2, ")

    def test_truncated_file_is_an_error(self, tmp_path, tiny_weights):
        path = write_keras2(tmp_path / "c3d.h5", tiny_weights.arrays)
        path.write_bytes(path.read_bytes()[:1_000_000])
        check_error(path, "a damaged HDF5 file")

    def test_hdf5_file_with_other_content_is_an_error(self, tmp_path):
        path = tmp_path / "features.h5"
        with h5py.File(path, "w") as file:
            file["features"] = np.zeros(4096, np.float32)
        check_error(path, "an HDF5 file without Keras's `layer_names`; not a weight file")

    def test_layer_name_without_a_group_is_an_error(self, tmp_path):
        path = tmp_path / "c3d.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
        check_error(path, "a damaged HDF5 file .*conv1")

    def test_group_or_text_instead_of_numbers_is_an_error(self, tmp_path):
        path = tmp_path / "c3d.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
            file.create_group("conv1/conv1/kernel:0")
            file["conv1"].attrs["weight_names"] = [b"conv1/kernel:0"]
        check_error(path, "a damaged HDF5 file")
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
            file["conv1/kernel:0"] = "text"
            file["conv1"].attrs["weight_names"] = [b"kernel:0"]
        check_error(path, "a damaged HDF5 file")
