"""TensorFlow checkpoints of C3D: their answers are the oracle's; other files give one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from c3d_client.core.contract import CONTRACT_VERSION
from c3d_client.core.provenance import ModelCard
from c3d_export.architecture import build_c3d, features_extractor, set_weights
from c3d_export.errors import WeightsError
from c3d_export.graph import GraphServable, read_card
from c3d_export.mean import read_mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights import npz, read_weights, tensorflow_checkpoint
from support import oracle, weight_files
from support.caffe_bytes import blob_bytes, random_mean, random_net
from support.measures import relative
from support.tensorflow_files import (
    port_arrays,
    v1_index,
    v2_index,
    write_checkpoint,
    write_table,
)

pytestmark = pytest.mark.long

TOLERANCE = 1e-4
# A network that was trained on RGB frames and an RGB mean, with conv1 as it is in the file.
TRAINED_ON = {"bgr": oracle.CAFFE, "rgb": oracle.Variant(frames_bgr=False, mean_bgr=False)}


@pytest.fixture(scope="module")
def net():
    return random_net(5, width=1, classes=11)


@pytest.fixture(scope="module")
def mean_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mean") / "mean.binaryproto"
    path.write_bytes(blob_bytes(random_mean(0)[None]))
    return path


@pytest.fixture(scope="module")
def frames():
    """Sixteen frames with another level in each channel, so that exchanged channels show."""
    pixels = np.random.default_rng(7).integers(0, 120, (16, 128, 171, 3), dtype=np.uint8)
    return pixels + np.array([120, 60, 0], np.uint8)


@pytest.fixture(autouse=True)
def no_files_are_kept(tmp_path):
    """Delete a test's files at its end: fc7 alone has 64 MB in each."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture
def in_process(monkeypatch):
    """Read in this process, which has TensorFlow loaded already."""
    monkeypatch.setattr(tensorflow_checkpoint, "_arrays", tensorflow_checkpoint._read)


def scoped(arrays, scope="var_name"):
    return {f"{scope}/{name}": array for name, array in arrays.items()}


def expected_stages(net, mean_file, frames, channels):
    mean = oracle.parse_mean(mean_file.read_bytes())
    clip = oracle.preprocess(list(frames), mean, variant=TRAINED_ON[channels])
    return oracle.stages(clip, net)


class TestAnswers:
    @pytest.mark.parametrize(
        ("version", "channels", "rows"),
        [("V1", "rgb", "chw"), ("V2", "bgr", "hwc")],
    )
    def test_served_answers_are_the_oracles(
        self, tmp_path, net, mean_file, frames, version, channels, rows
    ):
        path = write_checkpoint(
            tmp_path / "c3d.model", scoped(port_arrays(net, rows=rows)), version=version
        )
        weights = read_weights(str(path), channels=channels, fc6_rows=rows)
        labels = [str(number) for number in range(11)]
        spec = ServableSpec(
            weights=weights, mean=read_mean(str(mean_file)), labels=labels, batch_sizes=(1,)
        )
        version_path, _ = build(spec, tmp_path / "c3d")
        expected = expected_stages(net, mean_file, frames, channels)
        clips = frames[None, :, 8:120, 29:141]
        with GraphServable(version_path) as served:
            fc6 = served.run("fc6_features", {"clips": clips})["features"]
            prob = served.run("classify", {"clips": clips})["probabilities"]
            card = read_card(served)
        assert relative(fc6, expected["fc6"][None]) < TOLERANCE
        assert relative(prob, expected["prob"][None]) < TOLERANCE
        assert card.weights["channel_order"] == "BGR"  # of the arrays, as in every card
        assert card.weights["source_channel_order"] == channels.upper()
        assert card.weights["source_fc6_rows"] == tensorflow_checkpoint.FC6_ROWS[rows]
        # Repeated in the record of every result.
        assert card.model()["weights"]["source_channel_order"] == channels.upper()
        assert channels in card.model()["weights"]["note"]

    @pytest.mark.parametrize(("channels", "rows"), [("bgr", "chw"), ("rgb", "hwc")])
    def test_each_other_order_gives_other_features(
        self, tmp_path, net, mean_file, frames, in_process, channels, rows
    ):
        path = write_checkpoint(
            tmp_path / "c3d.model", scoped(port_arrays(net, rows=rows)), version="V2"
        )
        centred = frames[None, :, 8:120, 29:141, ::-1] - read_mean(str(mean_file)).bgr
        expected = expected_stages(net, mean_file, frames, channels)["fc6"][None]
        for read_channels in ("bgr", "rgb"):
            for read_rows in ("chw", "hwc"):
                weights = read_weights(str(path), channels=read_channels, fc6_rows=read_rows)
                network = build_c3d(width=1, classes=11)
                set_weights(network, weights.arrays)
                fc6 = np.asarray(features_extractor(network)(centred, training=False))
                difference = relative(fc6, expected)
                is_right = (read_channels, read_rows) == (channels, rows)
                assert (difference < TOLERANCE) is is_right, (read_channels, read_rows)
                assert is_right or difference > 100 * TOLERANCE, (read_channels, read_rows)


class TestNames:
    @pytest.mark.parametrize(
        ("version", "scope"),
        [("V1", ""), ("V2", "c3d_0/c3d_var/"), ("object", "var_name/"), ("object", "")],
    )
    def test_any_scope_and_ending(self, tmp_path, net, in_process, scope, version):
        arrays = {scope + name: array for name, array in port_arrays(net, rows="chw").items()}
        path = write_checkpoint(tmp_path / "c3d.model", arrays, version=version)
        weights = read_weights(str(path), channels="bgr", fc6_rows="chw")
        canonical = weight_files.canonical(net)
        assert set(weights.arrays) == set(canonical)
        for key, array in canonical.items():
            assert np.array_equal(weights.arrays[key], array), key

    def test_optimiser_slots_and_counters_are_ignored(self, tmp_path, net, in_process):
        arrays = scoped(port_arrays(net, rows="chw"))
        wrong = {
            f"{name}/{slot}": array + 1
            for name, array in arrays.items()
            for slot in ("Adam", "Adam_1", "ExponentialMovingAverage")
            if array.size < 1000
        }
        wrong |= {"Momentum/wc1": arrays["var_name/wc1"] + 1, "optimizer/_variables/3": np.ones(3)}
        wrong |= {"global_step": np.int64(9), "beta1_power": np.float32(0.1)}
        path = write_checkpoint(tmp_path / "c3d.model", arrays | wrong, version="V1")
        weights = read_weights(str(path), channels="bgr", fc6_rows="chw")
        for key, array in weight_files.canonical(net).items():
            assert np.array_equal(weights.arrays[key], array), key

    def test_last_layer_named_out_is_recognised_by_its_shape(self, tmp_path, net, in_process):
        arrays = port_arrays(net, rows="chw")
        arrays["weights/out"], arrays["biases/out"] = arrays.pop("wout"), arrays.pop("bout")
        path = write_checkpoint(tmp_path / "c3d.model", arrays, version="V2")
        assert read_weights(str(path), channels="bgr", fc6_rows="chw").classes == 11

    def test_classes_of_ucf101_and_no_classes(self, tmp_path, in_process):
        arrays = port_arrays(random_net(1, width=1, classes=101), rows="chw")
        path = write_checkpoint(tmp_path / "ucf101.model", arrays, version="V2")
        assert read_weights(str(path), channels="rgb", fc6_rows="chw").classes == 101
        del arrays["wout"], arrays["bout"]
        path = write_checkpoint(tmp_path / "features.model", arrays, version="V2")
        weights = read_weights(str(path), channels="rgb", fc6_rows="chw")
        assert weights.classes is None
        assert "fc8/kernel" not in weights.arrays

    def test_numbers_of_other_floating_types_become_float32(self, tmp_path, net, in_process):
        arrays = port_arrays(net, rows="chw")
        arrays["wd2"] = arrays["wd2"].astype(np.float64)
        arrays["bc1"] = arrays["bc1"].astype(np.float16)
        path = write_checkpoint(tmp_path / "c3d.model", arrays, version="V2")
        weights = read_weights(str(path), channels="bgr", fc6_rows="chw")
        assert {array.dtype for array in weights.arrays.values()} == {np.dtype("float32")}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, net):
    """The index of a V2 checkpoint and a V1 file, of the same arrays; do not write to them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    arrays = scoped(port_arrays(net, rows="hwc"))
    index = write_checkpoint(folder / "v2.model", arrays, version="V2")
    return index, write_checkpoint(folder / "v1.model", arrays, version="V1")


class TestFiles:
    def test_v2_is_given_by_its_prefix_or_any_file(self, checkpoints, in_process):
        index, _ = checkpoints
        prefix = index.with_suffix("")
        read = [
            read_weights(str(path), channels="bgr", fc6_rows="hwc")
            for path in (prefix, index, f"{prefix}.data-00000-of-00001")
        ]
        assert len({weights.sha256 for weights in read}) == 1
        assert {weights.source for weights in read} == {"v2.model"}
        assert {weights.format for weights in read} == {"tensorflow-checkpoint"}

    def test_v1_and_v2_of_the_same_arrays_differ_in_the_files_digest_only(self, checkpoints):
        index, file = checkpoints
        two, one = (
            read_weights(str(path), channels="rgb", fc6_rows="hwc") for path in (index, file)
        )
        assert one.sha256 == two.sha256
        assert one.file_sha256 != two.file_sha256
        assert len(one.file_sha256) == len(two.file_sha256) == 64

    def test_orders_must_be_given(self, checkpoints):
        for path in checkpoints:
            with pytest.raises(WeightsError, match="give --channels and --fc6-rows"):
                read_weights(str(path))
            with pytest.raises(WeightsError, match=r"give --fc6-rows \(trained by the port"):
                read_weights(str(path), channels="bgr")
            with pytest.raises(WeightsError, match=r"give --channels \(trained by the port"):
                read_weights(str(path), fc6_rows="chw")
            with pytest.raises(WeightsError, match="channels 'RGB' and fc6 rows 'chw'; choose bgr"):
                read_weights(str(path), channels="RGB", fc6_rows="chw")

    def test_orders_are_refused_for_other_weights(self, tmp_path, net):
        weight_files.write_keras2(tmp_path / "c3d.h5", weight_files.canonical(net))
        for spec in (str(tmp_path / "c3d.h5"), "demo", "random:0"):
            with pytest.raises(WeightsError, match="are for TensorFlow checkpoints alone"):
                read_weights(spec, channels="bgr")
            with pytest.raises(WeightsError, match="are for TensorFlow checkpoints alone"):
                read_weights(spec, fc6_rows="hwc")

    def test_missing_file(self, tmp_path):
        fails(tmp_path / "absent.model", r"cannot be read \(No such file")

    def test_data_without_its_index(self, tmp_path):
        path = tmp_path / "c3d.model.data-00000-of-00001"
        path.write_bytes(b"\x0a" * 100)
        fails(path, r"a part of a TensorFlow checkpoint without its c3d\.model\.index")

    def test_index_without_its_data(self, tmp_path, checkpoints, in_process):
        path = tmp_path / "v2.model.index"
        path.write_bytes(checkpoints[0].read_bytes())
        fails(path, r"a damaged TensorFlow checkpoint \(.*No such file")

    def test_name_of_two_checkpoints(self, tmp_path, checkpoints):
        (tmp_path / "c3d.model").write_bytes(checkpoints[1].read_bytes()[-200:])
        (tmp_path / "c3d.model.index").write_bytes(checkpoints[0].read_bytes())
        fails(tmp_path / "c3d.model", "names two TensorFlow checkpoints")

    def test_converted_file_keeps_what_was_given(self, tmp_path, checkpoints, in_process):
        weights = read_weights(str(checkpoints[1]), channels="rgb", fc6_rows="hwc")
        npz.write(tmp_path / "c3d.npz", weights)
        converted = read_weights(str(tmp_path / "c3d.npz"))
        assert converted.sha256 == weights.sha256
        assert converted.note == weights.note
        assert (
            converted.given
            == weights.given
            == {
                "source_channel_order": "RGB",
                "source_fc6_rows": "height, width, channel",
            }
        )
        card = {"contract_version": CONTRACT_VERSION, "mean": {}, "precision": "float32"}
        model = ModelCard.from_dict({**card, "weights": converted.describe()}).model()
        assert model["weights"]["source_fc6_rows"] == "height, width, channel"

    def test_other_formats_record_nothing_more_than_before(self, tmp_path, net):
        """New fields in results would rename the shards of unfinished bulk runs."""
        path = weight_files.write_keras2(tmp_path / "c3d.h5", weight_files.canonical(net))
        assert not {"source_channel_order", "source_fc6_rows"} & set(
            read_weights(str(path)).describe()
        )


def fails(path, match):
    with pytest.raises(WeightsError, match=match) as caught:
        read_weights(str(path), channels="bgr", fc6_rows="chw")
    message = str(caught.value)
    assert path.name.removesuffix(".index") in message
    assert "\n" not in message
    assert len(message) < 1000


class TestOtherNetworks:
    def written(self, tmp_path, net, version="V2", **changes):
        # Refused before the dense layers' shapes are compared, so that these can be small.
        small = {"wd1": np.zeros((2, 2), np.float32), "wd2": np.zeros((2, 2), np.float32)}
        arrays = port_arrays(net, rows="chw") | small
        for name, array in changes.items():
            if array is None:
                del arrays[name]
            else:
                arrays[name] = array
        return write_checkpoint(tmp_path / "c3d.model", scoped(arrays), version=version)

    def test_missing_layer(self, tmp_path, net, in_process):
        path = self.written(tmp_path, net, wc3b=None, bd2=None)
        fails(path, "not C3D's weights: wc3b, bd2 missing")

    def test_half_of_the_last_layer(self, tmp_path, net, in_process):
        fails(self.written(tmp_path, net, bout=None), "not C3D's weights: bout missing")

    def test_further_layer(self, tmp_path, net, in_process):
        for name in ("wc6a", "gamma", "kernel"):
            path = self.written(tmp_path, net, **{name: np.ones(4, np.float32)})
            fails(path, rf"not C3D's weights: var_name/{name} not expected")

    def test_older_variant_is_refused_by_shape(self, tmp_path, net, in_process):
        kernel = port_arrays(net, rows="chw")["wc5a"]
        for version in ("V1", "V2"):
            path = self.written(tmp_path, net, version, wc5a=kernel[:2], wc5b=kernel[:1])
            fails(path, r"wc5a has shape \[2, 3, 3, 8, 8\], expected \[3, 3, 3, 8, 8\].*older")
            path.unlink()

    def test_layer_in_two_scopes(self, tmp_path, net, in_process):
        arrays = scoped({"bc1": port_arrays(net, rows="chw")["bc1"]})
        arrays["another/bc1"] = arrays["var_name/bc1"]
        path = write_checkpoint(tmp_path / "c3d.model", arrays, version="V2")
        fails(path, "has bc1 twice, as another/bc1, var_name/bc1")

    def test_network_of_other_names(self, tmp_path, in_process):
        arrays = {"conv1/kernel": np.ones((3, 3), np.float32), "global_step": np.int64(1)}
        path = write_checkpoint(tmp_path / "other.model", arrays, version="V2")
        fails(path, r"without C3D's variables .*; it has conv1/kernel")

    def test_whole_numbers(self, tmp_path, net, in_process):
        path = self.written(tmp_path, net, bc2=np.arange(2, dtype=np.int32))
        fails(path, "var_name/bc2 is int32, expected float32")


class TestDamage:
    @pytest.mark.parametrize("which", [0, 1])
    def test_changed_byte_is_an_error(self, tmp_path, checkpoints, in_process, which):
        # A V1 file, and the data of a V2 checkpoint.
        index, file = checkpoints
        if which:
            path = changed = tmp_path / "v1.model"
            changed.write_bytes(file.read_bytes())
        else:
            path = tmp_path / index.name
            path.write_bytes(index.read_bytes())
            changed = tmp_path / "v2.model.data-00000-of-00001"
            changed.write_bytes(index.with_name(changed.name).read_bytes())
        content = changed.read_bytes()
        for share in (0.01, 0.5, 0.9):
            position = int(share * len(content))
            with changed.open("r+b") as damaged:
                damaged.seek(position)
                damaged.write(bytes([content[position] ^ 4]))
            fails(path, "a damaged TensorFlow checkpoint")
            with changed.open("r+b") as damaged:
                damaged.seek(position)
                damaged.write(content[position : position + 1])
        changed.write_bytes(content[: len(content) // 2])
        fails(path, "a damaged TensorFlow checkpoint|not a TensorFlow checkpoint, or cut short")

    def test_modules_in_the_current_folder_are_not_run(self, tmp_path, net, monkeypatch):
        path = write_checkpoint(tmp_path / "c3d", port_arrays(net, rows="chw"), version="V2")
        (tmp_path / "random.py").write_text("raise SystemExit('not the standard library')")
        monkeypatch.chdir(tmp_path)
        assert read_weights(str(path), channels="bgr", fc6_rows="chw").width == 1

    def test_index_that_aborts_tensorflow_is_one_line(self, tmp_path):
        """No saver writes these shapes; TensorFlow ends the process that reads them."""
        for number, shape in enumerate(([2**40, 2**40], [-5, 3], [1] * 300)):
            path = tmp_path / f"{number}.index"
            write_table(path, v2_index("wc1", dtype=1, shape=shape, offset=0, size=4))
            path.with_suffix(".data-00000-of-00001").write_bytes(bytes(1000))
            fails(path, r"TensorFlow cannot read it \(.*Check failed")

    def test_hostile_v1_file_is_one_line(self, tmp_path, in_process):
        for shape, dtype in (([2**40, 2**40], 1), ([-5], 1), ([1] * 300, 1), ([3], 77)):
            path = write_table(tmp_path / "v1.model", v1_index("wc1", dtype=dtype, shape=shape))
            fails(path, "a damaged TensorFlow checkpoint")

    def test_large_arrays_are_refused_before_they_are_read(self, tmp_path, in_process):
        path = tmp_path / "large.index"
        entries = v2_index("wc1", dtype=1, shape=[3, 3, 3, 3, 2**40], offset=0, size=4)
        for name, key in tensorflow_checkpoint._NAMES.items():
            shapes = tensorflow_checkpoint.expected_shapes(2**20, None)
            if key in shapes:
                entries |= v2_index(name, dtype=1, shape=list(shapes[key]), offset=0, size=4)
        write_table(path, entries)
        path.with_suffix(".data-00000-of-00001").write_bytes(bytes(10))
        fails(path, r"wc1 has shape \[3, 3, 3, 3, 1048576\]; C3D's largest array has 33,554,432")

    def test_names_with_line_breaks_and_of_any_length(self, tmp_path, in_process):
        for name in ("two\nlines", "x" * 100_000):
            path = tmp_path / "names.index"
            write_table(path, v2_index(name, dtype=1, shape=[3], offset=0, size=12))
            fails(path, "without C3D's variables")


class TestCommand:
    def test_inspect_and_convert_show_what_was_given(self, run, checkpoints, tmp_path):
        index, file = checkpoints
        orders = ("--channels", "rgb", "--fc6-rows", "hwc")
        code, out, err = run("inspect", index, *orders)
        assert (code, err) == (0, "")
        assert out.startswith("v2.model: tensorflow-checkpoint\n")
        assert "channels       BGR, from RGB as given" in out
        assert "fc6 rows       from (height, width, channel) as given" in out
        assert "another resize and mean" in out
        code, out, err = run("convert", file, tmp_path / "c3d.npz", *orders)
        assert (code, err) == (0, "")
        with np.load(tmp_path / "c3d.npz") as file:
            assert json.loads(str(file["origin"]))["source_channel_order"] == "RGB"

    def test_missing_orders_are_one_line(self, refused, checkpoints, tmp_path):
        for command in (
            ("inspect", checkpoints[1]),
            ("convert", checkpoints[0], tmp_path / "c3d.npz"),
            ("build", "--weights", checkpoints[0], "--out", tmp_path / "c3d"),
        ):
            assert "does not record the order of its channels" in refused(*command)

    def test_orders_with_other_weights_are_one_line(self, refused, tmp_path):
        command = ("build", "--weights", "random:1", "--channels", "bgr", "--out", tmp_path / "c3d")
        assert "are for TensorFlow checkpoints alone" in refused(*command)
