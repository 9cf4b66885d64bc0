"""What a published file is known by: its length, its digests, the bytes that it begins with."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from c3d_client.core.errors import UsageError

HEAD_BYTES = 512
"""How much of a file's beginning is looked at."""

_PAGE = (b"<!doctype html", b"<html")
_BLOCK_BYTES = 1 << 20
_DIGITS_SHOWN = 16


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a published file; what is not known is not checked.

    Args:
        size: its length in bytes.
        md5: 32 hexadecimal digits.
        sha256: 64 hexadecimal digits, or the first 8 or more where only those are published.
        magic: what it begins with, one of these.

    Raises:
        UsageError: a size or digest that no file can have.
    """

    size: int | None = None
    md5: str = ""
    sha256: str = ""
    magic: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"size is {self.size}; a published file has at least one byte")
        for name, shape in (("md5", "[0-9a-f]{32}"), ("sha256", "[0-9a-f]{8,64}")):
            digits = getattr(self, name)
            if digits and not re.fullmatch(shape, digits):
                raise UsageError(f"{name} is {digits!r}; give hexadecimal digits in lower case")

    @property
    def has_digest(self) -> bool:
        """Whether a file of the same length and beginning can be told from the right one."""
        return bool(self.md5 or self.sha256)

    def wrong_start(self, head: bytes) -> str:
        """What is wrong with a file that begins like this; empty where nothing is.

        Args:
            head: the first HEAD_BYTES bytes, or the whole of a shorter file.
        """
        # What a host sends instead of the file when it wants a login, a click, or less traffic.
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE):
            return "it is a web page (of a login, a quota or an error), not the file"
        if self.magic and not head.startswith(self.magic):
            return f"it begins with {head[:8]!r}; the file begins with {_either(self.magic)}"
        return ""

    def problem(self, path: Path) -> str:
        """What is wrong with a file, observed against expected; empty where nothing is.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            if wrong := self.wrong_start(file.read(HEAD_BYTES)):
                return wrong
            size = file.seek(0, 2)
            if not size:
                return "it is empty"
            if self.size is not None and size != self.size:
                return f"it has {size:,} bytes; the published file has {self.size:,}"
            if not self.has_digest:
                return ""
            file.seek(0)
            md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
            while block := file.read(_BLOCK_BYTES):
                md5.update(block)
                sha256.update(block)
        for name, expected, digest in (("md5", self.md5, md5), ("sha256", self.sha256, sha256)):
            seen = digest.hexdigest()
            if not seen.startswith(expected):
                seen, expected = seen[:_DIGITS_SHOWN], expected[:_DIGITS_SHOWN]
                return f"its {name} begins with {seen}; the published file's with {expected}"
        return ""


def _either(magic: tuple[bytes, ...]) -> str:
    return " or ".join(repr(start) for start in magic)
