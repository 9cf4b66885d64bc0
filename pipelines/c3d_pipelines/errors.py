"""Errors of bulk runs, all under C3DError."""

from __future__ import annotations

from typing import Any

from c3d_client.core.errors import C3DError


class BatchError(C3DError):
    """A bulk job cannot go on."""


class ManifestError(BatchError):
    """A list of videos cannot be used."""


class ShardError(BatchError):
    """A shard is not what its report says."""


class StorageError(BatchError, OSError):
    """A place of a dataset cannot be read or written.

    Args:
        uri: the file, folder or object, without credentials.
        reason: what is wrong and what to do.
    """

    def __init__(self, uri: str, reason: str) -> None:
        self.uri = uri
        self.reason = reason
        super().__init__(f"{uri}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.reason), self.__dict__


class RunError(BatchError):
    """A pipeline cannot be run here, or the cluster does not take it."""
