"""One measure of `make bench-client`: what was wanted, what was seen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number held against its bound.

    Args:
        what: was measured.
        measured: the number.
        at_least: the bound, where more is better.
        at_most: the bound, where less is better.
        unit: of both.
        digits: how they are written.
        note: on what, and how far apart the repetitions were.
    """

    what: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    digits: str = ".3g"
    note: str = ""

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"at least {self._text(self.at_least)}"
        return f"at most {self._text(self.at_most)}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        """Whether it is met."""
        if self.at_least is not None and self.measured < self.at_least:
            return f"not met: {self._text(self.measured)} of {self._text(self.at_least)}"
        if self.at_most is not None and self.measured > self.at_most:
            return f"not met: {self._text(self.measured)} for {self._text(self.at_most)}"
        return "met"

    def row(self) -> str:
        """A row of a Markdown table."""
        cells = (self.what, self.bound, self._text(self.measured), self.verdict, self.note)
        return f"| {' | '.join(cells)} |"

    def _text(self, value: float) -> str:
        return f"{value:{self.digits}}{self.unit and ' '}{self.unit}"


def middle(found: Sequence[float]) -> dict:
    """The median of repetitions, and between which they were."""
    spread = f"{min(found):.3g} to {max(found):.3g} in {len(found)} runs"
    return {"measured": statistics.median(found), "note": spread}
