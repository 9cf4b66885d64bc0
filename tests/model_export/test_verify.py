"""Verification: what the server could not run or would answer wrongly is caught, and named."""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from c3d_export import servable
from c3d_export.errors import VerificationError
from c3d_export.graph import GraphServable
from c3d_export.servable import save
from c3d_export.verify import relative_difference, verify
from c3d_export.warmup import WARMUP_FILE, write_warmup
from c3d_export.weights import random_weights
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

VARIABLES = "variables/variables.data-00000-of-00001"


@pytest.fixture
def version(tiny_base, tmp_path):
    """A good version, for one test to damage."""
    return shutil.copytree(tiny_base / "1", tmp_path / "c3d" / "1")


def fails(version, words, **source):
    with pytest.raises(VerificationError, match=words) as caught:
        verify(version, **source)
    assert str(version) in str(caught.value)
    assert "\n" not in str(caught.value)


def edit(version, change):
    """Rewrite a version's graph after a change to it."""
    file = version / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(saved_model.meta_graphs[0])
    file.write_bytes(saved_model.SerializeToString())


def rewrite_warmup(version, change):
    """Rewrite a version's warm-up file, each record changed."""
    path = version / WARMUP_FILE
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record)
            change(log)
            writer.write(log.SerializeToString())


class TestAGoodVersion:
    def test_is_within_a_hundred_thousandth_of_the_keras_model(self, version):
        verification = verify(version)
        assert set(verification.differences) == {
            *("classify", "serving_default", "fc6_features", "fc7_features")
        }
        assert max(verification.differences.values()) < 1e-5

    def test_has_all_its_warm_up_requests_run(self, version):
        verification = verify(version)
        assert (verification.warmup_run, verification.warmup_left) == (4, 0)

    def test_is_what_it_was_made_of(self, version, tiny_weights, make_spec):
        verify(version, weights=tiny_weights, mean=make_spec(tiny_weights).mean)

    def test_is_not_what_it_was_not_made_of(self, version, tiny_weights, make_spec):
        mean = make_spec(tiny_weights).mean
        others = random_weights(4, width=1, classes=3)
        fails(version, r"/kernel is not what it was made of", weights=others, mean=mean)
        turned = replace(mean, bgr=mean.bgr[..., ::-1])
        fails(version, "mean is not what it was made of", weights=tiny_weights, mean=turned)


class TestANaiveExport:
    """tf.saved_model.save of what holds a Keras model: right in Python, broken in the server."""

    @pytest.fixture
    def naive(self, tiny_weights, make_spec, tmp_path, monkeypatch):
        build_c3d, networks = servable.build_c3d, []

        def remembered(**options):
            networks.append(build_c3d(**options))
            return networks[-1]

        def tracking(_parameters, mean):
            module = tf.Module()
            module.network, module.mean = networks[-1], mean
            return module

        monkeypatch.setattr(servable, "build_c3d", remembered)
        monkeypatch.setattr(servable, "_Servable", tracking)
        save(make_spec(tiny_weights), tmp_path / "1")
        write_warmup(tmp_path / "1", batch_sizes=(1,))
        return tmp_path / "1"

    def test_reloads_in_python_and_answers(self, naive, clips):
        reloaded = tf.saved_model.load(str(naive))
        features = reloaded.signatures["fc6_features"](clips=clips[:1])["features"].numpy()
        assert features.shape == (1, 4096)
        assert features.max() > 0

    def test_is_caught(self, naive):
        fails(naive, "classify fails: Could not find variable")

    def test_of_the_keras_model_itself_is_caught(self, tiny_weights, tmp_path):
        """What the tutorials show, with a signature of our name."""
        network = servable.build_c3d(width=1, classes=3)
        clips = tf.TensorSpec([None, 16, 112, 112, 3], tf.uint8, name="clips")

        @tf.function(input_signature=[clips])
        def classify(clips):
            return {"probabilities": network(tf.cast(clips, tf.float32))}

        tf.saved_model.save(network, str(tmp_path / "1"), signatures={"classify": classify})
        fails(tmp_path / "1", "has no signature 'fc6_features'")
        with GraphServable(tmp_path / "1") as loaded, pytest.raises(tf.errors.OpError):
            loaded.run("classify", {"clips": np.zeros((1, 16, 112, 112, 3), np.uint8)})


class TestVariables:
    def test_with_a_flipped_byte(self, version):
        content = bytearray((version / VARIABLES).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (version / VARIABLES).write_bytes(content)
        fails(version, "cannot be loaded .*Checksum does not match")

    def test_cut_short(self, version):
        content = (version / VARIABLES).read_bytes()
        (version / VARIABLES).write_bytes(content[: len(content) // 2])
        fails(version, "cannot be loaded .*Read less bytes than requested")

    def test_missing(self, version):
        shutil.rmtree(version / "variables")
        fails(version, "cannot be loaded .*variables")

    def test_of_another_network_are_not_those_of_the_card(self, version, make_spec, tmp_path):
        save(make_spec(random_weights(4, width=1, classes=3)), tmp_path / "other")
        shutil.rmtree(version / "variables")
        shutil.copytree(tmp_path / "other" / "variables", version / "variables")
        fails(version, "stored weights have digest .*…, the model card says .*…; build it again")


class TestTheGraph:
    def test_missing(self, version):
        (version / "saved_model.pb").unlink()
        fails(version, r"no SavedModel there .*; give a version's folder, such as models/c3d/1")

    def test_of_a_folder_that_is_not_there(self, tmp_path):
        fails(tmp_path / "absent", "no SavedModel there")

    def test_of_a_models_folder_instead_of_a_versions(self, tiny_base):
        fails(tiny_base, "give a version's folder, such as models/c3d/1")

    @pytest.mark.parametrize("content", [b"\xff" * 99, b"nonsense" * 99])
    def test_garbage(self, version, content):
        (version / "saved_model.pb").write_bytes(content)
        fails(version, "saved_model.pb: damaged; it is not a SavedModel")

    def test_empty(self, version):
        (version / "saved_model.pb").write_bytes(b"")
        fails(version, "saved_model.pb: has no graph with the tag 'serve'")

    @pytest.mark.parametrize(
        "name", ["classify", "fc6_features", "fc7_features", "model_card", "serving_default"]
    )
    def test_without_a_signature(self, version, name):
        edit(version, lambda graph: graph.signature_def.pop(name))
        fails(version, f"has no signature '{name}'")

    def test_with_a_signature_for_another_call(self, version):
        def change(graph):
            graph.signature_def["classify"].method_name = "tensorflow/serving/classify"

        edit(version, change)
        fails(version, "classify is for 'tensorflow/serving/classify'")

    def test_with_a_fixed_number_of_rows(self, version):
        def change(graph):
            output = graph.signature_def["fc6_features"].outputs["features"]
            output.tensor_shape.dim[0].size = 1

        edit(version, change)
        fails(version, r"fc6_features has .*\[1, 4096\].*, expected features float32 \[-1, 4096\]")

    def test_with_an_input_of_another_name(self, version):
        def change(graph):
            inputs = graph.signature_def["fc7_features"].inputs
            inputs["video"].CopyFrom(inputs.pop("clips"))

        edit(version, change)
        fails(version, "fc7_features has .*video.*, expected clips uint8")

    def test_with_an_output_that_no_batching_server_could_split(self, version):
        def change(graph):
            outputs = graph.signature_def["classify"].outputs
            outputs["labels"].CopyFrom(outputs["probabilities"])

        edit(version, change)
        fails(version, "classify has .*labels.*, expected probabilities float32")

    def test_with_a_signature_that_answers_another_ones_question(self, version):
        def change(graph):
            both = graph.signature_def
            both["fc6_features"].CopyFrom(both["fc7_features"])

        edit(version, change)
        fails(version, "fc6_features differs from the Keras model by .* more than 1e-05")


class TestTheCard:
    def saved(self, text, make_spec, weights, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(servable.json, "dumps", lambda *_args, **_options: text)
            save(make_spec(weights), tmp_path / "1")
        return tmp_path / "1"

    @pytest.mark.parametrize("text", ["no JSON", "[1]", "3", json.dumps({"contract_version": "9"})])
    def test_of_no_contract_of_ours(self, text, make_spec, tiny_weights, tmp_path, monkeypatch):
        version = self.saved(text, make_spec, tiny_weights, tmp_path, monkeypatch)
        fails(version, "model_card|contract version")


class TestWarmUp:
    def test_missing(self, version):
        (version / WARMUP_FILE).unlink()
        fails(version, "no warm-up request for classify, fc6_features, fc7_features, model_card")

    def test_of_one_signature_missing(self, version):
        def change(log):
            spec = log.predict_log.request.model_spec
            spec.signature_name = spec.signature_name.replace("fc7", "fc6")

        rewrite_warmup(version, change)
        fails(version, "no warm-up request for fc7_features")

    @pytest.mark.parametrize("cut", [-1, 20, 5])
    def test_damaged(self, version, cut):
        path = version / WARMUP_FILE
        path.write_bytes(path.read_bytes()[:cut])
        fails(version, "damaged warm-up file|no warm-up request")

    def test_garbage(self, version):
        (version / WARMUP_FILE).write_bytes(b"\x01\x02\x03" * 99)
        fails(version, "damaged warm-up file")

    def test_of_a_wrong_shape(self, version):
        def change(log):
            for tensor in log.predict_log.request.inputs.values():
                if len(tensor.tensor_shape.dim) == 5:
                    tensor.tensor_shape.dim[3].size = 113

        rewrite_warmup(version, change)
        fails(version, "classify fails: .*113")

    def test_with_a_tensor_that_does_not_fill_its_shape(self, version):
        def change(log):
            for tensor in log.predict_log.request.inputs.values():
                tensor.tensor_content = b"xyz"

        rewrite_warmup(version, change)
        fails(version, "a warm-up request for classify holds a damaged tensor")

    def test_of_an_unknown_signature(self, version):
        def change(log):
            log.predict_log.request.model_spec.signature_name = "fc9"

        rewrite_warmup(version, change)
        fails(version, "fc9 fails")

    def test_of_another_call(self, version):
        def change(log):
            log.classify_log.request.model_spec.name = "c3d"

        rewrite_warmup(version, change)
        fails(version, "record 0 is not a Predict request")


def test_the_relative_difference_is_that_of_the_worst_row():
    reference = np.array([[3.0, 4.0], [0.0, 10.0]])
    answer = np.array([[3.0, 4.5], [0.0, 10.1]])
    assert relative_difference(answer, reference) == pytest.approx(0.1)


def test_keras_itself_is_on_tensorflow():
    """Whatever somebody's keras.json says: the servable is made of TensorFlow's functions."""
    assert keras.backend.backend() == "tensorflow"
