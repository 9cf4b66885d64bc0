"""Text for people: names and labels on one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def weights_text(provenance: Mapping[str, Any]) -> tuple[str, str]:
    """Return the source of the weights and the note in their card; either may be empty."""
    weights = (provenance.get("model") or {}).get("weights") or {}
    return str(weights.get("source") or ""), str(weights.get("note") or "")


def one_line(text: str) -> str:
    """Return a name or label without line breaks, control characters and invalid UTF-8."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
