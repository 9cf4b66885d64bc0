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

import contextlib
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from c3d_client.core.errors import UsageError, VideoDecodeError, VideoUnreadableError
from c3d_client.core.uri import STORES, redact, redact_urls, scheme

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

# Store -> the extra of this package that installs its library, where the names differ.
_EXTRAS = {"memory": "http"}

# Listings are not kept: what is asked again may have changed.
_FRESH = {"use_listings_cache": False}

_OPENED: dict[tuple[object, ...], Any] = {}
_LOCK = threading.Lock()
_Answer = TypeVar("_Answer")


def open_store(uri: str) -> tuple[Any, str]:
    """The store of a URL, one for all threads, and the URL's path in it."""
    name = STORES[scheme(uri)]
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(name)
    except ImportError as error:
        raise UsageError(
            f"{redact(uri)}: cannot be opened without a library that is not installed ({error}); "
            f"pip install 'c3d-client[{_EXTRAS.get(name, name)}]'"
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
    tries = _TRIES if STORES[scheme(uri)] == "http" else 1
    for left in reversed(range(tries)):
        try:
            return call()
        except VideoDecodeError:
            raise
        except Exception as error:
            if not left or not _passes(error):
                # Not chained: libraries put whole URLs, with what is secret in them, into theirs.
                raise VideoUnreadableError(redact(uri), reason(error, uri)) from None
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
    text = str(root).replace(uri, redact(uri))
    text = redact_urls(text)
    text = " ".join(text.split())
    status = getattr(root, "status", None)
    answer = getattr(root, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    hint = _CREDENTIALS.get(STORES[scheme(uri)], "the credentials")
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


# One request fetches a block. An MP4 is read front to back, after a look at its end; sound and
# pictures that lie apart need two places at once. Eight blocks, 32 MiB a video, hold all of that
# and nothing is fetched twice; smaller blocks only ask more often.
_BLOCK_BYTES = 4 * 2**20
_BLOCKS_KEPT = 8


def is_folder(uri: str) -> bool:
    """Whether a store says that there is a folder; False too where it cannot be asked."""
    return _kind(uri) == "directory"


def is_object(uri: str) -> bool:
    """Whether a store says that there is an object of just this name."""
    return _kind(uri) == "file"


def files_below(
    uri: str, descend: Callable[[tuple[str, ...]], bool] | None = None
) -> list[tuple[str, ...]]:
    """List a store's folder, recursively.

    Args:
        uri: the folder.
        descend: whether to look into a folder, given its path below `uri` in parts; None for all,
            which takes one request for a thousand objects, whatever their folders.

    Returns:
        The objects' paths below `uri`, in parts, sorted.

    Raises:
        UsageError: the folder cannot be listed.
    """
    store, path = open_store(uri)
    path = path.rstrip("/")

    def below(name: str) -> tuple[str, ...]:
        return tuple(name[len(path) + 1 :].split("/"))

    def look_into(folder: str) -> Iterator[str]:
        for entry in store.ls(folder, detail=True):
            name = entry["name"].rstrip("/")
            if entry["type"] != "directory":
                yield entry["name"]
            elif name != folder and descend and descend(below(name)):
                yield from look_into(name)

    try:
        found = list(look_into(path)) if descend else store.find(path)
    except Exception as error:
        raise UsageError(f"{redact(uri)}: cannot be listed: {reason(error, uri)}") from None
    return sorted(map(below, found))


def remote_fingerprint(uri: str) -> dict[str, str | int]:
    """What tells an object from another version of it, from one request for its headers.

    Raises:
        VideoUnreadableError: it is not there or cannot be asked for.
    """
    store, path = open_store(uri)
    info = tried(uri, lambda: store.info(path))
    if info.get("type") == "directory":
        raise VideoUnreadableError(redact(uri), "is a folder, not a video")
    return fingerprint_of(info)


def fingerprint_of(info: Mapping[str, Any]) -> dict[str, str | int]:
    """The same, of what a store tells of an object, by itself or in a listing."""
    found: dict[str, str | int] = {}
    if info.get("size") is not None:
        found["size"] = int(info["size"])
    for name, keys in {
        "etag": ("ETag", "etag"),
        "checksum": ("md5Hash", "Content-MD5", "Digest"),
        "modified": ("LastModified", "Last-Modified", "updated", "created"),
    }.items():
        value = next((info[key] for key in keys if info.get(key)), None)
        if value is not None:
            found[name] = str(value)
    return found


@contextlib.contextmanager
def open_remote(uri: str) -> Iterator[RemoteFile]:
    """A remote video as a file that PyAV reads; closed when the block ends.

    An error of the network ends the block as VideoUnreadableError, even where the decoder took it
    for the end of the film and made nothing of it.
    """
    file = RemoteFile(uri)
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
    """A remote object for reading, with `read`, `seek` and `tell`.

    Attributes:
        name: its last part, by which FFmpeg recognises formats that have no mark of their own.
        size: in bytes.
        failure: why reading stopped; None while all is well.

    Raises:
        VideoUnreadableError: it is not there, or cannot be opened.
        VideoDecodeError: it is empty.
    """

    def __init__(self, uri: str) -> None:
        store, path = open_store(uri)
        self._uri = uri
        self.name = redact(uri).partition("?")[0].rpartition("/")[2]
        self.failure: VideoDecodeError | None = None
        self._file, self.size = tried(uri, lambda: _opened(store, path, uri))
        if self.size == 0:
            self.close()
            raise VideoDecodeError(redact(uri), "is empty (0 bytes)")

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes from here; none at the end of the file, and none after a failure.

        Never raises: PyAV would print what FFmpeg makes nothing of, or raise it at another video.
        """
        here = self._file.tell()
        left = max(0, self.size - here) if self.failure is None else 0
        wanted = left if size < 0 else min(size, left)
        if not wanted:
            return b""
        try:
            data: bytes = tried(self._uri, lambda: self._file.read(wanted))
            if len(data) != wanted:
                says = f"is cut short: the server says {self.size} bytes and sends fewer"
                raise VideoUnreadableError(redact(self._uri), says)
        except VideoDecodeError as error:
            self.failure = error
            return b""
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another place; gives the place."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Where the next byte is read."""
        return int(self._file.tell())

    def close(self) -> None:
        """Let go of what was fetched; also after PyAV has closed it."""
        self._file.close()


def _opened(store: Any, path: str, uri: str) -> tuple[Any, int]:
    kept = {"cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS_KEPT}}
    if "memory" in store.protocol:
        # Its file is the stored object itself, with one position for all readers.
        data = store.cat_file(path)
        return io.BytesIO(data), len(data)
    if "http" in store.protocol:
        size = store.info(path)["size"]
        if size is None:
            raise VideoUnreadableError(
                redact(uri),
                "the server does not say how long it is; download it and give the file",
            )
        return store.open(path, "rb", block_size=_BLOCK_BYTES, size=size, **kept), size
    file = store.open(path, "rb", block_size=_BLOCK_BYTES, **kept)
    if file.details.get("type") == "directory":
        raise VideoUnreadableError(redact(uri), "is a folder, not a video")
    return file, int(file.size)


def _kind(uri: str) -> str:
    store, path = open_store(uri)
    try:
        return str(store.info(path)["type"])
    except Exception:  # opening it will tell what is wrong
        return ""
