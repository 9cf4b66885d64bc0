"""`make example`: one video through all of it, on this machine.

Weights -> SavedModel -> a server that speaks TensorFlow Serving's gRPC API -> client -> labels and
features. The real weights are used where they are in models/; otherwise the demo's, which know no
sports but tell which way things move, so that the answer for the rendered film can be checked.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
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
from c3d_export.assets import LABELS_FILE, MEAN_FILES, found_weights
from film import render

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
OUT = ROOT / "out" / "example"
CACHE = Path("build") / "example"  # below ROOT, where the commands run
# What the export command and the server say on standard error.
LOG = OUT / "server.log"
# Enough for the requests made here; each size is warmed up whenever the server starts.
BATCH_SIZES = "1,8"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", nargs="?", default="", help="a video; a rendered one by default")
    video = parser.parse_args().video
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        if not video:
            film = OUT / "film.mp4"
            render(film)
            video = str(film.relative_to(Path.cwd()) if film.is_relative_to(Path.cwd()) else film)
            say(f"film        {video}, rendered: a square moves right, then down, then left")
        next(decode_frames(video))  # what is no video is said before anything is built
        with server(servable()) as target:
            ask(target, video)
    except C3DError as error:
        print(f"example: {error}", file=sys.stderr)
        return 2
    return 0


def ask(target: str, video: str) -> None:
    """Classify and extract one video, and show both."""
    with C3DClient(target) as c3d:
        card = c3d.model_info().card
        answer = c3d.classify(video, top_k=5)
        features = c3d.extract(video)
    path = OUT / f"{Path(video).stem}.npz"
    write_npz(path, features)
    say(f"classify    {len(answer.clip_starts)} clips of 16 frames, every 8")
    print(bars(answer))
    say("over time")
    for start_s, end_s, label in best_over_time(answer):
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
    show_timings("classify", answer.timings)
    show_timings("extract", features.timings)
    print(f"Success, predicted class index is: {answer.top[0].index}")


def best_over_time(answer: VideoClassification) -> list[tuple[float, float, str]]:
    """The best class of each clip, neighbours with the same one joined: start, end, label."""
    spans: list[tuple[float, float, str]] = []
    for (start_s, end_s), probabilities in zip(
        answer.clip_times_s, answer.clip_probabilities, strict=True
    ):
        label = answer.labels[int(probabilities.argmax())]
        if spans and spans[-1][2] == label:
            start_s = spans.pop()[0]
        spans.append((float(start_s), float(end_s), label))
    return spans


def show_timings(name: str, timings: Timings) -> None:
    """One line: the parts go on side by side, so they may add up to more than the whole."""
    say(
        f"time        {name}: {timings.wall_s:.2f} s in all; decode {timings.decode_s:.2f} s, "
        f"wire {timings.wire_s:.2f} s, compute {timings.compute_s or 0.0:.2f} s, side by side"
    )


def servable() -> Path:
    """The model's folder, built on first use and whenever what it is made of has changed."""
    found = list(found_weights(MODELS))
    arguments = ["--batch-sizes", BATCH_SIZES]
    if found:
        arguments += ["--weights", str(MODELS / found[0].name)]
        say(f"weights     models/{found[0].name}")
        # The labels are Sports-1M's: a network with other classes, or none, goes without.
        labels = (LABELS_FILE,) if found[0].classes == SPORTS1M_CLASSES else ()
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
        say("servable    building and verifying; the full network, so about a quarter of a minute")
        with LOG.open("w") as log:
            code = subprocess.run(
                [*export(), "build", *arguments, "--out", str(base)], stderr=log, cwd=ROOT
            ).returncode
        if code:
            raise C3DError(last_line(LOG))
    return base


@contextlib.contextmanager
def server(base: Path) -> Iterator[str]:
    """Run the local server on a free port; gives its address, stops it afterwards."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [*export(), "serve", str(base), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=LOG.open("a"),
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.match(r"ready: .* at (\S+),", line)
        if not ready:
            process.wait(timeout=60)
            raise C3DError(last_line(LOG))
        say(f"server      at {ready.group(1)}, after {time.perf_counter() - started:.1f} s")
        yield ready.group(1)
    finally:
        process.terminate()
        process.wait(timeout=60)


def last_line(log: Path) -> str:
    """What a command said last, TensorFlow's notes before it left out."""
    return log.read_text().strip().splitlines()[-1]


def export() -> list[str]:
    """The export command of this very environment."""
    return [sys.executable, "-m", "c3d_export"]


def _key(arguments: list[str]) -> str:
    """Changes with the arguments, the files that they name, and the code that builds."""
    digest = hashlib.sha256(repr(arguments).encode())
    export_room = ROOT / "model_export"
    code = [*export_room.rglob("*.py"), *export_room.rglob("*.npz")]
    code.append(ROOT / "client/c3d_client/contract.py")
    for path in sorted(code):
        digest.update(path.read_bytes())
    for argument in arguments:
        if (path := Path(argument)).is_file():
            digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
