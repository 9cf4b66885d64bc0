"""The model store: a folder of numbered versions, as TensorFlow Serving expects it.

A version is written in a hidden folder, which servers ignore, and gets the next number by a rename,
so that a server never sees an incomplete version. The file `made-of` in a version holds a digest of
its inputs, so that the same inputs need not be built twice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from c3d_client.core.errors import UsageError
from c3d_client.core.files import sync

from c3d_export.errors import ExportError

MADE_OF = "made-of"

_UNFINISHED_PREFIX = ".building-"
# The longest build, float16 verified on a CPU, takes minutes; k8s/jobs stops one after an hour.
_ABANDONED_AFTER_S = 6 * 3600


def version_numbers(base: Path) -> list[int]:
    """Return the numbers of the versions in a model's folder, in any order.

    Entries whose name is not a number are no versions.
    """
    return [int(entry.name) for entry in base.glob("*") if entry.name.isdecimal()]


def newest_version(base: Path) -> Path:
    """Return the folder of the version with the highest number.

    Args:
        base: the model's folder.

    Raises:
        UsageError: the model has no version.
    """
    numbers = version_numbers(base)
    if not numbers:
        raise UsageError(
            f"{base}: no model version there (a folder with a number for a name); "
            "make one with c3d-export build"
        )
    return base / str(max(numbers))


def version_made_of(base: Path, digest: str) -> Path | None:
    """Return the newest version whose `made-of` has this digest; None where there is none."""
    for number in sorted(version_numbers(base), reverse=True):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (base / str(number) / MADE_OF).read_text("utf-8").strip() == digest:
                return base / str(number)
    return None


@contextlib.contextmanager
def unfinished_version(base: Path) -> Iterator[Path]:
    """Create a hidden folder to write a version in; remove it at the end if it is still there.

    Hidden folders of killed builds are removed too, once they are too old to be in use.

    Args:
        base: the model's folder; created if missing, and removed if it stays empty.

    Yields:
        The empty hidden folder.

    Raises:
        ExportError: the folder cannot be written.
    """
    existed = base.exists()
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base)
        unfinished = Path(tempfile.mkdtemp(dir=base, prefix=_UNFINISHED_PREFIX))
    except OSError as error:
        raise ExportError(f"{base}: cannot be written ({error.strerror})") from error
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # not empty: the build succeeded
                base.rmdir()


def give_number(unfinished: Path, base: Path, *, digest: str) -> Path:
    """Write a finished version's digest of inputs, and give the version the next number.

    Args:
        unfinished: the folder from :func:`unfinished_version`.
        base: the same model's folder.
        digest: the digest of the version's inputs.

    Returns:
        The version's folder.

    Raises:
        OSError: the folder cannot be written.
    """
    (unfinished / MADE_OF).write_text(f"{digest}\n", encoding="utf-8")
    os.chmod(unfinished, 0o755)  # mkdtemp's 0700 would hide it from the server's user
    for entry in unfinished.rglob("*"):
        sync(entry)
    sync(unfinished)
    while True:
        target = base / str(max(version_numbers(base), default=0) + 1)
        try:
            unfinished.rename(target)
        except OSError:
            if target.exists():
                continue  # another build has used the number
            raise
        sync(base)
        return target


def publish(version: Path, base: Path) -> tuple[Path, bool]:
    """Copy a version that was built elsewhere into a model's folder, under the next number.

    Args:
        version: the version's folder, written by `c3d-export build`.
        base: the model's folder; created if missing.

    Returns:
        The version's folder in the model's folder, and whether it is new: a version with the same
        inputs is not copied again.

    Raises:
        UsageError: the version was not written by `c3d-export build`.
        ExportError: the folder cannot be written.
    """
    try:
        digest = (version / MADE_OF).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{version}: not a version that c3d-export build wrote ({MADE_OF} cannot be read); "
            "give its numbered folder"
        ) from error
    same = version_made_of(base, digest)
    if same is not None:
        return same, False
    with unfinished_version(base) as unfinished:
        try:
            shutil.copytree(version, unfinished, dirs_exist_ok=True)
            return give_number(unfinished, base, digest=digest), True
        except (OSError, shutil.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ExportError(f"{base}: {version} cannot be copied there ({reason})") from error


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_UNFINISHED_PREFIX}*"):
        with contextlib.suppress(OSError):  # another build may remove it at the same time
            entries = [folder, *folder.rglob("*")]
            newest = max(entry.stat().st_mtime for entry in entries)
            if newest < time.time() - _ABANDONED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
