"""`make bench-client`: what the client costs and gains, in ratios of what is measured together.

Prints a Markdown table; a bound that is not met is a row that says so. Each part runs in a process
of its own. `python -m benchmarks.client WORD...` runs the parts that have one of these words in their
names.
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
    words = sys.argv[1:]
    print("| what | bound | measured | verdict | |\n|---|---|---|---|---|")
    for part in PARTS:
        if not words or any(word in name for word in words for name in part):
            for measure in in_own_process(part):
                print(measure.row(), flush=True)
    return 0


def in_own_process(part: tuple[str, str]) -> list[Measure]:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(measure_part, *part).result()


def measure_part(module: str, name: str) -> list[Measure]:
    return getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    sys.exit(main())
