"""Shares of the videos of a run, for processes on several machines that do one share each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from c3d_client.core.errors import UsageError
from c3d_client.core.text import escape_bytes

_TEXT = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Shard:
    """One of so many shares of the videos of a run.

    The share of a video depends on its name alone. So the shares of one ``count`` are together all
    videos, each once, whatever other videos there are and whenever each process lists them.

    Args:
        number: from 1 to ``count``.
        count: number of shares.

    Raises:
        UsageError: the number is not from 1 to ``count``.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(
                f"shard {self} does not exist: the shards of {self.count} are "
                f"1/{self.count} to {self.count}/{self.count}"
                if self.count
                else f"shard {self} does not exist; give one such as 2/16"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that a text such as ``2/16`` names.

        Raises:
            UsageError: the text is another one, or no text; or there is no such shard.
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise UsageError(f"shard {text!r} is not a number and a count, such as 2/16")
        return cls(int(match[1]), int(match[2]))

    def takes(self, name: str) -> bool:
        """Whether a video belongs to this share.

        Args:
            name: the video's name; see :attr:`c3d_client.Source.name`.
        """
        # Not Python's hash(), which differs in each process.
        digest = hashlib.sha256(escape_bytes(name).encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1
