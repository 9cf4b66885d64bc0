"""The warm-up file, read with TensorFlow Serving's own messages."""

import numpy as np
import pytest
import tensorflow as tf
from c3d_export.warmup import WARMUP_FILE, read_warmup, write_warmup
from tensorflow_serving.apis import prediction_log_pb2

SIZES = (1, 8, 16, 24, 32)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("version")
    write_warmup(folder, batch_sizes=SIZES)
    return folder


@pytest.fixture(scope="module")
def requests(version):
    """The requests, parsed with the official message from the official path."""
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


def rows(request):
    (tensor,) = request.inputs.values()
    return tf.make_ndarray(tensor).shape[0]


def sizes(requests):
    sizes: dict[str, list[int]] = {}
    for request in requests:
        sizes.setdefault(request.model_spec.signature_name, []).append(rows(request))
    return sizes


def test_fc6_is_requested_at_each_batch_size_and_the_others_at_the_smallest(requests, tmp_path):
    assert sizes(requests) == {
        "classify": [1],
        "fc6_features": list(SIZES),
        "fc6_features_halves": list(SIZES),
        "fc7_features": [1],
        "layers": [1] * 5,
        "model_card": [1],
    }
    write_warmup(tmp_path, batch_sizes=(4, 8))
    assert sizes(read_warmup(tmp_path)) == {
        "classify": [4],
        "fc6_features": [4, 8],
        "fc6_features_halves": [4, 8],
        "fc7_features": [4],
        "layers": [4] * 5,
        "model_card": [1],
    }


def test_layers_are_requested_together_and_each_alone(requests, tmp_path):
    """The ways in which the client requests them; fc6 alone it requests of fc6_features."""

    def filters(requests):
        return [
            [*request.output_filter]
            for request in requests
            if request.model_spec.signature_name == "layers"
        ]

    assert filters(requests) == [[], ["conv5b"], ["pool5"], ["fc7"], ["fc8"]]
    write_warmup(tmp_path, batch_sizes=(1,), layers=("conv5b", "pool5", "fc6", "fc7"))
    assert filters(read_warmup(tmp_path)) == [[], ["conv5b"], ["pool5"], ["fc7"]]
    others = [r for r in requests if r.model_spec.signature_name != "layers"]
    assert not any(request.output_filter for request in others)


def test_requests_name_the_model(requests):
    assert {request.model_spec.name for request in requests} == {"c3d"}


def test_clips_and_halves_are_grey_and_of_full_size(requests):
    for request in requests:
        if request.model_spec.signature_name != "model_card":
            ((name, tensor),) = request.inputs.items()
            clips = tf.make_ndarray(tensor)
            frames = {"clips": 16, "halves": 8}[name]
            assert clips.shape[1:] == (frames, 112, 112, 3)
            assert clips.dtype == np.uint8
            assert np.unique(clips).tolist() == [128]


def test_request_for_the_card_has_one_number(requests):
    (request,) = [r for r in requests if r.model_spec.signature_name == "model_card"]
    assert list(request.inputs) == ["n"]
    n = tf.make_ndarray(request.inputs["n"])
    assert (n.dtype, n.shape) == (np.int32, (1,))


def test_file_is_small_though_its_clips_are_50_megabytes(version):
    assert (version / WARMUP_FILE).stat().st_size < 10_000


def test_read_warmup_yields_the_written_requests(version, requests):
    assert list(read_warmup(version)) == requests


def test_version_without_the_file_has_no_requests(tmp_path):
    assert list(read_warmup(tmp_path)) == []
