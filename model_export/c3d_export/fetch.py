"""Downloads of the published files: each checked, each with a result, and instructions by hand.

A download is written to a hidden temporary file next to its target, and takes the target's name
only when it is complete and its size, first bytes and digest are right. Transient errors are
retried from the first byte; a partial download is not resumed.
"""

from __future__ import annotations

import http
import http.client
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, TextIO

import pooch
import requests
import urllib3
from c3d_client.core.errors import UsageError
from c3d_client.core.files import atomic_file
from c3d_client.core.retry import TRANSIENT_HTTP_STATUSES, retry
from requests import exceptions

from c3d_export.assets import (
    DEFAULT_NAMES,
    HEAD_BYTES,
    LICENCE,
    Asset,
    Fingerprint,
    check,
    find_assets,
)
from c3d_export.disk import FULL, free_bytes, need_text
from c3d_export.errors import AssetError, NetworkError

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes received and the total; None where the server does not send a length."""

AssetProgress = Callable[[Asset, int, "int | None"], None]
"""Called with the asset, the bytes received and the total."""

# Three times the largest C3D file: a server that sends without end is stopped.
_LARGEST_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 16
_REFRESH_S = 0.25
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Attempts:
    """Timeout and retries of a download.

    Args:
        timeout_s: for the connection, and for each wait for data.
        count: the number of attempts, 1 or more.
        first_pause_s: the pause before the first retry; doubled each time, up to 30 s.
    """

    timeout_s: float = 30.0
    count: int = 8
    first_pause_s: float = 1.0


@dataclass(frozen=True)
class Fetched:
    """The result for one published file.

    Args:
        asset: the published file.
        path: its path on this machine.
        outcome: fetched now, there before, or failed.
        detail: the result of its check, or the error; one line.
        may_pass: whether the download failed for a reason that may be gone at a later try.
    """

    asset: Asset
    path: Path
    outcome: Literal["fetched", "there", "failed"]
    detail: str
    may_pass: bool = False

    def __str__(self) -> str:
        return f"{self.outcome:8} {self.path}: {self.detail}"


def fetch(
    names: Sequence[str],
    folder: Path,
    *,
    overwrite: bool = False,
    progress: AssetProgress | None = None,
    attempts: Attempts | None = None,
) -> Iterator[Fetched]:
    """Fetch published files, one after the other; a file that fails does not stop the others.

    Args:
        names: names as published; empty for those of a full servable.
        folder: the target folder; created if missing.
        overwrite: replace a file of the same name that is not the published one.
        progress: called during downloads.
        attempts: timeout and retries.

    Returns:
        The result for each file, as soon as it is known.

    Raises:
        AssetError: the folder cannot be created.
        UsageError: no published file has one of the names.
    """
    assets = find_assets(tuple(names) or DEFAULT_NAMES, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(f"{folder}: cannot be created ({error.strerror})") from error
    return (_fetch(asset, folder, overwrite, progress, attempts) for asset in assets)


def download(
    url: str,
    target: Path,
    *,
    fingerprint: Fingerprint | None = None,
    progress: Progress | None = None,
    attempts: Attempts | None = None,
) -> None:
    """Download a file; an existing file is replaced.

    Args:
        url: http or https.
        target: the file's path; its folder must exist.
        fingerprint: the published file's size, digests and first bytes.
        progress: called with every block.
        attempts: timeout and retries.

    Raises:
        NetworkError: the download failed, and may succeed later.
        AssetError: the server does not have the published file, or it cannot be written.
        UsageError: the URL is not http or https.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not an http or https URL")
    attempts = attempts or Attempts()
    free = free_bytes(target)
    transfer = _Transfer(url, target, fingerprint or Fingerprint(), progress, attempts.timeout_s)
    try:
        retry(
            transfer.run,
            attempts=attempts.count,
            is_transient=transfer.is_transient,
            first_pause_s=attempts.first_pause_s,
        )
    except requests.RequestException as error:
        kind = NetworkError if _may_pass(error) else AssetError
        raise kind(f"{url}: {transfer.error_text(error)}") from error
    except OSError as error:
        needed = transfer.total or transfer.fingerprint.size
        sizes = f": {need_text(needed, free)}" if error.errno in FULL and needed else ""
        reason = f"cannot be written or read ({error.strerror}){sizes}"
        raise AssetError(f"{error.filename or target}: {reason}") from error
    except ValueError as error:  # urllib3 and http.client raise it for malformed addresses
        raise AssetError(f"{url}: is, or leads to, no usable address ({error})") from error


def by_hand(assets: Sequence[Asset], folder: Path) -> str:
    """Return instructions to fetch files with a browser: address, target, size and digests."""
    lines = ["To fetch by hand, on a machine with a network:"]
    for asset in assets:
        lines += ["", f"  {asset.name}", f"    what     {asset.about}"]
        lines += [f"    from     {address}" for address in (*asset.urls, asset.page) if address]
        lines += [f"    to       {folder / asset.name}"]
        if asset.fingerprint.size is not None:
            lines.append(f"    size     {asset.fingerprint.size:,} bytes")
        for name in ("md5", "sha256"):
            if digits := getattr(asset.fingerprint, name):
                lines.append(f"    {name:8} {digits}{'...' if len(digits) not in (32, 64) else ''}")
        lines.append(f"    licence  {LICENCE}")
    return "\n".join(lines)


class ProgressLine:
    """Progress of a download as one line on a terminal; nothing on other streams.

    Args:
        stream: usually standard error.
        clock: returns seconds; replaced in tests.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._next_s = clock()
        self._width = 0
        self._enabled = stream.isatty()

    def __call__(self, asset: Asset, received: int, total: int | None) -> None:
        """Write the line, a few times a second at most."""
        if not self._enabled or self._clock() < self._next_s:
            return
        self._next_s = self._clock() + _REFRESH_S
        line = f"{asset.name}: {received / _MEGABYTE:.1f} MB"
        if total:
            line += f" of {total / _MEGABYTE:.1f} MB, {received / total:.0%}"
        self._write(line)

    def clear(self) -> None:
        """Remove the line before other text is printed."""
        if self._width:
            self._write("")
            self._write("")

    def _write(self, line: str) -> None:
        self._stream.write(f"\r{line.ljust(self._width)}")
        self._stream.flush()
        self._width = len(line)


def _fetch(
    asset: Asset,
    folder: Path,
    overwrite: bool,
    progress: AssetProgress | None,
    attempts: Attempts | None,
) -> Fetched:
    path = folder / asset.name
    try:
        if os.path.lexists(path):
            is_file = path.is_file()
            usable, text = check(asset, path) if is_file else (False, "it exists and is not a file")
            if usable:
                return Fetched(asset, path, "there", text)
            if not (overwrite and is_file and asset.urls):
                text += "; it was not changed: move it away, or overwrite it"
                return Fetched(asset, path, "failed", text)
        elif not asset.urls:
            return Fetched(asset, path, "failed", "it cannot be fetched without a browser")
    except OSError as error:
        return Fetched(asset, path, "failed", f"cannot be read ({error.strerror})")
    errors: list[AssetError] = []
    for url in asset.urls:
        try:
            download(
                url,
                path,
                fingerprint=asset.fingerprint,
                progress=partial(progress, asset) if progress else None,
                attempts=attempts,
            )
        except AssetError as error:
            errors.append(error)
        else:
            return Fetched(asset, path, "fetched", asset.verified)
    may_pass = any(isinstance(error, NetworkError) for error in errors)
    return Fetched(asset, path, "failed", "; ".join(map(str, errors)), may_pass)


class _Transfer:
    """Attempts to download one file; also the progress bar that pooch updates."""

    total: int = 0

    def __init__(
        self,
        url: str,
        target: Path,
        fingerprint: Fingerprint,
        progress: Progress | None,
        timeout_s: float,
    ) -> None:
        self.number = 0
        self._url, self._target, self.fingerprint = url, target, fingerprint
        self._progress = progress
        self._answered = self._has_end = False
        self._received = 0
        self._file: IO[bytes]
        self._response: requests.Response | None = None
        self._download = pooch.HTTPDownloader(
            progressbar=self,
            chunk_size=_CHUNK_BYTES,
            timeout=timeout_s,
            headers={"User-Agent": "c3d-export", "Accept-Encoding": "identity"},
            hooks={"response": self._on_response},
        )

    def run(self) -> None:
        """Download the file once, check it, and give it the target's name."""
        self.number += 1
        self._received = self.total = 0
        with atomic_file(self._target) as self._file:
            try:
                self._download(self._url, self._file, None)
            finally:
                if self._response is not None:  # pooch does not close it after an error
                    self._response.close()
            if problem := self.fingerprint.problem(Path(self._file.name)):
                # Where the server sends no length, a body that was cut short looks complete.
                raise self._refusal(problem, AssetError if self._has_end else NetworkError)

    def is_transient(self, error: Exception) -> bool:
        """Return whether another attempt within seconds may succeed."""
        if isinstance(error, requests.HTTPError):
            return error.response.status_code in TRANSIENT_HTTP_STATUSES
        if _is_unreachable(error) or isinstance(error, exceptions.ProxyError):
            # A server that has answered before may answer again.
            return self._answered
        return _may_pass(error)

    def error_text(self, error: requests.RequestException) -> str:
        """Describe why the last attempt failed, in one line."""
        cause = _cause_text(error)
        if _is_unreachable(error):
            return f"cannot be reached ({cause}); is there a network?"
        if isinstance(error, requests.HTTPError):
            text = _status_text(error.response)
        elif isinstance(error, requests.TooManyRedirects):
            text = "it redirects in a circle, or too often"
        elif isinstance(error, exceptions.ContentDecodingError):
            text = f"its body cannot be decoded ({cause})"
        elif isinstance(error, ValueError):
            text = f"is, or leads to, no usable address ({cause})"
        elif self._received:
            of_total = f" of {self.total:,}" if self.total else ""
            text = f"it broke off after {self._received:,}{of_total} bytes ({cause})"
        else:
            text = f"the server gave no answer ({cause})"
        if self.number > 1:
            text += f"; that was attempt {self.number}, and the last"
        return f"{text}; nothing was saved"

    def update(self, _: int) -> None:
        """Check and report a block that pooch has written."""
        total, size = self.total, self.fingerprint.size
        if not self._received:
            # Before the sizes: a web page has the wrong size too, which would say less.
            head = os.pread(self._file.fileno(), HEAD_BYTES, 0)
            problem = self.fingerprint.wrong_start(head)
            if not problem and size and total not in (0, size):
                problem = f"it has {total:,} bytes there; the published file has {size:,}"
            if problem:
                raise self._refusal(problem)
            free = free_bytes(self._target.parent)
            if free is not None and total > free:
                raise AssetError(
                    f"{self._target}: the disk is full: {need_text(total, free)}; nothing was saved"
                )
        self._received = self._file.tell()
        limit = size or total or _LARGEST_BYTES
        if self._received > limit:
            raise self._refusal(f"the server sends more than the {limit:,} bytes it should")
        if self._progress:
            self._progress(self._received, total or None)

    def reset(self) -> None:
        """Do nothing; part of pooch's progress bar protocol."""

    def close(self) -> None:
        """Do nothing; part of pooch's progress bar protocol."""

    def _on_response(self, response: requests.Response, **_: object) -> None:
        self._response, self._answered = response, True
        headers, fingerprint = response.headers, self.fingerprint
        chunked = "chunked" in headers.get("Transfer-Encoding", "")
        self._has_end = chunked or "Content-Length" in headers
        if response.status_code == http.HTTPStatus.OK and not (
            self._has_end or fingerprint.size or fingerprint.has_digest
        ):
            raise self._refusal(
                "the server sends no length, so a truncated file could not be detected"
            )

    def _refusal(self, problem: str, kind: type[AssetError] = AssetError) -> AssetError:
        return kind(f"{self._url}: {problem}; nothing was saved")


def _status_text(response: requests.Response) -> str:
    status = response.status_code
    text = f"the server answers {status} {http.client.responses.get(status, '')}".rstrip()
    if status in (401, 403):
        return f"{text}: it requires a login or a browser"
    if status in TRANSIENT_HTTP_STATUSES:
        return text
    return f"{text}: the file is not available there"


def _may_pass(error: Exception) -> bool:
    """Return whether an error of requests may be gone later: a network or server that fails."""
    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        return status in TRANSIENT_HTTP_STATUSES or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    cause = str(_cause(error))
    if isinstance(error, exceptions.SSLError):
        # A handshake that is cut short may succeed later; a wrong certificate stays wrong.
        return "EOF" in cause
    if isinstance(error, exceptions.ProxyError):
        # The proxy requires a login, or does not allow the address.
        return not re.search(r"Tunnel connection failed: 4\d\d", cause)
    return isinstance(
        error, (requests.ConnectionError, requests.Timeout, exceptions.ChunkedEncodingError)
    )


def _is_unreachable(error: Exception) -> bool:
    return isinstance(error, requests.ConnectTimeout) or isinstance(
        _cause(error), urllib3.exceptions.NewConnectionError
    )


def _cause(error: Exception) -> object:
    """Return the error of urllib3 inside an error of requests."""
    cause = error.args[0] if error.args else error
    return getattr(cause, "reason", cause)


def _cause_text(error: Exception) -> str:
    cause = _cause(error)
    # urllib3 wraps the standard library's errors: ("Connection aborted.", error).
    wrapped = cause.args[-1] if isinstance(cause, urllib3.exceptions.ProtocolError) else cause
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(wrapped))
