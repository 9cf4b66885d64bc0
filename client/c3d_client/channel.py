"""One gRPC channel: how a request is sent, awaited, sent again, and how it fails.

The only file that knows gRPC. One table maps gRPC's codes to our errors.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from c3d_client.contract import DEFAULT_TARGET, MAX_BATCH_SIZE, MODEL_NAME
from c3d_client.errors import (
    ContractMismatch,
    ModelNotFound,
    RequestRejected,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
    UsageError,
)

_CHANNEL_OPTIONS = [
    # Python's default of 4 MB is less than one batch of clips; the server's own limit decides.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Servers answer more frequent pings with GOAWAY.
    ("grpc.keepalive_time_ms", 300_000),
    # Behind a headless Service (`dns:///name:8500`) this spreads calls over the pods.
    ("grpc.lb_policy_name", "round_robin"),
    # Retries are made here, where their number and spacing are known.
    ("grpc.enable_retries", 0),
]

# gRPC code -> (our error, whether the same request may be sent again). Others are a ServingError.
_ERRORS: dict[grpc.StatusCode, tuple[type[ServingError], bool]] = {
    grpc.StatusCode.UNAVAILABLE: (ServingUnavailable, True),
    grpc.StatusCode.DEADLINE_EXCEEDED: (ServingTimeout, True),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (ServingOverloaded, True),
    grpc.StatusCode.NOT_FOUND: (ModelNotFound, False),
    grpc.StatusCode.INVALID_ARGUMENT: (RequestRejected, False),
    grpc.StatusCode.FAILED_PRECONDITION: (RequestRejected, False),
    grpc.StatusCode.UNIMPLEMENTED: (ContractMismatch, False),
}
_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 5.0

_Response = TypeVar("_Response")


@dataclass(frozen=True)
class ServingOptions:
    """Where the server is and how to talk to it.

    Args:
        target: gRPC address, ``host:port`` or ``dns:///host:port``.
        model: the served model's name.
        version: a numeric version; None for the newest.
        timeout_s: the deadline of one attempt, in seconds.
        retries: further attempts after UNAVAILABLE, DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED.
        batch_size: clips in a request, 1 to 32.
        max_in_flight: requests on their way at once.

    Raises:
        UsageError: a value is out of its range.
    """

    target: str = DEFAULT_TARGET
    model: str = MODEL_NAME
    version: int | None = None
    timeout_s: float = 60.0
    retries: int = 4
    batch_size: int = 8
    max_in_flight: int = 4

    def __post_init__(self) -> None:
        if not self.target or self.target.startswith(("http://", "https://")):
            raise UsageError(
                f"server is {self.target!r}; give a gRPC address such as {DEFAULT_TARGET}"
            )
        if self.version is not None and not 0 <= self.version < 2**63:
            raise UsageError(f"version is {self.version}; give 0 or more, below 2**63")
        if not 0 < self.timeout_s < math.inf:
            raise UsageError(f"timeout_s is {self.timeout_s}; give more than 0 seconds, and an end")
        if self.retries < 0:
            raise UsageError(f"retries is {self.retries}; give 0 or more")
        if not 1 <= self.batch_size <= MAX_BATCH_SIZE:
            raise UsageError(f"batch_size is {self.batch_size}; give 1 to {MAX_BATCH_SIZE} clips")
        if self.max_in_flight < 1:
            raise UsageError(f"max_in_flight is {self.max_in_flight}; give 1 or more")


class Call(Generic[_Response]):
    """One request on its way, sent again when the server says that it may be.

    Args:
        method: the channel's callable.
        request: the message.
        options: the deadline and the number of retries.
    """

    def __init__(self, method: Any, request: Any, options: ServingOptions) -> None:
        self._method = method
        self._request = request
        self._options = options
        self._send()

    def _send(self) -> None:
        self.done_at = 0.0
        self.sent_at = time.perf_counter()
        self._future = self._method.future(self._request, timeout=self._options.timeout_s)
        self._future.add_done_callback(self._note_arrival)

    def _note_arrival(self, _future: object) -> None:
        self.done_at = time.perf_counter()

    def cancel(self) -> None:
        """Give the request up."""
        self._future.cancel()

    def result(self) -> _Response:
        """Wait for the answer.

        Raises:
            ServingError: the last attempt failed, or one that must not be repeated.
        """
        for attempt in range(self._options.retries + 1):
            try:
                response: _Response = self._future.result()
                return response
            except grpc.RpcError as error:
                failure, may_retry = _as_error(error, self._options)
                if not may_retry or attempt == self._options.retries:
                    raise failure from error
            delay = min(_FIRST_BACKOFF_S * 2**attempt, _LONGEST_BACKOFF_S)
            time.sleep(delay * random.uniform(0.5, 1.0))
            self._send()
        raise AssertionError("the last attempt either answers or raises")

    @property
    def latency_s(self) -> float:
        """From sending to the answer's arrival, in seconds, of the last attempt."""
        # The callback may run a moment after the result is there.
        return (self.done_at or time.perf_counter()) - self.sent_at

    def trailer_s(self, key: str) -> float | None:
        """A time in seconds that the server sent behind its answer, or None."""
        for name, value in self._future.trailing_metadata() or ():
            if name == key:
                return float(value)
        return None


class Channel:
    """A connection to one target; calls are spread over its addresses.

    Args:
        options: where, and with which deadline and retries.
    """

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self._channel = grpc.insecure_channel(options.target, options=_CHANNEL_OPTIONS)

    def send(self, path: str, request: Any, response_type: type[_Response]) -> Call[_Response]:
        """Send a message to a method by its full path, e.g. ``/package.Service/Method``."""
        method = self._channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,  # type: ignore[attr-defined]
        )
        return Call(method, request, self._options)

    def close(self) -> None:
        """Close the connection; requests on their way are cancelled."""
        self._channel.close()


def _as_error(error: Any, options: ServingOptions) -> tuple[ServingError, bool]:
    code: grpc.StatusCode = error.code()
    details = " ".join((error.details() or "no details").split())
    kind, may_retry = _ERRORS.get(code, (ServingError, False))
    if kind is RequestRejected and "servable version label" in details:
        kind = ModelNotFound
    if kind is ServingUnavailable and "scheduling queue" in details:  # and not a host's name
        kind = ServingOverloaded
    model = f"model {options.model!r}"
    if options.version is not None:
        model += f" version {options.version}"
    advice = {
        ServingUnavailable: "no server answers; is one running? (c3d-export serve starts one)",
        ServingTimeout: f"no answer within {options.timeout_s:g} s; give more time, or less work",
        ServingOverloaded: "the server has no room; try again later, or ask for less at once",
        ModelNotFound: f"the server does not have {model}",
        RequestRejected: "the server refused the request",
        ContractMismatch: "this is not TensorFlow Serving: it does not know the method",
    }.get(kind, "the request failed")
    return kind(options.target, f"{advice} [{code.name}: {details}]", code=code.name), may_retry
