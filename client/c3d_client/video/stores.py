"""Videos in object stores and on web servers, read through fsspec with timeouts and retries.

The only module that imports fsspec. It does so when the first remote video is opened, because the
import takes long.

Credentials and addresses come from the environment, as each library documents it. s3fs reads the
same variables and files as AWS's own tools: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_SESSION_TOKEN``, ``AWS_PROFILE`` and its files, instance roles, ``AWS_DEFAULT_REGION``, and
``AWS_ENDPOINT_URL`` or ``AWS_ENDPOINT_URL_S3`` for a store other than Amazon's. fsspec's own
``FSSPEC_S3_ANON=1`` reads public buckets without credentials. HTTP uses ``HTTPS_PROXY`` and
``~/.netrc`` where they are set.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from c3d_client.core.errors import UsageError, VideoDecodeError, VideoUnreadableError
from c3d_client.core.retry import TRANSIENT_HTTP_STATUSES, retry
from c3d_client.core.uri import Uri, UriLike, redact_urls

_CONNECT_S = 10.0
_SILENCE_S = 20.0  # without a byte: the server has stalled
_REQUEST_S = 300.0  # for one block by HTTP, aiohttp's own limit
_TRIES = 3
_RETRY_AFTER_S = 0.2

# One request fetches a block. An MP4 is read front to back, after a look at its end; audio and
# video that are stored apart need two positions at once. Eight blocks (32 MiB a video) hold all of
# that, so no block is fetched twice; smaller blocks only cause more requests.
_BLOCK_BYTES = 4 * 2**20
_CACHED_BLOCKS = 8

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=1 for a public bucket",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}

# Store -> the extra of this package that installs its library, where the names differ.
_EXTRAS = {"memory": "http"}

# Listings are not cached, because a folder may change between two listings.
_NO_LISTINGS_CACHE = {"use_listings_cache": False}

_OPENED: dict[tuple[object, ...], Any] = {}
_LOCK = threading.Lock()
_Answer = TypeVar("_Answer")


def open_store(uri: UriLike) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, shared by all threads, and the URL's path in it.

    Raises:
        KeyError: the URL's scheme names no store.
        UsageError: the library for this kind of URL is not installed.
    """
    uri = Uri.of(uri)
    name = uri.store
    if not name:
        raise KeyError(uri.scheme)
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(name)
    except ImportError as error:
        raise UsageError(
            f"{uri}: cannot be opened without a library that is not installed ({error}); "
            f"pip install 'c3d-client[{_EXTRAS.get(name, name)}]'"
        ) from error
    options = _options(uri)
    # fsspec would make one file system for each thread, each with its own connections.
    key = (os.getpid(), name, repr(options))
    with _LOCK:
        if key not in _OPENED:
            _OPENED[key] = kind(**options, skip_instance_cache=True)
            if name == "s3":
                _OPENED[key].retries = _TRIES
        return _OPENED[key], str(kind._strip_protocol(uri.raw))


def _options(uri: Uri) -> dict[str, Any]:
    if uri.store == "http":
        import aiohttp

        limits = aiohttp.ClientTimeout(
            total=_REQUEST_S, sock_connect=_CONNECT_S, sock_read=_SILENCE_S
        )
        # A well-formed URL is sent unchanged: another escaping may break its signature.
        encoded = uri.raw.isascii() and not re.search(r"\s", uri.raw)
        return {"client_kwargs": {"timeout": limits, "trust_env": True}, "encoded": encoded}
    if uri.store == "s3":
        config = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _SILENCE_S,
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
        }
        options: dict[str, Any] = {"config_kwargs": config, **_NO_LISTINGS_CACHE}
        return options | ({"version_aware": True} if uri.has_version else {})
    return _NO_LISTINGS_CACHE if uri.store == "gcs" else {}


def remote_fingerprint(uri: Uri) -> dict[str, str | int]:
    """Return the properties that differ between versions of an object, with one HEAD request.

    Raises:
        VideoUnreadableError: the object does not exist, or the store does not answer.
    """
    store, path = open_store(uri)
    info = _request(uri, lambda: store.info(path))
    if info.get("type") == "directory":
        raise VideoUnreadableError(str(uri), "is a folder, not a video")
    return fingerprint_of(info)


def fingerprint_of(info: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the fingerprint of an object from fsspec's description of it.

    Args:
        info: what the store returned for the object, alone or in a listing.
    """
    fingerprint: dict[str, str | int] = {}
    if info.get("size") is not None:
        fingerprint["size"] = int(info["size"])
    for name, keys in {
        "etag": ("ETag", "etag"),
        "checksum": ("md5Hash", "Content-MD5", "Digest"),
        "modified": ("LastModified", "Last-Modified", "updated", "created"),
    }.items():
        value = next((info[key] for key in keys if info.get(key)), None)
        if value is not None:
            fingerprint[name] = str(value)
    return fingerprint


def is_folder(uri: UriLike) -> bool:
    """Whether a store has a folder of this name; False too where the store does not answer."""
    return _kind(Uri.of(uri)) == "directory"


def is_object(uri: UriLike) -> bool:
    """Whether a store has an object of exactly this name; False where it does not answer."""
    return _kind(Uri.of(uri)) == "file"


def _kind(uri: Uri) -> str:
    store, path = open_store(uri)
    try:
        return str(store.info(path)["type"])
    except Exception:  # opening the object reports what is wrong
        return ""


def files_below(
    uri: Uri, descend: Callable[[tuple[str, ...]], bool] | None = None
) -> list[tuple[str, ...]]:
    """List a store's folder, recursively.

    Args:
        uri: the folder.
        descend: whether to list a folder, given the parts of its path below `uri`; None for all
            folders, which takes one request for a thousand objects.

    Returns:
        The parts of the objects' paths below `uri`, sorted.

    Raises:
        UsageError: the folder cannot be listed.
    """
    store, path = open_store(uri)
    path = path.rstrip("/")

    def below(name: str) -> tuple[str, ...]:
        return tuple(name[len(path) + 1 :].split("/"))

    def names_in(folder: str) -> Iterator[str]:
        for entry in store.ls(folder, detail=True):
            name = entry["name"].rstrip("/")
            if entry["type"] != "directory":
                yield entry["name"]
            elif name != folder and descend and descend(below(name)):
                yield from names_in(name)

    try:
        names = list(names_in(path)) if descend else store.find(path)
    except Exception as error:
        raise UsageError(f"{uri}: cannot be listed: {reason(error, uri)}") from None
    return sorted(map(below, names))


@contextlib.contextmanager
def open_remote(uri: Uri, *, size: int | None = None) -> Iterator[RemoteFile]:
    """Open a remote video as a file that PyAV reads; it is closed when the block ends.

    Args:
        uri: the object.
        size: its size in bytes, where a fingerprint that was just taken contains it. HTTP then
            needs no request for the headers; other stores ignore it.

    Raises:
        VideoUnreadableError: the object cannot be opened. A network error while reading raises it
            at the end of the block, even where the decoder took the error for the video's end.
        VideoDecodeError: the object is empty.
    """
    file = RemoteFile(uri, size=size)
    try:
        yield file
    except Exception:
        if file.failure is None:
            raise
        raise file.failure from None
    finally:
        file.close()
    if file.failure is not None:
        raise file.failure


class RemoteFile:
    """A remote object open for reading, with `read`, `seek` and `tell`.

    Args:
        uri: the object.
        size: its size in bytes, if known; see :func:`open_remote`.

    Attributes:
        name: the file name, by which FFmpeg recognises formats that have no signature.
        size: in bytes.
        block_bytes: how many bytes one request fetches; blocks begin at multiples of it.
        failure: why reading stopped; None as long as it succeeds.
        on_read: called with the offset and the bytes of each read.

    Raises:
        VideoUnreadableError: the object does not exist, or cannot be opened.
        VideoDecodeError: the object is empty.
    """

    def __init__(self, uri: Uri, *, size: int | None = None) -> None:
        store, path = open_store(uri)
        self._uri = uri
        self.name = uri.name
        self.block_bytes = _BLOCK_BYTES
        self.failure: VideoDecodeError | None = None
        self.on_read: Callable[[int, bytes], None] | None = None
        self._file, self.size = _request(uri, lambda: _opened(store, path, uri, size))
        if self.size == 0:
            self.close()
            raise VideoDecodeError(str(uri), "is empty (0 bytes)")

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes; none at the end of the file, and none after a failure.

        Never raises: PyAV would print an exception that FFmpeg ignores, or raise it at another
        video.
        """
        position = self._file.tell()
        remaining = max(0, self.size - position) if self.failure is None else 0
        length = remaining if size < 0 else min(size, remaining)
        if not length:
            return b""
        try:
            data: bytes = _request(self._uri, lambda: self._file.read(length))
            if len(data) != length:
                raise VideoUnreadableError(
                    str(self._uri),
                    f"is cut short: the server says {self.size} bytes and sends fewer",
                )
        except VideoDecodeError as error:
            self.failure = error
            return b""
        if self.on_read is not None:
            self.on_read(position, data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another position and return it."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position of the next byte."""
        return int(self._file.tell())

    def close(self) -> None:
        """Free the cached blocks. Further calls have no effect."""
        self._file.close()


def _opened(store: Any, path: str, uri: Uri, size: int | None) -> tuple[Any, int]:
    cache = {"cache_type": "blockcache", "cache_options": {"maxblocks": _CACHED_BLOCKS}}
    if uri.store == "memory":
        # Its file is the stored object itself, with one position for all readers.
        data = store.cat_file(path)
        return io.BytesIO(data), len(data)
    if uri.store == "http":
        if size is None:
            size = store.info(path)["size"]
        if size is None:
            raise VideoUnreadableError(
                str(uri), "the server does not say how long it is; download it and give the file"
            )
        return store.open(path, "rb", block_size=_BLOCK_BYTES, size=size, **cache), size
    # Without a size s3fs requests the ETag too, and so notices an object that is replaced.
    file = store.open(path, "rb", block_size=_BLOCK_BYTES, **cache)
    if file.details.get("type") == "directory":
        raise VideoUnreadableError(str(uri), "is a folder, not a video")
    return file, int(file.size)


def _request(uri: Uri, call: Callable[[], _Answer]) -> _Answer:
    """Call a function of a store. HTTP is retried here; the other libraries retry themselves."""
    try:
        return retry(
            call,
            attempts=_TRIES if uri.store == "http" else 1,
            is_transient=_is_transient,
            first_pause_s=_RETRY_AFTER_S,
        )
    except VideoDecodeError:
        raise
    except Exception as error:
        # Not chained: the libraries' messages contain whole URLs with their secrets.
        raise VideoUnreadableError(str(uri), reason(error, uri)) from None


def _is_transient(error: BaseException) -> bool:
    """Whether an error of an HTTP request may be gone at the next attempt."""
    import asyncio

    import aiohttp

    cause = _cause(error)
    if isinstance(cause, aiohttp.ClientResponseError):
        return cause.status in TRANSIENT_HTTP_STATUSES
    return isinstance(
        cause, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError)
    )


def _cause(error: BaseException) -> BaseException:
    """Return what happened: fsspec calls every HTTP failure "not found" and chains the cause."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    return error if cause is None or isinstance(cause, KeyError) else cause


def reason(error: BaseException, uri: UriLike) -> str:
    """Return the message of a store's error, on one line and with all URLs redacted."""
    import asyncio  # 40 ms, only where a remote video failed

    uri = Uri.of(uri)
    cause = _cause(error)
    # This URL first, because it may contain spaces; then every other URL.
    text = redact_urls(str(cause).replace(uri.raw, str(uri)))
    text = " ".join(text.split())
    status = getattr(cause, "status", None)
    response = getattr(cause, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    if isinstance(status, int):
        return f"the server answered HTTP {status} {getattr(cause, 'message', '')}".rstrip()
    if code == "NoSuchBucket":
        return "there is no such bucket"
    if isinstance(error, FileNotFoundError) and (cause is error or code):
        return "there is no such object"
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        hint = _CREDENTIALS.get(uri.store, "the credentials")
        return f"access denied ({text}); check the name and {hint}"
    if isinstance(cause, asyncio.TimeoutError):
        return f"the server was silent for {_SILENCE_S:g} s"
    if type(cause).__name__ == "FileExpired":
        return "was replaced while it was read; try again"
    if type(cause).__name__ in ("ClientPayloadError", "IncompleteRead", "ResponseStreamingError"):
        return "the connection was cut while reading; try again"
    if "support range requests" in text:
        return "the server does not serve parts of a file; download it and give the file"
    return text or type(cause).__name__
