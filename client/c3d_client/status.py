"""What a gRPC status means to us: which error, whether to ask again, and what to advise.

One table for the codes, one for the words by which connections that fail alike can be told apart.
"""

from __future__ import annotations

from c3d_client.errors import (
    ContractMismatch,
    ModelNotFound,
    RequestRejected,
    ServingError,
    ServingOverloaded,
    ServingTimeout,
    ServingUnavailable,
)
from c3d_client.options import ServingOptions

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
