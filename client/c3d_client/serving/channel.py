"""gRPC channel with retries.

The only module that imports gRPC. :class:`Channel` is the connection and :class:`Call` one request;
:func:`failure_of` turns a gRPC status into one of this package's errors.
"""

from __future__ import annotations

import functools
import math
import os
import re
import threading
import time
from collections.abc import Iterable
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
from c3d_client.serving.local import LocalServer
from c3d_client.serving.options import ServingOptions, read_tls_files
from c3d_client.serving.patience import Patience, pause_s

_CHANNEL_OPTIONS = [
    # Python's default of 4 MB is less than one batch of clips; the server has its own limit.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Servers answer more frequent pings with GOAWAY.
    ("grpc.keepalive_time_ms", 300_000),
    # Behind a headless Service (`dns:///name:8500`) this spreads calls over the pods.
    ("grpc.lb_policy_name", "round_robin"),
    # Call retries instead, so that its pauses are shared with other requests.
    ("grpc.enable_retries", 0),
    # gRPC waits up to two minutes before it reconnects, and half a minute before it asks for a
    # name's addresses again; a restarted server would be found late.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # By default an attempt to connect to an address without a machine takes 20 s.
    ("grpc.min_reconnect_backoff_ms", 5_000),
]

# A connection that the server ends at once is tried again this long before the first answer: a
# server that restarts does it, and so does one that expects TLS.
_HANG_UP_PATIENCE_S = 2.0
# An answer that took a larger part of its timeout than this does not raise the concurrency limit.
_FAST_ANSWER = 0.25

_Response = TypeVar("_Response", bound=Message)


class Channel:
    """A gRPC connection to one target. Calls are spread over its addresses; threads may share it.

    The first call to a target ``local:PATH`` starts its server, and waits for it.

    Args:
        options: target, security, timeout and patience.

    Attributes:
        options: the options.
        patience: what is known about a server that is away or full.
        metadata: the metadata that is sent with every request.
        closing: set when this program closes the connection.

    Raises:
        UsageError: a file for TLS, or the path of a target ``local:PATH``, cannot be used.
    """

    def __init__(self, options: ServingOptions) -> None:
        self.options = options
        self.patience = Patience(options)
        self.metadata = list(options.metadata)
        if options.token is not None:
            self.metadata.append(("authorization", f"Bearer {options.token}"))
        self.closing = threading.Event()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._server: LocalServer | None = None
        if options.local_path is None:
            self._channel = self._connected(options.target)
        else:
            self._server = LocalServer.join(options)

    def _connected(self, target: str) -> grpc.Channel:
        options = self.options
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
            return grpc.secure_channel(target, credentials, options=arguments)
        return grpc.insecure_channel(target, options=arguments)

    def _connection(self, cancel: threading.Event | None) -> grpc.Channel:
        """Return gRPC's channel; a local server is started first, and waited for."""
        server = self._server
        if self._channel is None and server is not None:
            target = self.options.target
            address = server.address(target, cancel=cancel, closing=self.closing)
            with self._lock:
                if self._channel is None and address is not None and not self.closing.is_set():
                    self._channel = self._connected(address)
        if self._channel is None:
            raise closed(self.options.target)
        return self._channel

    def local_problem(self) -> str:
        """Return why the server of a target ``local:PATH`` has ended; empty where it runs."""
        return self._server.problem() if self._server is not None else ""

    def environment(self) -> dict[str, str]:
        """Return variables with which a process that this one starts uses the same local server."""
        return self._server.environment() if self._server is not None else {}

    def send(
        self,
        path: str,
        request: bytes,
        response_type: type[_Response],
        *,
        model: bool = False,
        concurrency: ConcurrencyLimit | None = None,
        cancel: threading.Event | None = None,
    ) -> Call[_Response]:
        """Send a message to a method and return the call without waiting for the answer.

        While the server is away or full, it waits until the next request may be sent.

        Args:
            path: the method's full path, e.g. ``/package.Service/Method``.
            request: the message's bytes; every attempt sends these.
            response_type: the message class of the answer.
            model: whether an answer shows that the server has the model.
            concurrency: each attempt waits for a slot of this limit.
            cancel: set by another thread to end every wait of the call.

        Raises:
            Cancelled: ``cancel`` was set before a slot was free.
            ServingError: the connection is closed, or a local server does not start.
            UsageError: another process made the connection.
        """
        if os.getpid() != self._process:
            # gRPC's threads do not survive a fork: the request would never be answered.
            raise UsageError(
                f"the connection to {self.options.target} was made before this process was "
                "forked; make a client in each process"
            )
        method: Any = self._connection(cancel).unary_unary(
            path, request_serializer=None, response_deserializer=response_type.FromString
        )
        return Call(self, method, request, model, concurrency, cancel)

    def close(self) -> None:
        """Close the connection; requests in flight end at once with a ServingError."""
        if os.getpid() != self._process:
            self.closing.set()
            return
        with self._lock:
            was_closed = self.closing.is_set()
            self.closing.set()
            if self._channel is not None:
                self._channel.close()
        if self._server is not None and not was_closed:
            self._server.leave()


class Call(Generic[_Response]):
    """One request, which is sent again after errors that allow it.

    Made by :meth:`Channel.send`. One thread at a time may use it.

    It is not sent again by itself: :meth:`result` does it when the pause is over, and so does
    :meth:`retry_if_due`, with which a caller keeps several calls going.
    """

    def __init__(
        self,
        channel: Channel,
        method: Any,
        request: bytes,
        model: bool,
        concurrency: ConcurrencyLimit | None,
        cancel: threading.Event | None,
    ) -> None:
        self._channel = channel
        self._method = method
        self._request = request
        self._model = model
        self._concurrency = concurrency
        self._cancel = cancel
        self._attempts = 0
        self._retried_s = 0.0
        self._is_cancelled = False
        self._done = threading.Event()
        self._failure: ServingError | None = None
        self._retry_at: float | None = None
        self._send(self._next_ticket())

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
        # One of gRPC's threads calls this; everything is recorded before `_done` is set, and before
        # the slot is free for another request.
        options, patience = self._channel.options, self._channel.patience
        self.done_at = time.perf_counter()
        feedback = Feedback.UNKNOWN
        if future.code() is grpc.StatusCode.OK:
            patience.answered(model=self._model)
            self._request = b""  # frees 5 MB of clips while the answer waits to be read
            if self.done_at - self.sent_at <= _FAST_ANSWER * options.timeout_s:
                feedback = Feedback.ACCEPTED
        elif self._is_cancelled or self._channel.closing.is_set():
            self._failure = closed(options.target)
        else:
            code, details = future.code().name, future.details() or ""
            self._failure, patience_s = failure_of(
                code,
                details,
                options,
                has_answered=patience.has_answered,
                has_model=patience.has_model,
            )
            problem = ""
            if isinstance(self._failure, ServingUnavailable):
                problem = self._channel.local_problem()
            if problem:
                # It does not come back: its end is known, and no request is sent again.
                self._failure = ServingUnavailable(options.target, problem, code=code)
                patience_s = 0.0
            if patience_s is not None:
                self._plan_retry(self._failure, patience_s)
            elif isinstance(self._failure, (ModelNotFound, RequestRejected)):
                patience.answered(model=False)
            if isinstance(self._failure, (ServingOverloaded, ServingTimeout)):
                feedback = Feedback.REJECTED
        if self._concurrency:
            self._concurrency.release(ticket, feedback)
        self._done.set()

    def _plan_retry(self, failure: ServingError, patience_s: float) -> None:
        """Decide after a failed attempt when to send the next one, if at all.

        The patience ends when it is used up by this request's own attempts and pauses, or when no
        request of the connection was answered for so long. So a request that fails while others are
        answered has an end, and waits for other requests do not count.
        """
        if self._attempts > 1:
            self._retried_s += self.done_at - self.sent_at
        away_s = self._channel.patience.failed(
            sent_at=self.sent_at,
            done_at=self.done_at,
            patience_s=patience_s,
            reason=failure.reason.partition(";")[0],
        )
        left_s = patience_s - max(away_s, self._retried_s)
        if left_s > 0:
            pause = min(pause_s(self._attempts), left_s)
            self._retried_s += pause
            self._retry_at = self.done_at + pause

    @property
    def is_done(self) -> bool:
        """Whether :meth:`result` returns or raises without waiting."""
        return self._done.is_set() and self._retry_at is None

    @property
    def is_pausing(self) -> bool:
        """Whether the request has failed and is to be sent again."""
        return self._done.is_set() and self._retry_at is not None

    def retry_if_due(self) -> None:
        """Send a failed request again if its pause is over and a slot is free."""
        if self.is_pausing and self._next_attempt_at() <= time.perf_counter():
            ticket = self._concurrency.try_acquire() if self._concurrency else 0
            if ticket is not None:
                self._send(ticket)

    def cancel(self) -> None:
        """Cancel the request."""
        self._is_cancelled = True
        self._future.cancel()

    def result(self, others: Iterable[Call[Any]] = ()) -> _Response:
        """Wait for the answer, through as many attempts as the patience allows.

        Args:
            others: calls that are meanwhile sent again when their pauses are over.

        Raises:
            ServingError: the last attempt failed, or an attempt failed with an error that is not
                retried, or the connection was closed meanwhile.
            Cancelled: the event ``cancel`` was set.
        """
        while True:
            while not self._poll(self._done, others=others):
                pass
            if self._failure is None:
                response: _Response = self._future.result()
                return response
            if self._retry_at is None:
                raise self._failure from self._future
            self._send(self._next_ticket(others))

    def _next_ticket(self, others: Iterable[Call[Any]] = ()) -> int:
        """Wait until this request may be sent, and return the ticket of its slot.

        Raises:
            Cancelled: ``cancel`` was set first.
            ServingError: the connection was closed first.
        """
        closing = self._channel.closing
        while True:
            while (until := self._next_attempt_at()) > time.perf_counter():
                if self._poll(closing, until=until, others=others):
                    raise closed(self._channel.options.target)
            if self._concurrency is None:
                return 0
            ticket = self._concurrency.acquire(self._cancel)
            # Another request may have failed while this one waited for the slot.
            if self._next_attempt_at() <= time.perf_counter():
                return ticket
            self._concurrency.release(ticket, Feedback.UNKNOWN)

    def _next_attempt_at(self) -> float:
        return max(self._retry_at or -math.inf, self._channel.patience.pause_ends)

    def _poll(
        self,
        event: threading.Event,
        *,
        until: float = math.inf,
        others: Iterable[Call[Any]] = (),
    ) -> bool:
        """Wait for an event for a moment; return whether it is set.

        Args:
            event: the event.
            until: the end of the moment, of `time.perf_counter`, where it comes first.
            others: calls to send again when their pauses are over.

        Raises:
            Cancelled: ``cancel`` is set and the event is not.
        """
        # Ctrl-C interrupts the main thread between two waits.
        if event.wait(min(CANCEL_POLL_S, max(0.0, until - time.perf_counter()))):
            return True
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled(f"{self._channel.options.target}: the request was cancelled")
        self._channel.patience.notice()
        for call in others:
            call.retry_if_due()
        return False

    @property
    def latency_s(self) -> float:
        """Seconds from sending the last attempt to the arrival of its answer."""
        return self.done_at - self.sent_at

    @property
    def attempts(self) -> int:
        """How often the request was sent."""
        return self._attempts

    def trailer_s(self, key: str) -> float | None:
        """Return a time in seconds from the answer's trailing metadata, or None."""
        for name, value in self._future.trailing_metadata() or ():
            if name == key:
                return float(value)
        return None


# gRPC code -> (error, whether the request may be sent again). Other codes are a ServingError.
_ERRORS: dict[str, tuple[type[ServingError], bool]] = {
    "UNAVAILABLE": (ServingUnavailable, True),
    "DEADLINE_EXCEEDED": (ServingTimeout, True),
    "RESOURCE_EXHAUSTED": (ServingOverloaded, True),
    # A server that shuts down aborts the requests in flight.
    "CANCELLED": (ServingError, True),
    "NOT_FOUND": (ModelNotFound, False),
    "INVALID_ARGUMENT": (RequestRejected, False),
    "FAILED_PRECONDITION": (RequestRejected, False),
    "UNIMPLEMENTED": (ContractMismatch, False),
}
_ACCESS_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")

# Text in gRPC's message about a connection that failed, and the advice. A retry cannot help.
_CONNECTION_FAILURES = (
    (
        "WRONG_VERSION_NUMBER",
        "the server does not speak TLS at this port; turn TLS off, or use its TLS port",
    ),
    (
        "Hostname Verification Check failed",
        "the server's certificate is for another name; use that name in the address, "
        "or give the name as override_name",
    ),
    (
        "certificate has expired",
        "the server's certificate has expired; it needs a new one",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the server's certificate is of a CA that is not trusted here; "
        "give that CA's certificate as ca",
    ),
    (
        "_ALERT_",
        "the server refuses the TLS handshake; it may need another client certificate (cert, key)",
    ),
    ("Failed parsing HTTP/2", "this is not a gRPC port; TensorFlow Serving's is 8500"),
)

# gRPC's messages about a web page as an answer: its HTTP status, or only that it is no message.
_HTTP_STATUS = re.compile(r"(?:http2 header with status: |HTTP status )(\d{3})")
_NO_GRPC_ANSWER = "Data frame with END_STREAM flag received"

# The namespace in the name of a Service: dns:///c3d-grpc.c3d.svc.cluster.local:8500.
_CLUSTER_SERVICE = re.compile(r"\.([\w-]+)\.svc\b")


def failure_of(
    code: str,
    details: str,
    options: ServingOptions,
    *,
    has_answered: bool = False,
    has_model: bool = False,
) -> tuple[ServingError, float | None]:
    """Return the error of a request that ended with a gRPC status.

    Args:
        code: the status code's name, e.g. ``"UNAVAILABLE"``.
        details: the message of the server or of gRPC.
        options: the target, and how the request was sent.
        has_answered: whether the server has answered before.
        has_model: whether it has answered about the model before.

    Returns:
        The error, and how long the same request may be sent again, in seconds; None where that
        cannot help.
    """
    details = " ".join(details.split()) or "no details"
    kind, may_retry = _ERRORS.get(code, (ServingError, False))
    if kind is RequestRejected and "servable version label" in details:
        kind = ModelNotFound
    if kind is ServingUnavailable and "scheduling queue" in details:
        kind = ServingOverloaded
    if kind is ModelNotFound:
        # A restarted server that loads its model.
        may_retry = has_model
    # A full server is there.
    patience_s = options.patience(answered=has_answered or kind is ServingOverloaded)
    advice = {
        ServingUnavailable: _about_no_server(options),
        ServingTimeout: f"no answer within {options.timeout_s:g} s; give more time, or less work",
        ServingOverloaded: "the server is overloaded; try again later, or send less at once",
        ModelNotFound: f"the server does not have {_model(options)}",
        RequestRejected: "the server refused the request",
        ContractMismatch: "this is not TensorFlow Serving: it does not know the method",
    }.get(kind, "the request failed")
    http_status = _HTTP_STATUS.search(details)
    if code in _ACCESS_CODES:
        advice = "the server does not let this client in; check token, metadata, cert and key"
    elif http_status or _NO_GRPC_ANSWER in details:
        kind, advice, may_retry = _about_web_page(
            kind, int(http_status[1]) if http_status else 200, options
        )
    elif kind is ServingUnavailable and "errors resolving" in details:
        advice, may_retry = _about_name(options), has_answered
    elif kind is ServingUnavailable and _is_hang_up(details):
        # A server that shuts down ends connections in the same way.
        advice = _about_hang_up(options)
        patience_s = patience_s if has_answered else min(patience_s, _HANG_UP_PATIENCE_S)
    elif kind is ServingUnavailable:
        for text, about in _CONNECTION_FAILURES:
            if text in details:
                advice, may_retry = about, False
                break
    elif kind is ServingOverloaded and "larger than max" in details:
        # The size of the same request will not change.
        kind, may_retry = RequestRejected, False
        advice = "the server accepts no message of this size; give a smaller batch_size"
    error = kind(options.target, f"{advice} [{code}: {details}]", code=code)
    return error, patience_s if may_retry else None


def closed(target: str) -> ServingError:
    """Return the error of a request that ended because this program closed the connection."""
    return ServingError(
        target, "the connection was closed before the answer came", code="CANCELLED"
    )


def _about_no_server(options: ServingOptions) -> str:
    if options.local_path is not None:
        return "the server that was started for this target does not answer"
    if command := _cluster_command(options):
        return f"no server answers; is a pod ready? ({command} shows it)"
    if options.is_local:
        return "no server answers; is one running? (c3d-export serve starts one)"
    return "no server answers; is one running there, and is its port open to this machine?"


def _about_name(options: ServingOptions) -> str:
    advice = "the host's name cannot be resolved; check its spelling"
    if options.target.startswith("local:"):
        advice += f", or write local:./{options.target[6:]} for a folder"
    if command := _cluster_command(options):
        advice += f", and whether a pod is ready ({command} shows it)"
    return advice


def _cluster_command(options: ServingOptions) -> str | None:
    """Return the command that shows the server's pods, where client or server is in a cluster."""
    service = _CLUSTER_SERVICE.search(options.target)
    if service is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    namespace = f" --namespace {service[1]}" if service else ""
    return f"kubectl get pods{namespace}"


def _about_web_page(
    kind: type[ServingError], status: int, options: ServingOptions
) -> tuple[type[ServingError], str, bool]:
    """Return error, advice and whether to retry for an answer that a proxy or web server made."""
    if status == 413:
        return (
            RequestRejected,
            "a proxy accepts no message of this size (HTTP 413); give a smaller batch_size, "
            "or raise the proxy's limit (in nginx client_max_body_size)",
            False,
        )
    if status == 429:
        return (
            ServingOverloaded,
            "a proxy accepts no more requests for now (HTTP 429); send less at once",
            True,
        )
    if status in (502, 503, 504):
        about_server = _about_no_server(options).partition("; ")[2]
        return (
            ServingUnavailable,
            f"a proxy answers and reaches no server (HTTP {status}); {about_server}",
            True,
        )
    return (
        kind,
        f"a web page answers and not a gRPC server (HTTP {status}); check host and port "
        "(TensorFlow Serving's is 8500), and that proxies forward gRPC",
        False,
    )


def _is_hang_up(details: str) -> bool:
    """Return whether the connection ended during its first moments.

    Probably only one side uses TLS, or the server requires a client certificate.
    """
    return "all backends failing" in details and "Socket closed" in details


def _about_hang_up(options: ServingOptions) -> str:
    if not options.tls:
        return "the server hangs up; it may speak TLS at this port (tls, ca)"
    which = "a" if options.cert is None else "another"
    return (
        "the server hangs up during the TLS handshake; "
        f"it may need {which} client certificate (cert, key)"
    )


def _model(options: ServingOptions) -> str:
    model = f"model {options.model!r}"
    if options.version is not None:
        model += f" version {options.version}"
    if options.label is not None:
        model += f" label {options.label!r}"
    return model
