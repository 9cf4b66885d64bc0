"""The numbered folders of a model: what TensorFlow Serving takes for its versions."""

from __future__ import annotations

from pathlib import Path

from c3d_client.errors import UsageError


def version_numbers(base: Path) -> list[int]:
    """The numbers of the versions below a model's folder, in no order; other entries are none."""
    return [int(entry.name) for entry in base.glob("*") if entry.name.isdecimal()]


def newest_version(base: Path) -> Path:
    """The folder with the highest number below a model's folder.

    Raises:
        UsageError: there is none.
    """
    numbers = version_numbers(base)
    if not numbers:
        raise UsageError(
            f"{base}: no model version there (a folder with a number for a name); "
            "make one with c3d-export build"
        )
    return base / str(max(numbers))
