"""Videos in object stores and on web servers: listed, told apart, opened and read in blocks.

Stands below `sources.py`, which decides what is remote, and above `stores.py`, which speaks to the
servers.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from c3d_client.errors import UsageError, VideoDecodeError, VideoUnreadableError
from c3d_client.stores import display, reason, store_of, tried

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
    store, path = store_of(uri)
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
        raise UsageError(f"{display(uri)}: cannot be listed: {reason(error, uri)}") from None
    return sorted(map(below, found))


def remote_fingerprint(uri: str) -> dict[str, str | int]:
    """What tells an object from another version of it, from one request for its headers.

    Raises:
        VideoUnreadableError: it is not there or cannot be asked for.
    """
    store, path = store_of(uri)
    info = tried(uri, lambda: store.info(path))
    if info.get("type") == "directory":
        raise VideoUnreadableError(display(uri), "is a folder, not a video")
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
        store, path = store_of(uri)
        self._uri = uri
        self.name = display(uri).partition("?")[0].rpartition("/")[2]
        self.failure: VideoDecodeError | None = None
        self._file, self.size = tried(uri, lambda: _opened(store, path, uri))
        if self.size == 0:
            self.close()
            raise VideoDecodeError(display(uri), "is empty (0 bytes)")

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
                raise VideoUnreadableError(display(self._uri), says)
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
                display(uri),
                "the server does not say how long it is; download it and give the file",
            )
        return store.open(path, "rb", block_size=_BLOCK_BYTES, size=size, **kept), size
    file = store.open(path, "rb", block_size=_BLOCK_BYTES, **kept)
    if file.details.get("type") == "directory":
        raise VideoUnreadableError(display(uri), "is a folder, not a video")
    return file, int(file.size)


def _kind(uri: str) -> str:
    store, path = store_of(uri)
    try:
        return str(store.info(path)["type"])
    except Exception:  # opening it will tell what is wrong
        return ""
