"""Libraries that only some formats need: loaded when asked for, named when missing."""

from __future__ import annotations

import importlib
from typing import Any

from c3d_client.errors import UsageError


def needed(module: str, *, extra: str) -> Any:
    """A module of an optional library.

    Raises:
        UsageError: the library is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module.partition('.')[0]} is not installed and this format needs it; "
            f"pip install 'c3d-client[{extra}]'"
        ) from error
