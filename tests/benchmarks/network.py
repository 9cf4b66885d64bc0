"""Comparison of the served full-width network with the same network without a server.

The servable has random weights, which do not change its speed. It is built once, in build/bench.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import av
import cv2
import numpy as np
from c3d_client import C3DClient, ClipWindow, decode_frames
from c3d_client.core.contract import CLIP_FRAMES, CLIP_STRIDE, CROP_LEFT, CROP_SIZE, CROP_TOP
from c3d_client.video.clips import iter_batches
from c3d_export.graph import GraphServable
from support.measures import cosine
from support.videos import h264_sample

from benchmarks.measure import Measure, middle
from benchmarks.server import server_process

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "build" / "bench" / "c3d"
VIDEOS = ("bikes", "bigbuckbunny", "carphone_pristine")
STRIDE = 24  # for cosines; the network needs half a second for a clip
ROUNDS = 3
SATURATED_SIZES = ((1280, 720), (640, 480), (320, 240), (176, 144))
SERVE = """
import sys
from pathlib import Path
from c3d_export.local_server import LocalServer
server = LocalServer(Path(sys.argv[1]))
server.start()
print(server.target, flush=True)
sys.stdin.read()
"""


def servable() -> Path:
    """Return the folder of the servable's version; build it if it does not exist."""
    if not (BASE / "1").is_dir():
        command = ["-m", "c3d_export", "build", "--weights", "random:0", "--batch-sizes", "1,8"]
        subprocess.run(
            [sys.executable, *command, "--out", str(BASE)], check=True, stdout=subprocess.DEVNULL
        )
    return BASE / "1"


def local_server() -> contextlib.AbstractContextManager[str]:
    """Run the project's local server in its own process; yields its address."""
    servable()
    return server_process("-c", SERVE, str(BASE))


def fast_against_exact() -> list[Measure]:
    """Compare fc6 of clips from frames that were resized fast and exactly."""
    videos = [h264_sample(name) for name in VIDEOS]
    if "C3D_TEST_ASSETS" in os.environ:
        videos.append(Path(os.environ["C3D_TEST_ASSETS"]) / "videos/v_BaseballPitch_g01_c01.avi")
    measures = []
    with GraphServable(servable()) as network, tempfile.TemporaryDirectory() as folder:
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


def clips_of(video: Path, resize: str, *, stride: int = STRIDE) -> list[np.ndarray]:
    """Return a video's clips in batches of 8."""
    window = ClipWindow(stride=stride, resize=resize)
    return [batch.pixels for batch in iter_batches(decode_frames(video), window, size=8)]


def features(network: GraphServable, clips: np.ndarray) -> np.ndarray:
    return network.run("fc6_features", {"clips": clips})["features"]


def against_the_bare_network() -> list[Measure]:
    """Compare clips per second of extract() with a server and of the SavedModel in a session."""
    video = h264_sample("bikes")
    batches = clips_of(video, "exact", stride=CLIP_STRIDE)
    ratios = []
    with (
        local_server() as target,
        C3DClient(target) as client,
        GraphServable(servable()) as network,
    ):
        client.extract(video)
        for clips in batches:
            features(network, clips)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for clips in batches:
                features(network, clips)
            between = time.perf_counter()
            client.extract(video)
            ratios.append((between - started) / (time.perf_counter() - between))
    return [Measure("extract over the bare SavedModel, clips/s", at_least=0.95, **middle(ratios))]


def against_predict() -> list[Measure]:
    """Compare extract() with the original way: video in memory, Keras's predict clip by clip."""
    from c3d_export.architecture import build_c3d, features_extractor, set_weights
    from c3d_export.mean import SPORTS1M_SCALARS, read_mean
    from c3d_export.weights import random_weights

    video = h264_sample("bigbuckbunny")
    network = build_c3d()
    set_weights(network, random_weights(0).arrays)
    fc6, mean = features_extractor(network), read_mean(SPORTS1M_SCALARS).bgr

    def original() -> np.ndarray:
        capture = cv2.VideoCapture(str(video))
        frames = []
        while (read := capture.read())[0]:
            frames.append(cv2.resize(read[1], (171, 128)))
        rows = []
        for start in range(0, len(frames) - CLIP_FRAMES + 1, CLIP_STRIDE):
            clip = np.array(frames[start : start + CLIP_FRAMES], np.float32)
            clip = clip[:, CROP_TOP : CROP_TOP + CROP_SIZE, CROP_LEFT : CROP_LEFT + CROP_SIZE]
            rows.append(fc6.predict((clip - mean)[None], verbose=0)[0])
        feature = np.mean(rows, axis=0)
        return feature / np.linalg.norm(feature)

    ratios = []
    with local_server() as target, C3DClient(target) as client:
        feature = client.extract(video).video_feature
        difference = float(np.abs(feature - original()).max())
        for _ in range(ROUNDS):
            started = time.perf_counter()
            original()
            between = time.perf_counter()
            client.extract(video)
            ratios.append((between - started) / (time.perf_counter() - between))
    return [
        Measure("extract over Keras's predict a clip at a time", at_least=1, **middle(ratios)),
        Measure("largest difference of their video features", difference, at_most=1e-5),
    ]
