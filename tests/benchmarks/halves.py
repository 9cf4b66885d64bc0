"""Speed of an extraction with halves of clips against clips, and its bytes.

`python -m benchmarks.halves [PART...]` prints a Markdown table with a row for each measurement. The
parts are `network`: a small servable behind a proxy that passes so many bits a second, and
`computing`: the full network on this machine's CPU, without the proxy. Both ways use one servable
and take turns. Servables are built once, in build/bench.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from c3d_client import C3DClient

from benchmarks.measure import Measure, middle
from benchmarks.server import server_process
from benchmarks.videos import small

BUILD = Path(__file__).resolve().parents[2] / "build" / "bench"
GBIT_BYTES = 125_000_000
WIDTH = 8  # conv1's filters, of 64
ROUNDS = 3
TIMES = 4  # 1000 frames
_CHUNK = 1 << 16
SERVE = """
import sys
from pathlib import Path
from c3d_export.local_server import LocalServer
server = LocalServer(Path(sys.argv[1]))
server.start()
print(server.target, flush=True)
sys.stdin.read()
"""
BUILD_CODE = """
import sys
from pathlib import Path
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.servable import ServableSpec, build
from c3d_export.weights import random_weights
width = int(sys.argv[2])
labels = [f"label {n}" for n in range(487)]
mean = read_mean(SPORTS1M_SCALARS)
sizes = (1, 8, 16)  # 8 clips and 16 halves are requests of the same bytes
weights = random_weights(0, width=width)
spec = ServableSpec(weights, mean, labels, target="gpu", batch_sizes=sizes)
build(spec, Path(sys.argv[1]))
"""


def network() -> list[Measure]:
    """Compare both ways over networks of several speeds, with a small servable."""
    measures = []
    for gbit in (1.0, 0.1):
        with _served(WIDTH) as target, _proxy(target, gbit * GBIT_BYTES) as proxy:
            compared = _compare(proxy.target, proxy=proxy, times=TIMES if gbit == 1 else 1)
        where = f"{gbit:g} Gbit/s, width {WIDTH}"
        measures += [
            Measure(f"halves over clips, {where}, clips/s", at_least=1, **middle(compared.speeds)),
            Measure(f"halves over clips, {where}, bytes", at_most=0.56, **middle(compared.bytes)),
        ]
    return measures


def computing() -> list[Measure]:
    """Compare both ways where the server's computing takes the time: one row in 16 is wasted."""
    with _served(64) as target:
        compared = _compare(target, times=1, rounds=3)
    return [Measure("halves over clips, full width, CPU, clips/s", **middle(compared.speeds))]


class _Compared:
    """Ratios of halves to clips, one of each round."""

    def __init__(self) -> None:
        self.speeds: list[float] = []
        self.bytes: list[float] = []


def _compare(
    target: str, *, times: int, rounds: int = ROUNDS, proxy: _Proxy | None = None
) -> _Compared:
    compared = _Compared()
    with tempfile.TemporaryDirectory() as folder, C3DClient(target) as client:
        video = small(Path(folder), times=times)
        client.model_info()
        features = {}
        for number in range(-1, rounds):  # the first round is not measured
            seconds, sent = {}, {}
            ways = ("clips", "halves") if number % 2 else ("halves", "clips")
            for way in ways:
                with _way(way):
                    before = proxy.sent() if proxy else 1
                    started = time.perf_counter()
                    features[way] = client.extract(video).clip_features
                    seconds[way] = time.perf_counter() - started
                    sent[way] = proxy.sent() - before if proxy else 1
            if number >= 0:
                compared.speeds.append(seconds["clips"] / seconds["halves"])
                compared.bytes.append(sent["halves"] / sent["clips"])
        np.testing.assert_allclose(features["halves"], features["clips"], rtol=1e-4, atol=1e-4)
    return compared


@contextmanager
def _way(way: str) -> Iterator[None]:
    """Send clips to a servable that has both signatures, or leave the choice to the client."""
    if way == "halves":
        yield
    else:
        with mock.patch("c3d_client.client.halves_sizes", return_value=()):
            yield


@contextmanager
def _served(width: int) -> Iterator[str]:
    """Run the local server with a servable for GPUs; yields its address."""
    base = BUILD / f"halves-{width}" / "c3d"
    if not (base / "1").is_dir():
        subprocess.run([sys.executable, "-c", BUILD_CODE, str(base), str(width)], check=True)
    with server_process("-c", SERVE, str(base)) as target:
        yield target


class _Proxy:
    """A running proxy, from outside its process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.target = self._read()

    def sent(self) -> int:
        """Return the number of bytes that clients have sent so far."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def _proxy(target: str, bytes_per_s: float) -> Iterator[_Proxy]:
    """Run a proxy in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.halves", "proxy", target, str(bytes_per_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Proxy(process)
        finally:
            process.terminate()


class _Throttle:
    """A token bucket for the bytes of all connections in one direction.

    Args:
        bytes_per_s: the speed at which it fills; it holds what 20 ms bring.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()
        self.total = 0

    def wait(self, count: int) -> None:
        """Wait until so many bytes may pass."""
        with self._lock:
            earliest = time.perf_counter() - 0.02
            self._free_at = max(self._free_at, earliest) + count / self._bytes_per_s
            self.total += count
            pause_s = self._free_at - time.perf_counter()
        if pause_s > 0:
            time.sleep(pause_s)


def run_proxy(target: str, bytes_per_s: float) -> None:
    """Pass connections on; print the address, then for each line read the bytes of the clients."""
    host, _, port = target.rpartition(":")
    forward, back = _Throttle(bytes_per_s), _Throttle(bytes_per_s)

    def pump(source: socket.socket, sink: socket.socket, throttle: _Throttle) -> None:
        try:
            while data := source.recv(_CHUNK):
                throttle.wait(len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one end is closed
            source.close()
            sink.close()

    def accept(listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((host, int(port)))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((client, server, forward), (server, client, back)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
        for _ in sys.stdin:
            print(forward.total, flush=True)


PARTS = {"network": network, "computing": computing}


def main() -> int:
    if sys.argv[1:2] == ["proxy"]:
        run_proxy(sys.argv[2], float(sys.argv[3]))
        return 0
    print("| what | bound | measured | verdict | |\n|---|---|---|---|---|")
    for name in sys.argv[1:] or PARTS:
        for measure in PARTS[name]():
            print(measure.row(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
