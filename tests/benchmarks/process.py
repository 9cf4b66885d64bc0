"""Time and memory to start the client's process, and memory of frames from a generator."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.measure import Measure
from benchmarks.server import instant_server

# The code of a process, and the limits of its time in seconds and its memory in MB.
STARTS = {
    "import c3d_client": ("import c3d_client", 0.35, 90),
    "from c3d_client import C3DClient": ("from c3d_client import C3DClient", 0.35, 90),
    "c3d --help": ("from c3d_client.cli import main; main(['--help'])", 0.3, 90),
}
GENERATOR = """
import numpy as np
from c3d_client import C3DClient
with C3DClient({target!r}) as c3d:
    c3d.extract(np.full((480, 640, 3), n % 256, np.uint8) for n in range({frames}))
"""
GENERATED_FRAMES = (600, 6000)
# Prints the peak memory at exit. getrusage() would include the peak of the parent process.
_PRINT_PEAK = """
import atexit, re, sys
def print_peak():
    with open("/proc/self/status") as status:
        print(re.search(r"VmHWM:\s+(\d+)", status.read())[1], file=sys.stderr)
atexit.register(print_peak)
"""


@dataclass(frozen=True)
class Run:
    """Time, peak memory and standard output of a process."""

    wall_s: float
    peak_mb: float
    output: str


def run(code: str) -> Run:
    """Run Python code in a new process.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    started = time.perf_counter()
    completed = subprocess.run(
        [sys.executable, "-c", _PRINT_PEAK + code], capture_output=True, check=True, text=True
    )
    peak_mb = int(completed.stderr.split()[-1]) * 1024 / 1e6
    return Run(time.perf_counter() - started, peak_mb, completed.stdout)


def starting() -> list[Measure]:
    """Measure time and memory of new processes, the best of five."""
    measures = []
    for what, (code, max_s, max_mb) in STARTS.items():
        runs = [run(code) for _ in range(5)]
        best_s, peak_mb = min(each.wall_s for each in runs), max(each.peak_mb for each in runs)
        measures.append(Measure(what, best_s, at_most=max_s, unit="s", note="best of 5"))
        measures.append(Measure(f"{what}, peak", peak_mb, at_most=max_mb, unit="MB"))
    return measures


def generators() -> list[Measure]:
    """Compare the peak memory for the frames of a generator and for ten times as many."""
    with instant_server() as target:
        code = [GENERATOR.format(target=target, frames=frames) for frames in GENERATED_FRAMES]
        short_mb, long_mb = (run(each).peak_mb for each in code)
    what = "peak memory, a generator ten times longer, 640x480"
    note = f"{short_mb:.0f} and {long_mb:.0f} MB for {GENERATED_FRAMES} frames"
    return [Measure(what, long_mb / short_mb, at_most=1.05, note=note)]
