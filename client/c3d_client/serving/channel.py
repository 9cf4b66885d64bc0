"""gRPC channel with retries.

The only module that imports gRPC. :class:`Channel` is the connection and :class:`Call` one request;
:func:`failure_of` turns a gRPC status into one of this package's errors.
"""

from __future__ import annotations

import functools
import math
import os
import random
import threading
import time
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from c3d_client.core.errors import (
    Cancelled,
    ContractMismatch,
    ModelNotFound,
    RequestRejected,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
    UsageError,
)
from c3d_client.serving.concurrency import CANCEL_POLL_S, ConcurrencyLimit, Feedback
from c3d_client.serving.options import ServingOptions, read_tls_files

_CHANNEL_OPTIONS = [
    # Python's default of 4 MB is less than one batch of clips; the server has its own limit.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Servers answer more frequent pings with GOAWAY.
    ("grpc.keepalive_time_ms", 300_000),
    # Behind a headless Service (`dns:///name:8500`) this spreads calls over the pods.
    ("grpc.lb_policy_name", "round_robin"),
    # Call retries instead, so that the number of attempts and their pauses are known.
    ("grpc.enable_retries", 0),
    # gRPC waits up to two minutes before it reconnects, longer than all attempts of a call.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 5.0
# An answer that took a larger part of its timeout than this does not raise the concurrency limit.
_FAST_ANSWER = 0.25

_Response = TypeVar("_Response", bound=Message)


class Channel:
    """A gRPC connection to one target. Calls are spread over its addresses; threads may share it.

    Args:
        options: target, security, timeout and retries.

    Attributes:
        options: the options.
        metadata: the metadata that is sent with every request.
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
            # A proxy from the environment cannot reach this machine's own addresses, and must not
            # see a token that is only allowed within the machine.
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
        concurrency: ConcurrencyLimit | None = None,
        cancel: threading.Event | None = None,
    ) -> Call[_Response]:
        """Send a message to a method and return the call without waiting for the answer.

        Args:
            path: the method's full path, e.g. ``/package.Service/Method``.
            request: the message's bytes; every attempt sends these.
            response_type: the message class of the answer.
            concurrency: each attempt waits for a slot of this limit.
            cancel: set by another thread to end every wait of the call.

        Raises:
            Cancelled: ``cancel`` was set before a slot was free.
            ServingError: the connection is closed.
            UsageError: another process made the connection.
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
        return Call(self, method, request, concurrency, cancel)

    def close(self) -> None:
        """Close the connection; requests in flight end at once with a ServingError."""
        self.closing.set()
        if os.getpid() == self._process:
            self._channel.close()


class Call(Generic[_Response]):
    """One request, which is retried after errors that allow it.

    Made by :meth:`Channel.send`. One thread at a time may use it.

    A retry is not sent by itself: :meth:`result` sends it when its pause is over, and so does
    :meth:`retry_if_due`, with which a caller keeps several calls going.
    """

    def __init__(
        self,
        channel: Channel,
        method: Any,
        request: bytes,
        concurrency: ConcurrencyLimit | None,
        cancel: threading.Event | None,
    ) -> None:
        self._channel = channel
        self._method = method
        self._request = request
        self._concurrency = concurrency
        self._cancel = cancel
        self._attempts = 0
        self._done = threading.Event()
        self._failure: ServingError | None = None
        self._retry_at: float | None = None
        self._send(concurrency.acquire(cancel) if concurrency else 0)

    def _send(self, ticket: int) -> None:
        options = self._channel.options
        self._attempts += 1
        self._done.clear()
        self._failure = self._retry_at = None
        self.sent_at = self.done_at = time.perf_counter()
        try:
            self._future = self._method.future(
                self._request, timeout=options.timeout_s, metadata=self._channel.metadata
            )
        except ValueError as error:  # gRPC raises it for a closed channel
            if self._concurrency:
                self._concurrency.release(ticket, Feedback.UNKNOWN)
            raise closed(options.target) from error
        self._future.add_done_callback(functools.partial(self._on_done, ticket))

    def _on_done(self, ticket: int, future: Any) -> None:
        # One of gRPC's threads calls this; everything is recorded before `_done` is set.
        options = self._channel.options
        self.done_at = time.perf_counter()
        feedback = Feedback.UNKNOWN
        if future.code() is grpc.StatusCode.OK:
            self._request = b""  # frees 5 MB of clips while the answer waits to be read
            if self.done_at - self.sent_at <= _FAST_ANSWER * options.timeout_s:
                feedback = Feedback.ACCEPTED
        elif self._channel.closing.is_set():
            self._failure = closed(options.target)
        else:
            code, details = future.code().name, future.details() or ""
            self._failure, may_retry = failure_of(code, details, options)
            if may_retry and self._attempts <= options.retries:
                # Full jitter: clients that were rejected together do not retry together.
                longest = min(_FIRST_BACKOFF_S * 2 ** (self._attempts - 1), _LONGEST_BACKOFF_S)
                self._retry_at = self.done_at + random.uniform(0, longest)
            if isinstance(self._failure, (ServingOverloaded, ServingTimeout)):
                feedback = Feedback.REJECTED
        if self._concurrency:
            self._concurrency.release(ticket, feedback)
        self._done.set()

    @property
    def is_done(self) -> bool:
        """Whether :meth:`result` returns or raises without waiting."""
        return self._done.is_set() and self._retry_at is None

    def retry_if_due(self) -> None:
        """Send a failed request again if its pause is over and a slot is free."""
        if (
            self._done.is_set()
            and self._retry_at is not None
            and self._retry_at <= time.perf_counter()
        ):
            ticket = self._concurrency.try_acquire() if self._concurrency else 0
            if ticket is not None:
                self._send(ticket)

    def cancel(self) -> None:
        """Cancel the request."""
        self._future.cancel()

    def result(self) -> _Response:
        """Wait for the answer, through as many attempts as the options allow.

        Raises:
            ServingError: the last attempt failed, or an attempt failed with an error that is not
                retried, or the connection was closed meanwhile.
            Cancelled: the event ``cancel`` was set.
        """
        while True:
            self._wait(self._done)
            if self._failure is None:
                response: _Response = self._future.result()
                return response
            if self._retry_at is None:
                raise self._failure from self._future
            if self._wait(self._channel.closing, until=self._retry_at):
                raise closed(self._channel.options.target) from self._future
            self._send(self._concurrency.acquire(self._cancel) if self._concurrency else 0)

    def _wait(self, event: threading.Event, *, until: float = math.inf) -> bool:
        """Wait for an event up to a time of `time.perf_counter`; return whether it is set.

        Raises:
            Cancelled: ``cancel`` was set first.
        """
        poll_s = math.inf if self._cancel is None else CANCEL_POLL_S
        while (left_s := until - time.perf_counter()) > 0:
            timeout_s = min(left_s, poll_s)
            if event.wait(None if timeout_s == math.inf else timeout_s):
                return True
            if self._cancel is not None and self._cancel.is_set():
                raise Cancelled(f"{self._channel.options.target}: the request was cancelled")
        return event.is_set()

    @property
    def latency_s(self) -> float:
        """Seconds from sending the last attempt to the arrival of its answer."""
        return self.done_at - self.sent_at

    def trailer_s(self, key: str) -> float | None:
        """Return a time in seconds from the answer's trailing metadata, or None."""
        for name, value in self._future.trailing_metadata() or ():
            if name == key:
                return float(value)
        return None


# gRPC code -> (error, whether the request may be retried). Other codes are a ServingError.
_ERRORS: dict[str, tuple[type[ServingError], bool]] = {
    "UNAVAILABLE": (ServingUnavailable, True),
    "DEADLINE_EXCEEDED": (ServingTimeout, True),
    "RESOURCE_EXHAUSTED": (ServingOverloaded, True),
    "NOT_FOUND": (ModelNotFound, False),
    "INVALID_ARGUMENT": (RequestRejected, False),
    "FAILED_PRECONDITION": (RequestRejected, False),
    "UNIMPLEMENTED": (ContractMismatch, False),
}
_ACCESS_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")

# Text in gRPC's message about a connection that failed, the advice, and whether a retry can help.
_CONNECTION_FAILURES = (
    (
        "WRONG_VERSION_NUMBER",
        "the server does not speak TLS at this port; turn TLS off, or use its TLS port",
        False,
    ),
    (
        "Hostname Verification Check failed",
        "the server's certificate is for another name; use that name in the address, "
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
        "the server refuses the TLS handshake; it may need another client certificate (cert, key)",
        False,
    ),
    ("Failed parsing HTTP/2", "this is not a gRPC port; TensorFlow Serving's is 8500", False),
    ("errors resolving", "the host's name cannot be resolved; check its spelling", True),
)


def failure_of(code: str, details: str, options: ServingOptions) -> tuple[ServingError, bool]:
    """Return the error of a request that ended with a gRPC status.

    Args:
        code: the status code's name, e.g. ``"UNAVAILABLE"``.
        details: the message of the server or of gRPC.
        options: the target, and how the request was sent.

    Returns:
        The error, and whether the same request may be retried.
    """
    details = " ".join(details.split()) or "no details"
    kind, may_retry = _ERRORS.get(code, (ServingError, False))
    if kind is RequestRejected and "servable version label" in details:
        kind = ModelNotFound
    if kind is ServingUnavailable and "scheduling queue" in details:
        kind = ServingOverloaded
    advice = {
        ServingUnavailable: "no server answers; is one running? (c3d-export serve starts one)",
        ServingTimeout: f"no answer within {options.timeout_s:g} s; give more time, or less work",
        ServingOverloaded: "the server is overloaded; try again later, or send less at once",
        ModelNotFound: f"the server does not have {_model(options)}",
        RequestRejected: "the server refused the request",
        ContractMismatch: "this is not TensorFlow Serving: it does not know the method",
    }.get(kind, "the request failed")
    if kind is ServingUnavailable:
        advice, may_retry = _about_connection(details, options) or (advice, may_retry)
    elif kind is ServingOverloaded and "larger than max" in details:
        # The size of the same request will not change.
        kind, may_retry = RequestRejected, False
        advice = "the server accepts no message of this size; give a smaller batch_size"
    elif code in _ACCESS_CODES:
        advice = "the server does not let this client in; check token, metadata, cert and key"
    return kind(options.target, f"{advice} [{code}: {details}]", code=code), may_retry


def closed(target: str) -> ServingError:
    """Return the error of a request that ended because this program closed the connection."""
    return ServingError(
        target, "the connection was closed before the answer came", code="CANCELLED"
    )


def _about_connection(details: str, options: ServingOptions) -> tuple[str, bool] | None:
    for text, advice, may_retry in _CONNECTION_FAILURES:
        if text in details:
            return advice, may_retry
    # The connection ended during its first moments, probably because only one side uses TLS, or
    # the server requires a client certificate. A server that shuts down ends connections in the
    # same way, so the request is retried.
    if "all backends failing" in details and "Socket closed" in details:
        if not options.tls:
            return "the server hangs up; it may speak TLS at this port (tls, ca)", True
        certificate = (
            "a client certificate (cert, key)"
            if options.cert is None
            else "another client certificate (cert, key)"
        )
        return f"the server hangs up during the TLS handshake; it may need {certificate}", True
    return None


def _model(options: ServingOptions) -> str:
    model = f"model {options.model!r}"
    if options.version is not None:
        model += f" version {options.version}"
    if options.label is not None:
        model += f" label {options.label!r}"
    return model
