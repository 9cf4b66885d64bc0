"""`make bench`: speed of the network, the server and the client, and of their peers, in one run.

Writes BENCHMARKS.json, with every repetition, and from it BENCHMARKS.md and the README's sentence.
Competitors are processes that wait while another one runs, and their repetitions alternate, so that
what else happens on the machine affects all of them. `--only` runs some sections and writes to
build/bench.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the exporter's command and the images do.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from c3d_client import ClipWindow, decode_frames
from c3d_client.parallel import core_count
from c3d_client.video.clips import iter_batches
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.weights import random_weights
from c3d_export.weights.canonical import swap_red_and_blue
from support.measures import cosine, relative
from support.videos import h264_sample

from benchmarks import report
from benchmarks.client import client_measures
from benchmarks.machine import has_bfloat16, provenance
from benchmarks.peers import PEERS
from benchmarks.pipe import Child, ChildError
from benchmarks.report import (
    BARE,
    BATCHES,
    BF16,
    DIRECT,
    END_TO_END,
    GEMM,
    NETWORK,
    NO_ONEDNN,
    ORIGINAL,
    PARTS,
    SERVED,
    SERVER,
    WINOGRAD,
)
from benchmarks.videos import large, small

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench"
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
SECTIONS = ("network", "end-to-end", "client")
SEED = 0
CLIPS = 32
PEER_BATCHES = (1, 8)
CLIENTS = (1, 4, 16)
VIDEOS = 4  # of each size, extracted at the same time
# fc6 relative to ours in float32. bfloat16 has 8 bits of mantissa.
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}
EXPORT = (sys.executable, "-m", "c3d_export", "build")
# precision and convolution of each servable
BUILDS = {
    DIRECT: ("float32", "direct"),
    WINOGRAD: ("float32", "winograd"),
    BF16: ("bfloat16", "direct"),
}


class BuildError(Exception):
    """A servable cannot be built; the message is one line."""


@dataclass
class Results:
    """What a run has measured; becomes the JSON file's ``bench``."""

    provenance: dict[str, Any]
    settings: dict[str, Any]
    competitors: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    series: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    client: list[dict[str, Any]] = field(default_factory=list)

    def add(self, section: str, name: str, case: str, value: float, unit: str = "s a clip") -> None:
        """Append a repetition."""
        key = (section, name, case)
        entry = {"section": section, "name": name, "case": case, "unit": unit, "values": []}
        self.series.setdefault(key, entry)["values"].append(value)

    def as_json(self) -> dict[str, Any]:
        """Return the results as JSON's types."""
        return {**asdict(self), "series": list(self.series.values())}


class Competitors:
    """The running child processes by name. One that fails is dropped, with its reason."""

    def __init__(self, results: Results) -> None:
        self.children: dict[str, Child] = {}
        self._results = results

    def __enter__(self) -> Competitors:
        return self

    def __exit__(self, *error: object) -> None:
        for child in self.children.values():
            child.close()

    def start(self, name: str, command: Sequence[str], **environment: str | None) -> None:
        """Start a process and wait until it is ready."""
        progress(f"start {name}")
        log = WORK / "logs" / f"{name}.log"
        try:
            child = Child(command, log=log, environment=environment)
        except (ChildError, OSError) as error:
            self.drop(name, str(error))
        else:
            self.children[name] = child
            self._results.competitors[name] = child.about

    def drop(self, name: str, reason: str) -> None:
        """End a process and record why it has no results, or no more."""
        progress(f"not run: {name}: {reason}")
        self._results.not_run[name] = reason
        if child := self.children.pop(name, None):
            child.close()

    def ask(self, name: str, request: str, **arguments: Any) -> Any:
        """Return the answer of a process; None if it is not running, or now failed."""
        if name not in self.children:
            return None
        try:
            return self.children[name].ask(request, **arguments)
        except ChildError as error:
            self.drop(name, str(error))
            return None


def main() -> int:
    arguments = parser().parse_args()
    sections = arguments.only or SECTIONS
    out = ROOT if sections == SECTIONS and arguments.width == 64 else WORK
    out = arguments.out or out
    shutil.rmtree(WORK / "logs", ignore_errors=True)
    (WORK / "logs").mkdir(parents=True)
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[variable] = str(core_count())
    started = time.perf_counter()
    results = Results(
        provenance=provenance(),
        settings={
            "width": arguments.width,
            "threads": core_count(),
            "seed": SEED,
            "clips": "bikes, every 7 frames",
        },
    )
    versions = build_servables(results, arguments.width)
    write_inputs(arguments.width)
    if "network" in sections:
        measure_network(results, versions, arguments)
    if "end-to-end" in sections:
        measure_end_to_end(results, versions, arguments)
    if "client" in sections:
        progress("the client's bounds")
        results.client = [asdict(m) for m in client_measures(versions[DIRECT], progress)]
    for version in versions.values():
        shutil.rmtree(version.parent)
    results.provenance["minutes"] = round((time.perf_counter() - started) / 60, 1)
    out.mkdir(parents=True, exist_ok=True)
    report.write(out, bench=results.as_json())
    progress(f"written: {out / 'BENCHMARKS.md'}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(prog="make bench", description=__doc__)
    options.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to run")
    options.add_argument("--width", type=int, default=64, help="conv1's filters; C3D has 64")
    options.add_argument("--rounds", type=int, default=5, help="at most so many repetitions")
    options.add_argument("--minutes", type=float, default=5.0, help="time limit of a section")
    options.add_argument("--out", type=Path, help="folder of the files")
    return options


def progress(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def build_servables(results: Results, width: int) -> dict[str, Path]:
    """Build a servable for each of BUILDS that the exporter and the CPU have; returns versions.

    Raises:
        SystemExit: the first one cannot be built.
    """
    command = [*EXPORT, "--help"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    versions = {}
    for name, (precision, convolution) in BUILDS.items():
        if precision == "bfloat16" and not has_bfloat16():
            results.not_run[name] = "this CPU has no bfloat16 instructions"
            continue
        options = ["--width", str(width), "--precision", precision]
        if "--convolution" in shown:
            options += ["--convolution", convolution]
        elif convolution != "direct":
            results.not_run[name] = "this exporter has no option --convolution"
            continue
        try:
            versions[name] = build_servable(name, options) / "1"
        except BuildError as error:
            results.not_run[name] = str(error)
            progress(f"not run: {name}: {error}")
    if DIRECT not in versions:
        raise SystemExit(f"make bench: {DIRECT}: {results.not_run[DIRECT]}")
    return versions


def build_servable(name: str, options: Sequence[str]) -> Path:
    """Build a servable with random weights; returns the model's folder.

    Raises:
        BuildError: `c3d-export build` fails; the message is its last line.
    """
    progress(f"build {name}")
    base = WORK / "servables" / name.replace(", ", "-").replace(" ", "-")
    shutil.rmtree(base, ignore_errors=True)
    command = [*EXPORT, "--weights", f"random:{SEED}", *options, "--out", str(base)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return base


def write_inputs(width: int) -> None:
    """Write the clips, and the weights and the mean for the peers."""
    window = ClipWindow(stride=7)
    batches = iter_batches(decode_frames(h264_sample("bikes")), window, size=CLIPS)
    np.save(WORK / "clips.npy", next(iter(batches)).pixels)
    arrays = swap_red_and_blue(random_weights(SEED, width=width).arrays)
    mean = read_mean(SPORTS1M_SCALARS).bgr[..., ::-1]
    (WORK / "network.onnx").unlink(missing_ok=True)
    np.savez(WORK / "network.npz", mean=np.ascontiguousarray(mean), **arrays)


def measure_network(
    results: Results, versions: dict[str, Path], arguments: argparse.Namespace
) -> None:
    """Measure the network alone, ours and the peers', and the peak of matrix products."""
    with Competitors(results) as competitors:
        ours = list(versions)
        for name, version in versions.items():
            command = ours_command("bare", version, WORK / "clips.npy")
            competitors.start(name, command)
        command = ours_command("bare", versions[DIRECT], WORK / "clips.npy")
        competitors.start(NO_ONEDNN, command, TF_ENABLE_ONEDNN_OPTS="0")
        competitors.start(GEMM, ours_command("gemm"))
        start_peers(competitors, results)
        check_fc6(competitors, results)
        names = [name for name in competitors.children if name != GEMM]
        products = [("TensorFlow", "float32"), ("NumPy", "float32")]
        if has_bfloat16():
            products.append(("TensorFlow", "bfloat16"))

        def batch(name: str, size: int) -> tuple[str, Callable[[], None]]:
            def repetition() -> None:
                calls = max(1, 8 // size)
                seconds = competitors.ask(name, "seconds", batch=size, calls=calls)
                if seconds is not None:
                    results.add(NETWORK, name, f"batch {size}", seconds / (calls * size))

            return f"{name}, batch {size}", repetition

        def product(library: str, dtype: str) -> tuple[str, Callable[[], None]]:
            def repetition() -> None:
                flops = competitors.ask(GEMM, "flops", library=library, dtype=dtype)
                if flops is not None:
                    results.add(GEMM, library, dtype, flops / 1e9, "GFLOP/s")

            return f"{GEMM}, {library}, {dtype}", repetition

        repetitions = [product(*each) for each in products]
        for name in names:
            repetitions += [batch(name, size) for size in PEER_BATCHES]
        largest = [batch(name, max(BATCHES)) for name in ours]
        warm_up(results, repetitions)
        idle_use = max(idle_cores(competitors).values())
        results.settings["idle competitors, cores"] = idle_use
        progress(f"idle competitors use {idle_use:.3f} cores together")
        run_rounds("network", repetitions, arguments)
        warm_up(results, largest)
        run_rounds("network, largest batch", largest, arguments)


def ours_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.ours", *map(str, arguments)]


def start_peers(competitors: Competitors, results: Results) -> None:
    for name in PEERS:
        if PEERS_PYTHON.exists():
            command = [str(PEERS_PYTHON), "-m", "benchmarks.peers", name]
            competitors.start(name, [*command, str(WORK), str(core_count())])
        else:
            results.not_run[name] = "not installed; `make bench-peers` installs it"


def check_fc6(competitors: Competitors, results: Results) -> None:
    """Compare everybody's fc6 of 8 clips with ours in float32; who is wrong is not measured."""
    reference: np.ndarray | None = None
    for name in [name for name in competitors.children if name != GEMM]:
        path = WORK / "fc6.npy"
        path.unlink(missing_ok=True)
        competitors.ask(name, "fc6", path=str(path), count=8)
        if not path.exists():
            continue
        fc6 = np.load(path)
        reference = fc6 if reference is None else reference
        difference = relative(fc6, reference)
        about = results.competitors[name]
        about |= {"difference": difference, "cosine": cosine(fc6, reference)}
        if not difference <= BOUNDS[about["precision"]]:
            competitors.drop(name, f"its fc6 differs by {difference:.1e} from {DIRECT}")


def warm_up(results: Results, repetitions: Sequence[tuple[str, Callable[[], None]]]) -> None:
    """Run everything once and forget the results: the first runs allocate memory and compile."""
    kept = {key: list(entry["values"]) for key, entry in results.series.items()}
    progress("warm up")
    for _, repetition in repetitions:
        repetition()
    results.series = {key: results.series[key] | {"values": kept[key]} for key in kept}


def run_rounds(
    title: str,
    repetitions: Sequence[tuple[str, Callable[[], None]]],
    arguments: argparse.Namespace,
) -> None:
    """Run every repetition in each round; the order is reversed in every second round.

    The time limit ends the rounds, but not before the third.
    """
    started = time.perf_counter()
    for number in range(arguments.rounds):
        elapsed = time.perf_counter() - started
        if number >= 3 and elapsed * (number + 1) / number > arguments.minutes * 60:
            progress(f"{title}: the time limit ends the measurement after {number} rounds")
            return
        progress(f"{title}: round {number + 1} of {arguments.rounds}")
        for _, repetition in list(repetitions)[:: 1 if number % 2 == 0 else -1]:
            repetition()


def idle_cores(competitors: Competitors, seconds: float = 2.0) -> dict[str, float]:
    """Return how many cores each waiting process uses."""
    before = {name: child.cpu_s() for name, child in competitors.children.items()}
    time.sleep(seconds)
    return {
        name: (child.cpu_s() - before[name]) / seconds
        for name, child in competitors.children.items()
    }


def measure_end_to_end(
    results: Results, versions: dict[str, Path], arguments: argparse.Namespace
) -> None:
    """Measure the default servable: bare, served, from files, and the original way."""
    name = WINOGRAD if WINOGRAD in versions else DIRECT
    results.settings["served"] = name
    version = versions[name]
    videos = {"320x240": small(WORK, times=1), "1280x720": large(WORK, times=1)}
    with Competitors(results) as competitors:
        command = ours_command("server", version.parent, WORK / "clips.npy")
        competitors.start(SERVER, command)
        if SERVER not in competitors.children:
            return
        target = competitors.children[SERVER].about["target"]
        command = ours_command("client", target, WORK / "clips.npy")
        competitors.start(SERVED, command)
        competitors.start(
            ORIGINAL,
            ours_command("original", SEED, arguments.width),
            TF_ENABLE_ONEDNN_OPTS=None,
        )
        check_video_features(competitors, results, videos["320x240"])

        def bare() -> None:
            calls = 8
            seconds = competitors.ask(SERVER, "seconds", batch=8, calls=calls)
            if seconds is not None:
                results.add(BARE, name, "batch 8", seconds / (calls * 8))

        def served(clients: int) -> Callable[[], None]:
            def repetition() -> None:
                requests = max(8, clients)
                answer = competitors.ask(
                    SERVED, "served_clip_s", clients=clients, requests=requests
                )
                if answer is not None:
                    results.add(SERVED, name, f"{clients} clients", answer)

            return repetition

        def extract(size: str) -> Callable[[], None]:
            def repetition() -> None:
                paths = [str(videos[size])] * VIDEOS
                answer = competitors.ask(SERVED, "extract", videos=paths)
                if answer is not None:
                    results.add(END_TO_END, name, size, answer["clip_s"])

            return repetition

        def original(size: str) -> Callable[[], None]:
            def repetition() -> None:
                answer = competitors.ask(ORIGINAL, "clip_s", video=str(videos[size]))
                if answer is not None:
                    results.add(ORIGINAL, "Keras predict", size, answer)

            return repetition

        def parts() -> None:
            for size, video in videos.items():
                answer = competitors.ask(SERVED, "decode", video=str(video), seconds=1.0)
                if answer is not None:
                    for step in ("decode", "exact", "fast"):
                        results.add(PARTS, step, size, answer[step], "frames/s of a core")
            answer = competitors.ask(SERVED, "messages", seconds=0.5)
            if answer is not None:
                results.add(PARTS, "request", "32 clips", answer["gb_per_s"], "GB/s")

        repetitions = [("bare", bare), ("parts", parts)]
        repetitions += [(f"{clients} clients", served(clients)) for clients in CLIENTS]
        for size in videos:
            repetitions += [(f"extract {size}", extract(size)), ("original", original(size))]
        warm_up(results, repetitions[:3] + repetitions[5:])
        run_rounds("end to end", repetitions, arguments)


def check_video_features(competitors: Competitors, results: Results, video: Path) -> None:
    """Compare a video's feature of the client and of the original way."""
    features = []
    for name in (SERVED, ORIGINAL):
        path = WORK / "feature.npy"
        path.unlink(missing_ok=True)
        competitors.ask(name, "save", video=str(video), path=str(path))
        if path.exists():
            features.append(np.load(path))
    if len(features) == 2:
        difference = relative(features[1][None], features[0][None])
        results.competitors[ORIGINAL]["difference"] = difference
        if not difference <= BOUNDS["float32"]:
            competitors.drop(ORIGINAL, f"its feature differs by {difference:.1e} from the client's")


if __name__ == "__main__":
    sys.exit(main())
