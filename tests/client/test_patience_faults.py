"""`c3d extract` and many clients with a server that is killed, and with a full queue, unscaled."""

import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from c3d_client import C3DClient
from c3d_client.serving import patience
from c3d_client.serving.options import ServingOptions
from c3d_export.warmup import WARMUP_FILE
from support.bounded_queue import bounded_server, run_together
from support.processes import LONG_S
from support.videos import write_video

pytestmark = pytest.mark.faults

AWAY_S = 60


@pytest.fixture(autouse=True)
def real_pauses(monkeypatch, short_waits):
    """The pauses as they are shipped."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.25)


def serve(base, port):
    """Start `c3d-export serve` and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from c3d_export.cli import main; main()"]
        + ["serve", str(base), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    raise AssertionError("the server did not start")


def test_killed_server_that_is_back_after_a_minute_costs_only_time(narrow_base, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(60):
        write_video(tmp_path / "in" / f"{number}.mp4", 40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "out"
    server = serve(narrow_base, port)
    extract = subprocess.Popen(
        [sys.executable, "-m", "c3d_client", "extract", str(tmp_path / "in")]
        + ["--out", str(out), "--server", f"localhost:{port}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(list(out.glob("*.npz"))) < 3:
            assert extract.poll() is None
            time.sleep(0.05)
        server.send_signal(signal.SIGKILL)
        server.wait()
        done = len(list(out.glob("*.npz")))
        time.sleep(AWAY_S)
        server = serve(narrow_base, port)
        returned = time.monotonic()
        lines = extract.communicate(timeout=2 * LONG_S)[1].splitlines()
    finally:
        extract.kill()
        server.kill()
        server.wait()
        extract.wait()
    assert extract.returncode == 0, lines
    # Without the note about the weights and the counts every 30 seconds.
    lines = [line for line in lines if not re.match("c3d: (note: |[0-9]+ of 60 videos, )", line)]
    assert done < 60
    assert re.match(rf"c3d: waiting for localhost:{port} \(\d+ s of 300\): ", lines[0])
    assert lines[1].startswith(f"c3d: localhost:{port} answers again after ")
    assert lines[2:] == ["c3d: 60 videos done, 240 clips"]
    assert not (out / "failures.csv").exists()
    print("done", time.monotonic() - returned, "s after the return;", lines[1])


def test_40_clients_and_a_queue_of_64_batches(narrow_copy, tmp_path, monkeypatch):
    """Each has 3 videos at a time, and patience and limits as shipped.

    To move an eighth of the bytes, requests have one clip instead of 8 and batches 4 instead of 32:
    a batch holds four requests in both cases.
    """
    video = write_video(tmp_path / "video.mp4", 35)  # 20 clips at a stride of 1
    # A warm-up request of 8 clips, more than a batch, would fail the load.
    (narrow_copy / "1" / WARMUP_FILE).unlink()
    server = bounded_server(narrow_copy, monkeypatch, max_batches=64, rows=4, batch_s=0.15)
    server.start()
    queue = server.servable
    queue.answered = 0  # without the requests of the warm-up

    def client(_number):
        options = ServingOptions(server.target, batch_size=1)
        with C3DClient(options=options, stride=1) as c3d:
            outcomes = [outcome.error for outcome in c3d.extract_many([video] * 3, workers=3)]
            return outcomes, c3d.serving.concurrency.rejected

    began = time.monotonic()
    try:
        results = run_together(40, client)
    finally:
        server.stop(0)
    took_s = time.monotonic() - began
    print("refused", queue.refused, "answered", queue.answered, "in", took_s)
    assert [outcomes for outcomes, _ in results] == [[None] * 3] * 40
    assert queue.answered == 40 * 3 * 20
    assert queue.most_waiting == 64
    assert 0 < queue.refused == sum(rejected for _, rejected in results)
    # No client sends more than one refused request in 2.5 s, after those of the shorter pauses and
    # those that were in flight at the first refusal.
    assert queue.refused <= 40 * (16 + took_s / 2.5)
