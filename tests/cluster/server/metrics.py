"""Metrics in Prometheus' text format, with the names and labels of TensorFlow Serving."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict

# TensorFlow Serving's Buckets::Exponential(10, 1.8, 33), in microseconds.
_LIMITS = [10 * 1.8**power for power in range(33)]

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, int]] = defaultdict(lambda: defaultdict(int))
        self._histograms: dict[str, dict[Labels, list[int]]] = defaultdict(
            lambda: defaultdict(lambda: [0] * (len(_LIMITS) + 1))
        )
        self._sums: dict[tuple[str, Labels], float] = defaultdict(float)

    def count(self, name: str, **labels: str) -> None:
        """Add one to a counter, by name without ``:tensorflow:``."""
        with self._lock:
            self._counters[f":tensorflow:{name}"][tuple(labels.items())] += 1

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        key = tuple(labels.items())
        with self._lock:
            self._histograms[f":tensorflow:{name}"][key][bisect_left(_LIMITS, value)] += 1
            self._sums[f":tensorflow:{name}", key] += value

    def observe_since(self, started_s: float, name: str, **labels: str) -> None:
        """Add the microseconds since a moment of ``time.perf_counter`` to a histogram."""
        self.observe(name, 1e6 * (time.perf_counter() - started_s), **labels)

    def page(self) -> str:
        """Return the page."""
        lines = []
        with self._lock:
            for name, counts in self._counters.items():
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{{{_text(key)}}} {value}" for key, value in counts.items()]
            for name, histograms in self._histograms.items():
                lines.append(f"# TYPE {name} histogram")
                for key, buckets in histograms.items():
                    total = 0
                    for limit, number in zip(
                        [*map("{:g}".format, _LIMITS), "+Inf"], buckets, strict=True
                    ):
                        total += number
                        lines.append(f"{name}_bucket{{{_text((*key, ('le', limit)))}}} {total}")
                    lines.append(f"{name}_sum{{{_text(key)}}} {self._sums[name, key]:g}")
                    lines.append(f"{name}_count{{{_text(key)}}} {total}")
        return "\n".join(lines) + "\n"


def _text(labels: Labels) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels)
