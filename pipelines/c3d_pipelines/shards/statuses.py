"""From what went wrong with a video to what its row says: the one table for it."""

from __future__ import annotations

from c3d_client.errors import (
    C3DError,
    UsageError,
    VideoDecodeError,
    VideoTooShortError,
    VideoUnreadableError,
)

from c3d_pipelines.shards.format import CORRUPT, FAILED, TOO_SHORT, UNREADABLE

_MESSAGE_CHARACTERS = 500
# The first that fits; all else, of the server and of this machine, says nothing of the video.
_STATUSES: tuple[tuple[type[C3DError], str], ...] = (
    (VideoTooShortError, TOO_SHORT),
    (VideoUnreadableError, UNREADABLE),
    (VideoDecodeError, CORRUPT),
    (UsageError, UNREADABLE),  # its kind of URL needs a library that is not installed here
)


def status_of(error: C3DError) -> str:
    """The status of a video that ended in this error; never ``ok``."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), FAILED)


def message_of(error: C3DError) -> str:
    """What a row says of an error: one line of 500 characters at most, as UTF-8 can write it.

    Errors name videos without credentials (see :func:`c3d_client.stores.display`).
    """
    line = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= _MESSAGE_CHARACTERS else line[: _MESSAGE_CHARACTERS - 1] + "…"
