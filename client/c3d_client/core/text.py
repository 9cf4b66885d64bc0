"""Text that people read: names and labels on one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def weights_text(provenance: Mapping[str, Any]) -> tuple[str, str]:
    """What the weights are, and what their card says that people must know; each may be empty."""
    weights = (provenance.get("model") or {}).get("weights") or {}
    return str(weights.get("source") or ""), str(weights.get("note") or "")


def one_line(text: str) -> str:
    """A name or label without line ends, control characters and bytes that are not UTF-8."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
