"""Client of TensorFlow Serving: model versions, model information and predictions.

Methods are called by their full path with this package's own message classes (wire.proto), so
TensorFlow is not needed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from c3d_client.core.contract import (
    COMPUTE_TRAILER,
    MODEL_CARD,
    QUEUE_TRAILER,
    Signature,
    TensorSpec,
)
from c3d_client.core.errors import ContractMismatch, UsageError
from c3d_client.core.provenance import ModelCard
from c3d_client.serving import wire_pb2 as wire
from c3d_client.serving.channel import Call, Channel
from c3d_client.serving.concurrency import ConcurrencyLimit
from c3d_client.serving.messages import from_proto, predict_request
from c3d_client.serving.model_info import (
    ModelInfo,
    dtype_text,
    shape_text,
    signature_names,
    signature_problem,
)
from c3d_client.serving.options import ServingOptions
from c3d_client.serving.patience import Patience, Waiting

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_HEALTH = "/grpc.health.v1.Health/Check"

# The signature and the number of rows of a request, and its call.
_Pending: TypeAlias = tuple[Signature, int, Call[wire.PredictResponse]]

_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of the model on the server."""

    version: int
    state: str
    error: str


@dataclass(frozen=True)
class Answer:
    """The answer to one batch.

    Args:
        output: the signature's output, its first dimension the batch; of several the first.
        version: the version of the model that answered.
        latency_s: seconds from sending the last attempt to the arrival of its answer.
        queue_s: seconds that the request waited in the server; None where the server does not
            report it.
        compute_s: seconds that the server computed; None where the server does not report it.
        retries: how often the request was sent again.
        further: the other outputs of the signature, by name.
    """

    output: npt.NDArray[Any]
    version: int
    latency_s: float
    queue_s: float | None
    compute_s: float | None
    retries: int = 0
    further: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class ServingClient:
    """A connection to one TensorFlow Serving target. Close it, or use it as a context manager.

    Threads may share it: they use the same connection, and one concurrency limit applies to all
    their requests together. A forked process needs its own client.

    Args:
        options: target, security, timeout, patience and limits.

    Attributes:
        options: the options.
        concurrency: the limit for requests in flight, with their number and how many the server
            rejected.

    Raises:
        UsageError: a file for TLS, or the path of a target ``local:PATH``, cannot be used.
    """

    def __init__(self, options: ServingOptions | None = None) -> None:
        self.options = options or ServingOptions()
        self.concurrency = ConcurrencyLimit(self.options.max_in_flight)
        self._channel = Channel(self.options)

    def __enter__(self) -> ServingClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests in flight, of any thread, end with a ServingError."""
        self._channel.close()

    def environment(self) -> dict[str, str]:
        """Return environment variables with which a process uses this one's local server too.

        They are empty for other targets than ``local:PATH``, and before the server has answered.
        The server ends with the last client of this process.
        """
        return self._channel.environment()

    @property
    def patience(self) -> Patience:
        """What is known about a server that is away or full."""
        return self._channel.patience

    @property
    def waiting(self) -> Waiting | None:
        """The wait for a server that is away or full, from its third second on; or None.

        It is also logged, once, as a warning.
        """
        return self._channel.patience.waiting

    def health(self) -> str:
        """Return the server's health: ``SERVING``, ``NOT_SERVING`` or ``UNIMPLEMENTED``.

        TensorFlow Serving answers only with ``--enable_grpc_healthcheck_service``.

        Raises:
            ServingError: no server answers.
        """
        try:
            request = wire.HealthCheckRequest().SerializeToString()
            response = _result(self._channel.send(_HEALTH, request, wire.HealthCheckResponse))
        except ContractMismatch:
            return "UNIMPLEMENTED"
        return str(wire.HealthCheckResponse.ServingStatus.Name(response.status))

    def versions(self) -> tuple[VersionStatus, ...]:
        """Return the model's versions, newest first; with ``options.version`` only that one.

        TensorFlow Serving ignores a label here, and lists all versions.

        Raises:
            ModelNotFound: the server has no such model.
            ServingError: any other failure.
        """
        request = wire.GetModelStatusRequest(model_spec=self._spec()).SerializeToString()
        response = _result(self._channel.send(_STATUS, request, wire.GetModelStatusResponse))
        return tuple(
            VersionStatus(
                status.version,
                wire.ModelVersionStatus.State.Name(status.state),
                status.status.error_message,
            )
            for status in response.model_version_status
        )

    def model_info(
        self, signatures: Iterable[str] = (), *, cancel: threading.Event | None = None
    ) -> ModelInfo:
        """Check the served model against the contract and read its card, with new requests.

        With a label the version is the one that has the label now.

        Args:
            signatures: names that the model must have in addition to those of every C3D servable.
            cancel: set by another thread to cancel the requests.

        Raises:
            ContractMismatch: a signature is missing or has another input or output, the card
                cannot be read, or it has another contract version.
            ModelNotFound: the server has no such model or version.
            ServingError: any other failure.
            Cancelled: ``cancel`` was set.
        """
        request = wire.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        ).SerializeToString()
        response = _result(
            self._channel.send(
                _METADATA, request, wire.GetModelMetadataResponse, model=True, cancel=cancel
            )
        )
        try:
            served = wire.SignatureDefMap.FromString(response.metadata["signature_def"].value)
        except DecodeError as error:
            raise self._mismatch("its signatures cannot be read") from error
        problem = signature_problem(served, signatures)
        if problem:
            raise self._mismatch(problem)
        answer = self.predict(MODEL_CARD, np.zeros(1, np.int32), cancel=cancel)
        try:
            card = ModelCard.from_json(answer.output[0])
        except ValueError as error:
            raise self._mismatch(str(error)) from error
        return ModelInfo(answer.version, signature_names(served), card.to_dict())

    def _mismatch(self, problem: str) -> ContractMismatch:
        return ContractMismatch(
            self.options.target,
            f"model {self.options.model!r} is not a C3D servable that this client can use: "
            f"{problem}; export it again with this release's c3d-export build",
        )

    def predict(
        self,
        signature: Signature,
        rows: npt.NDArray[Any],
        *,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """Send one batch to a signature and wait for the answer.

        Args:
            signature: one of :data:`c3d_client.core.contract.SIGNATURES`.
            rows: the input, its first dimension the batch, at least one row.
            cancel: set by another thread to cancel the request.

        Raises:
            ServingError: the request failed after all retries.
            Cancelled: ``cancel`` was set.
        """
        _, count, call = self._submit(signature, rows, cancel)
        return self._answer(signature, count, call, _result(call))

    def stream(
        self,
        signature: Signature,
        batches: Iterable[npt.NDArray[Any]],
        *,
        cancel: threading.Event | None = None,
    ) -> Iterator[Answer]:
        """Send many batches, several at a time, and yield the answers in the order of the batches.

        Args:
            signature: one of :data:`c3d_client.core.contract.SIGNATURES`.
            batches: inputs as for :meth:`predict`.
            cancel: as for :meth:`stream_requests`.

        Raises:
            ServingError, Cancelled: as :meth:`stream_requests`.
        """
        return self.stream_requests(((signature, rows) for rows in batches), cancel=cancel)

    def stream_requests(
        self,
        requests: Iterable[tuple[Signature, npt.NDArray[Any]]],
        *,
        cancel: threading.Event | None = None,
    ) -> Iterator[Answer]:
        """Send many requests, several at a time, and yield the answers in their order.

        While the concurrency limit is reached, one more batch is read from ``requests`` and no
        further one: it is prepared while the server works, and memory stays bounded. At most
        ``max_in_flight`` batches are in flight or have answers that are not read yet.

        Args:
            requests: signatures with their inputs, as for :meth:`predict`.
            cancel: set by another thread to cancel all requests.

        Raises:
            ServingError: a request failed after all retries; the requests after it are cancelled.
            Cancelled: ``cancel`` was set while a request waited.
        """
        pending: deque[_Pending] = deque()
        try:
            for signature, rows in requests:
                # A request that is sent again goes before later batches, or it might never get a
                # slot.
                while pending and (
                    len(pending) == self.options.max_in_flight
                    or pending[0][2].is_done
                    or any(call.is_pausing for _, _, call in pending)
                ):
                    yield self._first(pending)
                pending.append(self._submit(signature, rows, cancel))
            while pending:
                yield self._first(pending)
        finally:
            for _, _, call in pending:
                call.cancel()

    def _first(self, pending: deque[_Pending]) -> Answer:
        signature, rows, first = pending[0]
        # Later requests are sent again meanwhile, and not only when their answers are read.
        response = first.result([call for _, _, call in pending if call is not first])
        answer = self._answer(signature, rows, first, response)
        pending.popleft()
        return answer

    def _submit(
        self,
        signature: Signature,
        rows: npt.NDArray[Any],
        cancel: threading.Event | None = None,
    ) -> _Pending:
        # Checked here, because in the server a wrong shape fails all requests of the merged batch,
        # and a request without rows waits until its timeout.
        if rows.shape[1:] != signature.input.shape or not len(rows):
            raise UsageError(
                f"{signature.name} takes {shape_text((-1, *signature.input.shape))} "
                f"with at least one row, got {list(rows.shape)}"
            )
        request = predict_request(
            self._spec(signature.name),
            signature.input.name,
            rows,
            outputs=[spec.name for spec in signature.outputs] if signature.filtered else (),
        )
        call = self._channel.send(
            _PREDICT,
            request,
            wire.PredictResponse,
            model=True,
            concurrency=self.concurrency,
            cancel=cancel,
        )
        return signature, len(rows), call

    def _answer(
        self,
        signature: Signature,
        rows: int,
        call: Call[wire.PredictResponse],
        response: wire.PredictResponse,
    ) -> Answer:
        output, *further = (
            self._output(signature, spec, rows, response) for spec in signature.outputs
        )
        return Answer(
            output=output,
            further=dict(zip((spec.name for spec in signature.further), further, strict=True)),
            version=response.model_spec.version.value,
            latency_s=call.latency_s,
            queue_s=call.trailer_s(QUEUE_TRAILER),
            compute_s=call.trailer_s(COMPUTE_TRAILER),
            retries=call.attempts - 1,
        )

    def _output(
        self, signature: Signature, spec: TensorSpec, rows: int, response: wire.PredictResponse
    ) -> npt.NDArray[Any]:
        name = spec.name
        if name not in response.outputs:
            raise self._mismatch(f"{signature.name} answered without {name!r}")
        try:
            output = from_proto(response.outputs[name])
        except ValueError as error:
            raise self._mismatch(f"{signature.name} answered with a {error}") from error
        dtype = response.outputs[name].dtype
        if dtype != wire.DataType.Value(f"DT_{spec.dtype}"):
            raise self._mismatch(
                f"{signature.name} answered with dtype {dtype_text(dtype)}, expected {spec.dtype}"
            )
        if not spec.fits(output.shape, rows=rows):
            what = f" of {name}" if signature.further or signature.filtered else ""
            raise self._mismatch(
                f"{signature.name} answered {rows} rows{what} with shape {list(output.shape)}"
            )
        return output

    def _spec(self, signature_name: str = "") -> wire.ModelSpec:
        spec = wire.ModelSpec(name=self.options.model, signature_name=signature_name)
        if self.options.version is not None:
            spec.version.value = self.options.version
        if self.options.label is not None:
            spec.version_label = self.options.label
        return spec


def _result(call: Call[_Response]) -> _Response:
    """Wait for the answer of a call, and cancel the call where the wait is interrupted."""
    try:
        return call.result()
    except BaseException:
        call.cancel()
        raise
