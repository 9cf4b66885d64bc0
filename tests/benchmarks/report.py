"""BENCHMARKS.md and the README's sentence about speed, written from BENCHMARKS.json alone.

The JSON file has the last run of `make bench` as ``bench`` and that of `make bench-scale` as
``scale``; each replaces only its own part. `python -m benchmarks.report` writes the texts again.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from c3d_client.core.contract import CLIP_BYTES, CLIP_STRIDE
from c3d_export.weights.canonical import FULL_WIDTH

from benchmarks.measure import HEADER, Measure, middle
from benchmarks.ours import GEMM_SIZES
from benchmarks.peers import PEERS

ROOT = Path(__file__).resolve().parents[2]
README_PART = re.compile(r"(?<=<!-- from BENCHMARKS.json -->\n).*?(?=<!-- end -->)", re.DOTALL)

# Competitors and sections of a run.
DIRECT, WINOGRAD, BF16 = "ours, float32, direct", "ours, float32, winograd", "ours, bfloat16"
NO_ONEDNN = "ours, float32, direct, oneDNN off"
OURS = (DIRECT, WINOGRAD, BF16, NO_ONEDNN)
NETWORK, GEMM, BARE = "network", "matrix product", "bare"
SERVER, SERVED = "server", "served"
END_TO_END, ORIGINAL, PARTS = "end to end", "the original way", "parts"
CHOSEN = "OpenVINO, its own choice"
BATCHES = (1, 8, 32)
SIZES = ("320x240", "1280x720")
# Output positions of each convolution, and input and output channels in widths; conv1 has 3 inputs.
_CONVOLUTIONS = (
    (16 * 112 * 112, None, 1),
    (16 * 56 * 56, 1, 2),
    (8 * 28 * 28, 2, 4),
    (8 * 28 * 28, 4, 4),
    (4 * 14 * 14, 4, 8),
    (4 * 14 * 14, 8, 8),
    (2 * 7 * 7, 8, 8),
    (2 * 7 * 7, 8, 8),
)


def clip_flops(width: int) -> int:
    """Return the floating-point operations of fc6 of a clip, by direct convolution."""
    fc6 = 16 * 8 * width * 4096
    return 2 * fc6 + 2 * sum(
        positions * 27 * (3 if inputs is None else inputs * width) * outputs * width
        for positions, inputs, outputs in _CONVOLUTIONS
    )


class Run:
    """The results of `make bench`, from the JSON file."""

    def __init__(self, bench: dict[str, Any]) -> None:
        self.bench = bench
        self._values = {
            (each["section"], each["name"], each["case"]): each["values"]
            for each in bench["series"]
        }

    def values(self, section: str, name: str, case: str) -> list[float]:
        """Return the repetitions; none if it was not run."""
        return self._values.get((section, name, case), [])

    def median(self, section: str, name: str, case: str) -> float | None:
        values = self.values(section, name, case)
        return statistics.median(values) if values else None

    def names(self, section: str) -> list[str]:
        """Return the competitors of a section, in their order."""
        return list(dict.fromkeys(name for part, name, _ in self._values if part == section))

    def why_not(self, name: str) -> str:
        """Return why a competitor has no results."""
        return self.bench["not_run"].get(name, "not part of this run")

    def precision(self, name: str) -> str:
        return self.bench["competitors"].get(name, {}).get("precision", "")

    @property
    def default(self) -> str:
        """The servable in float32 that is built by default."""
        return WINOGRAD if self.values(NETWORK, WINOGRAD, "batch 8") else DIRECT

    @property
    def served(self) -> str:
        """The servable of the sections with a server."""
        return self.bench["settings"].get("served", DIRECT)

    @property
    def best_peer(self) -> str | None:
        """The fastest peer in float32 at batch 8."""
        peers = {
            name: median
            for name in self.names(NETWORK)
            if name in PEERS and self.precision(name) == "float32"
            if (median := self.median(NETWORK, name, "batch 8")) is not None
        }
        return min(peers, key=lambda name: peers[name]) if peers else None

    def faster(
        self, section: tuple[str, str, str], than: tuple[str, str, str]
    ) -> tuple[float, ...]:
        """Return how many times as fast something is as another, for each round."""
        pairs = zip(self.values(*than), self.values(*section), strict=False)
        return tuple(other / own for other, own in pairs)


def targets(data: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each target: met, not met by how much, or not run and why."""
    rows: list[tuple[str, ...]] = []

    def add(what: str, bound: float | None, values: Sequence[float], why_not: str) -> None:
        if values:
            measure = Measure(what, at_least=bound, **middle(values))
            rows.append(measure.cells())
        else:
            rows.append((what, f"at least {bound:.3g}" if bound else "", "", "", why_not))

    if "bench" in data:
        _bench_targets(Run(data["bench"]), add)
    for measure in data.get("scale", {}).get("measures", ()):
        rows.append(Measure(**measure).cells())
    if "scale" not in data:
        rows.append(("throughput, 10 to 1,000 videos", "", "", "", "not run: `make bench-scale`"))
    return rows


def _bench_targets(run: Run, add: Any) -> None:
    avx512 = "avx512f" in run.bench["provenance"]["machine"]["flags"]
    bound = 1.4 if avx512 else 1.7
    ours, peer = (NETWORK, run.default, "batch 8"), run.best_peer
    title = f"float32, batch 8: {run.default}, over the best peer"
    if peer is None:
        add(title, bound, (), "not run: no peer in float32")
    else:
        add(f"{title}, {peer}", bound, run.faster(ours, (NETWORK, peer, "batch 8")), "")
    add(
        "float32, batch 8: Winograd over direct, both ours",
        1.4 if avx512 else None,
        run.faster((NETWORK, WINOGRAD, "batch 8"), (NETWORK, DIRECT, "batch 8")),
        f"not run: {run.why_not(WINOGRAD)}",
    )
    bfloat16 = run.precision(CHOSEN) == "bfloat16"
    chosen = "OpenVINO did not choose bfloat16" if run.precision(CHOSEN) else run.why_not(CHOSEN)
    add(
        "bfloat16, batch 8: ours over OpenVINO's",
        1.0,
        run.faster((NETWORK, BF16, "batch 8"), (NETWORK, CHOSEN, "batch 8")) if bfloat16 else (),
        f"not run: {chosen if run.values(NETWORK, BF16, 'batch 8') else run.why_not(BF16)}",
    )
    bare = (BARE, run.served, "batch 8")
    for clients in (1, 4, 16):
        add(
            f"served over bare, {clients} client{'s' if clients > 1 else ''}",
            0.97 if clients == 4 else None,
            run.faster((SERVED, run.served, f"{clients} clients"), bare),
            f"not run: {run.why_not(SERVED)}",
        )
    for size in SIZES:
        add(
            f"end to end over bare, {size}",
            0.95 if size == SIZES[0] else None,
            run.faster((END_TO_END, run.served, size), bare),
            f"not run: {run.why_not(SERVED)}",
        )
    for size in SIZES:
        add(
            f"end to end over the original way, {size}",
            3.0,
            run.faster((END_TO_END, run.served, size), (ORIGINAL, "Keras predict", size)),
            f"not run: {run.why_not(ORIGINAL)}",
        )


def page(data: dict[str, Any]) -> str:
    """Return BENCHMARKS.md."""
    parts = [
        "# Benchmarks\n\n`make bench` and `make bench-scale` write this page. `BENCHMARKS.json` "
        "has every repetition. Ratios are of values of the same round; a row shows the median, and "
        "the lowest and the highest of the rounds. GPUs are not measured. "
        + (_narrow(Run(data["bench"])) if "bench" in data else ""),
        "## Targets\n\nRatios of speeds have a lower bound, ratios of memory an upper one.\n\n"
        + table(HEADER, targets(data)),
    ]
    if "bench" in data:
        run = Run(data["bench"])
        sections = (_network, _peak, _served, _end_to_end, _parts, _client, _not_run)
        parts += [text for section in sections if (text := section(run))]
    if "scale" in data:
        parts.append(_scale(data["scale"]))
    if "bench" in data:
        parts.append(_conditions(Run(data["bench"])))
    return "\n\n".join(parts) + "\n"


def _network(run: Run) -> str:
    rows = []
    for name in run.names(NETWORK):
        cells = [spread(run.values(NETWORK, name, f"batch {batch}")) for batch in BATCHES]
        about = run.bench["competitors"][name]
        difference = f"{about['difference']:.0e}" if "difference" in about else ""
        rows.append((name, about["precision"], *cells, difference))
    if not rows:
        return ""
    header = ("", "precision", *(f"batch {batch}" for batch in BATCHES), "fc6 differs by")
    return (
        "## The network alone\n\nSeconds a clip, from uint8 clips `[n, 16, 112, 112, 3]` in memory "
        "to fc6. Every library subtracts the mean itself and has the same weights, clips and "
        f"threads ({run.bench['settings']['threads']}). The difference is relative to the first "
        "row.\n\n" + table(header, rows)
    )


def _peak(run: Run) -> str:
    products = ("TensorFlow", "float32"), ("NumPy", "float32"), ("TensorFlow", "bfloat16")
    rows = [
        (library, dtype, spread(values))
        for library, dtype in products
        if (values := run.values(GEMM, library, dtype))
    ]
    if not rows:
        return ""
    flops = clip_flops(run.bench["settings"]["width"]) / 1e9
    reached = []
    for name, dtype in ((DIRECT, "float32"), (WINOGRAD, "float32"), (BF16, "bfloat16")):
        clip_s = run.median(NETWORK, name, "batch 8")
        peaks = [
            value
            for library, of in products
            if of == dtype
            for value in run.values(GEMM, library, of)
        ]
        if clip_s and peaks:
            speed = flops / clip_s
            reached.append((name, f"{speed:.0f}", f"{speed / max(peaks):.2f}"))
    *smaller, largest = map(str, GEMM_SIZES)
    sizes = f"{', '.join(smaller)} or {largest}"
    return (
        f"## The machine's peak\n\nGFLOP/s of a product of two square matrices with {sizes} rows, "
        "whichever is fastest; the second one is a constant, as weights are.\n\n"
        + table(("library", "precision", "GFLOP/s"), rows)
        + f"\n\nA clip has {flops:.1f} GFLOP by direct convolution. The fraction is that of the "
        "fastest product of all rounds. It can exceed 1: Winograd's form needs fewer operations "
        "than this count, and a convolution need not form its matrices in memory.\n\n"
        + table(("batch 8", "GFLOP/s", "fraction of the peak"), reached)
    )


def _served(run: Run) -> str:
    bare = (BARE, run.served, "batch 8")
    if not run.values(*bare):
        return ""
    rows = [("no server", spread(run.values(*bare)), "", "")]
    for clients in (1, 4, 16):
        key = (SERVED, run.served, f"{clients} clients")
        if values := run.values(*key):
            ratio = middle(run.faster(key, bare))
            rows.append((str(clients), spread(values), f"{ratio['measured']:.3f}", ratio["note"]))
    return (
        f"## Served\n\nSeconds a clip of `{run.served}` with `c3d-export serve`'s server and "
        "clients on the same cores, in requests of 8 clips.\n\n"
        + table(("clients", "seconds a clip", "relative to no server", "spread"), rows)
    )


def _end_to_end(run: Run) -> str:
    rows = []
    for size in SIZES:
        key = (END_TO_END, run.served, size)
        if not run.values(*key):
            continue
        ratios = [
            f"{middle(values)['measured']:.3f}" if (values := run.faster(key, than)) else "not run"
            for than in (
                (BARE, run.served, "batch 8"),
                (ORIGINAL, "Keras predict", size),
            )
        ]
        original = run.values(ORIGINAL, "Keras predict", size)
        rows.append((size, spread(run.values(*key)), spread(original), *ratios))
    if not rows:
        return ""
    difference = run.bench["competitors"].get(ORIGINAL, {}).get("difference")
    agreement = f" Their video features differ by {difference:.0e}." if difference else ""
    return (
        "## End to end\n\nSeconds a clip from files: `extract_many` with the server on the same "
        "cores, and the original way: OpenCV decodes the whole video, Keras's `predict` computes "
        f"one clip at a time.{agreement}\n\n"
        + table(
            ("video", "extract_many", "original way", "relative to no server", "to the original"),
            rows,
        )
    )


def _parts(run: Run) -> str:
    rows = []
    for size in SIZES:
        speeds = {step: run.median(PARTS, step, size) for step in ("decode", "exact", "fast")}
        if not all(speeds.values()):
            continue
        for step, what in (
            ("decode", "decode"),
            ("exact", "decode, resize exactly, crop"),
            ("fast", "decode, resize fast, crop"),
        ):
            clip_ms = 1000 * CLIP_STRIDE / speeds[step]
            rows.append((f"{what}, {size}", f"{clip_ms:.2f}", f"{speeds[step]:.0f} frames/s"))
    if speed := run.median(PARTS, "request", "32 clips"):
        rows.append(
            (
                "serialise and parse a request",
                f"{CLIP_BYTES / speed / 1e6:.2f}",
                f"{speed:.1f} GB/s",
            )
        )
    if not rows:
        return ""
    compute = run.median(BARE, run.served, "batch 8")
    cores = run.bench["provenance"]["machine"]["cores"]
    if compute:
        rows.append((f"compute, on {cores} cores", f"{1000 * compute * cores:.2f}", run.served))
    return (
        "## Decode, wire and compute apart\n\nMilliseconds of one core for a clip. A clip has "
        f"{CLIP_STRIDE} new frames.\n\n" + table(("part", "ms a clip", "that is"), rows)
    )


def _client(run: Run) -> str:
    if not run.bench["client"]:
        return ""
    rows = [Measure(**measure).cells() for measure in run.bench["client"]]
    return (
        "## The client\n\nThe server answers at once, in a process of its own. `extract` over "
        "decoding compares frames per CPU-second with libavcodec alone, on one core.\n\n"
        + table(HEADER, rows)
    )


def _not_run(run: Run) -> str:
    rows = list(run.bench["not_run"].items())
    return "## Not run\n\n" + table(("what", "why"), rows) if rows else ""


def _scale(scale: dict[str, Any]) -> str:
    return (
        f"## Scale\n\n{scale['text']}\n\n"
        + table(scale["header"], scale["rows"])
        + "\n\n"
        + _where(scale["provenance"])
    )


def _conditions(run: Run) -> str:
    settings = run.bench["settings"]
    idle = settings.get("idle competitors, cores")
    lines = [
        "Every competitor is a process of its own. One runs at a time; the others wait"
        + (f", and use {idle:.3f} cores together." if idle is not None else "."),
        "Each round runs one repetition of everything. Every second round has the reverse order. "
        "A warm-up round is not counted.",
        "Our network runs as in the images, with `TF_ENABLE_ONEDNN_OPTS=1`. The original way has "
        "TensorFlow's own choice.",
        f"Weights are `random:{settings['seed']}`, width {settings['width']}. Clips are of a real "
        "video. Speed does not depend on the weights.",
    ]
    versions = dict(run.bench["provenance"]["versions"])
    for name, about in run.bench["competitors"].items():
        if name in PEERS:
            versions[name.partition(",")[0]] = about["version"]
    return (
        "## How it was measured\n\n"
        + "\n".join(f"- {line}" for line in lines)
        + f"\n\n{_where(run.bench['provenance'])}\n\n"
        + table(("package", "version"), list(versions.items()))
    )


def _where(provenance: dict[str, Any]) -> str:
    minutes = f", {provenance['minutes']} minutes" if "minutes" in provenance else ""
    return (
        f"Measured on {machine_text(provenance['machine'])}, {provenance['machine']['memory_gb']} "
        f"GB of memory, {provenance['machine']['system']}. {provenance['date']}, commit "
        f"{provenance['commit']}{minutes}."
    )


def machine_text(machine: dict[str, Any]) -> str:
    """Return the machine in a phrase."""
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    flags = ", ".join(machine["flags"]) or "no vector instructions known here"
    return f"{cores} of {machine['cpu']} ({flags})"


def readme(data: dict[str, Any]) -> str:
    """Return the README's lines about speed."""
    run = Run(data["bench"])
    texts = [f"Measured on {machine_text(run.bench['provenance']['machine'])}. {_narrow(run)}"]
    network = run.median(NETWORK, run.default, "batch 8")
    if network is not None:
        texts.append(f"The network takes {network:.3f} s a clip in float32")
        if (peer := run.best_peer) is not None:
            ratio = statistics.median(
                run.faster((NETWORK, run.default, "batch 8"), (NETWORK, peer, "batch 8"))
            )
            texts.append(f"({ratio:.2f} times the speed of the best peer, {peer})")
        if (half := run.median(NETWORK, BF16, "batch 8")) is not None:
            texts.append(f"and {half:.3f} s in bfloat16")
        texts[-1] += "."
    key = (END_TO_END, run.served, SIZES[0])
    bare, original = (BARE, run.served, "batch 8"), (ORIGINAL, "Keras predict", SIZES[0])
    if ratios := run.faster(key, bare):
        clip_s = run.median(*key) or 0.0
        texts.append(
            f"From files of {SIZES[0]}, `extract_many` has {1 / clip_s:.1f} clips per second: "
            f"{statistics.median(ratios):.2f} of the network's speed without a server"
        )
        if ratios := run.faster(key, original):
            texts.append(
                f"and {statistics.median(ratios):.1f} times that of Keras's `predict` with one "
                "clip at a time"
            )
        texts[-1] += "."
    return (
        "\n".join(
            textwrap.wrap(" ".join(text.strip() for text in texts), 100, break_on_hyphens=False)
        )
        + "\n"
    )


def _narrow(run: Run) -> str:
    """Return a warning if the network was not the full one."""
    width = run.bench["settings"]["width"]
    full = "This is a trial with a network of width {}, not C3D."
    return "" if width == FULL_WIDTH else full.format(width)


def spread(values: Sequence[float]) -> str:
    """Return median, lowest and highest."""
    if not values:
        return ""
    digits = ".3f" if max(values) < 10 else ".0f"
    middle_, low, high = statistics.median(values), min(values), max(values)
    return f"{middle_:{digits}} ({low:{digits}} to {high:{digits}})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned for a terminal."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, tuple("-" * max(3, width) for width in widths))
    return "\n".join(
        "| "
        + " | ".join(f"{cell:<{max(3, width)}}" for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def write(folder: Path, **parts: dict[str, Any]) -> None:
    """Replace parts of a folder's BENCHMARKS.json, and write the texts from it.

    The repository's README changes only with the repository's own files.
    """
    file = folder / "BENCHMARKS.json"
    data = {**(json.loads(file.read_text()) if file.exists() else {}), **parts}
    file.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    write_texts(folder, json.loads(file.read_text()))  # its order is that of the file


def write_texts(folder: Path, data: dict[str, Any]) -> None:
    """Write BENCHMARKS.md, and in the repository the README's part where it has one."""
    (folder / "BENCHMARKS.md").write_text(page(data))
    if folder == ROOT and "bench" in data:
        path = ROOT / "README.md"
        path.write_text(README_PART.sub(lambda _: readme(data), path.read_text()))


def main() -> int:
    write_texts(ROOT, json.loads((ROOT / "BENCHMARKS.json").read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
