"""What is served: the signatures, the answers against an independent oracle, the model card."""

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
from c3d_export.mean import read_mean
from c3d_export.servable import build

PREDICT = "tensorflow/serving/predict"


@pytest.fixture(scope="module")
def spec(narrow_weights, make_spec):
    return make_spec(narrow_weights, batch_sizes=(1, 3))


@pytest.fixture(scope="module")
def float32(spec, tmp_path_factory):
    path, _ = build(spec, tmp_path_factory.mktemp("float32"))
    with GraphServable(path) as servable:
        yield servable


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def short(request, spec, narrow_weights, make_spec, tmp_path_factory):
    short = make_spec(narrow_weights, precision=request.param)
    path, _ = build(short, tmp_path_factory.mktemp(request.param))
    with GraphServable(path) as servable:
        yield servable


@pytest.fixture(scope="module")
def oracle(spec, caffe_answer, clips):
    return caffe_answer(spec.weights.arrays, spec.mean.bgr, clips)


def difference(answer, reference):
    """The length of the difference over that of the reference, for the worst row."""
    lengths = np.linalg.norm(reference, axis=1)
    return (np.linalg.norm(answer - reference, axis=1) / lengths).max()


def ask_card(servable, rows=1):
    answer = servable.run("model_card", {"n": np.zeros(rows, np.int32)})["json"]
    return [json.loads(text) for text in answer]


class TestSignatures:
    CLIPS = ("DT_UINT8", [-1, 16, 112, 112, 3])
    TABLE = {
        "classify": ({"clips": CLIPS}, {"probabilities": ("DT_FLOAT", [-1, 487])}),
        "serving_default": ({"clips": CLIPS}, {"probabilities": ("DT_FLOAT", [-1, 487])}),
        "fc6_features": ({"clips": CLIPS}, {"features": ("DT_FLOAT", [-1, 4096])}),
        "fc7_features": ({"clips": CLIPS}, {"features": ("DT_FLOAT", [-1, 4096])}),
        "model_card": ({"n": ("DT_INT32", [-1])}, {"json": ("DT_STRING", [-1])}),
    }

    def test_are_these(self, float32):
        assert set(float32.signatures) == set(self.TABLE)

    @pytest.mark.parametrize("name", TABLE)
    def test_have_these_tensors_and_any_number_of_rows(self, float32, name):
        def seen(tensors):
            return {
                alias: (
                    tf.dtypes.DType(info.dtype).name,
                    [dim.size for dim in info.tensor_shape.dim],
                )
                for alias, info in tensors.items()
            }

        names = {"DT_UINT8": "uint8", "DT_FLOAT": "float32", "DT_INT32": "int32"}
        names["DT_STRING"] = "string"
        for tensors, wanted in zip(
            (float32.signatures[name].inputs, float32.signatures[name].outputs),
            self.TABLE[name],
            strict=True,
        ):
            assert seen(tensors) == {
                alias: (names[dtype], shape) for alias, (dtype, shape) in wanted.items()
            }

    @pytest.mark.parametrize("name", TABLE)
    def test_are_all_for_predict(self, float32, name):
        assert float32.signatures[name].method_name == PREDICT


class TestAnswers:
    @pytest.mark.parametrize("layer", ["fc6", "fc7"])
    def test_features_are_c3ds(self, float32, oracle, clips, layer):
        answer = float32.run(f"{layer}_features", {"clips": clips})["features"]
        assert answer.dtype == np.float32
        assert difference(answer, getattr(oracle, layer)) < 1e-5

    def test_probabilities_are_c3ds(self, float32, oracle, clips):
        answer = float32.run("classify", {"clips": clips})["probabilities"]
        assert difference(answer, oracle.probabilities) < 1e-4
        assert answer.sum(axis=1) == pytest.approx(1.0, abs=1e-5)

    def test_the_default_signature_classifies(self, float32, clips):
        classify = float32.run("classify", {"clips": clips})["probabilities"]
        default = float32.run("serving_default", {"clips": clips})["probabilities"]
        assert np.array_equal(classify, default)

    def test_a_clip_has_the_same_answer_alone_and_among_others(self, float32, clips):
        together = float32.run("fc6_features", {"clips": clips})["features"]
        alone = float32.run("fc6_features", {"clips": clips[1:2]})["features"]
        assert difference(alone, together[1:2]) < 1e-5

    @pytest.mark.parametrize(
        "mistake",
        [
            pytest.param(lambda clips, mean: (clips[..., ::-1], mean), id="BGR for RGB"),
            pytest.param(lambda clips, mean: (clips, mean[..., ::-1]), id="the mean not turned"),
            pytest.param(lambda clips, mean: (clips, np.roll(mean, 1, 2)), id="the crop at 30"),
            pytest.param(lambda clips, mean: (clips, 0 * mean + 100), id="another mean"),
            pytest.param(lambda clips, mean: (clips[:, ::-1], mean), id="frames backwards"),
        ],
    )
    def test_differ_from_those_of_a_mistake(
        self, float32, spec, oracle, caffe_answer, clips, mistake
    ):
        """Or an agreement with the oracle would say nothing of it."""
        wrong = caffe_answer(spec.weights.arrays, *reversed(mistake(clips, spec.mean.bgr)))
        assert difference(wrong.fc6, oracle.fc6) > 1e-3
        answer = float32.run("fc6_features", {"clips": clips})["features"]
        assert difference(answer, wrong.fc6) > 1e-3


class TestModelCard:
    def test_says_what_it_is_made_of(self, float32, spec):
        (card,) = ask_card(float32)
        weights = card.pop("weights")
        assert len(weights.pop("served_sha256")) == 64
        assert weights == spec.weights.describe()
        assert weights["random"]
        assert weights["sha256"] == spec.weights.sha256
        assert card.pop("mean") == spec.mean.describe()
        assert card.pop("software").keys() == {
            *("c3d_export", "tensorflow", "keras", "numpy", "python")
        }
        assert card == {
            "contract_version": "1",
            "architecture": "C3D (Tran et al., ICCV 2015)",
            "precision": "float32",
            "labels": [f"label {number}" for number in range(487)],
            "preprocessing": {
                "resize": "171x128 opencv-linear",
                "crop": "rows 8:120, columns 29:141",
                "wire": "RGB uint8",
            },
            "batch_sizes": [1, 3],
        }

    def test_says_what_it_is_made_with(self, float32):
        (card,) = ask_card(float32)
        assert card["software"]["tensorflow"] == tf.__version__
        assert card["software"]["keras"] == keras.__version__
        assert card["software"]["python"] == platform.python_version()

    def test_has_as_many_rows_as_asked_for(self, float32):
        three = ask_card(float32, rows=3)
        assert three == ask_card(float32) * 3


class TestPrecision:
    def test_halves_the_weights_on_disk(self, float32, short, spec):
        def size(servable):
            return (servable.path / "variables" / "variables.data-00000-of-00001").stat().st_size

        mean_bytes, parameters = spec.mean.bgr.nbytes, spec.weights.parameters
        # The rest is Python's object graph and alignment; a second copy would be as large again.
        assert 0 <= size(float32) - mean_bytes - 4 * parameters < 100_000
        assert 0 <= size(short) - mean_bytes - 2 * parameters < 100_000

    def test_gives_float32_features_in_the_same_direction(self, short, oracle, clips):
        answer = short.run("fc6_features", {"clips": clips[:1]})["features"]
        assert answer.dtype == np.float32
        lengths = np.linalg.norm(answer) * np.linalg.norm(oracle.fc6[:1])
        assert (answer * oracle.fc6[:1]).sum() / lengths > 0.999
        assert difference(answer, oracle.fc6[:1]) > 1e-5  # or it is float32 under another name

    def test_is_said_in_the_model_card(self, short):
        (card,) = ask_card(short)
        assert card["precision"] in short.path.parent.name


class TestParts:
    def test_of_another_precision_are_refused(self, tiny_weights, make_spec):
        with pytest.raises(UsageError, match="'int8'; choose float32, bfloat16, float16"):
            make_spec(tiny_weights, precision="int8")

    @pytest.mark.parametrize("sizes", [(), (0, 1), (-1,), (8, 1), (1, 1)])
    def test_with_such_batch_sizes_are_refused(self, tiny_weights, make_spec, sizes):
        with pytest.raises(UsageError, match="give ascending numbers of 1 or more"):
            make_spec(tiny_weights, batch_sizes=sizes)

    @pytest.mark.parametrize("count", [0, 2, 487])
    def test_with_another_number_of_labels_are_refused(self, tiny_weights, make_spec, count):
        with pytest.raises(UsageError, match=f"{count} labels, and the network has 3 classes"):
            make_spec(tiny_weights, labels=["x"] * count)


class TestDigest:
    def test_is_the_same_for_the_same(self, spec, make_spec, tiny_weights):
        assert make_spec(tiny_weights).digest == make_spec(tiny_weights).digest
        assert re.fullmatch("[0-9a-f]{16}", spec.digest)

    def test_knows_weights_by_their_numbers_and_not_by_their_files(self, make_spec, tiny_weights):
        elsewhere = dataclasses.replace(tiny_weights, source="elsewhere.npz", file_sha256="0" * 64)
        assert make_spec(elsewhere).digest == make_spec(tiny_weights).digest

    def test_is_another_for_anything_else(self, make_spec, tiny_weights):
        arrays = {**tiny_weights.arrays, "fc8/bias": tiny_weights.arrays["fc8/bias"] + 1}
        digests = {
            make_spec(tiny_weights).digest,
            make_spec(dataclasses.replace(tiny_weights, arrays=arrays)).digest,
            make_spec(tiny_weights, mean=read_mean("1,2,3")).digest,
            make_spec(tiny_weights, labels=["a", "b", "c"]).digest,
            make_spec(tiny_weights, precision="bfloat16").digest,
            make_spec(tiny_weights, batch_sizes=(1, 2)).digest,
        }
        assert len(digests) == 6

    def test_is_left_in_the_version(self, float32, spec):
        assert (float32.path / "made-of").read_text() == f"{spec.digest}\n"
