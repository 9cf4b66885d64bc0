"""The built servable: signatures, outputs against an independent oracle, the model card, digest."""

import dataclasses
import json
import platform
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from c3d_client.core.errors import UsageError
from c3d_export.graph import GraphServable
from c3d_export.mean import Mean, read_mean
from c3d_export.servable import build
from c3d_export.weights import Weights
from c3d_export.winograd import transformed_bytes
from support import caffe_bytes, oracle, weight_files
from support.measures import relative


@pytest.fixture(scope="module")
def net():
    """The narrow network in Caffe's layout."""
    return caffe_bytes.random_net(7, width=4)


@pytest.fixture(scope="module")
def mean_cube():
    """A mean cube in Caffe's layout, (3, 16, 128, 171), BGR."""
    return caffe_bytes.random_mean(0)


@pytest.fixture(scope="module")
def spec(net, mean_cube, make_spec):
    weights = Weights(
        arrays=weight_files.canonical(net), source="net", format="test", random=True, note="a test"
    )
    mean = Mean(np.ascontiguousarray(mean_cube[:, :, 8:120, 29:141].transpose(1, 2, 3, 0)), "cube")
    return make_spec(weights, mean=mean, batch_sizes=(1, 3))


@pytest.fixture(scope="module")
def float32(spec, tmp_path_factory):
    path, _ = build(spec, tmp_path_factory.mktemp("float32"))
    with GraphServable(path) as servable:
        yield servable


@pytest.fixture(scope="module")
def for_gpu(spec, tmp_path_factory):
    path, _ = build(dataclasses.replace(spec, target="gpu"), tmp_path_factory.mktemp("for_gpu"))
    with GraphServable(path) as servable:
        yield servable


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def short(request, spec, tmp_path_factory):
    short = dataclasses.replace(spec, precision=request.param, batch_sizes=(1,))
    path, _ = build(short, tmp_path_factory.mktemp(request.param), elsewhere=True)
    with GraphServable(path) as servable:
        yield servable


@pytest.fixture(scope="module")
def expected(net, mean_cube, clips):
    """The oracle's outputs for the clips: arrays of one row per clip, by stage."""
    return oracle_outputs(net, mean_cube, clips)


def oracle_outputs(net, mean_cube, clips):
    mean = mean_cube[:, :, 8:120, 29:141]
    inputs = [clip[..., ::-1].transpose(3, 0, 1, 2).astype(np.float32) - mean for clip in clips]
    outputs = [oracle.stages(clip, net) for clip in inputs]
    outputs = [{**oracle.layers(each), "prob": each["prob"]} for each in outputs]
    return {stage: np.stack([each[stage] for each in outputs]) for stage in outputs[0]}


def read_cards(servable, rows=1):
    texts = servable.run("model_card", {"n": np.zeros(rows, np.int32)})["json"]
    return [json.loads(text) for text in texts]


class TestSignatures:
    CLIPS = ("uint8", [-1, 16, 112, 112, 3])
    TABLE = {
        "classify": ({"clips": CLIPS}, {"probabilities": ("float32", [-1, 487])}),
        "serving_default": ({"clips": CLIPS}, {"probabilities": ("float32", [-1, 487])}),
        "fc6_features": ({"clips": CLIPS}, {"features": ("float32", [-1, 4096])}),
        "fc7_features": ({"clips": CLIPS}, {"features": ("float32", [-1, 4096])}),
        "layers": (
            {"clips": CLIPS},
            {
                "conv5b": ("float32", [-1, 2, 7, 7, 32]),
                "pool5": ("float32", [-1, 1, 4, 4, 32]),
                "fc6": ("float32", [-1, 4096]),
                "fc7": ("float32", [-1, 4096]),
                "fc8": ("float32", [-1, 487]),
            },
        ),
        "model_card": ({"n": ("int32", [-1])}, {"json": ("string", [-1])}),
    }

    HALVES = {
        "fc6_features_halves": (
            {"halves": ("uint8", [-1, 8, 112, 112, 3])},
            {"features": ("float32", [-1, 4096])},
        )
    }

    def test_signatures_are_those_of_the_contract(self, float32, for_gpu):
        for servable, table in ((float32, self.TABLE), (for_gpu, {**self.TABLE, **self.HALVES})):
            self.check(servable, table)

    def check(self, servable, table):
        def specs(tensors):
            return {
                alias: (
                    tf.dtypes.DType(info.dtype).name,
                    [dim.size for dim in info.tensor_shape.dim],
                )
                for alias, info in tensors.items()
            }

        signatures = dict(servable.signatures)
        # TensorFlow's own, which runs at the load.
        assert not signatures.pop("__saved_model_init_op").inputs
        served = {
            name: (specs(signature.inputs), specs(signature.outputs))
            for name, signature in signatures.items()
        }
        assert served == table
        methods = {signature.method_name for signature in signatures.values()}
        assert methods == {"tensorflow/serving/predict"}


class TestOutputs:
    def test_features_are_the_oracles(self, float32, expected, clips):
        for layer in ("fc6", "fc7"):
            features = float32.run(f"{layer}_features", {"clips": clips})["features"]
            assert features.dtype == np.float32
            assert relative(features, expected[layer]) < 1e-5, layer

    def test_every_layer_is_the_oracles(self, float32, for_gpu, expected, clips):
        for servable in (float32, for_gpu):
            layers = servable.run("layers", {"clips": clips})
            assert list(layers) == ["conv5b", "fc6", "fc7", "fc8", "pool5"]
            for name, rows in layers.items():
                assert rows.dtype == np.float32
                assert rows.shape == expected[name].shape, name
                difference = relative(rows.reshape(3, -1), expected[name].reshape(3, -1))
                assert difference < 1e-5, (servable.path, name, difference)

    def test_layers_with_channels_first_would_not_be_the_oracles(self, float32, expected, clips):
        layers = float32.run("layers", {"clips": clips})
        for name in ("conv5b", "pool5"):
            moved = np.moveaxis(layers[name], -1, 1).reshape(3, -1)
            assert relative(moved, expected[name].reshape(3, -1)) > 0.1, name

    @pytest.mark.long
    def test_fc6_and_fc7_are_those_of_their_own_signatures(self, float32, for_gpu, short, clips):
        """Bit by bit, with all other layers and alone."""
        for servable in (float32, for_gpu, short):
            count = 1 if servable is short else 3
            request = {"clips": clips[:count]}
            together = servable.run("layers", request)
            for layer in ("fc6", "fc7"):
                features = servable.run(f"{layer}_features", request)["features"]
                assert np.array_equal(together[layer], features), (servable.path, layer)
                alone = servable.run("layers", request, (layer,))
                assert list(alone) == [layer]
                assert np.array_equal(alone[layer], features), (servable.path, layer)

    def test_probabilities_are_the_oracles(self, float32, expected, clips):
        probabilities = float32.run("classify", {"clips": clips})["probabilities"]
        assert relative(probabilities, expected["prob"]) < 1e-4
        assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)

    def test_default_signature_classifies(self, float32, clips):
        classify = float32.run("classify", {"clips": clips})["probabilities"]
        default = float32.run("serving_default", {"clips": clips})["probabilities"]
        assert np.array_equal(classify, default)

    def test_features_of_a_clip_do_not_depend_on_the_batch(self, float32, clips):
        together = float32.run("fc6_features", {"clips": clips})["features"]
        alone = float32.run("fc6_features", {"clips": clips[1:2]})["features"]
        assert relative(alone, together[1:2]) < 1e-5

    def test_features_of_halves_are_those_of_their_clips(self, for_gpu, float32, clips):
        """Bit by bit: the same arithmetic on the same batch."""
        halves = clips.reshape(-1, 8, 112, 112, 3)
        following = np.concatenate([halves, np.roll(halves, -1, axis=0)], axis=1)
        expected = for_gpu.run("fc6_features", {"clips": following})["features"]
        features = for_gpu.run("fc6_features_halves", {"halves": halves})["features"]
        assert features.dtype == np.float32
        assert np.array_equal(features, expected)
        cpu = float32.run("fc6_features", {"clips": clips})["features"]
        assert relative(features[::2], cpu) < 1e-5  # of another form of the convolution
        alone = for_gpu.run("fc6_features_halves", {"halves": halves[:1]})["features"]
        twice = np.concatenate([halves[:1], halves[:1]], axis=1)
        assert np.array_equal(alone, for_gpu.run("fc6_features", {"clips": twice})["features"])

    def test_features_differ_from_those_of_every_known_mistake(
        self, float32, net, mean_cube, expected, clips
    ):
        """Otherwise the agreement with the oracle would not exclude the mistake."""
        features = float32.run("fc6_features", {"clips": clips[:1]})["features"]
        mistakes = {
            "RGB for BGR": (clips[:1, ..., ::-1], mean_cube),
            "RGB mean": (clips[:1], mean_cube[::-1]),
            "crop at 30": (clips[:1], np.roll(mean_cube, 1, 3)),
            "another mean": (clips[:1], np.full_like(mean_cube, 100)),
            "time reversed": (clips[:1, ::-1], mean_cube),
        }
        for name, (wrong_clips, wrong_mean) in mistakes.items():
            wrong = oracle_outputs(net, wrong_mean, wrong_clips)["fc6"]
            assert relative(wrong, expected["fc6"][:1]) > 1e-4, name
            assert relative(features, wrong) > 1e-4, name


class TestModelCard:
    def test_card_describes_the_inputs(self, float32, spec):
        (card,) = read_cards(float32)
        weights = card.pop("weights")
        assert len(weights.pop("served_sha256")) == 64
        assert weights == spec.weights.describe()
        assert weights["random"]
        assert weights["sha256"] == spec.weights.sha256
        assert card.pop("mean") == spec.mean.describe()
        software = card.pop("software")
        assert software.keys() == {"c3d_export", "tensorflow", "keras", "numpy", "python"}
        assert software["tensorflow"] == tf.__version__
        assert software["keras"] == keras.__version__
        assert software["python"] == platform.python_version()
        assert card == {
            "contract_version": "1",
            "architecture": "C3D (Tran et al., ICCV 2015)",
            "precision": "float32",
            "convolution": "winograd",
            "labels": [f"label {number}" for number in range(487)],
            "layers": ["conv5b", "pool5", "fc6", "fc7", "fc8"],
            "preprocessing": {
                "resize": "171x128 opencv-linear",
                "crop": "rows 8:120, columns 29:141",
                "wire": "RGB uint8",
            },
            "batch_sizes": [1, 3],
        }

    def test_card_has_as_many_rows_as_requested(self, float32):
        assert read_cards(float32, rows=3) == read_cards(float32) * 3


class TestPrecision:
    def test_short_formats_halve_the_weights_on_disk(self, float32, short, spec):
        def size(servable):
            return (servable.path / "variables" / "variables.data-00000-of-00001").stat().st_size

        mean_bytes, parameters = spec.mean.bgr.nbytes, spec.weights.parameters
        transformed = transformed_bytes(spec.weights.arrays)
        # The rest is Python's object graph and alignment; a second copy would double the size.
        assert 0 <= size(float32) - mean_bytes - 4 * parameters - transformed < 100_000
        assert 0 <= size(short) - mean_bytes - 2 * parameters < 100_000

    def test_short_formats_have_nearly_the_same_features(self, short, expected, clips):
        features = short.run("fc6_features", {"clips": clips[:1]})["features"]
        reference = expected["fc6"][:1]
        assert features.dtype == np.float32
        lengths = np.linalg.norm(features) * np.linalg.norm(reference)
        assert (features * reference).sum() / lengths > 0.999
        assert relative(features, reference) > 1e-5  # otherwise it would be float32

    def test_precision_is_in_the_model_card(self, short):
        (card,) = read_cards(short)
        assert card["precision"] in short.path.parent.name


class TestSpec:
    def test_invalid_values_are_an_error(self, tiny_weights, make_spec):
        cases = [
            ({"precision": "int8"}, "'int8'; choose float32, bfloat16, float16"),
            ({"target": "tpu"}, "target is 'tpu'; choose cpu, gpu"),
        ]
        for sizes in ((), (0, 1), (-1,), (8, 1), (1, 1)):
            cases.append(({"batch_sizes": sizes}, "give ascending numbers of 1 or more"))
        for count in (0, 2, 487):
            match = f"{count} labels, and the network has 3 classes"
            cases.append(({"labels": ["x"] * count}, match))
        for changes, match in cases:
            with pytest.raises(UsageError, match=match):
                make_spec(tiny_weights, **changes)

    def test_digest_is_equal_for_equal_inputs(self, spec, make_spec, tiny_weights):
        assert make_spec(tiny_weights).digest == make_spec(tiny_weights).digest
        assert re.fullmatch("[0-9a-f]{16}", spec.digest)

    def test_digest_does_not_depend_on_the_weights_file(self, make_spec, tiny_weights):
        elsewhere = dataclasses.replace(tiny_weights, source="elsewhere.npz", file_sha256="0" * 64)
        assert make_spec(elsewhere).digest == make_spec(tiny_weights).digest

    def test_digest_differs_for_every_other_input(self, make_spec, tiny_weights):
        arrays = {**tiny_weights.arrays, "fc8/bias": tiny_weights.arrays["fc8/bias"] + 1}
        digests = {
            make_spec(tiny_weights).digest,
            make_spec(tiny_weights, target="gpu").digest,
            make_spec(dataclasses.replace(tiny_weights, arrays=arrays)).digest,
            make_spec(tiny_weights, mean=read_mean("1,2,3")).digest,
            make_spec(tiny_weights, labels=["a", "b", "c"]).digest,
            make_spec(tiny_weights, precision="bfloat16").digest,
            make_spec(tiny_weights, batch_sizes=(1, 2)).digest,
            make_spec(tiny_weights, convolution="direct").digest,
        }
        assert len(digests) == 8

    def test_digest_is_written_to_the_version(self, float32, spec):
        assert (float32.path / "made-of").read_text() == f"{spec.digest}\n"
