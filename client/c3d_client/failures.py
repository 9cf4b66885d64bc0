"""What a run could not do: failures.csv, beside its outputs, one row a video.

It tells people what failed and why, and the next run which videos need not be tried again: a video
that was damaged is damaged still, as long as it is the same file.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from c3d_client.atomic import atomic_file
from c3d_client.errors import OutputError

FILE_NAME = "failures.csv"


@dataclass(frozen=True)
class Failure:
    """One video that has no output.

    Args:
        video: its name in the run.
        uri: where it is, without credentials.
        error_type: the error's class, e.g. ``VideoDecodeError``.
        error: the error's message.
        fingerprint: of the file that failed, JSON text; empty where it has none.
    """

    video: str
    uri: str
    error_type: str
    error: str
    fingerprint: str


_COLUMNS = [field.name for field in fields(Failure)]


def as_fingerprint(fingerprint: Mapping[str, Any]) -> str:
    """A fingerprint as the file keeps it."""
    return json.dumps(dict(fingerprint), sort_keys=True) if fingerprint else ""


def read_failures(folder: Path) -> dict[str, Failure]:
    """The failures that an earlier run left in its folder, by name; none where there is no file.

    Raises:
        OutputError: the file is not what a run leaves.
    """
    path = folder / FILE_NAME
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if list(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
            rows = [Failure(**row) for row in reader]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise OutputError(path, f"is not a run's list of failures ({error}); remove it") from error
    return {row.video: row for row in rows}


def write_failures(folder: Path, failures: Mapping[str, Failure]) -> None:
    """Write them, sorted by name; without failures there is no file.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / FILE_NAME
    try:
        if not failures:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        with atomic_file(path, text=True) as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(asdict(failures[name]) for name in sorted(failures))
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror or error})") from error
