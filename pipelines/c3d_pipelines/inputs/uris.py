"""How inputs are named: paths and URLs made absolute, and told to be the same.

A plan is made on one machine and worked off on others, so what it names must not depend on where
a process stands.
"""

from __future__ import annotations

import os
import posixpath
from urllib.parse import unquote

from c3d_client.core.uri import OBJECT_STORES, STORES, scheme


def local_path(uri: str) -> str | None:
    """The path of a file on this machine, without ``file://``; None for what is a URL."""
    kind = scheme(uri)
    if kind == "file":
        return unquote(uri[len("file://") :].removeprefix("localhost"))
    return None if kind else uri


def absolute(uri: str, folder: str) -> str:
    """A path or URL as it is seen from a folder or a prefix in a bucket.

    >>> absolute("../a.mp4", "s3://bucket/lists/new")
    's3://bucket/lists/a.mp4'
    """
    if scheme(uri) or uri.startswith("/"):
        return uri
    kind = scheme(folder)
    if not kind:
        return os.path.abspath(os.path.join(folder, uri))
    # ".." leads out of a folder, not out of the bucket.
    bucket, _, below = folder[len(kind) + 3 :].partition("/")
    return f"{kind}://{bucket}" + posixpath.normpath(posixpath.join("/", below, uri))


def same_place(uri: str) -> str:
    """One spelling for all that name the same file: to tell them apart, not to open them."""
    path = local_path(uri)
    if path is not None:
        return os.path.abspath(path)
    kind = scheme(uri)
    # s3a:// and gcs:// are other names of s3:// and gs://; http:// is not one of https://.
    store = STORES[kind] if kind in OBJECT_STORES else kind
    return store + uri[len(kind) :]


def bucket_of(uri: str) -> str:
    """The store that a URL leads to, as a URL: its scheme and its bucket or host."""
    kind = scheme(uri)
    return f"{kind}://{uri[len(kind) + 3 :].partition('/')[0]}"
