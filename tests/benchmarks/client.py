"""The client's part of `make bench`: its cost, as ratios of values measured in the same run.

Each part runs in a process of its own.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.measure import Measure

# module, function
Part = tuple[str, str]
PARTS: tuple[Part, ...] = (
    ("benchmarks.speed", "extract_over_decoding"),
    ("benchmarks.speed", "two_at_a_time"),
    ("benchmarks.process", "starting"),
    ("benchmarks.process", "generators"),
    ("benchmarks.halves", "network"),
)


def client_measures(version: Path, progress: Callable[[str], None]) -> list[Measure]:
    """Run all parts.

    Args:
        version: a servable of full width, for the difference of features.
        progress: called with a line before each part.
    """
    measures = []
    for part in PARTS:
        progress(f"client: {part[1]}")
        measures += in_own_process(part)
    progress("client: fast_against_exact")
    return measures + in_own_process(("benchmarks.resizing", "fast_against_exact"), version)


def in_own_process(part: Part, *arguments: object) -> list[Measure]:
    """Run a function of a module in a new process, and return its measurements."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(run_part, *part, *arguments).result()


def run_part(module: str, name: str, *arguments: object) -> list[Measure]:
    """Run a function of a module."""
    return getattr(importlib.import_module(module), name)(*arguments)
