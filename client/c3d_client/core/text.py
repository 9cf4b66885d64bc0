"""Text for people: names and labels on one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def weights_text(provenance: Mapping[str, Any]) -> tuple[str, str]:
    """Return the source of the weights and the note in their card; either may be empty."""
    weights = (provenance.get("model") or {}).get("weights") or {}
    return str(weights.get("source") or ""), str(weights.get("note") or "")


# Invisible, and part of words in Persian, Hindi and others, and of emoji: not to be replaced.
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def one_line(text: str) -> str:
    """Return a name or label without line breaks, control characters and invalid UTF-8."""
    text = text.encode("utf-8", "replace").decode("utf-8")
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
