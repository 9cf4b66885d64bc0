"""One gRPC channel: how a request is sent, awaited, sent again, and given up.

The only file that knows gRPC.
"""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from c3d_client.core.errors import (
    ContractMismatch,
    ModelNotFound,
    RequestRejected,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
    UsageError,
)
from c3d_client.serving.concurrency import InFlightWindow, Outcome
from c3d_client.serving.options import ServingOptions, read_tls_files

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
    # gRPC waits up to two minutes before it connects again; our attempts would all be over.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 5.0
# An answer that took a larger part of its deadline than this does not let the window grow.
_KEEPS_UP = 0.25

_Response = TypeVar("_Response", bound=Message)


class Call(Generic[_Response]):
    """One request on its way, sent again when the server says that it may be.

    Made by :meth:`Channel.send`. One thread at a time may use it.
    """

    def __init__(
        self,
        channel: Channel,
        method: Any,
        request: bytes,
        window: InFlightWindow | None,
    ) -> None:
        self._channel = channel
        self._method = method
        self._request = request
        self._window = window
        self._attempts = 0
        self._done = threading.Event()
        self._failure: ServingError | None = None
        self._send_again_at: float | None = None
        self._send(window.take() if window else 0)

    def _send(self, ticket: int) -> None:
        options = self._channel.options
        self._attempts += 1
        self._done.clear()
        self._failure = self._send_again_at = None
        self.sent_at = self.done_at = time.perf_counter()
        try:
            self._future = self._method.future(
                self._request, timeout=options.timeout_s, metadata=self._channel.metadata
            )
        except ValueError as error:  # gRPC's word for a closed channel
            if self._window:
                self._window.give_back(ticket, Outcome.SAYS_NOTHING)
            raise closed(options.target) from error
        self._future.add_done_callback(functools.partial(self._arrived, ticket))

    def _arrived(self, ticket: int, future: Any) -> None:
        # On one of gRPC's threads; everything is noted before `_done` is set.
        options = self._channel.options
        self.done_at = time.perf_counter()
        outcome = Outcome.SAYS_NOTHING
        if future.code() is grpc.StatusCode.OK:
            self._request = b""  # an answer that waits for its reader does not hold 5 MB of clips
            if self.done_at - self.sent_at <= _KEEPS_UP * options.timeout_s:
                outcome = Outcome.KEPT_UP
        elif self._channel.closing.is_set():
            self._failure = closed(options.target)
        else:
            code, details = future.code().name, future.details() or ""
            self._failure, may_retry = failure_of(code, details, options)
            if may_retry and self._attempts <= options.retries:
                # Full jitter: clients that were refused together do not come back together.
                longest = min(_FIRST_BACKOFF_S * 2 ** (self._attempts - 1), _LONGEST_BACKOFF_S)
                self._send_again_at = self.done_at + random.uniform(0, longest)
            if isinstance(self._failure, (ServingOverloaded, ServingTimeout)):
                outcome = Outcome.PUSHED_BACK
        if self._window:
            self._window.give_back(ticket, outcome)
        self._done.set()

    @property
    def is_answered(self) -> bool:
        """Whether :meth:`result` has an answer, or a failure for good, without waiting."""
        return self._done.is_set() and self._send_again_at is None

    def send_again_if_due(self) -> None:
        """Send a request again that failed, if its pause is over and the window has room now."""
        if (
            self._done.is_set()
            and self._send_again_at is not None
            and self._send_again_at <= time.perf_counter()
        ):
            ticket = self._window.take_if_free() if self._window else 0
            if ticket is not None:
                self._send(ticket)

    def cancel(self) -> None:
        """Give the request up."""
        self._future.cancel()

    def result(self) -> _Response:
        """Wait for the answer, through as many attempts as the options allow.

        Raises:
            ServingError: the last attempt failed, or one that must not be repeated, or the
                connection was closed meanwhile.
        """
        while True:
            self._done.wait()
            if self._failure is None:
                response: _Response = self._future.result()
                return response
            if self._send_again_at is None:
                raise self._failure from self._future
            pause_s = self._send_again_at - time.perf_counter()
            if self._channel.closing.wait(max(pause_s, 0)):
                raise closed(self._channel.options.target) from self._future
            self._send(self._window.take() if self._window else 0)

    @property
    def latency_s(self) -> float:
        """From sending to the answer's arrival, in seconds, of the last attempt."""
        return self.done_at - self.sent_at

    def trailer_s(self, key: str) -> float | None:
        """A time in seconds that the server sent behind its answer, or None."""
        for name, value in self._future.trailing_metadata() or ():
            if name == key:
                return float(value)
        return None


class Channel:
    """A connection to one target; calls are spread over its addresses. Threads may share it.

    Args:
        options: where, how secured, and with which deadline and retries.

    Attributes:
        options: as given.
        metadata: what is sent with every request.
        closing: set when this program closes the connection.

    Raises:
        UsageError: a file for TLS cannot be used.
    """

    def __init__(self, options: ServingOptions) -> None:
        self.options = options
        self.metadata = list(options.metadata)
        if options.token is not None:
            self.metadata.append(("authorization", f"Bearer {options.token}"))
        self.closing = threading.Event()
        self._process = os.getpid()
        arguments: list[tuple[str, Any]] = [*_CHANNEL_OPTIONS]
        if options.is_local:
            # A proxy from the environment cannot reach this machine's own addresses, and must
            # not see what may only be sent within it.
            arguments.append(("grpc.enable_http_proxy", 0))
        if options.override_name is not None:
            arguments.append(("grpc.ssl_target_name_override", options.override_name))
        if options.tls:
            files = read_tls_files(options)
            credentials = grpc.ssl_channel_credentials(files.ca, files.key, files.cert)
            self._channel = grpc.secure_channel(options.target, credentials, options=arguments)
        else:
            self._channel = grpc.insecure_channel(options.target, options=arguments)

    def send(
        self,
        path: str,
        request: bytes,
        response_type: type[_Response],
        *,
        window: InFlightWindow | None = None,
    ) -> Call[_Response]:
        """Send a message to a method by its full path, e.g. ``/package.Service/Method``.

        Args:
            path: the method.
            request: the message's bytes; every attempt sends these.
            response_type: the answer's message class.
            window: waits for a slot in it before each attempt.

        Raises:
            ServingError: the connection is closed.
            UsageError: it was made by another process.
        """
        if os.getpid() != self._process:
            # gRPC's threads do not survive a fork: the request would never be answered.
            raise UsageError(
                f"the connection to {self.options.target} was made before this process was "
                "forked; make a client in each process"
            )
        method: Any = self._channel.unary_unary(
            path, request_serializer=None, response_deserializer=response_type.FromString
        )
        return Call(self, method, request, window)

    def close(self) -> None:
        """Close the connection; requests on their way end at once, for whoever waits for them."""
        self.closing.set()
        if os.getpid() == self._process:
            self._channel.close()


# gRPC code -> (our error, whether the same request may be sent again). Others are a ServingError.
_ERRORS: dict[str, tuple[type[ServingError], bool]] = {
    "UNAVAILABLE": (ServingUnavailable, True),
    "DEADLINE_EXCEEDED": (ServingTimeout, True),
    "RESOURCE_EXHAUSTED": (ServingOverloaded, True),
    "NOT_FOUND": (ModelNotFound, False),
    "INVALID_ARGUMENT": (RequestRejected, False),
    "FAILED_PRECONDITION": (RequestRejected, False),
    "UNIMPLEMENTED": (ContractMismatch, False),
}
_WHO_ASKS = ("UNAUTHENTICATED", "PERMISSION_DENIED")

# gRPC's words about a connection that cannot be made -> (advice, whether trying again can help).
_CONNECTIONS = (
    (
        "WRONG_VERSION_NUMBER",
        "the server does not speak TLS at this port; turn TLS off, or ask its TLS port",
        False,
    ),
    (
        "Hostname Verification Check failed",
        "the server's certificate is for another name; ask the server by that name, "
        "or give the name as override_name",
        False,
    ),
    (
        "certificate has expired",
        "the server's certificate has expired; it needs a new one",
        False,
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the server's certificate is of a CA that is not trusted here; "
        "give that CA's certificate as ca",
        False,
    ),
    (
        "_ALERT_",
        "the server refuses the TLS handshake; it may want another client certificate (cert, key)",
        False,
    ),
    ("Failed parsing HTTP/2", "this is not a gRPC port; TensorFlow Serving's is 8500", False),
    ("errors resolving", "the host's name cannot be resolved; check its spelling", True),
)


def failure_of(code: str, details: str, options: ServingOptions) -> tuple[ServingError, bool]:
    """The error of a request that ended with this status.

    Args:
        code: the status code's name, e.g. ``"UNAVAILABLE"``.
        details: the server's or gRPC's words.
        options: where the request went, and how.

    Returns:
        The error, and whether the same request may be sent again.
    """
    details = " ".join(details.split()) or "no details"
    kind, may_retry = _ERRORS.get(code, (ServingError, False))
    if kind is RequestRejected and "servable version label" in details:
        kind = ModelNotFound
    if kind is ServingUnavailable and "scheduling queue" in details:  # and not a host's name
        kind = ServingOverloaded
    advice = {
        ServingUnavailable: "no server answers; is one running? (c3d-export serve starts one)",
        ServingTimeout: f"no answer within {options.timeout_s:g} s; give more time, or less work",
        ServingOverloaded: "the server has no room; try again later, or ask for less at once",
        ModelNotFound: f"the server does not have {_model(options)}",
        RequestRejected: "the server refused the request",
        ContractMismatch: "this is not TensorFlow Serving: it does not know the method",
    }.get(kind, "the request failed")
    if kind is ServingUnavailable:
        advice, may_retry = _about_connection(details, options) or (advice, may_retry)
    elif kind is ServingOverloaded and "larger than max" in details:
        # The same bytes will never be smaller.
        kind, may_retry = RequestRejected, False
        advice = "the server takes no message of this size; give a smaller batch_size"
    elif code in _WHO_ASKS:
        advice = "the server does not let this client in; check token, metadata, cert and key"
    return kind(options.target, f"{advice} [{code}: {details}]", code=code), may_retry


def closed(target: str) -> ServingError:
    """The error of a request that this program itself ended by closing the connection."""
    return ServingError(
        target, "the connection was closed before the answer came", code="CANCELLED"
    )


def _about_connection(details: str, options: ServingOptions) -> tuple[str, bool] | None:
    for words, advice, may_retry in _CONNECTIONS:
        if words in details:
            return advice, may_retry
    # A connection that ends in its first moments: either side may have expected TLS, or more of
    # it. A server that stops ends connections in the same way, so it is worth another attempt.
    if "all backends failing" in details and "Socket closed" in details:
        if not options.tls:
            return "the server hangs up; it may speak TLS at this port (tls, ca)", True
        whose = (
            "a client certificate (cert, key)"
            if options.cert is None
            else "another client certificate (cert, key)"
        )
        return f"the server hangs up during the TLS handshake; it may want {whose}", True
    return None


def _model(options: ServingOptions) -> str:
    model = f"model {options.model!r}"
    if options.version is not None:
        model += f" version {options.version}"
    if options.label is not None:
        model += f" label {options.label!r}"
    return model
