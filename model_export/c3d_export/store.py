"""The model store: a folder of numbered versions, as TensorFlow Serving expects it.

A version is written in a hidden folder, which servers ignore, and gets the next number by a rename,
so that a server never sees an incomplete version. The file `made-of` in a version holds a digest of
its inputs, so that the same inputs need not be built twice.

A server serves the newest version, so demo or random weights are not published over trained ones
unless that is asked for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from c3d_client.core.errors import UsageError
from c3d_client.core.files import cleaned_up, sync

from c3d_export.card import stored_card
from c3d_export.disk import FULL, free_bytes, need_text
from c3d_export.errors import ExportError, TrainedVersionError, VerificationError

MADE_OF = "made-of"

_UNFINISHED_PREFIX = ".building-"
# The longest build, float16 verified on a CPU, takes minutes; k8s/jobs stops one after an hour.
_ABANDONED_AFTER_S = 6 * 3600


def version_numbers(base: Path) -> list[int]:
    """Return the numbers of the versions in a model's folder, in any order.

    Entries whose name is not a number are no versions, and a missing folder has none.

    Raises:
        ExportError: the folder cannot be read.
    """
    try:
        return [int(name) for name in os.listdir(base) if name.isdecimal()]
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = f"the model's folder cannot be read ({error.strerror})"
        raise ExportError(f"{base}: {reason}") from error


def newest_version(base: Path) -> Path:
    """Return the folder of the version with the highest number.

    Args:
        base: the model's folder.

    Raises:
        UsageError: the model has no version.
        ExportError: the folder cannot be read.
    """
    numbers = version_numbers(base)
    if not numbers:
        raise UsageError(
            f"{base}: no model version there (a folder with a number for a name); "
            "make one with c3d-export build"
        )
    return base / str(max(numbers))


def served_version(path: Path) -> Path:
    """Return the folder of the version that a server of this path serves.

    Args:
        path: the model's folder, whose newest version it is, or the folder of one version.

    Raises:
        UsageError: the model has no version.
        ExportError: the folder cannot be read.
    """
    version = Path(os.path.abspath(path))
    if version.name.isdecimal() and (version / "saved_model.pb").is_file():
        return path if path.name.isdecimal() else version  # "." and ".." name no number
    return newest_version(path)


def version_made_of(base: Path, digest: str) -> Path | None:
    """Return the newest version whose `made-of` has this digest; None where there is none.

    Raises:
        ExportError: the folder cannot be read.
    """
    for number in sorted(version_numbers(base), reverse=True):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (base / str(number) / MADE_OF).read_text("utf-8").strip() == digest:
                return base / str(number)
    return None


def check_not_over_trained(base: Path, source: str) -> None:
    """Check that a model has no trained weights, before untrained ones become its newest version.

    Trained are all weights whose model card does not mark them as random: demo and random:SEED have
    this mark, in every precision and after a conversion. A version whose card cannot be read counts
    as trained.

    Args:
        base: the model's folder.
        source: the untrained weights, such as ``demo``, for the message.

    Raises:
        TrainedVersionError: a version has trained weights.
        ExportError: the folder cannot be read.
    """
    for number in sorted(version_numbers(base), reverse=True):
        version = base / str(number)
        try:
            weights = stored_card(version)["weights"]
        except VerificationError as error:
            found = f"{version} counts as trained, because its model card is not readable ({error})"
        else:
            if weights.get("random") is True:
                continue
            found = f"{version} has trained weights ({weights.get('source')})"
        raise TrainedVersionError(
            f"{source} is not published: {found}, and servers would serve {source} instead; use "
            "another folder, or --over-trained"
        )


def check_space(base: Path, needed: int) -> None:
    """Check that a version fits on the disk of a model's folder, which may not exist yet.

    Raises:
        ExportError: fewer bytes are free than needed.
    """
    free = free_bytes(base)
    if free is not None and free < needed:
        raise _full(base, "too little space for a version", needed, free)


@contextlib.contextmanager
def writing(base: Path, needed: int) -> Iterator[None]:
    """Name the model's folder where a version cannot be written, with the sizes if a disk is full.

    Args:
        base: the model's folder.
        needed: the version's size in bytes.

    Raises:
        ExportError: in place of an OSError.
    """
    free = free_bytes(base)
    try:
        yield
    except OSError as error:
        reason = ": ".join(map(str, filter(None, (error.filename, error.strerror or error))))
        if error.errno in FULL:
            raise _full(base, reason, needed, free) from error
        raise ExportError(f"{base}: a version cannot be written there ({reason})") from error


def _full(base: Path, reason: str, needed: int, free: int | None) -> ExportError:
    return ExportError(
        f"{base}: the disk is full ({reason}): {need_text(needed, free)}; remove old versions, or "
        "enlarge the volume or its quota"
    )


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
    # Named before it is created, so that an interrupt right after its creation removes it too.
    unfinished = base / f"{_UNFINISHED_PREFIX}{secrets.token_hex(8)}"
    created: list[Path] = []

    def clean() -> None:
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in reversed(created):
            with contextlib.suppress(OSError):  # not empty: the build succeeded
                folder.rmdir()

    with cleaned_up(clean):
        try:
            _make_folders(base, created)
            _remove_abandoned(base)
            unfinished.mkdir()
        except OSError as error:
            raise ExportError(f"{base}: cannot be written ({error.strerror})") from error
        yield unfinished


def give_number(unfinished: Path, base: Path, *, digest: str) -> Path:
    """Write a finished version's digest of inputs, and give the version the next number.

    Every user can read the version then, whatever the umask of this process: the server's user is
    another.

    Args:
        unfinished: the folder from :func:`unfinished_version`.
        base: the same model's folder.
        digest: the digest of the version's inputs.

    Returns:
        The version's folder.

    Raises:
        OSError: the folder cannot be written.
    """
    _let_all_read(unfinished)  # a copied folder may not be writable
    (unfinished / MADE_OF).write_text(f"{digest}\n", encoding="utf-8")
    for entry in (*unfinished.rglob("*"), unfinished):
        _let_all_read(entry)
        sync(entry)
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


def publish(version: Path, base: Path, *, over_trained: bool = False) -> tuple[Path, bool]:
    """Copy a version that was built elsewhere into a model's folder, under the next number.

    Args:
        version: the version's folder, written by `c3d-export build`.
        base: the model's folder; created if missing.
        over_trained: publish demo or random weights also where the model has trained ones.

    Returns:
        The version's folder in the model's folder, and whether it is new: a version with the same
        inputs is not copied again.

    Raises:
        UsageError: the version was not written by `c3d-export build`.
        TrainedVersionError: see :func:`check_not_over_trained`.
        ExportError: the version cannot be read, or the folder cannot be written.
    """
    try:
        digest = (version / MADE_OF).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(
            f"{version}: not a version that c3d-export build wrote ({MADE_OF} cannot be read: "
            f"{reason}); give its numbered folder"
        ) from error
    same = version_made_of(base, digest)
    if same is not None:
        return same, False
    weights = stored_card(version)["weights"]
    untrained = weights.get("random") is True and not over_trained
    if untrained:
        check_not_over_trained(base, str(weights.get("source")))
    needed = _bytes_of(version)
    check_space(base, needed)
    with unfinished_version(base) as unfinished, writing(base, needed):
        # copyfile leaves out the permissions, with which a copy might not be writable.
        for folder, folders, files in os.walk(version, onerror=_fail, followlinks=True):
            copy = unfinished / Path(folder).relative_to(version)
            for name in folders:
                (copy / name).mkdir()
            for name in files:
                shutil.copyfile(Path(folder, name), copy / name)
        if untrained:  # another program may have published meanwhile
            check_not_over_trained(base, str(weights.get("source")))
        return give_number(unfinished, base, digest=digest), True


def _bytes_of(version: Path) -> int:
    try:
        return sum(
            os.stat(os.path.join(folder, name)).st_size
            for folder, _, files in os.walk(version, onerror=_fail, followlinks=True)
            for name in files
        )
    except OSError as error:
        raise ExportError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _fail(error: OSError) -> NoReturn:
    raise error


def _make_folders(base: Path, created: list[Path]) -> None:
    """Create a folder and those above it, readable for all users, and append them to a list."""
    if base.is_dir():
        return
    if base.parent != base:
        _make_folders(base.parent, created)
    created.append(base)
    base.mkdir(exist_ok=True)
    _let_all_read(base)


def _let_all_read(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = mode | (0o755 if path.is_dir() else 0o644)
    if wanted != mode:
        # Some network file systems have one mode for all files, which only their mount sets.
        with contextlib.suppress(OSError):
            path.chmod(wanted)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_UNFINISHED_PREFIX}*"):
        with contextlib.suppress(OSError):  # another build may remove it at the same time
            entries = [folder, *folder.rglob("*")]
            newest = max(entry.stat().st_mtime for entry in entries)
            if newest < time.time() - _ABANDONED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
