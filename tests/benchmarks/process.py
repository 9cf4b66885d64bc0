"""What the client costs as a process: memory for long films, and time and memory to start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.films import small
from benchmarks.measure import Measure
from benchmarks.server import instant_server

# What a process is told to do, and the most seconds and MB that it may take.
STARTS = {
    "import c3d_client": ("import c3d_client", 0.35, 90),
    "from c3d_client import C3DClient": ("from c3d_client import C3DClient", 0.35, 90),
    "c3d --help": ("from c3d_client.cli import main; main(['--help'])", 0.3, 90),
}
# A parent's peak is counted as its child's by getrusage(); not so here.
_TELL = """
import atexit, re, sys
def tell():
    with open("/proc/self/status") as status:
        print(re.search(r"VmHWM:\s+(\d+)", status.read())[1], file=sys.stderr)
atexit.register(tell)
"""


@dataclass(frozen=True)
class Run:
    """What a process took."""

    wall_s: float
    peak_mb: float


def run(code: str) -> Run:
    """Run Python code in a fresh process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", _TELL + code], capture_output=True, check=True, text=True
    )
    return Run(time.perf_counter() - started, int(ended.stderr.split()[-1]) * 1024 / 1e6)


def memory() -> list[Measure]:
    """The peak of `c3d extract` for a film ten times as long.

    The lowest of some runs: where other programs take the server's core, more requests wait.
    """
    peaks: dict[int, list[float]] = {6: [], 60: []}
    with tempfile.TemporaryDirectory() as folder, instant_server() as target:
        films = {times: small(Path(folder), times=times) for times in peaks}
        for _ in range(3):
            for times, film in films.items():
                command = ["extract", str(film), "--out", folder, "--server", target]
                command += ["--quiet", "--overwrite"]
                ran = run(f"from c3d_client.cli import main; main({command})")
                peaks[times].append(ran.peak_mb)
    short, long = (min(found) for found in peaks.values())
    note = f"{short:.0f} MB for a minute, {long:.0f} MB for ten, the lowest of 3 runs"
    return [Measure("peak memory, ten times the film", long / short, at_most=1.05, note=note)]


def starting() -> list[Measure]:
    """Fresh processes, the best of five."""
    measures = []
    for what, (code, most_s, most_mb) in STARTS.items():
        runs = [run(code) for _ in range(5)]
        best_s, peak_mb = min(each.wall_s for each in runs), max(each.peak_mb for each in runs)
        measures.append(Measure(what, best_s, at_most=most_s, unit="s", note="best of 5"))
        measures.append(Measure(f"{what}, peak", peak_mb, at_most=most_mb, unit="MB"))
    return measures
