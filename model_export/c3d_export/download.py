"""One file over HTTP: resumed where it broke off, checked, and only then under its name.

What has come so far is beside the target in NAME.part, and where it came from in NAME.part.json:
the next attempt, or the next run, asks for the rest alone, on condition that the file there is
still the same (Range with If-Range). Nothing but a whole, right file ever takes the target's name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from c3d_client.core.errors import UsageError
from c3d_client.core.files import atomic_file, sync

from c3d_export.errors import AssetError
from c3d_export.fingerprint import HEAD_BYTES, Fingerprint
from c3d_export.http_body import Body, BodyError, Broken, RangeRefused, Unreachable, open_body

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are here, of how many; None where the server does not say."""

# No C3D file is a third of it: a server that goes on sending is stopped before the disk is full.
_LARGEST_BYTES = 1 << 30
_PAUSE_MAX_S = 30.0


@dataclass(frozen=True)
class Patience:
    """How long a bad connection is put up with.

    Args:
        timeout_s: without a byte, after which a connection is given up and made anew.
        attempts: connections made for one download, at most.
        backoff_s: pause after the first that failed; doubled each time, up to half a minute.

    Raises:
        UsageError: no time, no attempt, or a negative pause.
    """

    timeout_s: float = 30.0
    attempts: int = 8
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        if not (self.timeout_s > 0 and self.attempts >= 1 and self.backoff_s >= 0):
            raise UsageError(f"{self} cannot be; give some time, one attempt, no negative pause")


def download(
    url: str,
    target: Path,
    *,
    known: Fingerprint | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    patience: Patience | None = None,
) -> bool:
    """Fetch a file, unless it is there already.

    Args:
        url: http or https.
        target: the name to take; its folder must exist.
        known: what the file is known by.
        progress: is told how far it is, with every block that comes.
        overwrite: fetch over a file that is there and is not the right one.
        patience: with the connection.

    Returns:
        Whether it was fetched; False where it was there, and right.

    Raises:
        AssetError: it could not be fetched whole, is not the right file, cannot be written, or
            another file has its name. After a broken connection NAME.part is kept to go on from.
        UsageError: not an http or https URL.
    """
    known = known or Fingerprint()
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not an http or https URL")
    try:
        if os.path.lexists(target):
            problem = known.problem(target) if target.is_file() else "it is there, and no file"
            if not problem:
                return False
            if not (overwrite and target.is_file()):
                raise AssetError(f"{target}: {problem}; it was left: move it away, or overwrite it")
        with _part_file(target) as file:
            _Download(url, target, file, known, progress, patience or Patience()).run()
    except OSError as error:
        # Those of the network have other names by now, so that this one is the disk's.
        raise AssetError(
            f"{error.filename or target}: cannot be written or read ({error.strerror})"
        ) from error
    return True


class _Download:
    """The part file, what is remembered of its origin, and the attempts to complete it."""

    def __init__(
        self,
        url: str,
        target: Path,
        file: IO[bytes],
        known: Fingerprint,
        progress: Progress | None,
        patience: Patience,
    ) -> None:
        self.url, self.target, self.file, self.known = url, target, file, known
        self.progress, self.patience = progress, patience
        self.part, self.origin = part_path(target), _origin(target)
        self.version, self.total = self._remembered()
        self.here = file.seek(0, os.SEEK_END) if self.version else 0
        self.answered = False

    def run(self) -> None:
        """Attempt until the part is whole, check it, and give it the target's name."""
        for attempt in range(1, self.patience.attempts + 1):
            try:
                self._attempt()
                break
            except Broken as broken:
                self.file.flush()
                if attempt == self.patience.attempts:
                    raise AssetError(
                        f"{self.url}: {broken}; that was attempt {attempt}, and the last; "
                        f"{self._left()}"
                    ) from broken
            time.sleep(min(self.patience.backoff_s * 2 ** (attempt - 1), _PAUSE_MAX_S))
        self.file.flush()
        os.fsync(self.file.fileno())
        if problem := self.known.problem(self.part):
            raise self._refused(problem)
        os.replace(self.part, self.target)
        self.origin.unlink(missing_ok=True)
        sync(self.target.parent)

    def _attempt(self) -> None:
        if self.here and self.here == self.total:
            return  # a run before this one was stopped between the last byte and the check
        try:
            with open_body(
                self.url,
                start=self.here if self.version else 0,
                version=self.version,
                timeout_s=self.patience.timeout_s,
            ) as body:
                self.answered = True
                self._receive(body)
        except RangeRefused:
            self._forget()
            raise
        except Unreachable as error:
            # What answered a moment ago may answer again; what never did, hardly in a minute.
            if self.answered:
                raise Broken(str(error)) from error
            raise AssetError(f"{self.url}: {error}; is there a network?") from error
        except BodyError as error:
            raise AssetError(f"{self.url}: {error}") from error

    def _receive(self, body: Body) -> None:
        if body.start not in (0, self.here):
            self._forget()
            raise Broken(f"it resumed at byte {body.start:,}, which was not asked for")
        if body.start == 0:
            self._begin(body)  # the first time, or it does not resume, or the file has changed
        elif self.total not in (None, body.total):
            self._forget()
            raise Broken("the file's length changed, though it says that the file did not")
        self.total = body.total
        limit = self.known.size or self.total or _LARGEST_BYTES
        while block := self._read(body):
            if self.here + len(block) > limit:
                raise self._refused(f"the server sends more than the {limit:,} bytes it should")
            self._keep(block)
        expected = self.known.size if self.total is None else self.total
        if expected is not None and self.here < expected:
            raise Broken(f"it ended after {self.here:,} of {expected:,} bytes")

    def _begin(self, body: Body) -> None:
        """From the first byte: what is plainly not the file is seen before it has all come."""
        self._forget()
        if body.packing:
            raise self._refused(f"it is sent packed ({body.packing}), which was not asked for")
        if body.total is None and not (body.marked or self.known.size or self.known.has_digest):
            raise self._refused("its length is not known, so that half a file would not show")
        head = body.read(HEAD_BYTES)
        whole = len(head) == HEAD_BYTES or len(head) == body.total
        # Before the lengths are compared: a page has the wrong one too, and that says less.
        problem = self.known.wrong_start(head) if whole else ""
        if not problem and body.total is not None:
            problem = self._wrong_length(body.total)
        if problem:
            raise self._refused(problem)
        self.version = body.version
        if self.version:
            with atomic_file(self.origin, text=True) as file:
                json.dump({"url": self.url, "version": self.version, "total": body.total}, file)
        self.total = body.total
        self._keep(head)

    def _wrong_length(self, total: int) -> str:
        if self.known.size not in (None, total):
            return f"it has {total:,} bytes there; the published file has {self.known.size:,}"
        free = shutil.disk_usage(self.target.parent).free
        if total > free:
            raise AssetError(f"{self.target}: needs {total:,} bytes, and {free:,} are free there")
        return ""

    def _read(self, body: Body) -> bytes:
        try:
            return body.read()
        except Broken as broken:
            if self.here == self.total:
                return b""  # all is here; the server was asked to hang up, and does not
            raise Broken(f"it broke off after {self.here:,} bytes ({broken})") from broken

    def _keep(self, block: bytes) -> None:
        self.file.write(block)
        self.here += len(block)
        if self.progress:
            self.progress(self.here, self.total)

    def _remembered(self) -> tuple[str, int | None]:
        """The version and length of the file that the part is the beginning of, if it is ours."""
        try:
            origin = json.loads(self.origin.read_text("utf-8"))
            if origin["url"] == self.url:
                return str(origin["version"]), origin["total"]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            pass  # no part, or one that nothing is known of: from the first byte
        return "", None

    def _left(self) -> str:
        if self.version and self.here:
            return f"{self.here:,} bytes are kept in {self.part}: run it again to go on"
        self._forget()
        return "nothing of it was kept"

    def _forget(self) -> None:
        self.origin.unlink(missing_ok=True)
        self.file.truncate(0)
        self.here, self.version, self.total = 0, "", None

    def _refused(self, problem: str) -> AssetError:
        self._forget()
        self.part.unlink()
        return AssetError(f"{self.url}: {problem}; nothing of it was kept")


@contextlib.contextmanager
def _part_file(target: Path) -> Iterator[IO[bytes]]:
    """The part file, for this process alone, open at its end; not left behind empty."""
    part = part_path(target)
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AssetError(f"{part}: another process is fetching it; wait for it") from error
        # Between our opening and our locking, another process may have given it its final name.
        if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            raise AssetError(f"{target}: another process has just fetched it; run it again")
        try:
            yield file
        finally:
            file.flush()
            if part.is_file() and not part.stat().st_size:
                part.unlink()


def part_path(target: Path) -> Path:
    """Where the beginning of a file is kept until the whole of it is there."""
    return target.with_name(f"{target.name}.part")


def _origin(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")
