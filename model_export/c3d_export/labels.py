"""Class names: one line each, in the order of fc8's outputs."""

from __future__ import annotations

from pathlib import Path

from c3d_export.errors import AssetError


def read_labels(path: str | Path, *, classes: int) -> list[str]:
    """Read a labels file.

    Args:
        path: UTF-8 text with one label per line; a final newline may be missing.
        classes: the network's number of classes.

    Raises:
        AssetError: the file cannot be read, a line is empty, or the count is wrong.
    """
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise AssetError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise AssetError(f"{path}: not UTF-8 text ({error})") from error
    labels = [line.strip() for line in text.splitlines()]
    if "" in labels:
        raise AssetError(
            f"{path}: line {labels.index('') + 1} is empty; one label per line expected"
        )
    if len(labels) != classes:
        raise AssetError(f"{path}: {len(labels)} labels, and the network has {classes} classes")
    return labels


def numbered_labels(classes: int) -> list[str]:
    """Return labels for classes without names: ``class 0`` and so on."""
    return [f"class {number}" for number in range(classes)]
