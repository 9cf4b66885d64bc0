"""A folder of a dataset, on a disk or in a bucket: list, read and write its files.

This is the only module of the pipelines that knows how files are stored. A file has its name only
when all of it is written: by a rename on a disk, and in a bucket because objects appear whole.
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

from c3d_client.core.errors import C3DError
from c3d_client.core.files import TEMPORARY_PREFIX, atomic_file, sync
from c3d_client.core.uri import Uri
from c3d_client.video.sources import open_store, reason

from c3d_pipelines.errors import StorageError

# The files of a run, below run_folder().
PLAN, SETTINGS, SUMMARY = "plan.parquet", "settings.json", "summary.json"
PAGE, TEXT, LOG = "report.html", "report.md", "local.log"

_PART_BYTES = 8 << 20
_MAX_PARTS = 10_000  # S3's limit
_READ_AHEAD_BYTES = 64 << 10
# Exceptions of these libraries, and OSError, are failures of a store; all others are defects.
_LIBRARIES = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "s3fs", "urllib3")


def run_folder(run: str) -> str:
    """Return the folder of a run, below the dataset's folder."""
    return f"runs/{run}"


def run_file(run: str, name: str) -> str:
    """Return the name of a run's file, below the dataset's folder."""
    return f"{run_folder(run)}/{name}"


class Storage:
    """A folder on a disk, or a prefix in a bucket. It need not exist; writing creates it.

    Args:
        uri: a path, ``file://``, ``s3://`` or ``gs://``. Credentials come from the environment, as
            for videos (see :mod:`c3d_client.video.stores`).

    Attributes:
        uri: the folder's address.

    Raises:
        StorageError: the address is of another kind, or its library is not installed.
    """

    def __init__(self, uri: str | os.PathLike[str] | Uri) -> None:
        address = Uri.of(uri)
        local = address.local_path
        self.uri = Uri((address.raw if local is None else local).rstrip("/") or "/")
        self._store: Any = None
        self._root = self.uri.raw
        redacted = str(self.uri)
        if not address.raw.strip():
            raise StorageError(repr(address.raw), "is no folder; give a folder or bucket")
        if local is not None:
            return
        bucket = self.uri.bucket
        if self.uri.scheme in ("http", "https"):
            raise StorageError(redacted, "cannot be written to; give a folder or bucket")
        if not bucket:
            raise StorageError(
                str(address), f"names no bucket; give {self.uri.scheme}://BUCKET/DIR"
            )
        if "@" in bucket:
            raise StorageError(redacted, "holds credentials; give them in the environment")
        try:
            self._store, self._root = open_store(self.uri.raw)
        except KeyError:
            raise StorageError(redacted, "is not a path, file://, s3:// or gs://") from None
        except C3DError as error:
            raise StorageError(redacted, str(error).removeprefix(f"{redacted}: ")) from error

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's file systems."""
        return self._store is None

    def uri_of(self, name: str) -> Uri:
        """Return the address of a file of the folder."""
        return self.uri.join(name)

    def path_of(self, name: str) -> Path:
        """Return the path of a file of a local folder."""
        return Path(self._path(name))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where there is none.

        Raises:
            StorageError: the file cannot be read, or its bucket does not exist.
        """
        with self._errors(name, "read"):
            try:
                if self._store is None:
                    return self.path_of(name).read_bytes()
                # In one request: parts of the file could be of different versions.
                data: bytes = self._store.cat_file(self._path(name), max_concurrency=1)
                return data
            except (FileNotFoundError, NotADirectoryError) as error:
                if _store_code(error) == "NoSuchBucket":
                    raise
                return None

    def write(
        self,
        name: str,
        data: bytes | str,
        *,
        retry: Callable[[Exception], bool] | None = None,
    ) -> None:
        """Write a file, which appears whole or not at all.

        Args:
            name: the file's path below the folder.
            data: the content.
            retry: as for :meth:`writing`.

        Raises:
            StorageError: the file cannot be written.
        """
        with self.writing(name, retry=retry) as path:
            path.write_bytes(data.encode() if isinstance(data, str) else data)

    @contextlib.contextmanager
    def writing(
        self, name: str, *, retry: Callable[[Exception], bool] | None = None
    ) -> Iterator[Path]:
        """Yield a local path to write a file to; the file has its name when the block ends.

        Before that the file is synced to the disk, or uploaded in parts. After an error there is no
        file.

        Args:
            name: the file's path below the folder.
            retry: called with the error of an upload, after the retries of the store's library;
                returns whether to upload again.

        Raises:
            StorageError: the file cannot be written.
        """
        target = self._path(name)
        if self._store is None:
            with self._errors(name, "written"):
                folder = os.path.dirname(target)
                os.makedirs(folder, exist_ok=True)
                with atomic_file(target) as file:
                    # The caller opens the same file by its name.
                    yield Path(file.name)
                _sync_folder(folder)
            return
        with self._errors(name, "written", local=True), _temporary_file(name) as path:
            yield path
            # One part at a time: a concurrent part would outlive an upload that is cancelled.
            part = _PART_BYTES * max(1, math.ceil(path.stat().st_size / _MAX_PARTS / _PART_BYTES))
            options = {"chunksize": part, "max_concurrency": 1}
            with self._errors(name, "written"):
                while True:
                    try:
                        self._store.put_file(str(path), target, **options)
                        break
                    except Exception as error:
                        if retry is None or not _is_store_error(error) or not retry(error):
                            raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Yield a file opened for random access, as pyarrow needs it.

        Raises:
            StorageError: the file does not exist, or cannot be read.
        """
        with self._errors(name, "read"):
            if self._store is None:
                with self.path_of(name).open("rb") as file:
                    yield file
            else:
                with self._store.open(self._path(name), "rb", block_size=_READ_AHEAD_BYTES) as file:
                    yield file

    def names(self, below: str = "") -> list[str]:
        """Return the sorted paths of all files below a subfolder; none where it does not exist.

        Hidden files are left out: they are half-written.

        Raises:
            StorageError: the folder cannot be listed.
        """
        base = self._path(below) if below else self._root
        with self._errors(below, "listed"):
            # A store reports "not found" only of a bucket; an empty prefix lists no files.
            paths = list(_local_files(base)) if self._store is None else self._store.find(base)
        root = self._root.rstrip("/") + "/"
        names = (path[len(root) :] for path in paths)
        files = (name for name in names if not name.endswith("/") and name)  # no folder markers
        return sorted(n for n in files if not any(p.startswith(".") for p in n.split("/")))

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes; None where there is none.

        Raises:
            StorageError: the size cannot be read.
        """
        with self._errors(name, "looked up"):
            try:
                if self._store is None:
                    status = os.stat(self._path(name))
                    return status.st_size if stat.S_ISREG(status.st_mode) else None
                info = self._store.info(self._path(name))
                return int(info["size"]) if info["type"] == "file" else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            StorageError: the file cannot be removed.
        """
        with (
            self._errors(name, "removed"),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            if self._store is None:
                os.unlink(self._path(name))
            else:
                self._store.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _errors(self, name: str, action: str, *, local: bool = False) -> Iterator[None]:
        """Raise failures of a disk or a store as one-line StorageErrors.

        Args:
            name: the file's path below the folder; empty for the folder.
            action: the participle that the message uses, such as ``read``.
            local: whether the failure is of this machine's temporary file.
        """
        try:
            yield
        except C3DError:
            raise
        except Exception as error:
            if not _is_store_error(error):
                raise
            uri = self.uri_of(name) if name else self.uri
            if self._store is not None and not local:
                message = reason(error, uri.raw)
                if action == "listed" and isinstance(error, FileNotFoundError):
                    message = "there is no such bucket"
            else:
                message = getattr(error, "strerror", None) or str(error)
                if local:
                    message = f"on this machine, below {tempfile.gettempdir()}: {message}"
            # Not chained: libraries put whole URLs, secrets included, into their messages.
            raise StorageError(str(uri), f"cannot be {action} ({message})") from None


@contextlib.contextmanager
def _temporary_file(name: str) -> Iterator[Path]:
    # Stores derive an object's content type from the suffix.
    handle, path = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=Path(name).suffix)
    os.close(handle)
    try:
        yield Path(path)
    finally:
        os.unlink(path)


def _sync_folder(folder: str) -> None:
    """Sync a folder's entries to the disk, so that files survive a power cut under their names."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise


def _local_files(folder: str) -> Iterator[str]:
    """Yield the paths of all files below a folder but hidden ones; none where it does not exist."""

    def on_error(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for base, folders, files in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(base, name) for name in files)


def _is_store_error(error: Exception) -> bool:
    """Return whether an error is a failure of a disk or a store, and not a defect."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library in _LIBRARIES


def _store_code(error: BaseException) -> str:
    """Return the error code of a store's response; empty where there is none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
