"""What pixels cost: frames per CPU-second with each way of preparing them, over decoding alone.

Run by hand: ``cd tests && python bench_pixels.py``. All of a line is measured in one process on one
core, its passes taking turns, the best of each counted: machines differ and are shared, ratios
within a run hold. With ``--target`` also how far fc6 features move, as a served network has them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import measures
import numpy as np
from c3d_client.channel import ServingOptions
from c3d_client.contract import CLIP_FRAMES, FC6_FEATURES
from c3d_client.picture import Picture, prepare_frame
from c3d_client.serving import ServingClient
from conftest import h264_sample

Work = Callable[[av.VideoFrame], object]

WAYS: dict[str, Work] = {
    "decode": lambda frame: None,
    "whole": lambda frame: prepare_frame(frame.to_ndarray(format="rgb24")),
    "exact": lambda frame: Picture(frame).prepared("exact"),
    "fast": lambda frame: Picture(frame).prepared("fast"),
}
FRAMES = 250  # at most, a pass


def decoded(path: Path, frames: int = FRAMES) -> Iterator[av.VideoFrame]:
    """Frames from a decoder that has one thread."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for frame, _ in zip(container.decode(video=0), range(frames), strict=False):
            yield frame


def frames_per_cpu_second(path: Path, work: Work) -> float:
    """One pass over a video, all on this thread."""
    start_s = time.process_time()
    count = 0
    for frame in decoded(path):
        work(frame)
        count += 1
    return count / (time.process_time() - start_s)


def frames_per_second(path: Path, work: Work, *, decoders: int) -> float:
    """So many threads, each with the whole video and a decoder of its own; by the clock."""
    counts = [0] * decoders

    def walk(number: int) -> None:
        for frame in decoded(path):
            work(frame)
            counts[number] += 1

    threads = [threading.Thread(target=walk, args=(n,)) for n in range(decoders)]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start_s)


def ucf101_like(folder: Path) -> Path:
    """UCF101's pictures, where its own may not be had: MPEG-4 of 320x240 with B-frames."""
    path = folder / "mpeg4.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame in decoded(h264_sample("bikes")):
            small = frame.reformat(320, 240)
            small.pts = None
            container.mux(stream.encode(small))
        container.mux(stream.encode())
    return path


def clips(path: Path, resize: str, count: int) -> np.ndarray:
    """Clips that do not overlap, from the start: uint8 ``[n, 16, 112, 112, 3]``."""
    prepared = [Picture(f).prepared(resize) for f in decoded(path, count * CLIP_FRAMES)]
    whole = len(prepared) // CLIP_FRAMES
    return np.stack(prepared[: whole * CLIP_FRAMES]).reshape(whole, CLIP_FRAMES, 112, 112, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", help="a served C3D, for the cosine of fc6 features")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=4, help="a video, for the cosine")
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        assets = os.environ.get("C3D_TEST_ASSETS")
        ucf101 = (
            Path(assets) / "videos" / "v_BaseballPitch_g01_c01.avi"
            if assets
            else ucf101_like(Path(folder))
        )
        videos = [h264_sample(n) for n in ("bigbuckbunny", "bikes", "carphone_pristine")]
        videos.insert(1, ucf101)

        os.sched_setaffinity(0, {max(cores)})
        print("frames per CPU-second, and over decoding alone")
        for path in videos:
            best = dict.fromkeys(WAYS, 0.0)
            for _ in range(args.rounds):
                for way, work in WAYS.items():
                    best[way] = max(best[way], frames_per_cpu_second(path, work))
            first = next(decoded(path))
            ratios = "  ".join(f"{w} {v:.0f} ({v / best['decode']:.2f})" for w, v in best.items())
            print(f"  {first.width}x{first.height} {path.name}: {ratios}")

        os.sched_setaffinity(0, cores)
        print(f"decoders side by side, over one, by the clock, on {len(cores)} cores")
        for path in videos:
            best = {}
            for _ in range(args.rounds):
                for way in ("decode", "exact", "fast"):
                    for decoders in (1, len(cores)):
                        rate = frames_per_second(path, WAYS[way], decoders=decoders)
                        best[way, decoders] = max(best.get((way, decoders), 0.0), rate)
            gains = "  ".join(
                f"{way} {best[way, len(cores)] / best[way, 1]:.2f}"
                for way in ("decode", "exact", "fast")
            )
            print(f"  {len(cores)} decoders, {path.name}: {gains}")

        print("fast against exact")
        for path in videos:
            exact, fast = (clips(path, resize, args.clips) for resize in ("exact", "fast"))
            apart = np.abs(exact.astype(int) - fast)
            line = f"  {path.name}: mean {apart.mean():.2f} levels, largest {apart.max()}"
            if args.target:
                with ServingClient(ServingOptions(target=args.target)) as serving:
                    features = [serving.predict(FC6_FEATURES, c).output for c in (exact, fast)]
                line += (
                    f"; lowest fc6 cosine of {len(exact)} clips {measures.cosine(*features):.6f}"
                )
            print(line)


if __name__ == "__main__":
    main()
