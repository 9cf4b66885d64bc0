"""One measurement of a benchmark, with its bound."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEADER = ("what", "bound", "measured", "verdict", "spread or note")


@dataclass(frozen=True)
class Measure:
    """A measured number and its bound.

    Args:
        what: the name of the measurement.
        measured: the number.
        at_least: the bound, where more is better.
        at_most: the bound, where less is better.
        unit: unit of number and bound.
        digits: format specification of number and bound.
        note: the conditions, such as the range of the repetitions.
        values: the repetitions.
    """

    what: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    digits: str = ".3g"
    note: str = ""
    values: tuple[float, ...] = ()

    @property
    def bound(self) -> str:
        """The bound as text; empty for none."""
        if self.at_least is not None:
            return f"at least {self._text(self.at_least)}"
        return f"at most {self._text(self.at_most)}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        """Whether the bound is met, as text."""
        if self.at_least is not None and self.measured < self.at_least:
            return f"not met: {self._text(self.measured)} of {self._text(self.at_least)}"
        if self.at_most is not None and self.measured > self.at_most:
            return f"not met: {self._text(self.measured)} for {self._text(self.at_most)}"
        return "met" if self.bound else ""

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a row below :data:`HEADER`."""
        return (self.what, self.bound, self._text(self.measured), self.verdict, self.note)

    def row(self) -> str:
        """Return a row of a Markdown table."""
        return f"| {' | '.join(self.cells())} |"

    def _text(self, value: float) -> str:
        return f"{value:{self.digits}}{self.unit and ' '}{self.unit}"


def middle(values: Sequence[float]) -> dict:
    """Return the median of repetitions and their range, as arguments of :class:`Measure`."""
    spread = f"{min(values):.3g} to {max(values):.3g}, {len(values)} rounds"
    return {"measured": statistics.median(values), "note": spread, "values": tuple(values)}
