"""Cost of an extraction compared with decoding alone, and speed on two cores.

The server has prepared answers and its own process, so the measured time is that of decoding,
cutting clips, messages and gRPC.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import av
from c3d_client import C3DClient, ClipWindow

from benchmarks.measure import Measure, middle
from benchmarks.server import instant_server
from benchmarks.videos import large, small

ROUNDS = 7
BOUNDS = {
    ("1280x720", "exact"): 0.72,
    ("1280x720", "fast"): 0.85,
    ("320x240", "exact"): 0.3,
    ("320x240", "fast"): 0.6,
}
VIDEOS = 6


def extract_over_decoding() -> list[Measure]:
    """Compare frames per CPU-second of extract() and of libavcodec alone, in turn on one core."""
    client_core, server_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {client_core})
    measures = []
    with tempfile.TemporaryDirectory() as folder, instant_server(server_core) as target:
        for size, video in ("1280x720", large(Path(folder))), ("320x240", small(Path(folder))):
            clients = {resize: _client(target, resize) for resize in ("exact", "fast")}
            ratios: dict[str, list[float]] = {resize: [] for resize in clients}
            for _ in range(ROUNDS):
                decode_s = _decode_s(video)
                for resize, client in clients.items():
                    ratios[resize].append(decode_s / _extract_s(client, video))
            measures += [
                Measure(
                    f"extract over decoding alone, {size}, {resize}",
                    at_least=BOUNDS[size, resize],
                    **middle(values),
                )
                for resize, values in ratios.items()
            ]
    return measures


def _client(target: str, resize: str) -> C3DClient:
    client = C3DClient(target, window=ClipWindow(resize=resize))
    client.model_info()
    return client


def _decode_s(video: Path) -> float:
    """Return the CPU time of decoding alone."""
    started = time.process_time()
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "NONE"
        for _ in container.decode(video=0):
            pass
    return time.process_time() - started


def _extract_s(client: C3DClient, video: Path) -> float:
    """Return the CPU time of an extraction in all threads of this process."""
    started = time.process_time()
    client.extract(video, threads=1)
    return time.process_time() - started


def two_at_a_time() -> list[Measure]:
    """Compare videos per second of two workers and of one."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder, instant_server() as target:
        videos = [large(Path(folder), times=2)] * VIDEOS
        with C3DClient(target) as client:
            client.model_info()
            for _ in range(3):
                started = time.perf_counter()
                for video in videos:
                    client.extract(video, threads=1)
                between = time.perf_counter()
                for outcome in client.extract_many(videos, workers=2):
                    outcome.unwrap()
                ratios.append((between - started) / (time.perf_counter() - between))
    return [Measure("two videos at a time over one, 1280x720", at_least=1.7, **middle(ratios))]
