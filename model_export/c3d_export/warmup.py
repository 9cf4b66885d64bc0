"""Warm-up requests, which TensorFlow Serving runs before it reports that it is ready.

`fc6_features` and `fc6_features_halves`, which extractions call, have a record for each batch size,
every other signature one of the smallest size. `layers` has one without a filter of outputs and one
for each layer alone, because the server optimises a graph for each set of outputs; fc6 alone is
requested of `fc6_features`. All signatures share the convolutions, and what the
first batch of a size costs, memory and the choice of kernels, is spent once for all of them; what a
signature's first call costs, the optimisation of its graph, is spent at any size. docs/servable.md
has the measurement. A record that fails makes the load fail. A record holds one value, which
TensorFlow repeats over the tensor's shape: a batch of 32 clips takes a hundred bytes instead of
19 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from c3d_client.core.contract import (
    DEFAULT_LAYER,
    FC6_FEATURES,
    FC6_FEATURES_HALVES,
    LAYERS,
    LAYERS_SIGNATURE,
    MODEL_CARD,
    MODEL_NAME,
    SIGNATURES,
    Signature,
)
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
    layers: Sequence[str] = tuple(LAYERS),
) -> Path:
    """Write the warm-up file of a version.

    Args:
        version: the version's folder.
        batch_sizes: ascending; one record of fc6_features and of its halves for each, and one of
            every other signature for the first. The model card's record has one row.
        signatures: the version's signatures.
        layers: the outputs of the signature ``layers``.

    Returns:
        The file's path.

    Raises:
        OSError: the file cannot be written.
    """
    path = version / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            requests = [_request(signature, size) for size in _sizes(signature, batch_sizes)]
            if signature is LAYERS_SIGNATURE:
                for layer in layers:
                    if layer != DEFAULT_LAYER:
                        requests.append(_request(signature, batch_sizes[0]))
                        requests[-1].output_filter.append(layer)
            for request in requests:
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request)
                writer.write(log.SerializeToString())
    return path


def read_warmup(version: Path) -> Iterator[predict_pb2.PredictRequest]:
    """Yield the warm-up requests of a version; none where it has no such file.

    Raises:
        VerificationError: the file cannot be read, is damaged, or holds something other than
            Predict requests.
    """
    path = version / WARMUP_FILE
    try:
        path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise VerificationError(f"{path}: record {number} is not a Predict request")
            yield log.predict_log.request
    except (tf.errors.DataLossError, DecodeError) as error:
        raise VerificationError(f"{path}: damaged warm-up file ({error})") from error
    except tf.errors.OpError as error:
        raise VerificationError(f"{path}: cannot be read ({error.message})") from error


def _sizes(signature: Signature, batch_sizes: Sequence[int]) -> Sequence[int]:
    if signature is MODEL_CARD:
        return (1,)
    return batch_sizes if signature in (FC6_FEATURES, FC6_FEATURES_HALVES) else batch_sizes[:1]


def _request(signature: Signature, size: int) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    request.model_spec.signature_name = signature.name
    tensor = request.inputs[signature.input.name]
    tensor.dtype = types_pb2.DataType.Value(f"DT_{signature.input.dtype}")
    tensor.tensor_shape.CopyFrom(tf.TensorShape([size, *signature.input.shape]).as_proto())
    tensor.int_val.append(_GREY if signature.input.dtype == "UINT8" else 0)
    return request
