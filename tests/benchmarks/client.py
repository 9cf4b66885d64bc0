"""`make bench-client`: cost and speed of the client, as ratios of values measured in the same run.

Prints a Markdown table with a row for each measurement and its bound. Each part runs in its own
process. `python -m benchmarks.client TEXT...` runs only the parts whose names contain one of the
texts, such as `starting` or `network`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import Measure

PARTS = (
    ("benchmarks.speed", "extract_over_decoding"),
    ("benchmarks.speed", "two_at_a_time"),
    ("benchmarks.speed", "messages"),
    ("benchmarks.process", "memory"),
    ("benchmarks.process", "starting"),
    ("benchmarks.network", "fast_against_exact"),
    ("benchmarks.network", "against_the_bare_network"),
    ("benchmarks.network", "against_predict"),
)


def main() -> int:
    texts = sys.argv[1:]
    print("| what | bound | measured | verdict | |\n|---|---|---|---|---|")
    for part in PARTS:
        if not texts or any(text in name for text in texts for name in part):
            for measure in in_own_process(part):
                print(measure.row(), flush=True)
    return 0


def in_own_process(part: tuple[str, str]) -> list[Measure]:
    """Run a function of a module in a new process, and return its measurements."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(run_part, *part).result()


def run_part(module: str, name: str) -> list[Measure]:
    """Run a function of a module that takes no arguments."""
    return getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    sys.exit(main())
