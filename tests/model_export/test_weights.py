"""Canonical weights: seeded ones, the project's own file, the checks, digests, and RGB."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from c3d_export.errors import WeightsError
from c3d_export.weights import Weights, arrays_sha256, random_weights, read_weights
from c3d_export.weights.canonical import expected_shapes, file_sha256, swap_red_and_blue


@pytest.fixture(scope="module")
def file(tiny_weights, tmp_path_factory) -> Path:
    """The project's own file of the smallest network."""
    path = tmp_path_factory.mktemp("npz") / "c3d.npz"
    np.savez(path, **tiny_weights.arrays)
    return path


class TestSeeded:
    def test_weights_are_the_same_on_every_machine(self, tiny_weights):
        # Pinned: features made on two machines from random:3 must be comparable.
        assert tiny_weights.sha256.startswith("7c8ea6e0bd0ec7e5")

    def test_specification_names_the_seed(self):
        weights = read_weights("random:3", width=1)
        assert weights.sha256 == random_weights(3, width=1).sha256

    def test_weights_differ_between_seeds(self, tiny_weights):
        assert random_weights(4, width=1, classes=3).sha256 != tiny_weights.sha256

    def test_layers_differ_from_each_other(self, tiny_weights):
        fc6, fc7 = (tiny_weights.arrays[f"{name}/bias"] for name in ("fc6", "fc7"))
        assert not np.array_equal(fc6, fc7)

    def test_description_marks_the_weights_as_random(self, tiny_weights):
        assert tiny_weights.describe() == {
            "source": "random:3",
            "format": "random",
            "random": True,
            "sha256": tiny_weights.sha256,
            "file_sha256": None,
            "parameters": 17_328_861,
            "width": 1,
            "channel_order": "BGR",
            "note": "not a trained network: labels and features mean nothing",
            "layers": tiny_weights.layers(),
        }
        assert len(tiny_weights.layers()) == 22
        assert tiny_weights.layers()["fc8/bias"]["shape"] == [3]

    def test_default_is_487_classes(self):
        assert read_weights("random:1", width=1).classes == 487

    def test_invalid_seed_or_width_is_an_error(self):
        for seed in ("", "x", "-1", "1.5", "²", " 1"):
            with pytest.raises(WeightsError, match="the seed must be a whole number, as in random"):
                read_weights(f"random:{seed}")
        with pytest.raises(WeightsError, match="random:-2: the seed must be 0 or more"):
            random_weights(-2)
        for width in (0, -1):
            with pytest.raises(WeightsError, match=f"width is {width} and classes 487"):
                read_weights("random:0", width=width)


class TestChecks:
    def check_error(self, match, arrays):
        with pytest.raises(WeightsError, match=match) as caught:
            Weights(arrays=arrays, source="some.h5", format="test")
        assert str(caught.value).startswith("some.h5: ")

    def test_expected_shapes_are_the_full_networks(self):
        shapes = expected_shapes(64, 487)
        assert len(shapes) == 22
        assert shapes["conv1/kernel"] == (3, 3, 3, 3, 64)
        assert shapes["conv5b/kernel"] == (3, 3, 3, 512, 512)
        assert shapes["fc6/kernel"] == (8192, 4096)
        assert shapes["fc8/bias"] == (487,)
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == 79_991_015

    def test_missing_arrays_are_an_error(self, tiny_weights):
        arrays = dict(tiny_weights.arrays)
        del arrays["fc7/kernel"], arrays["conv2/bias"]
        self.check_error("conv2/bias, fc7/kernel missing", arrays)

    def test_wrong_array_is_an_error(self, tiny_weights):
        arrays = tiny_weights.arrays
        cases = [
            ("fc9/bias", np.zeros(1, "f4"), "fc9/bias not expected"),
            (
                "fc6/kernel",
                arrays["fc6/kernel"].T,
                r"fc6/kernel has shape \[4096, 128\], expected \[128, 4096\]",
            ),
            ("conv1/kernel", np.zeros((3, 3, 3, 1), "f4"), "2-D convolutions, not C3D"),
            (
                "conv1/bias",
                arrays["conv1/bias"].astype(np.float64),
                "conv1/bias is float64, expected float32",
            ),
            ("conv1/bias", np.float32(1).reshape(()), "shape"),
        ]
        for value in (np.nan, np.inf, -np.inf):
            bias = arrays["conv4a/bias"].copy()
            bias[-1] = value
            cases.append(("conv4a/bias", bias, "conv4a/bias holds NaN or infinity"))
        for key, array, match in cases:
            self.check_error(match, {**arrays, key: array})


class TestNpz:
    def test_weights_are_those_that_were_written(self, file, tiny_weights):
        weights = read_weights(str(file))
        assert weights.sha256 == tiny_weights.sha256
        assert (weights.source, weights.format, weights.random) == ("c3d.npz", "npz", False)
        assert weights.file_sha256 == file_sha256(file)
        assert (weights.width, weights.classes, weights.parameters) == (1, 3, 17_328_861)

    def test_pickled_objects_are_not_loaded(self, tiny_weights, tmp_path):
        class RunsCode:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        kernel = np.array([RunsCode()], dtype=object)
        arrays = {"conv1/bias": tiny_weights.arrays["conv1/bias"], "conv1/kernel": kernel}
        np.savez(tmp_path / "evil.npz", **arrays)
        with pytest.raises(WeightsError, match=r"evil.npz: a damaged .npz file \(Object arrays"):
            read_weights(str(tmp_path / "evil.npz"))
        assert not (tmp_path / "ran").exists()

    def test_truncated_file_is_an_error(self, file, tmp_path):
        cut = tmp_path / "cut.npz"
        cut.write_bytes(file.read_bytes()[:1_000_000])
        with pytest.raises(WeightsError, match="cut.npz: a damaged .npz file"):
            read_weights(str(cut))

    def test_changed_byte_is_an_error(self, tmp_path):
        path = tmp_path / "changed.npz"
        array = np.arange(50_000, dtype=np.float32)
        for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with (
                zipfile.ZipFile(path, "w", packing) as archive,
                archive.open("a.npy", "w") as entry,
            ):
                np.save(entry, array)
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
            with pytest.raises(WeightsError, match="changed.npz: a damaged .npz file"):
                read_weights(str(path))

    def test_file_with_other_arrays_is_an_error(self, tmp_path):
        np.savez(tmp_path / "other.npz", features=np.zeros(4096, np.float32))
        with pytest.raises(WeightsError, match="other.npz: not C3D's weights: conv1/kernel, "):
            read_weights(str(tmp_path / "other.npz"))


def test_path_without_a_weight_file_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match=r"absent.h5: cannot be read \(No such file"):
        read_weights(str(tmp_path / "absent.h5"))
    with pytest.raises(WeightsError, match="it is a folder; give the weight file in it"):
        read_weights(str(tmp_path))
    path = tmp_path / "weights.h5"
    for content, message in (
        (b"", r"known format: it is empty \(0 bytes\)"),
        (b"weights\n" * 99, "known format: it is text; give the weight file itself"),
        (b"\xfe\1\2\3" * 99, r"known format \(Keras HDF5, torch, C3D .*, TensorFlow checkpoint\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_weights(str(path))


class TestDigest:
    ARRAYS = {"b/bias": np.arange(6, dtype="f4"), "a/kernel": np.ones((2, 3), "f4")}

    def test_order_and_memory_layout_do_not_matter(self):
        digest = arrays_sha256(self.ARRAYS)
        assert arrays_sha256(dict(reversed(self.ARRAYS.items()))) == digest
        transposed = {**self.ARRAYS, "a/kernel": np.asfortranarray(self.ARRAYS["a/kernel"])}
        assert arrays_sha256(transposed) == digest

    def test_values_shapes_dtypes_and_keys_matter(self):
        for change in (
            {"b/bias": np.arange(6, dtype="f4")[::-1]},
            {"b/bias": np.arange(6, dtype="f4").reshape(2, 3)},
            {"b/bias": np.arange(6, dtype="i4")},
            {"c/bias": np.arange(6, dtype="f4")},
        ):
            assert arrays_sha256({**self.ARRAYS, **change}) != arrays_sha256(self.ARRAYS), change


class TestRedAndBlue:
    def test_only_conv1s_input_channels_are_reversed(self, tiny_weights):
        swapped = swap_red_and_blue(tiny_weights.arrays)
        before = tiny_weights.arrays["conv1/kernel"]
        assert np.array_equal(swapped["conv1/kernel"][:, :, :, 0], before[:, :, :, 2])
        assert np.array_equal(swapped["conv1/kernel"][:, :, :, 1], before[:, :, :, 1])
        assert not np.array_equal(swapped["conv1/kernel"], before)
        others = set(swapped) - {"conv1/kernel"}
        assert all(swapped[key] is tiny_weights.arrays[key] for key in others)
        assert set(swapped) == set(tiny_weights.arrays)

    def test_swapping_twice_restores_the_arrays(self, tiny_weights):
        twice = swap_red_and_blue(swap_red_and_blue(tiny_weights.arrays))
        assert arrays_sha256(twice) == tiny_weights.sha256
