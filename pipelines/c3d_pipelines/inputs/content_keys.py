"""Keys that identify the content of videos, found without decoding the videos.

The plan compares keys to find the videos that are done already and the inputs that are the same
video.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

from c3d_client.core.errors import UsageError, VideoUnreadableError
from c3d_client.core.uri import Uri
from c3d_client.video.sources import fingerprint

from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.parameters import CONTENT, QUICK

KEYS = (QUICK, CONTENT)

_CONCURRENCY = 16  # requests, or files being read
_MOST_ROWS_PER_TASK = 64
# When none of a store's first objects can be looked up, the others are not tried: with a server
# that is away, a million requests would take days.
_TRIAL = 64
_BLOCK_BYTES = 2**20

_log = logging.getLogger(__name__)


def check_kind(keys: str) -> None:
    """Check that a kind of keys exists.

    Raises:
        UsageError: the kind is neither ``quick`` nor ``content``.
    """
    if keys not in KEYS:
        raise UsageError(f"keys is {keys!r}; give one of {', '.join(KEYS)}")


def quick_key(properties: Mapping[str, str | int]) -> str:
    """Return the key of a fingerprint (see :func:`c3d_client.video.sources.fingerprint`).

    A local file's key is ``stat:<size>-<time in ns>``. An object's key is its ``checksum:``, which
    depends on the content alone, or else its ``etag:``, or else ``modified:<time>-<size>``. The key
    is empty where the fingerprint has none of them.
    """
    if "mtime_ns" in properties:
        return f"stat:{properties['size']}-{properties['mtime_ns']}"
    for name in ("checksum", "etag"):
        if properties.get(name):
            return f"{name}:{str(properties[name]).replace(chr(34), '')}"  # some stores quote it
    if properties.get("modified"):
        return f"modified:{properties['modified']}-{properties.get('size', '')}"
    return ""


def content_key(path: str) -> str:
    """Return ``sha256:`` and the digest of a file's bytes, which are read a megabyte at a time.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    sha = hashlib.sha256()
    # Non-blocking: opening a pipe would wait for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("is no regular file")
        while block := file.read(_BLOCK_BYTES):
            sha.update(block)
    return f"sha256:{sha.hexdigest()}"


def with_keys(rows: Sequence[ManifestRow], *, keys: str = QUICK) -> list[ManifestRow]:
    """Look up the keys and sizes of the rows that have no key, several rows at a time.

    Args:
        rows: the inputs; rows with a key are returned unchanged.
        keys: ``quick``, or ``content``, which reads local files completely.

    Returns:
        As many rows, in the same order. A row whose video cannot be looked up has an empty key: it
        stays an input, and the worker that reads the video reports why it cannot be read.

    Raises:
        UsageError: there is no such kind of keys, or the library for a URL is not installed.
    """
    check_kind(keys)
    keyed = list(rows)
    files: list[int] = []
    stores: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if not row.key:
            uri = Uri(row.uri)
            remote = uri.local_path is None
            (stores.setdefault(uri.root, []) if remote else files).append(index)

    def look_up(indexes: Sequence[int]) -> None:
        keyed_rows = _in_parallel(lambda index: _with_key(rows[index], keys), indexes)
        for index, row in zip(indexes, keyed_rows, strict=True):
            keyed[index] = row

    look_up(files)
    # The trials of all stores together: there may be as many hosts as videos.
    look_up(list(chain.from_iterable(indexes[:_TRIAL] for indexes in stores.values())))
    rest: list[int] = []
    for store, indexes in stores.items():
        if len(indexes) > _TRIAL and not any(keyed[index].key for index in indexes[:_TRIAL]):
            _log.warning(
                "%s: none of %d videos could be looked up; the other %d are not tried",
                Uri(store),
                _TRIAL,
                len(indexes) - _TRIAL,
            )
        else:
            rest += indexes[_TRIAL:]
    look_up(rest)
    return keyed


def _with_key(row: ManifestRow, keys: str) -> ManifestRow:
    try:
        properties = fingerprint(row.uri)
    except VideoUnreadableError as error:
        _log.info("%s", error)
        return row
    key = quick_key(properties)
    path = Uri(row.uri).local_path
    if keys == CONTENT and path is not None:
        try:
            key = content_key(path)
        except OSError as error:
            _log.info("%s: cannot be read (%s)", path, error.strerror or error)
            key = ""
    return replace(row, size_bytes=int(properties.get("size", row.size_bytes)), key=key)


def _in_parallel(call: Callable[[int], ManifestRow], indexes: Sequence[int]) -> list[ManifestRow]:
    per_task = max(1, min(_MOST_ROWS_PER_TASK, len(indexes) // (4 * _CONCURRENCY)))

    def task(start: int) -> list[ManifestRow]:
        return [call(index) for index in indexes[start : start + per_task]]

    with ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="c3d-keys") as threads:
        starts = range(0, len(indexes), per_task)
        return list(chain.from_iterable(threads.map(task, starts)))
