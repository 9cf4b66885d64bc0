"""Cost of the client's process: memory for long videos, and time and memory to start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Measure
from benchmarks.server import instant_server
from benchmarks.videos import small

# The code of a process, and the limits of its time in seconds and its memory in MB.
STARTS = {
    "import c3d_client": ("import c3d_client", 0.35, 90),
    "from c3d_client import C3DClient": ("from c3d_client import C3DClient", 0.35, 90),
    "c3d --help": ("from c3d_client.cli import main; main(['--help'])", 0.3, 90),
}
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
    """Time and peak memory of a process."""

    wall_s: float
    peak_mb: float


def run(code: str) -> Run:
    """Run Python code in a new process.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    started = time.perf_counter()
    completed = subprocess.run(
        [sys.executable, "-c", _PRINT_PEAK + code], capture_output=True, check=True, text=True
    )
    return Run(time.perf_counter() - started, int(completed.stderr.split()[-1]) * 1024 / 1e6)


def memory() -> list[Measure]:
    """Measure the peak memory of `c3d extract` for a video ten times as long.

    The lowest of some runs counts: where other programs use the server's core, more requests wait
    in memory.
    """
    peaks: dict[int, list[float]] = {6: [], 60: []}
    with tempfile.TemporaryDirectory() as folder, instant_server() as target:
        videos = {times: small(Path(folder), times=times) for times in peaks}
        for _ in range(3):
            for times, video in videos.items():
                command = ["extract", str(video), "--out", folder, "--server", target]
                command += ["--quiet", "--overwrite"]
                process = run(f"from c3d_client.cli import main; main({command})")
                peaks[times].append(process.peak_mb)
    short, long = (min(values) for values in peaks.values())
    note = f"{short:.0f} MB for a minute, {long:.0f} MB for ten, the lowest of 3 runs"
    return [
        Measure("peak memory, a video ten times as long", long / short, at_most=1.05, note=note)
    ]


def starting() -> list[Measure]:
    """Measure time and memory of new processes, the best of five."""
    measures = []
    for what, (code, max_s, max_mb) in STARTS.items():
        runs = [run(code) for _ in range(5)]
        best_s, peak_mb = min(each.wall_s for each in runs), max(each.peak_mb for each in runs)
        measures.append(Measure(what, best_s, at_most=max_s, unit="s", note="best of 5"))
        measures.append(Measure(f"{what}, peak", peak_mb, at_most=max_mb, unit="MB"))
    return measures
