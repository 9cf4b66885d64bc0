"""TensorFlow Serving's answers: the checks, status codes and messages of its gRPC methods.

For servers that imitate TensorFlow Serving. The order of the checks, the codes and the messages
are those of TensorFlow Serving 2.20.0; each function names the source file that has them. The
functions take official messages and raise :class:`Rejection`. Which models, versions and labels
there are is the server's affair: the functions take a callable that finds a version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from c3d_client.core.contract import DEFAULT_SIGNATURE, MAX_BATCH_SIZE
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

HEALTH_SERVICES = (
    "",
    # server.cc of 2.20.0 sets the short names; health checks use the full names of the services.
    "ModelService",
    "PredictionService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)
"""The names that grpc.health.v1 knows; every other name is NOT_FOUND."""

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
_SIGNATURE_FIELD = "signature_def"
_NO_LABELS: Mapping[str, int] = MappingProxyType({})
# grpc_status_util.cc: kErrorMessageLimit.
_MESSAGE_LIMIT = 1024
# The field that holds the values of a dtype, and its type in NumPy; tensor.cc of TensorFlow. The
# other dtypes, which no C3D signature has, are read by TensorFlow itself.
_VALUES = {
    tf.float32: ("float_val", np.float32),
    tf.float64: ("double_val", np.float64),
    tf.int64: ("int64_val", np.int64),
    tf.bool: ("bool_val", np.bool_),
    tf.uint32: ("uint32_val", np.uint32),
    tf.uint64: ("uint64_val", np.uint64),
    **dict.fromkeys((tf.int32, tf.int16, tf.int8, tf.uint16, tf.uint8), ("int_val", np.int32)),
}
# What DataTypeString of TensorFlow calls the dtypes that Python calls otherwise.
_CPP_NAMES = {"float16": "half", "float32": "float", "float64": "double"}
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class Rejection(Exception):
    """The request is refused with a gRPC status.

    Args:
        code: the gRPC status.
        message: the status's details; cut as TensorFlow Serving cuts them, after 1024 characters.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        if len(message) > _MESSAGE_LIMIT:
            message = f"{message[:_MESSAGE_LIMIT]}...TRUNCATED"
        self.code = code
        self.message = message
        super().__init__(f"{code.name}: {message}")


class Servable(Protocol):
    """The part of :class:`c3d_export.graph.GraphServable` that the methods use."""

    signatures: dict[str, Any]

    def run(
        self, signature: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: tuple[str, ...]
    ) -> dict[str, npt.NDArray[Any]]:
        """Compute the named outputs."""
        ...


FindVersion: TypeAlias = Callable[[Any], tuple[int, Servable]]
"""Returns the version that a ModelSpec names, and its number; raises :class:`Rejection`."""


class Models(Protocol):
    """The part of a server that the methods ask which models there are."""

    def find(self, spec: Any) -> tuple[int, Servable]:
        """Return the version that a ModelSpec names, and its number, or raise Rejection."""
        ...

    def statuses(self, model: str) -> Iterable[Any]:
        """Return the ModelVersionStatus of each known version; none for an unknown model."""
        ...


def answer(context: grpc.ServicerContext, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that answers a request, and end the call with the status of a Rejection."""
    try:
        return function(*arguments)
    except Rejection as rejection:
        context.abort(rejection.code, rejection.message)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """The methods of PredictionService but for Predict, which a server adds.

    Args:
        models: finds the versions.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See :func:`model_metadata`."""
        return answer(context, model_metadata, request, self._models.find)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See :func:`classify`."""
        return answer(context, classify, request, self._models.find)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See :func:`regress`."""
        return answer(context, regress, request, self._models.find)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See :func:`multi_inference`."""
        return answer(context, multi_inference, request, self._models.find)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """The methods of ModelService.

    Args:
        models: knows the versions' states.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See :func:`model_status`."""
        return answer(context, model_status, request, self._models.statuses)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See :func:`reload_config`."""
        return answer(context, reload_config, request)


def requested_version(
    spec: Any,
    versions: Collection[int],
    *,
    model: str,
    labels: Mapping[str, int] = _NO_LABELS,
) -> int:
    """Return the number of the version that a ModelSpec names (server_core.cc).

    Args:
        spec: a tensorflow.serving.ModelSpec.
        versions: the numbers of the versions that can answer.
        model: the served model's name.
        labels: the version of each label.

    Raises:
        Rejection: the ModelSpec names a model, version or label that is not there.
    """
    if not spec.name:
        raise Rejection(_INVALID, "ModelSpec has no name specified.")
    version: int | None = max(versions, default=None)
    asked = f"Latest({spec.name})"
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label" and (spec.name != model or spec.version_label not in labels):
        raise Rejection(_INVALID, f"Unrecognized servable version label: {spec.version_label}")
    if choice is not None:
        version = labels[spec.version_label] if choice == "version_label" else spec.version.value
        asked = f"Specific({spec.name}, {version})"
    if spec.name != model or version is None or version not in versions:
        raise Rejection(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
    return version


def predict(
    request: Any,
    servable: Servable,
    *,
    model: str,
    version: int,
    max_batch_size: int | None = MAX_BATCH_SIZE,
) -> predict_pb2.PredictResponse:
    """Compute one PredictRequest with the only version of a model.

    Args:
        request: a tensorflow.serving.PredictRequest.
        servable: computes the outputs.
        model: the served model's name.
        version: the served version's number.
        max_batch_size: see :func:`predict_with`.

    Raises:
        Rejection: the request is refused, with the status of TensorFlow Serving.
    """
    requested_version(_model_spec(request), (version,), model=model)
    return predict_with(request, servable, version=version, max_batch_size=max_batch_size)


def predict_with(
    request: Any,
    servable: Servable,
    *,
    version: int,
    max_batch_size: int | None = MAX_BATCH_SIZE,
) -> predict_pb2.PredictResponse:
    """Compute one PredictRequest, whose ModelSpec is not checked any more.

    The checks are those of predict_util.cc, of TensorFlow's saved_model/util.cc, of
    batching_session.cc and of TensorFlow's session, in this order. Errors of the graph's kernels
    are passed on.

    Args:
        request: a tensorflow.serving.PredictRequest.
        servable: computes the outputs.
        version: the version's number, for the response.
        max_batch_size: rows that a request may have; None for a server without batching, which
            has no limit.

    Raises:
        Rejection: the request is refused, with the status of TensorFlow Serving. With batching a
            request without rows is refused at once; TensorFlow Serving never answers it.
    """
    name, inputs, outputs = checked_inputs(
        request, servable.signatures, max_batch_size=max_batch_size
    )
    try:
        answers = servable.run(name, inputs, outputs)
    except tf.errors.OpError as error:
        code = _STATUS_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        raise Rejection(code, error.message) from error
    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version
    response.model_spec.signature_name = name
    for alias, answer in answers.items():
        # The server's default: values in the repeated field of their dtype.
        response.outputs[alias].CopyFrom(_as_values(answer))
    return response


def checked_inputs(
    request: Any,
    signatures: Mapping[str, Any],
    *,
    max_batch_size: int | None = MAX_BATCH_SIZE,
) -> tuple[str, dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """Return the signature, the inputs and the outputs of a PredictRequest, without computing.

    Args:
        request: a tensorflow.serving.PredictRequest, whose ModelSpec is not checked any more.
        signatures: the model's SignatureDefs by name.
        max_batch_size: see :func:`predict_with`.

    Returns:
        The signature's name, an array for each input by alias, and the aliases of the outputs.

    Raises:
        Rejection: the request is refused before it is computed.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise Rejection(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    tensors = _inputs(request, signatures[name])
    outputs = _outputs(request, signatures[name])
    if max_batch_size is not None:
        check_rows(tensors, max_batch_size)
    _check_dtypes(tensors, signatures[name])
    return name, {alias: np.asarray(tensor) for alias, tensor in tensors.items()}, outputs


def model_metadata(
    request: Any, find: FindVersion
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answer a GetModelMetadataRequest (get_model_metadata_impl.cc).

    Args:
        request: a tensorflow.serving.GetModelMetadataRequest.
        find: finds the version.

    Raises:
        Rejection: the request is refused. The fields are checked before the model's name.
    """
    spec = _model_spec(request)
    if not request.metadata_field:
        raise Rejection(
            _INVALID, "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != _SIGNATURE_FIELD:
            raise Rejection(_INVALID, f"Metadata field {field} is not supported")
    version, servable = find(spec)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = version
    response.metadata[_SIGNATURE_FIELD].Pack(signatures)
    return response


def model_status(
    request: Any, statuses: Callable[[str], Iterable[Any]]
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answer a GetModelStatusRequest (get_model_status_impl.cc), newest version first.

    Args:
        request: a tensorflow.serving.GetModelStatusRequest; its label is ignored.
        statuses: returns a tensorflow.serving.ModelVersionStatus for each version of a model that
            is known, failed versions too; none for an unknown model.

    Raises:
        Rejection: the ModelSpec is missing, or names a model or version that is not known.
    """
    spec = _model_spec(request)
    known = {status.version: status for status in statuses(spec.name)}
    problem = f"Could not find any versions of model {spec.name}"
    if spec.HasField("version"):
        version = spec.version.value
        known = {number: status for number, status in known.items() if number == version}
        problem = f"Could not find version {version} of model {spec.name}"
    if not known:
        raise Rejection(grpc.StatusCode.NOT_FOUND, problem)
    return get_model_status_pb2.GetModelStatusResponse(
        model_version_status=[known[version] for version in sorted(known, reverse=True)]
    )


def classify(request: Any, find: FindVersion) -> NoReturn:
    """Refuse a request of Classify, which sends tf.Example (classifier.cc).

    No signature of C3D takes a tf.Example.

    Args:
        request: a tensorflow.serving.ClassificationRequest.
        find: finds the version.

    Raises:
        Rejection: always.
    """
    _refuse_examples(request, find, _CLASSIFY)


def regress(request: Any, find: FindVersion) -> NoReturn:
    """Refuse a request of Regress, which sends tf.Example (regressor.cc).

    Args:
        request: a tensorflow.serving.RegressionRequest.
        find: finds the version.

    Raises:
        Rejection: always.
    """
    _refuse_examples(request, find, _REGRESS)


def multi_inference(request: Any, find: FindVersion) -> NoReturn:
    """Refuse a request of MultiInference, which sends tf.Example (multi_inference.cc).

    Args:
        request: a tensorflow.serving.MultiInferenceRequest.
        find: finds the version.

    Raises:
        Rejection: always.
    """
    # The first task is refused in any case, so the others are not looked at.
    task = request.tasks[0] if request.tasks else inference_pb2.InferenceTask()
    _, servable = find(task.model_spec)
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise Rejection(_INVALID, f"Requested signature not found in model graph: {name}")
    if task.method_name not in (_CLASSIFY, _REGRESS):
        raise Rejection(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Unsupported signature method_name: {task.method_name}",
        )
    _refuse_signature(servable.signatures[name], task.method_name)


def reload_config(request: Any) -> NoReturn:
    """Refuse a request to change the models that are served (model_service_impl.cc).

    Args:
        request: a tensorflow.serving.ReloadConfigRequest.

    Raises:
        Rejection: always; with UNIMPLEMENTED where TensorFlow Serving would load other models.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise Rejection(
            _INVALID,
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported",
        )
    raise Rejection(
        grpc.StatusCode.UNIMPLEMENTED,
        "this server cannot load other models; start another one, or use TensorFlow Serving",
    )


def _model_spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise Rejection(_INVALID, "Missing ModelSpec")
    return request.model_spec


def _refuse_examples(request: Any, find: FindVersion, method: str) -> NoReturn:
    spec = _model_spec(request)
    _, servable = find(spec)
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise Rejection(_INVALID, f"No signature was found with the name: {name}")
    _refuse_signature(servable.signatures[name], method)


def _refuse_signature(signature: Any, method: str) -> NoReturn:
    if len(signature.inputs) != 1:
        raise Rejection(_INVALID, "Expected one input Tensor.")
    kind = {_CLASSIFY: "classification", _REGRESS: "regression"}[method]
    raise Rejection(_INVALID, f"No {kind} inputs found in SignatureDef: {signature}")


def _inputs(request: Any, signature: Any) -> dict[str, Any]:
    """Return the tensors of a request by alias: arrays, or TensorFlow's own for rare dtypes."""
    sent, required = set(request.inputs), set(signature.inputs)
    if len(sent) != len(required):
        raise Rejection(
            _INVALID,
            f"input size does not match signature: {len(sent)}!={len(required)} "
            f"len({_names(sent)}) != len({_names(required)}). "
            f"Sent extra: {_names(sent - required)}. "
            f"Missing but required: {_names(required - sent)}.",
        )
    tensors = {}
    for alias, info in signature.inputs.items():
        if alias not in request.inputs:
            raise Rejection(
                _INVALID,
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request "
                "and no default value provided. Inputs expected to be in the request "
                f"{_names(sent)}, or default input alias set: ",
            )
        try:
            tensors[alias] = parse_tensor(request.inputs[alias])
        except (ValueError, MemoryError) as error:
            raise Rejection(_INVALID, f"tensor parsing error: {alias}") from error
    return tensors


def parse_tensor(proto: Any) -> Any:
    """Return the tensor of a TensorProto, read by the rules of TensorFlow's tensor.cc.

    Surplus values are ignored, the last value is repeated where there are too few, no value at all
    is zeros, and ``int_val`` wraps around where the dtype is smaller.

    Args:
        proto: a tensorflow.TensorProto.

    Returns:
        An array; a ``tf.Tensor`` for strings and the dtypes that no C3D signature has.

    Raises:
        ValueError: TensorFlow refuses it too: an invalid dtype or shape, or bytes of another size.
        MemoryError: the tensor does not fit into the memory.
    """
    # NumPy refuses negative and too large shapes below, as TensorFlow does.
    shape = [dim.size for dim in proto.tensor_shape.dim]
    size = math.prod(shape)
    try:
        dtype = tf.as_dtype(proto.dtype)
    except TypeError as error:
        raise ValueError(f"invalid dtype {proto.dtype}") from error
    if dtype not in _VALUES:
        return _parsed_by_tensorflow(proto, dtype)
    target = dtype.as_numpy_dtype
    content = proto.tensor_content
    if size and content:
        if len(content) != size * dtype.size:
            raise ValueError("the content does not fill the shape")
        return np.frombuffer(content, target).reshape(shape)
    field, source = _VALUES[dtype]
    values = np.array(getattr(proto, field)[:size], source).astype(target)
    array = np.empty(size, target)
    array[: len(values)] = values
    array[len(values) :] = values[-1] if len(values) else 0
    return array.reshape(shape)


def _parsed_by_tensorflow(proto: Any, dtype: tf.DType) -> Any:
    try:
        with tf.device("CPU:0"):
            return tf.io.parse_tensor(proto.SerializeToString(), dtype)
    except (tf.errors.OpError, TypeError) as error:
        raise ValueError("refused by TensorFlow") from error


def _outputs(request: Any, signature: Any) -> tuple[str, ...]:
    aliases = tuple(request.output_filter)
    for position, alias in enumerate(aliases):
        if alias not in signature.outputs:
            raise Rejection(
                _INVALID,
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_names(signature.outputs)}.",
            )
        if alias in aliases[:position]:
            raise Rejection(_INVALID, f"duplicate output tensor alias: {alias}")
    return aliases or tuple(sorted(signature.outputs))


def check_rows(tensors: Mapping[str, Any], max_batch_size: int) -> None:
    """Check what a batching session checks before it queues a request.

    batching_util.h has the messages of the rows, and shared_batch_scheduler.h of TensorFlow that of
    the largest batch.

    Args:
        tensors: the inputs, by alias.
        max_batch_size: rows that a request may have.

    Raises:
        Rejection: there are too many rows or none, or the inputs have none in common.
    """
    if not tensors:
        raise Rejection(_INVALID, "Batching Run() must have at least one input tensor")
    rows = None
    for tensor in tensors.values():
        if not len(tensor.shape):
            raise Rejection(
                _INVALID, "Batching Run() input tensors must have at least one dimension"
            )
        if rows not in (None, tensor.shape[0]):
            raise Rejection(
                _INVALID, "Batching Run() input tensors must have equal 0th-dimension size"
            )
        rows = int(tensor.shape[0])
    if rows == 0:
        raise Rejection(
            _INVALID,
            "the request has no rows; TensorFlow Serving with batching never answers such a "
            "request, until its deadline",
        )
    if rows is not None and rows > max_batch_size:
        raise Rejection(
            _INVALID,
            f"Task size {rows} is larger than maximum input batch size {max_batch_size}",
        )


def _check_dtypes(tensors: Mapping[str, Any], signature: Any) -> None:
    for position, (alias, info) in enumerate(sorted(signature.inputs.items())):
        expected, sent = tf.as_dtype(info.dtype), tf.as_dtype(tensors[alias].dtype)
        if expected != sent:
            raise Rejection(
                _INVALID,
                f"Expects arg[{position}] to be {_cpp_name(expected)} "
                f"but {_cpp_name(sent)} is provided",
            )


def _as_values(array: npt.NDArray[Any]) -> Any:
    proto = tf.make_tensor_proto(array)
    if proto.tensor_content and array.dtype == np.float32:
        proto.ClearField("tensor_content")
        proto.float_val.extend(array.reshape(-1).tolist())
    return proto


def _cpp_name(dtype: tf.DType) -> str:
    """Return the dtype's name in the server's messages: float, not float32."""
    return _CPP_NAMES.get(dtype.name, str(dtype.name))


def _names(aliases: Iterable[str]) -> str:
    return "{" + ",".join(sorted(aliases)) + "}"
