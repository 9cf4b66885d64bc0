"""`make bench-estimate`: the estimate compared with measured runs.

Rates are measured as `c3d bench` does, the time of a longer run of videos of many lengths is
estimated from them, and a shard's worker does that run; the ratio of the two times is printed. The
server is another process, on another core as on a cluster, or shares all cores. Each round measures
the rates before and after its run, so that other load on the machine affects both.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from c3d_client import ClipWindow
from c3d_client.bench import batch_speed, decode_speed
from c3d_client.parallel import core_count
from c3d_pipelines.estimate.rates import Cluster, read_bench
from c3d_pipelines.estimate.simulate import Job, estimate
from c3d_pipelines.estimate.video_stats import VideoStats, known_workload
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import OK
from c3d_pipelines.shards.worker import do_shard

from benchmarks.client import in_own_process
from benchmarks.measure import Measure, middle
from benchmarks.server import server_process
from benchmarks.videos import large, small

ROUNDS = 5
SECONDS = 2.0  # for each measurement of a rate
BATCH_SIZE = 8
FPS = 25.0
# Lengths of the run's videos, in repeats of one short video: many short ones, few long ones.
LENGTHS = (1, 1, 3, 1, 2, 1, 1, 8, 1, 2, 1, 1, 4, 1, 1, 2, 1, 6, 1, 1, 3, 1, 2, 1)
MAX_ERROR = 0.2
SERVE = """
import os, sys
if sys.argv[3:]:
    os.sched_setaffinity(0, {int(sys.argv[3])})
from pathlib import Path
from c3d_export.local_server import LocalServer
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights import random_weights
base = Path(sys.argv[1])
weights = random_weights(7, width=int(sys.argv[2]))
labels = [f"label {number}" for number in range(weights.classes)]
mean = read_mean(SPORTS1M_SCALARS)
build(ServableSpec(weights=weights, mean=mean, labels=labels, batch_sizes=(1, 8)), base)
server = LocalServer(base)
server.start()
print(server.target, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Case:
    """One run.

    Args:
        name: its bottleneck and resolution, for the table.
        video: which videos to make, ``large`` or ``small``.
        filters: of the network's first layer; 64 in the full network.
        stride: of clips.
        own_core: the server has a core for itself.
    """

    name: str
    video: str
    filters: int
    stride: int
    own_core: bool


CASES = {
    "decoding": Case("decoding, 1280x720", "large", 4, 16, True),
    "small": Case("decoding, 320x240", "small", 4, 32, True),
    "server": Case("the server, 320x240", "small", 12, 8, True),
    "together": Case("both on the same cores, 320x240", "small", 8, 8, False),
}


def limited_by_decoding() -> list[Measure]:
    """Videos of 1280x720 and a small network."""
    return [ratio_of(CASES["decoding"])]


def small_videos() -> list[Measure]:
    """Short videos of 320x240, whose time is mostly that of their frames."""
    return [ratio_of(CASES["small"])]


def limited_by_the_server() -> list[Measure]:
    """A larger network and more clips."""
    return [ratio_of(CASES["server"])]


def shared_cores() -> list[Measure]:
    """`c3d-pipelines run` with a server on the same machine."""
    return [ratio_of(CASES["together"])]


PARTS = ("limited_by_decoding", "small_videos", "limited_by_the_server", "shared_cores")


def ratio_of(case: Case) -> Measure:
    """Measure the estimated time over the measured time."""
    ratios: list[float] = []
    bottlenecks: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, _server(case, Path(folder)) as target:
        rows = _rows(case, Path(folder))
        window = ClipWindow(stride=case.stride)
        settings = preflight(
            JobSettings(
                folder,
                "bench",
                server=target,
                window=window,
                batch_size=BATCH_SIZE,
                clip_rows=False,
            )
        )
        _measured_s(settings, rows[:2], Path(folder) / "first")
        for number in range(ROUNDS):
            before = _estimated_s(case, settings, rows, bottlenecks)
            measured_s = _measured_s(settings, rows, Path(folder) / f"out-{number}")
            after = _estimated_s(case, settings, rows, bottlenecks)
            ratios.append((before + after) / 2 / measured_s)
    ratio = middle(ratios)["measured"]
    spread = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    return Measure(
        f"estimated over measured, distance from 1: {case.name}",
        abs(ratio - 1),
        at_most=MAX_ERROR,
        digits=".2f",
        note=f"{ratio:.2f}, of {spread}; bottleneck: {' and '.join(sorted(bottlenecks))}",
    )


@contextlib.contextmanager
def _server(case: Case, folder: Path) -> Iterator[str]:
    """Start the server; where it has a core for itself, this process moves to another."""
    core = []
    if case.own_core:
        client_core, server_core = sorted(os.sched_getaffinity(0))[:2]
        core = [str(server_core)]
    with server_process("-c", SERVE, str(folder / "c3d"), str(case.filters), *core) as target:
        if case.own_core:
            os.sched_setaffinity(0, {client_core})
        yield target


def _rows(case: Case, folder: Path) -> list[ManifestRow]:
    make, frames = {"large": (large, 132), "small": (small, 250)}[case.video]
    videos = [make(folder, times=times) for times in LENGTHS]
    return [
        ManifestRow(
            f"video {number}", str(video), video.stat().st_size, times * frames / FPS, "key"
        )
        for number, (times, video) in enumerate(zip(LENGTHS, videos, strict=True))
    ]


def _estimated_s(
    case: Case, settings: JobSettings, rows: Sequence[ManifestRow], bottlenecks: set[str]
) -> float:
    """Estimate the run from rates that are measured now."""
    started, used = time.perf_counter(), time.process_time()
    speed = decode_speed(rows[0].uri, seconds=SECONDS)
    # On a shared core, a second of its time takes longer than a second.
    slowdown = (time.perf_counter() - started) / (time.process_time() - used)
    options = settings.serving()
    output = {
        "frames_per_core_s": speed.exact / max(slowdown, 1.0),
        "cores": core_count(),
        "decode": asdict(speed),
        "server": {
            "batches": [
                asdict(batch_speed(options, size, seconds=SECONDS)) for size in (1, BATCH_SIZE)
            ]
        },
    }
    bench = read_bench(json.dumps(output), batch_size=BATCH_SIZE)
    assert bench.rates is not None
    stats = VideoStats(fps=FPS, window=settings.window, batch_size=BATCH_SIZE)
    machine = Cluster(pods=1, cores=bench.cores, pod_start_s=0, one_machine=not case.own_core)
    work = known_workload([rows], stats=stats)
    result = estimate(Job(work, bench.rates, machine, failure_rate=0))
    bottlenecks.add(result.bottleneck)
    return result.wall_h.likely * 3600


def _measured_s(settings: JobSettings, rows: Sequence[ManifestRow], out: Path) -> float:
    started = time.perf_counter()
    report = do_shard(replace(settings, out=str(out)), rows, 0)
    assert report.counts[OK] == len(rows), report.counts
    return time.perf_counter() - started


def main() -> int:
    """Print a table row for each part, or for the parts whose names have one of the arguments."""
    parts = sys.argv[1:]
    print("| what | bound | measured | verdict | |\n|---|---|---|---|---|")
    for name in PARTS:
        if not parts or any(part in name for part in parts):
            for measure in in_own_process(("benchmarks.estimate", name)):
                print(measure.row(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
