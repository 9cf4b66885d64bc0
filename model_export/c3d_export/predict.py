"""One Predict request against a loaded servable, judged as TensorFlow Serving judges it.

The checks, their order, codes and messages are those of its predict_util.cc and server_core.cc at
2.20. What passes them goes to the graph's own kernels, whose errors come back as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from c3d_client.core.contract import DEFAULT_SIGNATURE
from tensorflow_serving.apis import predict_pb2

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Rejection(Exception):
    """A request that is answered with a status instead of tensors.

    Args:
        code: the gRPC status.
        message: its details.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code.name}: {message}")


class Servable(Protocol):
    """What a request is answered with: a :class:`c3d_export.graph.GraphServable`, or its like."""

    signatures: dict[str, Any]

    def run(
        self, signature: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: tuple[str, ...]
    ) -> dict[str, npt.NDArray[Any]]:
        """Compute the named outputs."""
        ...


def find_version(request: Any, *, model: str, version: int) -> None:
    """See that a request's ModelSpec names the one model and version that are served.

    Raises:
        Rejection: it does not.
    """
    spec = request.model_spec
    if not request.HasField("model_spec"):
        raise Rejection(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
    if not spec.name:
        raise Rejection(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        raise Rejection(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Unrecognized servable version label: {spec.version_label}",
        )
    wanted = (
        f"Specific({spec.name}, {spec.version.value})"
        if choice == "version"
        else f"Latest({spec.name})"
    )
    if spec.name != model or (choice == "version" and spec.version.value != version):
        raise Rejection(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")


def predict(
    request: Any, servable: Servable, *, model: str, version: int
) -> predict_pb2.PredictResponse:
    """Answer one PredictRequest.

    Args:
        request: a tensorflow.serving.PredictRequest.
        servable: what computes.
        model: the name that it is served under.
        version: its number.

    Raises:
        Rejection: with the status that TensorFlow Serving gives.
    """
    find_version(request, model=model, version=version)
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise Rejection(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    signature = servable.signatures[name]
    inputs = _inputs(request, signature)
    outputs = _outputs(request, signature)
    _check_dtypes(inputs, signature)
    try:
        answers = servable.run(name, inputs, outputs)
    except tf.errors.OpError as error:
        code = _STATUS_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        raise Rejection(code, error.message) from error
    response = predict_pb2.PredictResponse()
    response.model_spec.name = model
    response.model_spec.version.value = version
    response.model_spec.signature_name = name
    for alias, answer in answers.items():
        # As the server does unless told otherwise: values in the repeated field of their dtype.
        response.outputs[alias].CopyFrom(_as_values(answer))
    return response


def _inputs(request: Any, signature: Any) -> dict[str, npt.NDArray[Any]]:
    sent, wanted = set(request.inputs), set(signature.inputs)
    if len(sent) != len(wanted):
        raise Rejection(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({_names(sent)}) != len({_names(wanted)}). "
            f"Sent extra: {_names(sent - wanted)}. "
            f"Missing but required: {_names(wanted - sent)}.",
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for alias, info in signature.inputs.items():
        if alias not in request.inputs:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request "
                "and no default value provided. Inputs expected to be in the request "
                f"{_names(sent)}, or default input alias set: ",
            )
        try:
            arrays[alias] = _tensor(request.inputs[alias])
        except (TypeError, ValueError, OverflowError, MemoryError) as error:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT, f"tensor parsing error: {alias}"
            ) from error
    return arrays


def _tensor(proto: Any) -> npt.NDArray[Any]:
    size = int(np.prod([dim.size for dim in proto.tensor_shape.dim], dtype=object))
    if proto.tensor_content and len(proto.tensor_content) != size * tf.as_dtype(proto.dtype).size:
        raise ValueError("the content does not fill the shape")
    return np.asarray(tf.make_ndarray(proto))


def _outputs(request: Any, signature: Any) -> tuple[str, ...]:
    aliases = tuple(request.output_filter)
    for position, alias in enumerate(aliases):
        if alias not in signature.outputs:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_names(signature.outputs)}.",
            )
        if alias in aliases[:position]:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}"
            )
    return aliases or tuple(sorted(signature.outputs))


def _check_dtypes(inputs: dict[str, npt.NDArray[Any]], signature: Any) -> None:
    for position, (alias, info) in enumerate(sorted(signature.inputs.items())):
        wanted, sent = tf.as_dtype(info.dtype), tf.as_dtype(inputs[alias].dtype)
        if wanted != sent:
            raise Rejection(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Expects arg[{position}] to be {wanted.name} but {_cpp_name(sent)} is provided",
            )


def _as_values(array: npt.NDArray[Any]) -> Any:
    proto = tf.make_tensor_proto(array)
    if proto.tensor_content:
        proto.ClearField("tensor_content")
        if array.dtype == np.float32:
            proto.float_val.extend(array.reshape(-1).tolist())
        else:
            return tf.make_tensor_proto(array)
    return proto


def _cpp_name(dtype: tf.DType) -> str:
    """The server prints its own names: float, not float32."""
    return {"float32": "float", "float64": "double"}.get(dtype.name, str(dtype.name))


def _names(aliases: Any) -> str:
    return "{" + ",".join(sorted(aliases)) + "}"
