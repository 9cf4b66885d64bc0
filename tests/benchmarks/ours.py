"""This project's competitors, and the original way, each in its own process.

`python -m benchmarks.ours KIND ARGUMENT...` answers requests: ``bare VERSION CLIPS`` is the
SavedModel in a session, ``server BASE [CLIPS]`` the local server, ``client TARGET CLIPS`` the
client, ``original SEED WIDTH`` Keras's predict a clip at a time, ``gemm`` large matrix products.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.peers import timed
from benchmarks.pipe import answer_requests

Requests = tuple[Any, Mapping[str, Callable[..., Any]]]
# Small matrices stay in the caches, large ones have the fewest transfers for each operation.
GEMM_SIZES = (1024, 2048, 4096)


def bare(version: str, clips: str) -> Requests:
    """Load a SavedModel as the server does, without a server."""
    from c3d_export.graph import GraphServable, read_card

    servable = GraphServable(Path(version))
    card = read_card(servable).data

    def run(batch: np.ndarray) -> np.ndarray:
        return servable.run("fc6_features", {"clips": batch})["features"]

    about = {
        "version": importlib.metadata.version("tensorflow"),
        "precision": card["precision"],
        "convolution": card.get("convolution", "direct"),
    }
    return about, timed(run, np.load(clips))


def server(base: str, clips: str | None = None) -> Requests:
    """Serve a model on this machine, as `c3d-export serve` does.

    With clips, the process also computes them without gRPC. Two processes with the same network
    differ by up to 10 % in speed, so only this shows what serving costs.
    """
    from c3d_export.local_server import LocalServer

    running = LocalServer(Path(base))
    running.start()

    def memory_mb() -> float:
        """Return the memory that the process uses now."""
        status = Path("/proc/self/status").read_text()
        (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kilobytes) * 1024 / 1e6

    def run(batch: np.ndarray) -> np.ndarray:
        return running.servable.run("fc6_features", {"clips": batch})["features"]

    requests = {"memory_mb": memory_mb} | ({} if clips is None else timed(run, np.load(clips)))
    return {"target": running.target}, requests


def gemm() -> Requests:
    """Multiply large matrices, in the libraries that are here."""
    import tensorflow as tf

    largest = np.random.default_rng(0).standard_normal((2, max(GEMM_SIZES), max(GEMM_SIZES)))
    values = {size: largest[:, :size, :size].astype(np.float32) for size in GEMM_SIZES}

    def of_tensorflow(size: int, dtype: str) -> Callable[[], object]:
        # The second matrix is a constant, as a network's weights are: oneDNN arranges it once.
        one, other = (tf.constant(matrix, dtype) for matrix in values[size])
        return functools.partial(tf.function(lambda x: tf.linalg.matmul(x, other)), one)

    products = {
        ("TensorFlow", dtype): {size: of_tensorflow(size, dtype) for size in GEMM_SIZES}
        for dtype in ("float32", "bfloat16")
    }
    products["NumPy", "float32"] = {
        size: functools.partial(np.matmul, *values[size]) for size in GEMM_SIZES
    }

    def flops(library: str, dtype: str) -> float:
        """Return floating-point operations per second, of the size with the most."""
        best = 0.0
        for size, product in products[library, dtype].items():
            started = time.perf_counter()
            product()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
        return best

    about = {name: importlib.metadata.version(name) for name in ("tensorflow", "numpy")}
    return about, {"flops": flops}


def original(seed: str, width: str) -> Requests:
    """Do as the first users did: OpenCV decodes, Keras's predict computes a clip at a time."""
    import cv2
    from c3d_client.core.contract import CLIP_FRAMES, CLIP_STRIDE, CROP_LEFT, CROP_SIZE, CROP_TOP
    from c3d_export.architecture import build_c3d, features_extractor, set_weights
    from c3d_export.mean import SPORTS1M_SCALARS, read_mean
    from c3d_export.weights import random_weights

    network = build_c3d(width=int(width))
    set_weights(network, random_weights(int(seed), width=int(width)).arrays)
    fc6, mean = features_extractor(network), read_mean(SPORTS1M_SCALARS).bgr

    def feature(video: str) -> tuple[np.ndarray, int]:
        capture = cv2.VideoCapture(video)
        frames = []
        while (read := capture.read())[0]:
            frames.append(cv2.resize(read[1], (171, 128)))
        rows = []
        for start in range(0, len(frames) - CLIP_FRAMES + 1, CLIP_STRIDE):
            clip = np.array(frames[start : start + CLIP_FRAMES], np.float32)
            clip = clip[:, CROP_TOP : CROP_TOP + CROP_SIZE, CROP_LEFT : CROP_LEFT + CROP_SIZE]
            rows.append(fc6.predict((clip - mean)[None], verbose=0)[0])
        mean_row = np.mean(rows, axis=0)
        return mean_row / np.linalg.norm(mean_row), len(rows)

    def save(video: str, path: str) -> None:
        np.save(path, feature(video)[0])

    def clip_s(video: str) -> float:
        """Return seconds a clip."""
        started = time.perf_counter()
        _, clips = feature(video)
        return (time.perf_counter() - started) / clips

    about = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")}
    about["OpenCV"] = cv2.__version__
    return about, {"save": save, "clip_s": clip_s}


def client(target: str, clips: str) -> Requests:
    """Use the client as its users do, in one process."""
    from c3d_client import C3DClient
    from c3d_client.bench import decode_speed, message_speed
    from c3d_client.core.contract import FC6_FEATURES
    from c3d_client.serving.client import ServingClient
    from c3d_client.serving.options import ServingOptions

    pixels = np.load(clips)[:8]

    def served_clip_s(clients: int, requests: int) -> float:
        """Return seconds a clip of requests of 8 clips, from some clients at the same time."""

        def send(connection: ServingClient) -> int:
            batches = itertools.repeat(pixels, requests // clients)
            return sum(len(pixels) for _ in connection.stream(FC6_FEATURES, batches))

        connections = [ServingClient(ServingOptions(target=target)) for _ in range(clients)]
        try:
            for connection in connections:
                connection.predict(FC6_FEATURES, pixels[:1])
            with ThreadPoolExecutor(clients) as threads:
                started = time.perf_counter()
                clips = sum(threads.map(send, connections))
                return (time.perf_counter() - started) / clips
        finally:
            for connection in connections:
                connection.close()

    def extract(videos: Sequence[str]) -> dict[str, float]:
        """Return seconds a clip of many videos, and where the time went, per clip."""
        with C3DClient(target) as c3d:
            c3d.model_info()
            started = time.perf_counter()
            results = [outcome.unwrap() for outcome in c3d.extract_many(videos)]
            wall_s = time.perf_counter() - started
        clips = sum(len(result.clip_features) for result in results)
        parts = ("decode_s", "wire_s", "compute_s")
        timings = [asdict(result.timings) for result in results]
        return {
            "clip_s": wall_s / clips,
            **{part: sum(each[part] or 0.0 for each in timings) / clips for part in parts},
        }

    def save(video: str, path: str) -> None:
        with C3DClient(target) as c3d:
            np.save(path, c3d.extract(video).video_feature)

    def decode(video: str, seconds: float) -> dict[str, float]:
        return asdict(decode_speed(video, seconds=seconds))

    def messages(seconds: float) -> dict[str, float]:
        return asdict(message_speed(seconds=seconds))

    about = {name: importlib.metadata.version(name) for name in ("c3d-client", "grpcio", "av")}
    return about, {
        "served_clip_s": served_clip_s,
        "extract": extract,
        "save": save,
        "decode": decode,
        "messages": messages,
    }


KINDS = {
    "bare": bare,
    "client": client,
    "gemm": gemm,
    "original": original,
    "server": server,
}


def main() -> None:
    """Start one competitor and answer requests."""
    answer_requests(lambda: KINDS[sys.argv[1]](*sys.argv[2:]))


if __name__ == "__main__":
    main()
