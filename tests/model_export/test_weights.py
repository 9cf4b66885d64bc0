"""Canonical weights: seeded ones, the project's own file, the audit, digests, and the RGB turn."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from c3d_export.digest import file_sha256
from c3d_export.errors import WeightsError
from c3d_export.weights import Weights, arrays_sha256, random_weights, read_weights
from c3d_export.weights.canonical import expected_shapes, turned_to_rgb


@pytest.fixture(scope="module")
def file(tiny_weights, tmp_path_factory) -> Path:
    """The project's own file of the least network."""
    path = tmp_path_factory.mktemp("npz") / "c3d.npz"
    np.savez(path, **tiny_weights.arrays)
    return path


def refused(words, arrays):
    with pytest.raises(WeightsError, match=words) as caught:
        Weights(arrays=arrays, source="some.h5", format="test")
    assert str(caught.value).startswith("some.h5: ")


class TestSeeded:
    def test_weights_are_the_same_every_time_and_everywhere(self, tiny_weights):
        again = read_weights("random:3", width=1, classes=3)
        assert again.sha256 == tiny_weights.sha256
        # Pinned: features made on two machines from random:3 must be comparable.
        assert again.sha256.startswith("7c8ea6e0bd0ec7e5")

    def test_weights_differ_between_seeds(self, tiny_weights):
        assert random_weights(4, width=1, classes=3).sha256 != tiny_weights.sha256

    def test_layers_differ_from_each_other(self, tiny_weights):
        fc6, fc7 = (tiny_weights.arrays[f"{name}/bias"] for name in ("fc6", "fc7"))
        assert not np.array_equal(fc6, fc7)

    def test_weights_say_that_nobody_trained_them(self, tiny_weights):
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

    def test_weights_have_487_classes_unless_told_otherwise(self):
        assert read_weights("random:1", width=1).classes == 487

    @pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "²", " 1"])
    def test_a_bad_seed_is_refused(self, seed):
        with pytest.raises(WeightsError, match="the seed must be a whole number, as in random:0"):
            read_weights(f"random:{seed}")

    def test_a_negative_seed_is_refused(self):
        with pytest.raises(WeightsError, match="random:-2: the seed must be 0 or more"):
            random_weights(-2)

    @pytest.mark.parametrize("width", [0, -1])
    def test_a_width_below_one_is_refused(self, width):
        with pytest.raises(WeightsError, match=f"width is {width} and classes 487"):
            read_weights("random:0", width=width)


class TestTheAudit:
    def test_knows_the_full_networks_shapes(self):
        shapes = expected_shapes(64, 487)
        assert len(shapes) == 22
        assert shapes["conv1/kernel"] == (3, 3, 3, 3, 64)
        assert shapes["conv5b/kernel"] == (3, 3, 3, 512, 512)
        assert shapes["fc6/kernel"] == (8192, 4096)
        assert shapes["fc8/bias"] == (487,)
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == 79_991_015

    def test_names_what_is_missing(self, tiny_weights):
        arrays = dict(tiny_weights.arrays)
        del arrays["fc7/kernel"], arrays["conv2/bias"]
        refused("conv2/bias, fc7/kernel missing", arrays)

    def test_names_what_is_too_much(self, tiny_weights):
        refused("fc9/bias not expected", {**tiny_weights.arrays, "fc9/bias": np.zeros(1, "f4")})

    def test_says_the_wrong_shape_and_the_right_one(self, tiny_weights):
        turned = tiny_weights.arrays["fc6/kernel"].T
        refused(
            r"fc6/kernel has shape \[4096, 128\], expected \[128, 4096\]",
            {**tiny_weights.arrays, "fc6/kernel": turned},
        )

    def test_knows_a_network_of_2d_convolutions(self, tiny_weights):
        flat = np.zeros((3, 3, 3, 1), np.float32)
        refused("2-D convolutions, not C3D", {**tiny_weights.arrays, "conv1/kernel": flat})

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_finds_a_number_that_is_none(self, tiny_weights, value):
        bias = tiny_weights.arrays["conv4a/bias"].copy()
        bias[-1] = value
        refused("conv4a/bias holds NaN or infinity", {**tiny_weights.arrays, "conv4a/bias": bias})

    def test_wants_float32(self, tiny_weights):
        bias = tiny_weights.arrays["conv1/bias"].astype(np.float64)
        refused(
            "conv1/bias is float64, expected float32", {**tiny_weights.arrays, "conv1/bias": bias}
        )

    def test_survives_a_bias_that_is_one_number(self, tiny_weights):
        refused("shape", {**tiny_weights.arrays, "conv1/bias": np.float32(1).reshape(())})


class TestOurOwnFile:
    def test_gives_back_what_went_in(self, file, tiny_weights):
        weights = read_weights(str(file))
        assert weights.sha256 == tiny_weights.sha256
        assert (weights.source, weights.format, weights.random) == ("c3d.npz", "npz", False)
        assert weights.file_sha256 == file_sha256(file)
        assert (weights.width, weights.classes, weights.parameters) == (1, 3, 17_328_861)

    def test_never_runs_a_pickle(self, tiny_weights, tmp_path):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "sprung",))

        trap = np.array([Trap()], dtype=object)
        small = {"conv1/bias": tiny_weights.arrays["conv1/bias"], "conv1/kernel": trap}
        np.savez(tmp_path / "evil.npz", **small)
        with pytest.raises(WeightsError, match=r"evil.npz: a damaged .npz file \(Object arrays"):
            read_weights(str(tmp_path / "evil.npz"))
        assert not (tmp_path / "sprung").exists()

    def test_cut_short_is_refused(self, file, tmp_path):
        cut = tmp_path / "cut.npz"
        cut.write_bytes(file.read_bytes()[:1_000_000])
        with pytest.raises(WeightsError, match="cut.npz: a damaged .npz file"):
            read_weights(str(cut))

    @pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_with_a_flipped_byte_is_refused(self, tmp_path, packing):
        path = tmp_path / "flipped.npz"
        array = np.arange(50_000, dtype=np.float32)
        with zipfile.ZipFile(path, "w", packing) as archive, archive.open("a.npy", "w") as entry:
            np.save(entry, array)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="flipped.npz: a damaged .npz file"):
            read_weights(str(path))

    def test_that_holds_something_else_is_refused(self, tmp_path):
        np.savez(tmp_path / "other.npz", features=np.zeros(4096, np.float32))
        with pytest.raises(WeightsError, match="other.npz: not C3D's weights: conv1/kernel, "):
            read_weights(str(tmp_path / "other.npz"))


class TestWhatIsNoWeightFile:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(WeightsError, match=r"absent.h5: cannot be read \(No such file"):
            read_weights(str(tmp_path / "absent.h5"))

    def test_a_folder(self, tmp_path):
        with pytest.raises(WeightsError, match=r"cannot be read \(Is a directory"):
            read_weights(str(tmp_path))

    @pytest.mark.parametrize("content", [b"", b"weights\n" * 99])
    def test_a_file_of_another_format_names_those_that_are_known(self, tmp_path, content):
        path = tmp_path / "weights.h5"
        path.write_bytes(content)
        with pytest.raises(
            WeightsError, match=r"not .* known format \(Keras HDF5, torch, C3D .npz"
        ):
            read_weights(str(path))


class TestDigest:
    SOME = {"b/bias": np.arange(6, dtype="f4"), "a/kernel": np.ones((2, 3), "f4")}

    def test_is_the_same_in_any_order(self):
        assert arrays_sha256(dict(reversed(self.SOME.items()))) == arrays_sha256(self.SOME)

    def test_is_the_same_however_the_arrays_lie_in_memory(self):
        turned = {**self.SOME, "a/kernel": np.asfortranarray(self.SOME["a/kernel"])}
        assert arrays_sha256(turned) == arrays_sha256(self.SOME)

    @pytest.mark.parametrize(
        "change",
        [
            {"b/bias": np.arange(6, dtype="f4")[::-1]},
            {"b/bias": np.arange(6, dtype="f4").reshape(2, 3)},
            {"b/bias": np.arange(6, dtype="i4")},
            {"c/bias": np.arange(6, dtype="f4")},
        ],
        ids=["values", "shape", "dtype", "keys"],
    )
    def test_differs_with(self, change):
        assert arrays_sha256({**self.SOME, **change}) != arrays_sha256(self.SOME)


class TestTheTurnToRgb:
    def test_reverses_conv1s_input_channels_and_nothing_else(self, tiny_weights):
        turned = turned_to_rgb(tiny_weights.arrays)
        before = tiny_weights.arrays["conv1/kernel"]
        assert np.array_equal(turned["conv1/kernel"][:, :, :, 0], before[:, :, :, 2])
        assert np.array_equal(turned["conv1/kernel"][:, :, :, 1], before[:, :, :, 1])
        assert not np.array_equal(turned["conv1/kernel"], before)
        others = set(turned) - {"conv1/kernel"}
        assert all(turned[key] is tiny_weights.arrays[key] for key in others)
        assert set(turned) == set(tiny_weights.arrays)

    def test_is_its_own_inverse(self, tiny_weights):
        twice = turned_to_rgb(turned_to_rgb(tiny_weights.arrays))
        assert arrays_sha256(twice) == tiny_weights.sha256
