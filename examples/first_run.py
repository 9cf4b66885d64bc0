"""`make example`: classify one video and extract its features, on this machine.

Weights -> SavedModel -> server with TensorFlow Serving's gRPC API -> client -> labels and features.
The published weights are used if they are in models/. Otherwise the demo weights are used, which
recognise no sports but the direction of motion, so that the labels of the rendered video can be
checked.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from pathlib import Path

from c3d_client import (
    C3DClient,
    C3DError,
    Timings,
    VideoClassification,
    decode_frames,
    write_npz,
)
from c3d_client.cli import bars
from c3d_client.core.contract import SPORTS1M_CLASSES
from c3d_export.assets import LABELS_FILE, MEAN_FILES, usable_weights
from moving_square import render

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
OUT = ROOT / "out" / "example"
CACHE = Path("build") / "example"  # below ROOT, where the commands run
# Standard error of the export command.
LOG = OUT / "export.log"
# No others are requested here, and each size prolongs the start of the server.
BATCH_SIZES = "1,8"


def main() -> int:
    """Run the example and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", nargs="?", default="", help="path; a rendered video by default")
    video = parser.parse_args().video
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        if not video:
            path = OUT / "film.mp4"
            render(path)
            video = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
            say(f"video       {video}, rendered: a square moves right, then down, then left")
        next(decode_frames(video))  # fails before the build if the file is not a video
        base = servable()
        with C3DClient.local(ROOT / base) as c3d:
            started = time.perf_counter()
            c3d.model_info()
            say(f"server      of {base}, after {time.perf_counter() - started:.1f} s")
            show_results(c3d, video)
    except C3DError as error:
        print(f"example: {error}", file=sys.stderr)
        return 2
    return 0


def show_results(c3d: C3DClient, video: str) -> None:
    """Classify one video, extract its features, and print both."""
    card = c3d.model_info().card
    classification = c3d.classify(video, top_k=5)
    features = c3d.extract(video)
    path = OUT / f"{Path(video).stem}.npz"
    write_npz(path, features)
    say(f"classify    {len(classification.clip_starts)} clips of 16 frames, every 8")
    print(bars(classification))
    say("over time")
    for start_s, end_s, label in best_over_time(classification):
        print(f"  {start_s:5.2f} to {end_s:5.2f} s  {label}")
    if card["weights"]["note"]:
        weights = card["weights"]
        print(f"  NOT SPORTS-1M: the weights are {weights['source']}, {weights['note']}.")
    norm = float((features.video_feature.astype("float64") ** 2).sum() ** 0.5)
    say(
        f"extract     clip features {list(features.clip_features.shape)}, "
        f"video feature {list(features.video_feature.shape)}, norm {norm:.6f}"
    )
    print(f"  written to {path.relative_to(ROOT)}")
    show_timings("classify", classification.timings)
    show_timings("extract", features.timings)
    print(f"Success, predicted class index is: {classification.top[0].index}")


def best_over_time(classification: VideoClassification) -> list[tuple[float, float, str]]:
    """Return start, end and label of each run of clips with the same best class."""
    spans: list[tuple[float, float, str]] = []
    for (start_s, end_s), probabilities in zip(
        classification.clip_times_s, classification.clip_probabilities, strict=True
    ):
        label = classification.labels[int(probabilities.argmax())]
        if spans and spans[-1][2] == label:
            start_s = spans.pop()[0]
        spans.append((float(start_s), float(end_s), label))
    return spans


def show_timings(name: str, timings: Timings) -> None:
    """Print one line. The parts overlap, so their sum may exceed the total."""
    say(
        f"time        {name}: {timings.wall_s:.2f} s in total; decode {timings.decode_s:.2f} s, "
        f"wire {timings.wire_s:.2f} s, compute {timings.compute_s or 0.0:.2f} s; they overlap"
    )


def servable() -> Path:
    """Return the model's folder; it is built on first use and when weights or code have changed."""
    published = list(usable_weights(MODELS))
    arguments = ["--batch-sizes", BATCH_SIZES]
    if published:
        arguments += ["--weights", str(MODELS / published[0].name)]
        say(f"weights     models/{published[0].name}")
        # The labels are Sports-1M's, so a network with other classes has none.
        labels = (LABELS_FILE,) if published[0].classes == SPORTS1M_CLASSES else ()
        for option, names in (("--mean", MEAN_FILES), ("--labels", labels)):
            if not names:
                continue
            present = [MODELS / name for name in names if (MODELS / name).is_file()]
            if present:
                arguments += [option, str(present[0])]
            else:
                say(f"            no {option[2:]} file in models/ ({' or '.join(names)})")
    else:
        arguments += ["--weights", "demo"]
        say("weights     DEMO, not Sports-1M: no published weights in models/; see make weights")
    base = CACHE / _key(arguments) / "c3d"
    if not any((ROOT / base).glob("[0-9]*")):
        say("servable    building and verifying the full network, about 15 seconds")
        with LOG.open("w") as log:
            code = subprocess.run(
                [sys.executable, "-m", "c3d_export", "build", *arguments, "--out", str(base)],
                stderr=log,
                cwd=ROOT,
            ).returncode
        if code:
            raise C3DError(last_line(LOG))
    return base


def last_line(log: Path) -> str:
    """Return the last line, which is the error; TensorFlow's log is before it."""
    return log.read_text().strip().splitlines()[-1]


def _key(arguments: list[str]) -> str:
    """Return a digest of the arguments, the files that they name, and the code that builds."""
    digest = hashlib.sha256(repr(arguments).encode())
    package = ROOT / "model_export" / "c3d_export"
    code = [*package.rglob("*.py"), *package.rglob("*.npz")]
    code.append(ROOT / "client/c3d_client/core/contract.py")
    for path in sorted(code):
        digest.update(path.read_bytes())
    for argument in arguments:
        if (path := Path(argument)).is_file():
            digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def say(line: str) -> None:
    """Print a line at once, so that it stays in order with the output of other processes."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
