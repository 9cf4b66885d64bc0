"""`make bench-scale`: throughput and memory of `c3d extract` from 10 to 1,000 videos, 10 s to 1 h.

A network of width 8 answers: the network's own speed does not depend on the number of videos.
Replaces the part ``scale`` of BENCHMARKS.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from benchmarks import report
from benchmarks.bench import ROOT, WORK, build_servable, ours_command, progress
from benchmarks.machine import provenance
from benchmarks.measure import Measure
from benchmarks.pipe import Child
from benchmarks.process import run
from benchmarks.videos import small

WIDTH = 8
STRIDE = 16  # twice the default, which halves the network's part in the time
# As many requests as the short videos have; longer ones would fill more of the window.
IN_FLIGHT = 4
FRAMES = 250  # of ten seconds
# Leaves out the start of the interpreter, and includes everything from reading the arguments.
EXTRACT = """
import sys, time
from c3d_client.cli import main
started = time.perf_counter()
try:
    main({arguments})
finally:
    print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Case:
    """Some videos, each of ten seconds this many times.

    Args:
        name: for the table.
        videos: number of videos.
        times: the length of each, in ten seconds.
        runs: how often it is measured.
    """

    name: str
    videos: int
    times: int
    runs: int = 1


FEW, MANY = Case("10 videos of 10 s", 10, 1, 6), Case("1,000 videos of 10 s", 1000, 1)
LONG = Case("1 video of 1 h", 1, 360)
CASES = (FEW, Case("100 videos of 10 s", 100, 1), MANY, Case("1 video of 6 min", 1, 36), LONG)


def main() -> int:
    options = argparse.ArgumentParser(prog="make bench-scale", description=__doc__)
    options.add_argument("--out", type=Path, default=ROOT, help="folder of the files")
    options.add_argument("--divide", type=int, default=1, help="fewer and shorter videos")
    arguments = options.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    scale = {"provenance": provenance(), **measure(cases(arguments.divide))}
    scale["provenance"]["minutes"] = round((time.perf_counter() - started) / 60, 1)
    report.write(arguments.out, scale=scale)
    progress(f"written: {arguments.out / 'BENCHMARKS.md'}")
    return 0


def cases(divide: int) -> Sequence[Case]:
    """Return the cases, with fewer and shorter videos for a trial of the benchmark itself."""
    return [
        Case(
            case.name if divide == 1 else f"{case.name}, divided by {divide}",
            max(1, case.videos // divide),
            max(1, case.times // divide),
            case.runs if divide == 1 else 2,
        )
        for case in CASES
    ]


def measure(cases: Sequence[Case]) -> dict[str, object]:
    """Measure all cases; returns the part ``scale`` of the JSON file."""
    (WORK / "logs").mkdir(parents=True, exist_ok=True)
    base = build_servable("scale", ["--width", str(WIDTH)])
    clips_per_s: dict[str, list[float]] = {case.name: [] for case in cases}
    client_mb: dict[str, list[float]] = {case.name: [] for case in cases}
    server_mb: dict[str, list[float]] = {case.name: [] for case in cases}
    server = Child(ours_command("server", base), log=WORK / "logs" / "scale.log")
    try:
        target = server.about["target"]
        few = cases[0]
        # The few videos are measured before and after the others.
        half = few.runs // 2
        order = [few] * (half + 1) + [c for c in cases[1:] for _ in range(c.runs)]
        for number, case in enumerate([*order, *[few] * (few.runs - half)]):
            progress(case.name)
            speed, peak_mb = extract(case, target)
            if number == 0:  # the first run warms up
                continue
            clips_per_s[case.name].append(speed)
            client_mb[case.name].append(peak_mb)
            server_mb[case.name].append(server.ask("memory_mb"))
    finally:
        server.close()
        shutil.rmtree(base)
    first, _, many, _, longest = (case.name for case in cases)
    speed = statistics.median(clips_per_s[first])
    note = f"{min(clips_per_s[first]):.1f} to {max(clips_per_s[first]):.1f} clips/s with 10"
    memory = {name: max(client_mb[name]) for name in client_mb}
    measures = [
        Measure(
            "throughput of 1,000 videos over 10, which include the start",
            clips_per_s[many][0] / speed,
            at_least=0.95,
            digits=".3f",
            note=f"{clips_per_s[many][0]:.1f} clips/s, {note}",
        ),
        Measure(
            "peak memory of the client, 1,000 videos over 10",
            memory[many] / memory[first],
            at_most=1.05,
            digits=".3f",
        ),
        Measure(
            "peak memory of the client, a video of 1 h over 10 of 10 s",
            memory[longest] / memory[first],
            at_most=1.05,
            digits=".3f",
        ),
        Measure(
            "memory of the server, at the end over the beginning",
            server_mb[first][-1] / server_mb[first][0],
            at_most=1.05,
            digits=".3f",
        ),
    ]
    return {
        "text": "`c3d extract` of folders, 320x240, from reading its arguments to the last file. "
        f"Clips start every {STRIDE} frames; at most {IN_FLIGHT} requests are in flight. The "
        f"network has width {WIDTH} and runs on the same cores. The peak (VmHWM) counts the "
        "process's own memory and the pages of mapped files, libraries included.",
        "header": ["videos", "clips/s", "peak of the client, MB", "server, MB"],
        "rows": [
            [
                name,
                report.spread(clips_per_s[name]),
                report.spread(client_mb[name]),
                report.spread(server_mb[name]),
            ]
            for name in clips_per_s
        ],
        "raw": {"clips_per_s": clips_per_s, "client_mb": client_mb, "server_mb": server_mb},
        "measures": [asdict(each) for each in measures],
    }


def extract(case: Case, target: str) -> tuple[float, float]:
    """Run `c3d extract` over a folder; returns clips per second, and the peak memory in MB."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        videos, out = Path(folder) / "videos", Path(folder) / "out"
        videos.mkdir()
        source = small(WORK, times=case.times)
        for number in range(case.videos):
            os.link(source, videos / f"{number:04}.mp4")
        command = ["extract", str(videos), "--out", str(out), "--server", target, "--quiet"]
        command += ["--stride", str(STRIDE), "--max-in-flight", str(IN_FLIGHT)]
        process = run(EXTRACT.format(arguments=command))
        written = len(list(out.glob("*.npz")))
        if written != case.videos:
            raise RuntimeError(f"{case.name}: {written} of {case.videos} videos have features")
    # The frames of a repeated video are consecutive, so it has more clips than its parts.
    clips = case.videos * ((FRAMES * case.times - 16) // STRIDE + 1)
    return clips / float(process.output), process.peak_mb


if __name__ == "__main__":
    sys.exit(main())
