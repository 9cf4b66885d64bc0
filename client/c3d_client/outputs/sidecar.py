"""The file beside a file that has no room for provenance: ``NAME.json`` beside ``NAME``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c3d_client.atomic import atomic_file
from c3d_client.outputs.content import from_json
from c3d_client.outputs.streams import Summed

SIDECAR_SUFFIX = ".json"


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of a file is."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


@contextlib.contextmanager
def with_sidecar(path: Path, content: dict[str, Any]) -> Iterator[Summed]:
    """Write a file and its sidecar; the file takes its name last, so what is there is complete.

    The sidecar has the content, and the file's size and CRC-32: should the power fail between the
    two, an older file is not taken for what the sidecar describes.

    Raises:
        OSError: one of them cannot be written, or the name is a folder's.
    """
    if path.is_dir():  # seen before the sidecar is there
        raise IsADirectoryError(None, "Is a directory")
    with atomic_file(path) as file:
        summed = Summed(file)
        yield summed
        file.flush()
        os.fsync(file.fileno())
        with atomic_file(sidecar_of(path), text=True) as notes:
            json.dump(
                {**content, "bytes": summed.size, "crc32": summed.crc32},
                notes,
                sort_keys=True,
                allow_nan=False,
            )


def read_sidecar(path: Path) -> dict[str, Any]:
    """What the sidecar of a file says; the file must have the size that is said there.

    Raises:
        FileNotFoundError: there is no such file, or no sidecar.
        ValueError: it is not a sidecar, or not that of this file.
    """
    with path.open("rb") as file:  # its absence comes before the sidecar's
        size = os.fstat(file.fileno()).st_size
    content = from_json(sidecar_of(path).read_bytes())
    if content["bytes"] != size:
        raise ValueError(f"has {size} bytes where its {SIDECAR_SUFFIX} says {content['bytes']}")
    if not isinstance(content["provenance"], dict):
        raise ValueError("provenance is not a JSON object")
    return content


def check_sum(content: dict[str, Any], read: Summed) -> None:
    """See that a file that was read to its end is the one that its sidecar describes.

    Raises:
        ValueError: it is not.
    """
    if content["crc32"] != read.crc32:
        raise ValueError(f"its bytes are not those that its {SIDECAR_SUFFIX} was written for")
