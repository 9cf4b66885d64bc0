"""A folder of a dataset, on a disk or in a bucket: list, read and write its files.

This is the only module of the pipelines that knows how files are stored. A file has its name only
when all of it is written: by a rename on a disk, and in a bucket because objects appear whole.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from c3d_client.core.errors import C3DError
from c3d_client.core.files import TEMPORARY_PREFIX, atomic_file, sync
from c3d_client.core.uri import Uri
from c3d_client.video.sources import open_store, reason

from c3d_pipelines import text
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


def temporary_prefix(run: str, shard: int | None = None) -> str:
    """Return the start of the names of a run's temporary files, or of one of its shards'.

    Args:
        run: the run's name, of which the first 200 characters are used.
        shard: the shard's number in the run's plan; None for all files of the run.
    """
    # Names of runs have no tilde, so that no run's prefix is the start of another's.
    return f"{TEMPORARY_PREFIX}{run[:200]}~" + ("" if shard is None else f"{shard}~")


def storage_of_run(out: str, run: str, shard: int | None = None) -> Storage:
    """Return a dataset's folder, in which temporary files carry the name of a run.

    The files that a killed process leaves can then be removed when its run has ended.

    Args:
        out: the dataset's folder or bucket.
        run, shard: as for :func:`temporary_prefix`.

    Raises:
        StorageError: as for :class:`Storage`.
    """
    return Storage(out, temporary=temporary_prefix(run, shard))


class Storage:
    """A folder on a disk, or a prefix in a bucket. It need not exist; writing creates it.

    Args:
        uri: a path, ``file://``, ``s3://`` or ``gs://``. Credentials come from the environment, as
            for videos (see :mod:`c3d_client.video.stores`).
        temporary: the start of the names of temporary files (see :func:`temporary_prefix`).

    Attributes:
        uri: the folder's address.

    Raises:
        StorageError: the address is of another kind, or its library is not installed.
    """

    def __init__(
        self, uri: str | os.PathLike[str] | Uri, *, temporary: str = TEMPORARY_PREFIX
    ) -> None:
        self._temporary = temporary
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
            raise StorageError(str(address), f"names no bucket; give {address.scheme}://BUCKET/DIR")
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
        self,
        name: str,
        *,
        retry: Callable[[Exception], bool] | None = None,
        final: Callable[[], str] | None = None,
    ) -> Iterator[Path]:
        """Yield a local path to write a file to; the file has its name when the block ends.

        Before that the file is synced to the disk, or uploaded in parts. After an error there is no
        file.

        Args:
            name: the file's path below the folder.
            retry: called with the error of an upload, after the retries of the store's library;
                returns whether to upload again.
            final: called when the block ends; returns the file's path, in the same folder, where
                it is not known before.

        Raises:
            StorageError: the file cannot be written.
        """
        target = self._path(name)
        if self._store is None:
            with self._errors(name, "written"):
                folder = os.path.dirname(target)
                os.makedirs(folder, exist_ok=True)
                with atomic_file(
                    target,
                    prefix=self._temporary,
                    final=None if final is None else lambda: self._path(final()),
                ) as file:
                    # The caller opens the same file by its name.
                    yield Path(file.name)
                _sync_folder(folder)
            return
        with self._errors(name, "written", local=True), self._temporary_file(name) as path:
            yield path
            if final is not None:
                target = self._path(final())
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

    def write_small(self, name: str, text: str, *, make_folder: bool = True) -> None:
        """Write a small file, in one request, or on a disk without syncing it.

        The file appears whole or not at all. After a power cut, a file on a disk may be missing.

        Args:
            name: the file's path below the folder.
            text: the content, far below a megabyte.
            make_folder: make the file's folder where it does not exist.

        Raises:
            StorageError: the file cannot be written.
        """
        target = self._path(name)
        with self._errors(name, "written"):
            if self._store is not None:
                self._store.pipe_file(target, text.encode())
                return
            for is_last in (not make_folder, True):
                if make_folder:
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                try:
                    with atomic_file(
                        target, text=True, prefix=self._temporary, synced=False
                    ) as file:
                        file.write(text)
                    return
                except FileNotFoundError:
                    # Another process may just have removed the folder, which was empty.
                    if is_last:
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

    def names(self, below: str = "", *, prefix: str = "") -> list[str]:
        """Return the sorted paths of all files below a subfolder; none where it does not exist.

        Hidden files are left out: they are half-written.

        Args:
            below: the subfolder; all files by default.
            prefix: only files whose path below the subfolder begins with this.

        Raises:
            StorageError: the folder cannot be listed.
        """
        base = self._path(below) if below else self._root
        with self._errors(below, "listed"):
            # A store reports "not found" only of a bucket; an empty prefix lists no files.
            paths = (
                list(_local_files(base))
                if self._store is None
                else self._store.find(base, prefix=prefix)
            )
        paths = [path for path in paths if path.startswith(f"{base.rstrip('/')}/{prefix}")]
        return sorted(filter(None, map(self._name, paths)))

    def times(self, below: str) -> dict[str, float]:
        """Return the files that :meth:`names` returns, each with the time of its last write.

        A bucket is listed, and no file of it is looked up.

        Returns:
            Seconds since 1970, by the clock of the store or the disk.

        Raises:
            StorageError: the folder cannot be listed.
        """
        base = self._path(below)
        times: dict[str, float] = {}
        with self._errors(below, "listed"):
            if self._store is None:
                for path in _local_files(base):
                    with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                        times[path] = os.stat(path).st_mtime
            else:
                found = self._store.find(base, detail=True)
                times = {path: _time_of_write(info) for path, info in found.items()}
        named = ((self._name(path), written_at) for path, written_at in times.items())
        return {name: written_at for name, written_at in named if name}

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

    @contextlib.contextmanager
    def _temporary_file(self, name: str) -> Iterator[Path]:
        # Stores derive an object's content type from the suffix.
        handle, path = tempfile.mkstemp(prefix=self._temporary, suffix=Path(name).suffix)
        os.close(handle)
        try:
            yield Path(path)
        finally:
            os.unlink(path)

    def _name(self, path: str) -> str:
        """Return a file's path below the folder; empty for a hidden file and a folder's marker."""
        name = path[len(self._root.rstrip("/")) + 1 :]
        is_file = not name.endswith("/") and not any(p.startswith(".") for p in name.split("/"))
        return name if is_file else ""

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
            message = f"cannot be {action} ({message})"
            if self._store is None and isinstance(error, OSError):
                message += _remedy(self._path(name) if name else self._root, error)
            # Not chained: libraries put whole URLs, secrets included, into their messages.
            may_pass = self._store is not None and not local and not is_permanent(error)
            raise StorageError(str(uri), message, may_pass=may_pass) from None


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


def is_permanent(error: Exception) -> bool:
    """Return whether a failure of a store is the same at every try."""
    return (
        isinstance(error, FileNotFoundError | PermissionError)
        or type(error).__name__ == "NoCredentialsError"
    )


def _time_of_write(info: Mapping[str, Any]) -> float:
    """Return when an object was written, from a store's listing."""
    # The names of s3fs, of gcsfs, and of fsspec's store in memory.
    names = ("LastModified", "updated", "created")
    value = next(info[name] for name in names if name in info)
    if isinstance(value, str):
        value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    time: float = value.timestamp()
    return time


def _remedy(path: str, error: OSError) -> str:
    """Return what to do about an error of a file system, from the semicolon on; or nothing."""
    folder = os.path.abspath(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    if error.errno == errno.EROFS:
        return f"; {folder} is mounted read-only: mount it for writing"
    try:
        status, disk = os.stat(folder), shutil.disk_usage(folder)
    except OSError:
        return ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"; {text.size(disk.free)} of {text.size(disk.total)} are free: enlarge the volume or "
            "its quota, or remove files"
        )
    if error.errno not in (errno.EACCES, errno.EPERM):
        return ""
    owner = f"user {status.st_uid}, group {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}"
    command = f"chown -R {os.geteuid()}:{os.getegid()} {shlex.quote(folder)}"
    return (
        f"; this is user {os.geteuid()}, and {folder} is of {owner}: run '{command}' as root, for "
        "a volume claim in a Job or an initContainer that mounts it"
    )


def _is_store_error(error: Exception) -> bool:
    """Return whether an error is a failure of a disk or a store, and not a defect."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library in _LIBRARIES


def _store_code(error: BaseException) -> str:
    """Return the error code of a store's response; empty where there is none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
