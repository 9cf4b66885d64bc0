"""`make bench-estimate`: the estimate held against runs that are measured.

Rates are measured as `c3d bench` does, the time of a longer run of films of many lengths is
predicted from them, and a shard's worker does it; the ratio of the two is printed. The server is in
a process of its own, and on a core of its own as on a cluster, or shares all of them. Each round
measures the rates anew, before and after, so that what else the machine does tells on both.
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
from c3d_pipelines.estimates.course import Job
from c3d_pipelines.estimates.estimate import estimate
from c3d_pipelines.estimates.footage import Footage
from c3d_pipelines.estimates.rates import Cluster, read_bench
from c3d_pipelines.estimates.workload import known_workload
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.schema import OK
from c3d_pipelines.shards.worker import do_shard

from benchmarks.client import in_own_process
from benchmarks.films import large, small
from benchmarks.measure import Measure, middle
from benchmarks.server import server_process

ROUNDS = 5
SECONDS = 2.0  # for each measure of a rate
BATCH_SIZE = 8
FPS = 25.0
# How often a film is repeated, of each that is done: many short ones, few long ones.
LENGTHS = (1, 1, 3, 1, 2, 1, 1, 8, 1, 2, 1, 1, 4, 1, 1, 2, 1, 6, 1, 1, 3, 1, 2, 1)
NEAR = 0.2
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
        what: it waits for.
        film: makes the films, of so many repeats.
        filters: of the network's first layer; 64 in the whole network.
        stride: of clips.
        apart: the server has a core of its own.
    """

    what: str
    film: str
    filters: int
    stride: int
    apart: bool


CASES = {
    "decoding": Case("decoding, 1280x720", "large", 4, 16, True),
    "small": Case("decoding, 320x240", "small", 4, 32, True),
    "server": Case("the server, 320x240", "small", 12, 8, True),
    "together": Case("both on the same cores, 320x240", "small", 8, 8, False),
}


def waits_for_decoding() -> list[Measure]:
    """Films of 1280x720, a small network."""
    return [ratio_of(CASES["decoding"])]


def small_films() -> list[Measure]:
    """Short films of 320x240, of which each takes little beside its frames."""
    return [ratio_of(CASES["small"])]


def waits_for_the_server() -> list[Measure]:
    """A larger network, and more clips for it."""
    return [ratio_of(CASES["server"])]


def shares_its_cores() -> list[Measure]:
    """As `c3d-pipelines run` with a server on the same machine."""
    return [ratio_of(CASES["together"])]


PARTS = ("waits_for_decoding", "small_films", "waits_for_the_server", "shares_its_cores")


def ratio_of(case: Case) -> Measure:
    """The time that is predicted over the time that it takes."""
    ratios: list[float] = []
    held: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, _server(case, Path(folder)) as target:
        rows = _rows(case, Path(folder))
        window = ClipWindow(stride=case.stride)
        asked = JobSettings(
            folder, "bench", server=target, window=window, batch_size=BATCH_SIZE, clip_rows=False
        )
        settings = preflight(asked)
        _taken_s(settings, rows[:2], Path(folder) / "first")
        for number in range(ROUNDS):
            before = _predicted_s(case, settings, rows, held)
            taken_s = _taken_s(settings, rows, Path(folder) / f"out-{number}")
            after = _predicted_s(case, settings, rows, held)
            ratios.append((before + after) / 2 / taken_s)
    found = middle(ratios)["measured"]
    spread = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    return Measure(
        f"predicted over measured, how far from 1: {case.what}",
        abs(found - 1),
        at_most=NEAR,
        digits=".2f",
        note=f"{found:.2f}, of {spread}; held up by {' and '.join(sorted(held))}",
    )


@contextlib.contextmanager
def _server(case: Case, folder: Path) -> Iterator[str]:
    """The server, and this process on another core where each has its own."""
    core = []
    if case.apart:
        own, other = sorted(os.sched_getaffinity(0))[:2]
        core = [str(other)]
    with server_process("-c", SERVE, str(folder / "c3d"), str(case.filters), *core) as target:
        if case.apart:
            os.sched_setaffinity(0, {own})
        yield target


def _rows(case: Case, folder: Path) -> list[ManifestRow]:
    make, frames = {"large": (large, 132), "small": (small, 250)}[case.film]
    films = [make(folder, times=times) for times in LENGTHS]
    return [
        ManifestRow(f"film {number}", str(film), film.stat().st_size, times * frames / FPS, "key")
        for number, (times, film) in enumerate(zip(LENGTHS, films, strict=True))
    ]


def _predicted_s(
    case: Case, settings: JobSettings, rows: Sequence[ManifestRow], held: set[str]
) -> float:
    """What the estimate makes of rates that are measured now."""
    started, worked = time.perf_counter(), time.process_time()
    speed = decode_speed(rows[0].uri, seconds=SECONDS)
    # A second of a core takes longer than one where others want the core too.
    lasted = (time.perf_counter() - started) / (time.process_time() - worked)
    options = settings.serving()
    bench = {
        "frames_per_core_s": speed.exact / max(lasted, 1.0),
        "cores": core_count(),
        "decode": asdict(speed),
        "server": {
            "batches": [
                asdict(batch_speed(options, size, seconds=SECONDS)) for size in (1, BATCH_SIZE)
            ]
        },
    }
    found = read_bench(json.dumps(bench), batch_size=BATCH_SIZE)
    assert found.rates is not None
    footage = Footage(fps=FPS, window=settings.window, batch_size=BATCH_SIZE)
    machine = Cluster(pods=1, cores=found.cores, pod_start_s=0, one_machine=not case.apart)
    work = known_workload([rows], footage=footage)
    told = estimate(Job(work, found.rates, machine, failure_rate=0))
    held.add(told.bottleneck)
    return told.wall_h.likely * 3600


def _taken_s(settings: JobSettings, rows: Sequence[ManifestRow], out: Path) -> float:
    started = time.perf_counter()
    report = do_shard(replace(settings, out=str(out)), rows, 0)
    assert report.counts[OK] == len(rows), report.counts
    return time.perf_counter() - started


def main() -> int:
    words = sys.argv[1:]
    print("| what | bound | measured | verdict | |\n|---|---|---|---|---|")
    for name in PARTS:
        if not words or any(word in name for word in words):
            for measure in in_own_process(("benchmarks.estimate", name)):
                print(measure.row(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
