"""What tells a video's content from another's: its key, asked for without decoding it.

Between listing and planning: the plan finds by keys what is done already and what comes twice.
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
from c3d_client.core.uri import redact
from c3d_client.video.sources import fingerprint

from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.uris import bucket_of, local_path
from c3d_pipelines.parameters import CONTENT, QUICK

KEYS = (QUICK, CONTENT)

_AT_ONCE = 16  # requests on their way, or files being read
_TOGETHER = 64  # rows that one thread takes at a time, at most
# When so many of a store's objects could not be asked and not one could, the others are not asked:
# with a server that is away a million questions would take days.
_TRIAL = 64
_BLOCK_BYTES = 2**20

_log = logging.getLogger(__name__)


def check_kind(keys: str) -> None:
    """See that it is a kind of keys.

    Raises:
        UsageError: it is not.
    """
    if keys not in KEYS:
        raise UsageError(f"keys is {keys!r}; give one of {', '.join(KEYS)}")


def quick_key(told: Mapping[str, str | int]) -> str:
    """The key that a fingerprint makes (see :func:`c3d_client.video.sources.fingerprint`).

    ``stat:<size>-<time in ns>`` of a local file; of an object its ``checksum:``, which the content
    alone decides, else its ``etag:``, else ``modified:<time>-<size>``; empty where none is told.
    """
    if "mtime_ns" in told:
        return f"stat:{told['size']}-{told['mtime_ns']}"
    for name in ("checksum", "etag"):
        if told.get(name):
            return f"{name}:{str(told[name]).replace(chr(34), '')}"  # some write it in quotes
    if told.get("modified"):
        return f"modified:{told['modified']}-{told.get('size', '')}"
    return ""


def content_key(path: str) -> str:
    """``sha256:`` and the digest of a file's bytes; it is read once, a megabyte at a time.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    sha = hashlib.sha256()
    # Not blocking: to open a pipe would wait for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("is no regular file")
        while block := file.read(_BLOCK_BYTES):
            sha.update(block)
    return f"sha256:{sha.hexdigest()}"


def with_keys(rows: Sequence[ManifestRow], *, keys: str = QUICK) -> list[ManifestRow]:
    """Ask for the keys and sizes of those rows that have no key; several at a time.

    Args:
        rows: the inputs; those that have a key are taken as they are.
        keys: ``quick``, or ``content``, which reads local files from beginning to end.

    Returns:
        As many rows, in the same order. What is not there or cannot be asked keeps an empty key:
        it stays an input, and whoever is to read it will find out why it cannot be read.

    Raises:
        UsageError: not a kind of keys; the library for a kind of URL is not installed.
    """
    check_kind(keys)
    told = list(rows)
    files: list[int] = []
    stores: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        if not row.key:
            remote = local_path(row.uri) is None
            (stores.setdefault(bucket_of(row.uri), []) if remote else files).append(at)

    def ask(places: Sequence[int]) -> None:
        asked = _in_parallel(lambda at: _asked(rows[at], keys), places)
        for at, row in zip(places, asked, strict=True):
            told[at] = row

    ask(files)
    # All stores' trials together: there may be as many hosts as videos.
    ask(list(chain.from_iterable(places[:_TRIAL] for places in stores.values())))
    left: list[int] = []
    for store, places in stores.items():
        if len(places) > _TRIAL and not any(told[at].key for at in places[:_TRIAL]):
            _log.warning(
                "%s: none of %d videos could be asked for; the other %d are not asked",
                redact(store),
                _TRIAL,
                len(places) - _TRIAL,
            )
        else:
            left += places[_TRIAL:]
    ask(left)
    return told


def _asked(row: ManifestRow, keys: str) -> ManifestRow:
    try:
        told = fingerprint(row.uri)
    except VideoUnreadableError as error:
        _log.info("%s", error)
        return row
    key = quick_key(told)
    path = local_path(row.uri)
    if keys == CONTENT and path is not None:
        try:
            key = content_key(path)
        except OSError as error:
            _log.info("%s: cannot be read (%s)", path, error.strerror or error)
            key = ""
    return replace(row, size_bytes=int(told.get("size", row.size_bytes)), key=key)


def _in_parallel(call: Callable[[int], ManifestRow], places: Sequence[int]) -> list[ManifestRow]:
    together = max(1, min(_TOGETHER, len(places) // (4 * _AT_ONCE)))

    def several(start: int) -> list[ManifestRow]:
        return [call(at) for at in places[start : start + together]]

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="c3d-keys") as threads:
        starts = range(0, len(places), together)
        return list(chain.from_iterable(threads.map(several, starts)))
