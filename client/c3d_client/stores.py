"""Object stores and web servers through fsspec: one connection each, limits, retries and reasons.

The only file that knows fsspec, and it loads fsspec when the first remote video is named. Used by
`remote.py`.

Credentials and addresses come from the environment, as each library documents it. For S3, s3fs
takes what AWS's own tools take: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_SESSION_TOKEN``, ``AWS_PROFILE`` and its files, instance roles, ``AWS_DEFAULT_REGION``, and
``AWS_ENDPOINT_URL`` or ``AWS_ENDPOINT_URL_S3`` for a store that is not Amazon's. fsspec's own
``FSSPEC_S3_ANON=1`` reads public buckets without credentials. HTTP goes through ``HTTPS_PROXY``
and ``~/.netrc`` where they are set.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from c3d_client.errors import UsageError, VideoDecodeError, VideoUnreadableError

# A URL's scheme -> fsspec's name of it, and the extra of this package that brings the library.
STORES = {
    "s3": ("s3", "s3"),
    "s3a": ("s3", "s3"),
    "gs": ("gcs", "gcs"),
    "gcs": ("gcs", "gcs"),
    "http": ("http", "http"),
    "https": ("http", "http"),
    "memory": ("memory", "http"),
}

OBJECT_STORES = frozenset(name for name, (store, _) in STORES.items() if store != "http")

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.I)

_CONNECT_S = 10.0
_SILENCE_S = 20.0  # without a byte: the server has stalled
_REQUEST_S = 300.0  # for one block by HTTP, aiohttp's own limit
_TRIES = 3
_RETRY_AFTER_S = 0.2
_PASSING_STATUS = frozenset((408, 429, 500, 502, 503, 504))

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=1 for a public bucket",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}

# Listings are not kept: what is asked again may have changed.
_FRESH = {"use_listings_cache": False}

_OPENED: dict[tuple[object, ...], Any] = {}
_LOCK = threading.Lock()
_Answer = TypeVar("_Answer")


def scheme(uri: str) -> str:
    """A URL's scheme in lower case; empty for what is a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def display(uri: str) -> str:
    """A path or URL as it may be shown and stored: without user, password and query values.

    >>> display("https://me:secret@host/a.mp4?token=1&part=2")
    'https://***@host/a.mp4?token=***&part=***'
    """
    # A password may hold marks that end a host; up to the last @ before a slash, all is hidden.
    found = re.match(r"([a-z][a-z0-9+.-]+://)([^/]*@|)([^?#]*)(.*)", uri, re.DOTALL | re.I)
    if not found:
        return uri
    start, user, path, rest = found.groups()
    # In the name of an object these two are letters like others, unless they do bring values.
    if scheme(uri) not in OBJECT_STORES or "=" in rest:
        rest = re.sub(r"(?<==)[^&;#?]+|(?<=[?#&;])[^&;#?=]+(?=[&;#?]|$)", "***", rest)
    return start + ("***@" if user else "") + path + rest


def store_of(uri: str) -> tuple[Any, str]:
    """The store of a URL, one for all threads, and the URL's path in it."""
    name, extra = STORES[scheme(uri)]
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(name)
    except ImportError as error:
        raise UsageError(
            f"{display(uri)}: cannot be opened without a library that is not installed ({error}); "
            f"pip install 'c3d-client[{extra}]'"
        ) from error
    options = _options(name, uri)
    # fsspec would make one for each thread, each with connections of its own.
    key = (os.getpid(), name, repr(options))
    with _LOCK:
        if key not in _OPENED:
            _OPENED[key] = kind(**options, skip_instance_cache=True)
            if name == "s3":
                _OPENED[key].retries = _TRIES
        return _OPENED[key], str(kind._strip_protocol(uri))


def _options(name: str, uri: str) -> dict[str, Any]:
    if name == "http":
        import aiohttp

        limits = aiohttp.ClientTimeout(
            total=_REQUEST_S, sock_connect=_CONNECT_S, sock_read=_SILENCE_S
        )
        # What is a whole URL is sent as it stands: changing its escapes may break its signature.
        whole = uri.isascii() and not re.search(r"\s", uri)
        return {"client_kwargs": {"timeout": limits, "trust_env": True}, "encoded": whole}
    if name == "s3":
        config = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _SILENCE_S,
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
        }
        options: dict[str, Any] = {"config_kwargs": config, **_FRESH}
        return options | ({"version_aware": True} if "?versionId=" in uri else {})
    return _FRESH if name == "gcs" else {}


def tried(uri: str, call: Callable[[], _Answer]) -> _Answer:
    """What the call gives; HTTP is tried again here, the others' libraries do so themselves."""
    tries = _TRIES if STORES[scheme(uri)][0] == "http" else 1
    for left in reversed(range(tries)):
        try:
            return call()
        except VideoDecodeError:
            raise
        except Exception as error:
            if not left or not _passes(error):
                # Not chained: libraries put whole URLs, with what is secret in them, into theirs.
                raise VideoUnreadableError(display(uri), reason(error, uri)) from None
        time.sleep(_RETRY_AFTER_S * 2 ** (tries - 1 - left))
    raise AssertionError("unreachable")


def _root(error: BaseException) -> BaseException:
    """What happened: fsspec calls every failure by HTTP "not found" and chains the reason."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    return error if cause is None or isinstance(cause, KeyError) else cause


def _passes(error: BaseException) -> bool:
    """Whether it may go better the next time."""
    import asyncio

    import aiohttp

    root = _root(error)
    if isinstance(root, aiohttp.ClientResponseError):
        return root.status in _PASSING_STATUS
    return isinstance(
        root, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError)
    )


def reason(error: BaseException, uri: str) -> str:
    """What went wrong, in one line and without secrets."""
    import asyncio  # 40 ms, for those alone who need it

    root = _root(error)
    # This URL first, which may hold spaces; then what else looks like one.
    text = str(root).replace(uri, display(uri))
    text = re.sub(r"[A-Za-z][\w+.-]+://[^\s'\"]+", lambda url: display(url[0]), text)
    text = " ".join(text.split())
    status = getattr(root, "status", None)
    answer = getattr(root, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    hint = _CREDENTIALS.get(STORES[scheme(uri)][0], "the credentials")
    if isinstance(status, int):
        return f"the server answered HTTP {status} {getattr(root, 'message', '')}".rstrip()
    if code == "NoSuchBucket":
        return "there is no such bucket"
    if isinstance(error, FileNotFoundError) and (root is error or code):
        return "there is no such object"
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return f"access denied ({text}); check the name and {hint}"
    if isinstance(root, asyncio.TimeoutError):
        return f"the server was silent for {_SILENCE_S:g} s"
    if type(root).__name__ == "FileExpired":
        return "was replaced while it was read; try again"
    if type(root).__name__ in ("ClientPayloadError", "IncompleteRead", "ResponseStreamingError"):
        return "the connection was cut while reading; try again"
    if "support range requests" in text:
        return "the server does not serve parts of a file; download it and give the file"
    return text or type(root).__name__
