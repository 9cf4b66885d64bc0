"""Records kept as JSON: read back exactly, or refused."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any


def values_of(text: str | bytes, kind: type[Any]) -> dict[str, Any]:
    """The values of a dataclass that was written as one JSON object.

    Args:
        text: the JSON.
        kind: the dataclass; all of its fields have to be there, and no others.

    Raises:
        ValueError: it is not that.
    """
    values = json.loads(text)
    known = {one.name for one in fields(kind)}
    if not isinstance(values, dict) or set(values) != known:
        raise ValueError(f"expected exactly {', '.join(sorted(known))}")
    return values
