"""How much the walk costs beside decoding, and how it spreads over cores.

The server answers at once, in a process of its own, so what is measured is this one: decoding,
cutting, messages and gRPC.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import av
from c3d_client import C3DClient, ClipWindow
from c3d_client.bench import message_speed

from benchmarks.films import large, small
from benchmarks.measure import Measure, middle
from benchmarks.server import instant_server

ROUNDS = 7
BOUNDS = {
    ("1280x720", "exact"): 0.72,
    ("1280x720", "fast"): 0.85,
    ("320x240", "exact"): 0.3,
    ("320x240", "fast"): 0.6,
}
VIDEOS = 6


def extract_over_decoding() -> list[Measure]:
    """Frames per CPU-second of extract() over those of libavcodec alone, in turn on one core."""
    own, other = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {own})
    measures = []
    with tempfile.TemporaryDirectory() as folder, instant_server(other) as target:
        for size, film in ("1280x720", large(Path(folder))), ("320x240", small(Path(folder))):
            clients = {resize: _client(target, resize) for resize in ("exact", "fast")}
            ratios: dict[str, list[float]] = {resize: [] for resize in clients}
            for _ in range(ROUNDS):
                alone_s = _alone_s(film)
                for resize, client in clients.items():
                    ratios[resize].append(alone_s / _extract_s(client, film))
            measures += [
                Measure(
                    f"extract over decoding alone, {size}, {resize}",
                    at_least=BOUNDS[size, resize],
                    **middle(found),
                )
                for resize, found in ratios.items()
            ]
    return measures


def _client(target: str, resize: str) -> C3DClient:
    client = C3DClient(target, window=ClipWindow(resize=resize))
    client.model_info()
    return client


def _alone_s(film: Path) -> float:
    started = time.process_time()
    with av.open(str(film)) as container:
        container.streams.video[0].thread_type = "NONE"
        for _ in container.decode(video=0):
            pass
    return time.process_time() - started


def _extract_s(client: C3DClient, film: Path) -> float:
    """CPU time of all this process's threads."""
    started = time.process_time()
    client.extract(film, threads=1)
    return time.process_time() - started


def two_at_a_time() -> list[Measure]:
    """Videos a second, two decoders over one."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder, instant_server() as target:
        films = [large(Path(folder), times=2)] * VIDEOS
        with C3DClient(target) as client:
            client.model_info()
            for _ in range(3):
                started = time.perf_counter()
                for film in films:
                    client.extract(film, threads=1)
                between = time.perf_counter()
                for outcome in client.extract_many(films, workers=2):
                    outcome.unwrap()
                ratios.append((between - started) / (time.perf_counter() - between))
    return [Measure("two videos at a time over one, 1280x720", at_least=1.7, **middle(ratios))]


def messages() -> list[Measure]:
    """A request of 32 clips, made and read."""
    speed = message_speed(seconds=1)
    return [
        Measure(
            "a request of 32 clips, made and read",
            speed.gb_per_s,
            at_least=2,
            unit="GB/s",
            note=f"made at {speed.make_gb_per_s:.1f}, read at {speed.parse_gb_per_s:.1f}",
        )
    ]
