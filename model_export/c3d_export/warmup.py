"""Warm-up requests, which TensorFlow Serving runs before it reports that it is ready.

There is one record for each signature and batch size, so that no client's request is the first of
its kind; a record that fails makes the load fail. A record holds one value, which TensorFlow
repeats over the tensor's shape: a batch of 32 clips takes a hundred bytes instead of 19 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from c3d_client.core.contract import MODEL_CARD, MODEL_NAME, SIGNATURES, Signature
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from c3d_export.errors import VerificationError

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
"""The path that the server reads, relative to the version's folder."""

_GREY = 128


def write_warmup(
    version: Path,
    *,
    batch_sizes: Sequence[int],
    signatures: Iterable[Signature] = tuple(SIGNATURES.values()),
) -> Path:
    """Write the warm-up file of a version.

    Args:
        version: the version's folder.
        batch_sizes: one record per signature for each; the model card has one record of one row.
        signatures: the version's signatures.

    Returns:
        The file's path.

    Raises:
        OSError: the file cannot be written.
    """
    path = version / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            for size in batch_sizes if signature is not MODEL_CARD else (1,):
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(_request(signature, size))
                writer.write(log.SerializeToString())
    return path


def read_warmup(version: Path) -> Iterator[predict_pb2.PredictRequest]:
    """Yield the warm-up requests of a version; none where it has no such file.

    Raises:
        VerificationError: the file is damaged, or holds something other than Predict requests.
    """
    path = version / WARMUP_FILE
    if not path.exists():
        return
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise VerificationError(f"{path}: record {number} is not a Predict request")
            yield log.predict_log.request
    except (tf.errors.DataLossError, DecodeError) as error:
        raise VerificationError(f"{path}: damaged warm-up file ({error})") from error


def _request(signature: Signature, size: int) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    request.model_spec.signature_name = signature.name
    tensor = request.inputs[signature.input.name]
    tensor.dtype = types_pb2.DataType.Value(f"DT_{signature.input.dtype}")
    tensor.tensor_shape.CopyFrom(tf.TensorShape([size, *signature.input.shape]).as_proto())
    tensor.int_val.append(_GREY if signature.input.dtype == "UINT8" else 0)
    return request
