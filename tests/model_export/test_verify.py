"""Verification detects and names what the server could not run or would compute wrongly."""

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
    """A good version, for one test to change."""
    return shutil.copytree(tiny_base / "1", tmp_path / "c3d" / "1")


def check_error(version, match, **source):
    with pytest.raises(VerificationError, match=match) as caught:
        verify(version, **source)
    assert str(version) in str(caught.value)
    assert "\n" not in str(caught.value)


def edit(version, change):
    """Rewrite a version's graph with a change."""
    file = version / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(saved_model.meta_graphs[0])
    file.write_bytes(saved_model.SerializeToString())


def rewrite_warmup(version, change):
    """Rewrite a version's warm-up file with a change to each record."""
    path = version / WARMUP_FILE
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record)
            change(log)
            writer.write(log.SerializeToString())


class TestGoodVersion:
    def test_differences_from_the_keras_model_are_below_1e_5(self, version):
        verification = verify(version)
        assert set(verification.differences) == {
            *("classify", "serving_default", "fc6_features", "fc7_features", "layers")
        }
        assert max(verification.differences.values()) < 1e-5

    @pytest.mark.long
    def test_all_warm_up_requests_are_run(self, version):
        verification = verify(version)
        assert (verification.warmup_run, verification.warmup_left) == (9, 0)

    @pytest.mark.long
    def test_stored_weights_and_mean_are_the_source(self, version, tiny_weights, make_spec):
        verify(version, weights=tiny_weights, mean=make_spec(tiny_weights).mean)

    @pytest.mark.long
    def test_another_source_is_an_error(self, version, tiny_weights, make_spec):
        mean = make_spec(tiny_weights).mean
        other_weights = random_weights(4, width=1, classes=3)
        check_error(version, "/kernel differs from the source", weights=other_weights, mean=mean)
        rgb = replace(mean, bgr=mean.bgr[..., ::-1])
        check_error(version, "mean differs from the source", weights=tiny_weights, mean=rgb)


@pytest.fixture(scope="module")
def for_gpu(tiny_weights, make_spec, tmp_path_factory):
    """A version for GPUs, and its verification by the build."""
    return servable.build(
        make_spec(tiny_weights, target="gpu"), tmp_path_factory.mktemp("for_gpu") / "c3d"
    )


class TestHalves:
    """The signature that only servables for GPUs have."""

    NAME = "fc6_features_halves"

    @pytest.fixture
    def version(self, for_gpu, tmp_path):
        return shutil.copytree(for_gpu[0], tmp_path / "c3d" / "1")

    @pytest.mark.long
    def test_build_and_verify_compare_it(self, for_gpu, version):
        for verification in (for_gpu[1], verify(version)):
            assert 0 <= verification.differences[self.NAME] < 1e-5

    def test_rows_of_other_halves_are_an_error(self, version):
        """Rolled the other way, row i is the clip of the halves i and i - 1."""

        def change(graph):
            (shift,) = [
                node
                for function in graph.graph_def.library.function
                for node in function.node_def
                if node.name.endswith("Roll/shift")
            ]
            tensor = shift.attr["value"].tensor
            assert tf.make_ndarray(tensor) == -1
            tensor.CopyFrom(tf.make_tensor_proto(1, tf.int32))

        edit(version, change)
        check_error(version, f"{self.NAME} differs from the Keras model by .* more than 1e-05")

    @pytest.mark.long
    def test_one_half_alone_is_compared(self, version, monkeypatch):
        run = GraphServable.run

        def wrong_alone(loaded, signature, inputs, outputs=()):
            answers = run(loaded, signature, inputs, outputs)
            if len(inputs.get("halves", ())) == 1:
                answers["features"] = 1.001 * answers["features"]
            return answers

        monkeypatch.setattr(GraphServable, "run", wrong_alone)
        check_error(version, f"{self.NAME} differs from the Keras model by 1.00e-03")

    @pytest.mark.long
    def test_answer_with_another_number_of_rows_is_an_error(self, version, monkeypatch):
        run = GraphServable.run

        def without_last_row(loaded, signature, inputs, outputs=()):
            answers = run(loaded, signature, inputs, outputs)
            if signature == self.NAME:
                answers["features"] = answers["features"][:-1]
            return answers

        monkeypatch.setattr(GraphServable, "run", without_last_row)
        check_error(version, f"{self.NAME} answers 4 halves with 3 rows")

    def test_signature_of_another_form_is_an_error(self, version):
        def change(graph):
            signatures = graph.signature_def
            signatures[self.NAME].CopyFrom(signatures["fc6_features"])

        edit(version, change)
        check_error(version, f"{self.NAME} has .*clips.*, expected halves uint8")

    def test_missing_warm_up_is_an_error(self, version):
        def change(log):
            spec = log.predict_log.request.model_spec
            if spec.signature_name == self.NAME:
                (tensor,) = log.predict_log.request.inputs.values()
                tensor.tensor_shape.dim[1].size = 16
                log.predict_log.request.inputs["clips"].CopyFrom(tensor)
                del log.predict_log.request.inputs["halves"]
                spec.signature_name = "fc6_features"

        rewrite_warmup(version, change)
        check_error(version, f"no warm-up request for {self.NAME}")


@pytest.mark.long
class TestLayers:
    """The signature that servables of release 0.1.0 do not have."""

    def test_a_layer_that_the_card_lists_and_the_signature_lacks_is_an_error(self, version):
        edit(version, lambda graph: graph.signature_def["layers"].outputs.pop("pool5"))
        check_error(
            version,
            "the model card lists the layers conv5b, pool5, fc6, fc7, fc8, and the signature "
            "layers has conv5b, fc6, fc7, fc8; .* build it again",
        )

    def test_a_missing_signature_is_an_error_where_the_card_lists_layers(self, version):
        edit(version, lambda graph: graph.signature_def.pop("layers"))
        check_error(version, "lists the layers conv5b, .*, and the signature layers has none")

    def test_a_card_without_layers_is_an_error_where_the_signature_is_there(
        self, make_spec, tiny_weights, tmp_path, monkeypatch
    ):
        card = servable._card
        monkeypatch.setattr(
            servable, "_card", lambda *args, **named: {**card(*args, **named), "layers": []}
        )
        save(make_spec(tiny_weights), tmp_path / "1")
        check_error(tmp_path / "1", "lists the layers none, and the signature layers has conv5b")

    def test_version_of_an_earlier_release_is_verified(
        self, make_spec, tiny_weights, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(servable.ServableSpec, "layers", property(lambda _spec: ()))
        version, verification = servable.build(make_spec(tiny_weights), tmp_path / "c3d")
        assert "layers" not in verification.differences
        with GraphServable(version) as loaded:
            assert "layers" not in loaded.signatures
        assert verify(version).differences.keys() == verification.differences.keys()

    def test_another_layer_under_a_name_is_an_error(self, version):
        def change(graph):
            outputs = graph.signature_def["layers"].outputs
            outputs["fc7"].CopyFrom(outputs["fc6"])

        edit(version, change)
        check_error(version, "layers, fc7, differs from the Keras model by .* more than 1e-05")

    def test_pool5_with_channels_first_is_an_error(self, version):
        def change(graph):
            dims = graph.signature_def["layers"].outputs["pool5"].tensor_shape.dim
            for dim, size in zip(dims, (-1, 8, 1, 4, 4), strict=True):
                dim.size = size

        edit(version, change)
        check_error(version, r"layers has .*, expected pool5 float32 \[-1, 1, 4, 4, -1\]")

    def test_missing_warm_up_is_an_error(self, version):
        def change(log):
            request = log.predict_log.request
            if request.model_spec.signature_name == "layers":
                request.model_spec.signature_name = "fc6_features"
                del request.output_filter[:]

        rewrite_warmup(version, change)
        check_error(version, "no warm-up request for layers")

    def test_a_filter_that_fails_in_the_warm_up_is_an_error(self, version):
        def change(log):
            request = log.predict_log.request
            if request.output_filter:
                request.output_filter[:] = ["conv9"]

        rewrite_warmup(version, change)
        check_error(version, "layers fails: .*conv9")


class TestNaiveExport:
    """tf.saved_model.save of a Keras model's owner: right in Python, broken in the server."""

    @pytest.fixture
    def naive(self, tiny_weights, make_spec, tmp_path, monkeypatch):
        build_c3d, networks = servable.build_c3d, []

        def build_and_store(**options):
            networks.append(build_c3d(**options))
            return networks[-1]

        def tracking(_parameters, mean, _kernels):
            module = tf.Module()
            module.network, module.mean = networks[-1], mean
            return module

        monkeypatch.setattr(servable, "build_c3d", build_and_store)
        monkeypatch.setattr(servable, "_Servable", tracking)
        save(make_spec(tiny_weights, convolution="direct"), tmp_path / "1")
        write_warmup(tmp_path / "1", batch_sizes=(1,))
        return tmp_path / "1"

    def test_reload_in_python_computes_features(self, naive, clips):
        reloaded = tf.saved_model.load(str(naive))
        features = reloaded.signatures["fc6_features"](clips=clips[:1])["features"].numpy()
        assert features.shape == (1, 4096)
        assert features.max() > 0

    def test_servable_module_is_an_error(self, naive):
        check_error(naive, "classify fails: Could not find variable")

    @pytest.mark.long
    def test_keras_model_itself_is_an_error(self, tmp_path):
        """The export of the tutorials, with the signature's name of this project."""
        network = servable.build_c3d(width=1, classes=3)
        clips = tf.TensorSpec([None, 16, 112, 112, 3], tf.uint8, name="clips")

        @tf.function(input_signature=[clips])
        def classify(clips):
            return {"probabilities": network(tf.cast(clips, tf.float32))}

        tf.saved_model.save(network, str(tmp_path / "1"), signatures={"classify": classify})
        check_error(tmp_path / "1", "has no signature 'fc6_features'")
        with GraphServable(tmp_path / "1") as loaded, pytest.raises(tf.errors.OpError):
            loaded.run("classify", {"clips": np.zeros((1, 16, 112, 112, 3), np.uint8)})


class TestVariables:
    def test_changed_byte_is_an_error(self, version):
        content = bytearray((version / VARIABLES).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (version / VARIABLES).write_bytes(content)
        check_error(version, "cannot be loaded .*Checksum does not match")

    def test_truncated_file_is_an_error(self, version):
        content = (version / VARIABLES).read_bytes()
        (version / VARIABLES).write_bytes(content[: len(content) // 2])
        check_error(version, "cannot be loaded .*Read less bytes than requested")

    def test_missing_folder_is_an_error(self, version):
        shutil.rmtree(version / "variables")
        check_error(version, "cannot be loaded .*variables")

    @pytest.mark.long
    def test_variables_of_another_network_are_an_error(self, version, make_spec, tmp_path):
        save(make_spec(random_weights(4, width=1, classes=3)), tmp_path / "other")
        shutil.rmtree(version / "variables")
        shutil.copytree(tmp_path / "other" / "variables", version / "variables")
        check_error(
            version, "stored weights have digest .*…, the model card has .*…; build it again"
        )


class TestGraph:
    def test_missing_file_is_an_error(self, version):
        (version / "saved_model.pb").unlink()
        check_error(
            version, r"no SavedModel there .*; give a version's folder, such as models/c3d/1"
        )

    def test_missing_folder_is_an_error(self, tmp_path, tiny_base):
        check_error(tmp_path / "absent", "no SavedModel there")
        # The model's folder instead of a version's.
        check_error(tiny_base, "give a version's folder, such as models/c3d/1")

    def test_damaged_or_empty_file_is_an_error(self, version):
        for content in (b"\xff" * 99, b"nonsense" * 99):
            (version / "saved_model.pb").write_bytes(content)
            check_error(version, "saved_model.pb: damaged; it is not a SavedModel")
        (version / "saved_model.pb").write_bytes(b"")
        check_error(version, "saved_model.pb: has no graph with the tag 'serve'")

    @pytest.mark.long
    def test_missing_signature_is_an_error(self, version):
        file = version / "saved_model.pb"
        content = file.read_bytes()
        names = ["classify", "fc6_features", "fc7_features", "model_card", "serving_default"]
        for name in names:
            file.write_bytes(content)
            edit(version, lambda graph, name=name: graph.signature_def.pop(name))
            check_error(version, f"has no signature '{name}'")

    def test_signature_for_another_call_is_an_error(self, version):
        def change(graph):
            graph.signature_def["classify"].method_name = "tensorflow/serving/classify"

        edit(version, change)
        check_error(version, "classify is for 'tensorflow/serving/classify'")

    def test_signature_with_a_fixed_number_of_rows_is_an_error(self, version):
        def change(graph):
            output = graph.signature_def["fc6_features"].outputs["features"]
            output.tensor_shape.dim[0].size = 1

        edit(version, change)
        check_error(
            version, r"fc6_features has .*\[1, 4096\].*, expected features float32 \[-1, 4096\]"
        )

    def test_signature_with_an_input_of_another_name_is_an_error(self, version):
        def change(graph):
            inputs = graph.signature_def["fc7_features"].inputs
            inputs["video"].CopyFrom(inputs.pop("clips"))

        edit(version, change)
        check_error(version, "fc7_features has .*video.*, expected clips uint8")

    def test_signature_with_an_output_too_many_is_an_error(self, version):
        def change(graph):
            outputs = graph.signature_def["classify"].outputs
            outputs["labels"].CopyFrom(outputs["probabilities"])

        edit(version, change)
        check_error(version, "classify has .*labels.*, expected probabilities float32")

    @pytest.mark.long
    def test_signature_that_computes_another_layer_is_an_error(self, version):
        def change(graph):
            signatures = graph.signature_def
            signatures["fc6_features"].CopyFrom(signatures["fc7_features"])

        edit(version, change)
        check_error(version, "fc6_features differs from the Keras model by .* more than 1e-05")


@pytest.mark.long
@pytest.mark.parametrize("text", ["no JSON", "[1]", "3", json.dumps({"contract_version": "9"})])
def test_card_of_another_contract_is_an_error(text, make_spec, tiny_weights, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(servable.json, "dumps", lambda *_args, **_options: text)
        save(make_spec(tiny_weights), tmp_path / "1")
    check_error(tmp_path / "1", "model card|contract version")


class TestWarmUp:
    def test_missing_file_is_an_error(self, version):
        (version / WARMUP_FILE).unlink()
        check_error(
            version,
            "no warm-up request for classify, fc6_features, fc7_features, layers, model_card",
        )

    @pytest.mark.long
    def test_missing_signature_is_an_error(self, version):
        def change(log):
            spec = log.predict_log.request.model_spec
            spec.signature_name = spec.signature_name.replace("fc7", "fc6")

        rewrite_warmup(version, change)
        check_error(version, "no warm-up request for fc7_features")

    @pytest.mark.long
    def test_damaged_file_is_an_error(self, version):
        path = version / WARMUP_FILE
        content = path.read_bytes()
        for size in (-1, 20, 5):
            path.write_bytes(content[:size])
            check_error(version, "damaged warm-up file|no warm-up request")
        path.write_bytes(b"\x01\x02\x03" * 99)
        check_error(version, "damaged warm-up file")

    def test_request_of_a_wrong_shape_is_an_error(self, version):
        def change(log):
            for tensor in log.predict_log.request.inputs.values():
                if len(tensor.tensor_shape.dim) == 5:
                    tensor.tensor_shape.dim[3].size = 113

        rewrite_warmup(version, change)
        check_error(version, "classify fails: .*113")

    def test_request_with_a_tensor_that_does_not_fill_its_shape_is_an_error(self, version):
        def change(log):
            for tensor in log.predict_log.request.inputs.values():
                tensor.tensor_content = b"xyz"

        rewrite_warmup(version, change)
        check_error(version, "a warm-up request for classify holds a damaged tensor")

    def test_request_of_an_unknown_signature_is_an_error(self, version):
        def change(log):
            log.predict_log.request.model_spec.signature_name = "fc9"

        rewrite_warmup(version, change)
        check_error(version, "fc9 fails")

    def test_request_of_another_call_is_an_error(self, version):
        def change(log):
            log.classify_log.request.model_spec.name = "c3d"

        rewrite_warmup(version, change)
        check_error(version, "record 0 is not a Predict request")


def test_relative_difference_is_that_of_the_worst_row():
    reference = np.array([[3.0, 4.0], [0.0, 10.0]])
    answer = np.array([[3.0, 4.5], [0.0, 10.1]])
    assert relative_difference(answer, reference) == pytest.approx(0.1)


def test_keras_uses_tensorflow_whatever_keras_json_has():
    assert keras.backend.backend() == "tensorflow"
