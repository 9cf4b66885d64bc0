"""The body of one HTTP answer, from a given byte on; every way that fails is named here.

Only this file knows urllib. It reads past what http.client would stop at, because a body that is
longer than its header says must be seen and not cut off, and one that is shorter must be missed.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import Any

_BLOCK_BYTES = 1 << 16
# Statuses after which the same request may well succeed.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class BodyError(Exception):
    """There is no body, and asking again will not help."""


class Unreachable(BodyError):
    """Nobody answers at that address."""


class Broken(Exception):
    """This connection gave no whole answer; another may."""


class RangeRefused(Broken):
    """The file does not have the byte that was asked for."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 8
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("http://", "https://")):
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # to what is no address; urllib leaves the connection open then
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """Proxies from the environment, redirects, http and https; no ftp:, file: or data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class Body:
    """What an answer says of its body, and the body.

    Attributes:
        start: the byte of the file with which it begins.
        total: the length of the whole file; None where the server does not say.
        version: what to say in If-Range to have the rest of this very file; empty for nothing.
        marked: whether a body that ends early shows, though its length is not said.
        packing: a content encoding that was not asked for; empty for none.
    """

    def __init__(self, response: http.client.HTTPResponse) -> None:
        headers = response.headers
        self.start, self.total = 0, _number(headers.get("Content-Length", ""))
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            self.start, self.total = _content_range(headers.get("Content-Range", ""))
        self.version = _version(headers)
        self.marked = bool(response.chunked)
        self.packing = headers.get("Content-Encoding", "").replace("identity", "")
        self._stream: io.BufferedIOBase = response if response.chunked else response.fp

    def read(self, size: int = 0) -> bytes:
        """The next bytes; none at the end.

        Args:
            size: wait for this many; 0 for what comes first.

        Raises:
            Broken: the connection.
        """
        try:
            return self._stream.read(size) if size else self._stream.read1(_BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_said(error)) from error


@contextlib.contextmanager
def open_body(url: str, *, start: int, version: str, timeout_s: float) -> Iterator[Body]:
    """Ask for a file from a byte on, if it is still the same file, and for all of it if not.

    Args:
        url: http or https.
        start: the first byte wanted.
        version: of the file of which the bytes before it are; used where start is not 0.
        timeout_s: without a byte.

    Raises:
        Unreachable: nobody answers.
        BodyError: the server will not give the file.
        Broken: the server or the connection failed in a way that may pass.
    """
    headers = {"User-Agent": "c3d-export"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise _status_error(error) from error
    except urllib.error.URLError as error:
        raise Unreachable(f"cannot be reached ({_said(error.reason)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"the server gave no answer ({_said(error)})") from error
    except ValueError as error:  # a redirect to what is no URL, or a URL that is none
        raise BodyError(f"is, or leads to, no usable address ({error})") from error
    with response:
        yield Body(response)


def _status_error(error: urllib.error.HTTPError) -> Exception:
    said = f"the server says {error.code} {http.client.responses.get(error.code, '')}".rstrip()
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return RangeRefused(said)
    if error.code in _PASSING:
        return Broken(said)
    if 300 <= error.code < 400:
        return BodyError(f"{said}: it redirects in a circle, too often, or not to http or https")
    if error.code in (401, 403):
        return BodyError(f"{said}: it wants a login or a browser")
    return BodyError(f"{said}: the file is not to be had there")


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _content_range(text: str) -> tuple[int, int | None]:
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", text.strip())
    if not found:
        raise Broken(f"the server sends a part and does not say which ({text!r})")
    return int(found[1]), _number(found[2])


def _version(headers: Message) -> str:
    tag = headers.get("ETag", "")
    # If-Range admits no weak tags: two files of the same meaning may have the same one.
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _said(error: object) -> str:
    return str(error) or type(error).__name__
