"""Errors of bulk runs, all under C3DError."""

from __future__ import annotations

from typing import Any

from c3d_client.core.errors import C3DError


class BatchError(C3DError):
    """A bulk run cannot continue."""


class ManifestError(BatchError):
    """A list of videos cannot be used."""


class ShardError(BatchError):
    """A shard, an index or a card of a dataset is damaged or missing."""


class StorageError(BatchError, OSError):
    """A file or folder of a dataset cannot be read or written.

    Args:
        uri: the address of the file, folder or object, without credentials.
        reason: what is wrong and what to do.
        may_pass: whether a bucket's store failed for a reason that a later try may not have.
    """

    def __init__(self, uri: str, reason: str, *, may_pass: bool = False) -> None:
        self.uri = uri
        self.reason = reason
        self.may_pass = may_pass
        super().__init__(f"{uri}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.reason), self.__dict__


class WorkerDied(BatchError):
    """Workers were killed while they processed a video. The error of the video's row."""


class RunError(BatchError):
    """A pipeline cannot run here, or the cluster refuses it."""
