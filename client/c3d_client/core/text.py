"""Text for people and for files: names and labels on one line, bytes that are not UTF-8 escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# How Python holds the bytes of a file's name that are not UTF-8: 0x80 to 0xff, each as one
# surrogate (os.fsdecode). Other surrogates come from JSON.
_SURROGATE = re.compile("[\ud800-\udfff]")
_RAW_BYTES = range(0xDC80, 0xDD00)
# Characters that move the cursor, start an escape sequence, end a line or turn the direction of
# the text after them; the joiners inside of Persian words and emoji are not among them.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escape_bytes(text: str) -> str:
    r"""Return a text that UTF-8 can hold: ``\xNN`` for each byte of a name that is not UTF-8.

    Other text is returned unchanged. A lone surrogate that encodes no byte is ``\uNNNN``.

    >>> print(escape_bytes(b"caf\xe9.mp4".decode("utf-8", "surrogateescape")))
    caf\xe9.mp4
    """
    return text if text.isascii() else _SURROGATE.sub(_escape, text)


def escape_controls(text: str) -> str:
    r"""Return a text for one line of a terminal: also without characters that would change it.

    >>> print(escape_controls("two\nlines\x1b[31m"))
    two\nlines\x1b[31m
    """
    return _CONTROL.sub(_escape, escape_bytes(text))


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number in _RAW_BYTES:
        return f"\\x{number - 0xDC00:02x}"
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def weights_text(provenance: Mapping[str, Any]) -> tuple[str, str]:
    """Return the source of the weights and the note in their card; either may be empty."""
    weights = (provenance.get("model") or {}).get("weights") or {}
    return str(weights.get("source") or ""), str(weights.get("note") or "")


# Invisible, and part of words in Persian, Hindi and others, and of emoji: not to be replaced.
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def one_line(text: str) -> str:
    """Return a name or label without line breaks and control characters, and bytes escaped."""
    text = escape_bytes(text)
    text = "".join(c if c.isprintable() or c in JOINERS else " " for c in text)
    return " ".join(text.split()).strip(JOINERS)


def shortened_middle(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters, with an ellipsis for a part left out.

    >>> shortened_middle("dns:///c3d-grpc.c3d.svc:8500", 13)
    'dns://…c:8500'
    """
    if len(text) <= width:
        return text
    head = max(width, 1) // 2
    tail = max(width, 1) - head - 1
    return f"{text[:head]}…{text[len(text) - tail :]}"


def duration_text(seconds: float) -> str:
    """Return a duration as ``h:mm:ss``.

    >>> duration_text(75.2)
    '0:01:15'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
