"""A folder of a dataset, on a disk or in a bucket: files that appear whole, are listed and read.

The only file of this room that knows where things are kept. What is written takes its name when
all of it is there: by a rename on a disk; in a bucket because an object has no other way.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from c3d_client.core.errors import C3DError
from c3d_client.core.files import TEMPORARY_PREFIX, atomic_file, sync
from c3d_client.core.uri import redact, scheme
from c3d_client.video.sources import open_store, reason

from c3d_pipelines.errors import StorageError

_PART_BYTES = 8 << 20
_MAX_PARTS = 10_000  # S3's own limit
_AHEAD_BYTES = 64 << 10  # read beyond what is asked for
# Whose exceptions are a store's trouble, besides OSError; others are defects.
_LIBRARIES = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "s3fs", "urllib3")


class Storage:
    """A folder on a disk, or a prefix in a bucket. It need not exist; writing makes it.

    Args:
        uri: a path, ``file://``, ``s3://`` or ``gs://``. Credentials come from the environment, as
            for videos (see :mod:`c3d_client.video.stores`).

    Raises:
        StorageError: it is not such a URI, or its library is not installed.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        text = os.fspath(uri)
        if scheme(text) == "file":
            text = unquote(text[len("file://") :].removeprefix("localhost"))
        self.uri = text.rstrip("/") or "/"
        self._store: Any = None
        self._root = self.uri
        shown = redact(self.uri)
        if not text.strip():
            raise StorageError(repr(text), "is no place; give a folder or bucket")
        if not scheme(text):
            return
        kind, _, path = text.partition("://")
        bucket = path.split("/")[0]
        if scheme(text) in ("http", "https"):
            raise StorageError(shown, "cannot be written to; give a folder or bucket")
        if not bucket:
            raise StorageError(text, f"names no bucket; give {kind}://BUCKET/DIR")
        if "@" in bucket:
            raise StorageError(shown, "holds credentials; give them in the environment")
        try:
            self._store, self._root = open_store(self.uri)
        except KeyError:
            raise StorageError(shown, "is not a path, file://, s3:// or gs://") from None
        except C3DError as error:
            raise StorageError(shown, str(error).removeprefix(f"{shown}: ")) from error

    @property
    def is_local(self) -> bool:
        """Whether it is a folder on this machine's file systems."""
        return self._store is None

    def uri_of(self, name: str) -> str:
        """The path or URL of a file in it."""
        return f"{self.uri.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """All of a file; None where there is none.

        Raises:
            StorageError: it cannot be read, or its bucket is not there.
        """
        with self._named(name, "read"):
            try:
                if self._store is None:
                    return Path(self._path(name)).read_bytes()
                # In one request: parts of it could be of different versions.
                data: bytes = self._store.cat_file(self._path(name), max_concurrency=1)
                return data
            except (FileNotFoundError, NotADirectoryError) as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    def write(
        self,
        name: str,
        data: bytes | str,
        *,
        again: Callable[[Exception], bool] | None = None,
    ) -> None:
        """Write a file; it appears whole or not at all.

        Args:
            name: below the place.
            data: all of it.
            again: as for :meth:`writing`.

        Raises:
            StorageError: it cannot be written.
        """
        with self.writing(name, again=again) as path:
            path.write_bytes(data.encode() if isinstance(data, str) else data)

    @contextlib.contextmanager
    def writing(
        self, name: str, *, again: Callable[[Exception], bool] | None = None
    ) -> Iterator[Path]:
        """A path on this machine to write a file to; it takes its name when the block ends.

        The file is synced to the disk, or sent to the bucket in parts, before it has its name. An
        error leaves nothing.

        Args:
            name: below the place.
            again: asked, with the error, whether the bucket is to be sent the file once more,
                after the tries that the store's library makes itself.

        Raises:
            StorageError: it cannot be written.
        """
        target = self._path(name)
        if self._store is None:
            with self._named(name, "written"):
                folder = os.path.dirname(target)
                os.makedirs(folder, exist_ok=True)
                with atomic_file(target) as file:
                    # Others write to the file by its name meanwhile; it is the same file.
                    yield Path(file.name)
                _sync_names(folder)
            return
        with self._named(name, "written", here=True), _temporary_file(name) as made:
            yield made
            # One after another: a part on its way outlives the upload that is given up.
            part = _PART_BYTES * max(1, math.ceil(made.stat().st_size / _MAX_PARTS / _PART_BYTES))
            options = {"chunksize": part, "max_concurrency": 1}
            with self._named(name, "written"):
                while True:
                    try:
                        self._store.put_file(str(made), target, **options)
                        break
                    except Exception as error:
                        if again is None or not _is_of_store(error) or not again(error):
                            raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """A file opened for reading in any order, as pyarrow wants it.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        with self._named(name, "read"):
            path = self._path(name)
            if self._store is None:
                with Path(path).open("rb") as file:
                    yield file
            else:
                with self._store.open(path, "rb", block_size=_AHEAD_BYTES) as file:
                    yield file

    def names(self, below: str = "") -> list[str]:
        """The names of all files below a folder of it, sorted; none where there is no such folder.

        Hidden ones are left out: they are half-written.

        Raises:
            StorageError: it cannot be listed.
        """
        base = self._path(below) if below else self._root
        with self._named(below, "listed"):
            # Without a bucket, a store says "not found"; of an empty one, it lists nothing.
            found = list(_walk(base)) if self._store is None else self._store.find(base)
        root = self._root.rstrip("/") + "/"
        names = (path[len(root) :] for path in found)
        files = (name for name in names if not name.endswith("/") and name)  # no folders' marks
        return sorted(n for n in files if not any(p.startswith(".") for p in n.split("/")))

    def size(self, name: str) -> int | None:
        """A file's bytes; None where there is none.

        Raises:
            StorageError: it cannot be asked.
        """
        with self._named(name, "asked for"):
            try:
                if self._store is None:
                    status = os.stat(self._path(name))
                    return status.st_size if stat.S_ISREG(status.st_mode) else None
                found = self._store.info(self._path(name))
                return int(found["size"]) if found["type"] == "file" else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StorageError: it cannot be removed.
        """
        with (
            self._named(name, "removed"),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            if self._store is None:
                os.unlink(self._path(name))
            else:
                self._store.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _named(self, name: str, what: str, *, here: bool = False) -> Iterator[None]:
        """Tell of trouble in one line; `here` is on this machine, whatever the place."""
        try:
            yield
        except C3DError:
            raise
        except Exception as error:
            if not _is_of_store(error):
                raise  # a defect
            uri = self.uri_of(name) if name else self.uri
            if self._store is not None and not here:
                said = reason(error, uri)
                if what == "listed" and isinstance(error, FileNotFoundError):
                    said = "there is no such bucket"
            else:
                said = getattr(error, "strerror", None) or str(error)
                if here:
                    said = f"on this machine, below {tempfile.gettempdir()}: {said}"
            # Not chained: libraries put whole URLs, with what is secret in them, into theirs.
            raise StorageError(redact(uri), f"cannot be {what} ({said})") from None


@contextlib.contextmanager
def _temporary_file(name: str) -> Iterator[Path]:
    # By the suffix, stores tell browsers what it is.
    handle, made = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=Path(name).suffix)
    os.close(handle)
    try:
        yield Path(made)
    finally:
        os.unlink(made)


def _sync_names(folder: str) -> None:
    """Have a folder's names on the disk, in the order in which they were given."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise


def _walk(folder: str) -> Iterator[str]:
    """Paths of all files below; not of hidden ones, and none where there is no such folder."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for base, folders, files in os.walk(folder, onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(base, name) for name in files)


def _is_of_store(error: Exception) -> bool:
    """Whether it is the disk's or the store's trouble, and no defect."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library in _LIBRARIES


def _code(error: BaseException) -> str:
    """The store's own word for what happened; empty where it gave none."""
    answer = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


PLAN, SETTINGS, SUMMARY = "plan.parquet", "settings.json", "summary.json"
PAGE, TEXT, LOG = "report.html", "report.md", "local.log"


def run_folder(run: str) -> str:
    """The folder of a run, below the dataset's."""
    return f"runs/{run}"


def run_file(run: str, name: str) -> str:
    """The name of a file of a run, below the dataset's folder."""
    return f"{run_folder(run)}/{name}"
