"""Class names: one line each, in the order of fc8's outputs."""

from __future__ import annotations

from pathlib import Path

from c3d_client.core.file_kinds import explain_path

from c3d_export.disk import unreadable_text
from c3d_export.errors import AssetError


def read_labels(path: str | Path, *, classes: int) -> list[str]:
    """Read a labels file.

    Args:
        path: UTF-8 text with one label per line; a final newline may be missing.
        classes: the network's number of classes.

    Raises:
        AssetError: the file cannot be read, a line is empty, or the count is wrong.
    """
    explained = explain_path(path, wanted="labels file", expects_text=True)
    try:
        text = Path(path).read_text("utf-8-sig")  # Windows programs begin UTF-8 with a mark
    except OSError as error:
        raise AssetError(f"{path}: {explained or unreadable_text(path, error)}") from error
    except UnicodeDecodeError as error:
        raise AssetError(f"{path}: {explained or f'not UTF-8 text ({error})'}") from error
    labels = [line.strip() for line in text.splitlines()]
    wrong = ""
    if "" in labels:
        wrong = f"line {labels.index('') + 1} is empty; one label per line expected"
    elif len(labels) != classes:
        wrong = f"{len(labels)} labels, and the network has {classes} classes"
    if wrong:
        raise AssetError(f"{path}: {explained or wrong}")
    return labels


def numbered_labels(classes: int) -> list[str]:
    """Return labels for classes without names: ``class 0`` and so on."""
    return [f"class {number}" for number in range(classes)]
