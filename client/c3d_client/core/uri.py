"""Addresses of videos, folders and data sets: paths and URLs, parsed in one place.

>>> uri = Uri.of("s3://bucket/videos/a.mp4")
>>> uri.scheme, uri.bucket, uri.path, uri.name
('s3', 'bucket', 'videos/a.mp4', 'a.mp4')
>>> str(Uri.of("https://me:secret@host/a.mp4?token=1"))
'https://***@host/a.mp4?token=***'
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote, unquote

from c3d_client.core.arguments import path_text
from c3d_client.core.text import escape_bytes

# URL scheme -> kind of store. s3a:// and gcs:// are other spellings of s3:// and gs://.
STORES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "http": "http",
    "https": "http",
    "memory": "memory",
}
OBJECT_STORES = frozenset(name for name, store in STORES.items() if store != "http")

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.I)
# Introduces the version of an object in an object store; other ? and # are part of the name.
_VERSION = "?versionId="


UriLike: TypeAlias = "str | os.PathLike[str] | Uri"


@dataclass(frozen=True, slots=True)
class Uri:
    """A path or URL. ``str()`` returns it redacted; only :attr:`raw` holds credentials.

    Args:
        raw: the unchanged path or URL. It opens the file and may contain credentials.
    """

    raw: str = field(repr=False)

    @classmethod
    def of(cls, value: UriLike) -> Uri:
        """Return a path or URL as a Uri; a Uri is returned unchanged.

        Raises:
            UsageError: it is neither a str nor an os.PathLike.
        """
        return value if isinstance(value, Uri) else cls(path_text(value, "a path or URL"))

    @classmethod
    def of_path(cls, path: str) -> Uri:
        r"""Return the address of an absolute path as text that every file can hold.

        A path whose bytes are not UTF-8 becomes a ``file://`` URL with percent-encoded bytes, which
        opens the same file; another path stays as it is.

        >>> Uri.of_path(os.fsdecode(b"/videos/caf\xe9.mp4")).raw
        'file:///videos/caf%E9.mp4'
        """
        return cls(path if escape_bytes(path) == path else f"file://{quote(os.fsencode(path))}")

    def __str__(self) -> str:
        r"""Return the address without user, password and query values, to show and to store.

        Bytes of a path that are not UTF-8 are written as ``\xNN``.
        """
        return escape_bytes(redact(self.raw))

    def __repr__(self) -> str:
        return f"Uri({str(self)!r})"

    @property
    def scheme(self) -> str:
        """The URL's scheme in lower case; empty for a path."""
        match = _SCHEME.match(self.raw)
        return match[1].lower() if match else ""

    @property
    def store(self) -> str:
        """The kind of store: ``s3``, ``gcs``, ``http`` or ``memory``; empty for all others."""
        return STORES.get(self.scheme, "")

    @property
    def is_local(self) -> bool:
        """Whether it is a path or a ``file://`` URL."""
        return self.scheme in ("", "file")

    @property
    def is_object_store(self) -> bool:
        """Whether it names an object, folder or bucket of S3 or Google Cloud Storage."""
        return self.scheme in OBJECT_STORES

    @property
    def local_path(self) -> str | None:
        """The path on this machine, without ``file://``; None for other URLs."""
        if self.scheme == "file":
            # The bytes of a name need not be UTF-8.
            return unquote(self._rest.removeprefix("localhost"), errors="surrogateescape")
        return None if self.scheme else self.raw

    @property
    def bucket(self) -> str:
        """The bucket or host, with user and password where the URL has them; empty for a path."""
        return self._rest.partition("/")[0] if self.scheme else ""

    @property
    def path(self) -> str:
        """The part after the bucket or host, with the query; the path of a local address."""
        local = self.local_path
        return self._rest.partition("/")[2] if local is None else local

    @property
    def parts(self) -> list[str]:
        """The bucket or host of a URL and the parts of its path, without user and query.

        Empty parts, ``.`` and ``..`` are left out. Object names are not percent-decoded.
        """
        if self.is_object_store:
            parts = self._rest.partition(_VERSION)[0].split("/")
        else:
            host, _, path = self._rest.partition("?")[0].partition("#")[0].partition("/")
            parts = [host.rpartition("@")[2], *unquote(path).split("/")]
        return [part for part in parts if part not in ("", ".", "..")]

    @property
    def name(self) -> str:
        """The last part of the path, without a query."""
        local = self.local_path
        return "".join(self.parts[-1:]) if local is None else posixpath.basename(local)

    @property
    def root(self) -> str:
        """The scheme and the bucket or host, such as ``s3://bucket``."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def parent(self) -> Uri:
        """The folder or prefix that holds this file; ``.`` for a bare file name."""
        local = self.local_path
        folder, slash, _ = (self.raw if local is None else local).rpartition("/")
        return Uri(folder or slash or ".")

    @property
    def has_version(self) -> bool:
        """Whether the URL names one version of an object (``?versionId=``)."""
        return self.is_object_store and _VERSION in self.raw

    @property
    def names_folder(self) -> bool:
        """Whether the address ends in a slash, as only a folder's does."""
        return self.raw.endswith("/")

    def join(self, name: str) -> Uri:
        """Return the address of a file below this folder; the name may contain slashes."""
        return Uri(f"{self.raw.rstrip('/')}/{name}")

    def resolve(self, reference: str) -> Uri:
        """Return the address of a path that is relative to this folder, or of a URL.

        >>> Uri.of("s3://bucket/lists/new").resolve("../a.mp4").raw
        's3://bucket/lists/a.mp4'
        """
        if Uri(reference).scheme or reference.startswith("/"):
            return Uri(reference)
        if not self.scheme:
            return Uri(os.path.abspath(os.path.join(self.raw, reference)))
        # ".." leads out of a folder, not out of the bucket.
        bucket, _, below = self._rest.partition("/")
        path = posixpath.normpath(posixpath.join("/", below, reference))
        return Uri(f"{self.scheme}://{bucket}{path}")

    def relative_to(self, root: Uri) -> str | None:
        """Return the path below a folder, with forward slashes; None where it is not below.

        User, password and query are ignored.
        """
        local, local_root = self.local_path, root.local_path
        if local is None:
            base, parts = root.parts, self.parts
            inside = root.scheme == self.scheme and parts[: len(base)] == base
            return "/".join(parts[len(base) :]) if inside else None
        if local_root is None:
            return None
        parts = os.path.relpath(local, local_root).split(os.sep)
        return None if parts[0] == ".." else "/".join(parts)

    def split_before(self, matches: Callable[[str], bool]) -> tuple[Uri, tuple[str, ...]]:
        """Split the address before the first part that a predicate is true for.

        Returns:
            The folder, and the parts from that part on; no parts where the predicate is true for
            none.
        """
        parts = self.raw.split("/")
        index = next((i for i, part in enumerate(parts) if matches(part)), len(parts))
        return Uri("/".join(parts[:index])), tuple(parts[index:])

    def canonical(self) -> Uri:
        """Return one spelling for all addresses of the same file: to compare, not to open."""
        local = self.local_path
        if local is not None:
            return Uri(os.path.abspath(local))
        scheme = self.store if self.is_object_store else self.scheme
        return Uri(scheme + self.raw[len(self.scheme) :])

    @property
    def _rest(self) -> str:
        """Everything after ``scheme://``."""
        return self.raw[len(self.scheme) + 3 :] if self.scheme else self.raw


def redact(text: str) -> str:
    """Return a path or URL without user, password and query values.

    >>> redact("https://me:secret@host/a.mp4?token=1&part=2")
    'https://***@host/a.mp4?token=***&part=***'
    """
    # A password may contain ? and #: everything up to the last @ before a slash is removed.
    match = re.match(r"([a-z][a-z0-9+.-]+://)([^/]*@|)([^?#]*)(.*)", text, re.DOTALL | re.I)
    if not match:
        return text
    start, user, path, rest = match.groups()
    # In the name of an object ? and # are ordinary characters, unless they introduce values.
    if Uri(text).scheme not in OBJECT_STORES or "=" in rest:
        rest = re.sub(r"(?<==)[^&;#?]+|(?<=[?#&;])[^&;#?=]+(?=[&;#?]|$)", "***", rest)
    return start + ("***@" if user else "") + path + rest


def redact_urls(text: str) -> str:
    """Return a message in which every URL is redacted."""
    return re.sub(r"[A-Za-z][\w+.-]+://[^\s'\"]+", lambda url: redact(url[0]), text)
