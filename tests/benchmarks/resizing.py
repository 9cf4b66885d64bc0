"""Difference of features between the client's two ways to resize, with the full-width network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import av
import numpy as np
from c3d_client import ClipWindow, decode_frames
from c3d_client.video.clips import iter_batches
from c3d_export.graph import GraphServable
from support.measures import cosine
from support.videos import h264_sample

from benchmarks.measure import Measure

VIDEOS = ("bikes", "bigbuckbunny", "carphone_pristine")
STRIDE = 24  # the network needs up to half a second for a clip
SATURATED_SIZES = ((1280, 720), (640, 480), (320, 240), (176, 144))


def fast_against_exact(version: Path) -> list[Measure]:
    """Compare fc6 of clips from frames that were resized fast and exactly.

    Args:
        version: the servable's folder.
    """
    videos = [h264_sample(name) for name in VIDEOS]
    if "C3D_TEST_ASSETS" in os.environ:
        videos.append(Path(os.environ["C3D_TEST_ASSETS"]) / "videos/v_BaseballPitch_g01_c01.avi")
    measures = []
    with GraphServable(version) as network, tempfile.TemporaryDirectory() as folder:
        test_pictures = [saturated(Path(folder), *size) for size in SATURATED_SIZES]
        for video in videos + test_pictures:
            exact, fast = (
                np.concatenate([features(network, clips) for clips in clips_of(video, resize)])
                for resize in ("exact", "fast")
            )
            measures.append(
                Measure(
                    f"fc6 cosine of fast and exact, {video.stem}",
                    cosine(fast, exact),
                    at_least=0.997 if video in test_pictures else 0.999,
                    digits=".6f",
                    note=f"the lowest of {len(exact)} clips",
                )
            )
    return measures


def saturated(folder: Path, width: int, height: int) -> Path:
    """Encode two seconds of FFmpeg's test picture: hard edges between saturated colours."""
    path = folder / f"testsrc2 {width}x{height}.mp4"
    source = f"testsrc2=size={width}x{height}:rate=25:duration=2"
    with av.open(source, format="lavfi") as picture, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in picture.decode(video=0):
            frame = frame.reformat(format="yuv420p")
            frame.pict_type = 0
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def clips_of(video: Path, resize: str) -> list[np.ndarray]:
    """Return a video's clips in batches of 8."""
    window = ClipWindow(stride=STRIDE, resize=resize)
    return [batch.pixels for batch in iter_batches(decode_frames(video), window, size=8)]


def features(network: GraphServable, clips: np.ndarray) -> np.ndarray:
    return network.run("fc6_features", {"clips": clips})["features"]
