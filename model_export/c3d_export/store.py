"""The model store: a folder of numbered versions, as TensorFlow Serving looks for them.

A version is made in a hidden folder, which servers do not look at, and gets the next number by a
rename, so that none is ever seen half made. A note in it, `made-of`, tells what it was made of; it
comes and goes with the version, and the same inputs need not be built twice.
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
# The longest build, float16 verified on a CPU, takes minutes; k8s/jobs ends one after an hour.
_ABANDONED_AFTER_S = 6 * 3600


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


def version_made_of(base: Path, digest: str) -> Path | None:
    """The newest version with this digest in its note; None where there is none."""
    for number in sorted(version_numbers(base), reverse=True):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (base / str(number) / MADE_OF).read_text("utf-8").strip() == digest:
                return base / str(number)
    return None


@contextlib.contextmanager
def unfinished_version(base: Path) -> Iterator[Path]:
    """A hidden folder to make a version in; what is still there after the block is removed.

    So is what builds that were killed left, once it is so old that none can be at work in it.

    Args:
        base: the model's folder; made where it is not there, and removed if it stays empty.

    Yields:
        The folder, empty.

    Raises:
        ExportError: the folder cannot be written.
    """
    existed = base.exists()
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base)
        made = Path(tempfile.mkdtemp(dir=base, prefix=_UNFINISHED_PREFIX))
    except OSError as error:
        raise ExportError(f"{base}: cannot be written ({error.strerror})") from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # not empty: it worked
                base.rmdir()


def give_number(made: Path, base: Path, *, digest: str) -> Path:
    """Note in a finished version what it is made of, and give it the next number.

    Args:
        made: the folder from :func:`unfinished_version`.
        base: the same model's folder.
        digest: what it is made of.

    Returns:
        The version's folder.

    Raises:
        OSError: it cannot be written.
    """
    (made / MADE_OF).write_text(f"{digest}\n", encoding="utf-8")
    os.chmod(made, 0o755)  # mkdtemp's 0700 would hide it from the server's user
    for entry in made.rglob("*"):
        sync(entry)
    sync(made)
    while True:
        target = base / str(max(version_numbers(base), default=0) + 1)
        try:
            made.rename(target)
        except OSError:
            if target.exists():
                continue  # another build took the number
            raise
        sync(base)
        return target


def publish(version: Path, base: Path) -> tuple[Path, bool]:
    """Copy a version that was built elsewhere into a model's folder, under the next number.

    Args:
        version: its folder, as `c3d-export build` made it.
        base: the model's folder; made where it is not there.

    Returns:
        The version's folder there, and whether it is new: one that is made of the same is taken
        for it.

    Raises:
        UsageError: it is no version of c3d-export's.
        ExportError: the folder cannot be written.
    """
    try:
        digest = (version / MADE_OF).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{version}: no version there that c3d-export build made ({MADE_OF} cannot be read); "
            "give its numbered folder"
        ) from error
    there = version_made_of(base, digest)
    if there is not None:
        return there, False
    with unfinished_version(base) as made:
        try:
            shutil.copytree(version, made, dirs_exist_ok=True)
            return give_number(made, base, digest=digest), True
        except (OSError, shutil.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ExportError(f"{base}: {version} cannot be copied there ({reason})") from error


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_UNFINISHED_PREFIX}*"):
        with contextlib.suppress(OSError):  # another build removes it too
            entries = [folder, *folder.rglob("*")]
            newest = max(entry.stat().st_mtime for entry in entries)
            if newest < time.time() - _ABANDONED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
