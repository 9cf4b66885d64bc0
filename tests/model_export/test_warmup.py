"""The warm-up file, read with TensorFlow Serving's own messages."""

import numpy as np
import pytest
import tensorflow as tf
from c3d_export.warmup import WARMUP_FILE, read_warmup, write_warmup
from tensorflow_serving.apis import prediction_log_pb2

SIZES = (1, 8, 32)


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


def test_one_request_per_signature_and_batch_size_and_one_for_the_card(requests):
    observed = [(request.model_spec.signature_name, rows(request)) for request in requests]
    signatures = ("classify", "fc6_features", "fc7_features")
    assert sorted(observed) == sorted(
        [(name, size) for name in signatures for size in SIZES] + [("model_card", 1)]
    )


def test_requests_name_the_model(requests):
    assert {request.model_spec.name for request in requests} == {"c3d"}


def test_clips_are_grey_and_of_full_size(requests):
    for request in requests:
        if request.model_spec.signature_name != "model_card":
            assert list(request.inputs) == ["clips"]
            clips = tf.make_ndarray(request.inputs["clips"])
            assert clips.shape[1:] == (16, 112, 112, 3)
            assert clips.dtype == np.uint8
            assert np.unique(clips).tolist() == [128]


def test_request_for_the_card_has_one_number(requests):
    (request,) = [r for r in requests if r.model_spec.signature_name == "model_card"]
    assert list(request.inputs) == ["n"]
    n = tf.make_ndarray(request.inputs["n"])
    assert (n.dtype, n.shape) == (np.int32, (1,))


def test_file_is_small_though_its_clips_are_74_megabytes(version):
    assert (version / WARMUP_FILE).stat().st_size < 10_000


def test_read_warmup_yields_the_written_requests(version, requests):
    assert list(read_warmup(version)) == requests


def test_version_without_the_file_has_no_requests(tmp_path):
    assert list(read_warmup(tmp_path)) == []
