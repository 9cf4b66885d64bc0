"""`c3d extract` on a terminal, and when it receives SIGINT or SIGTERM."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading

import pytest
from support.processes import LONG_S, wait_until
from support.videos import write_video


@pytest.fixture
def videos(tmp_path):
    """Six videos of two clips, each a request."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        write_video(tmp_path / "in" / f"{number}.mp4", 24)
    return tmp_path / "in"


@pytest.fixture
def waiting(fake_serving):
    """A server that answers no request before its event ``released`` is set."""
    released = threading.Event()
    server = fake_serving(lambda *_: released.wait(LONG_S) and None)
    server.released = released
    yield server
    released.set()


def start(videos, target, **streams):
    return subprocess.Popen(
        [sys.executable, "-m", "c3d_client", "extract", str(videos), "--workers", "2"]
        + ["--out", str(videos.parent / "out"), "--server", target, "--batch-size", "1"],
        env={"TERM": "xterm", **os.environ},
        text=True,
        **streams,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_finishes_started_videos_and_the_next_run_the_rest(
    videos, waiting, number, code
):
    with start(videos, waiting.target, stderr=subprocess.PIPE) as process:
        try:
            # All requests of two videos: the two workers have started, and start no other.
            wait_until(lambda: waiting.in_flight == 4 or process.poll() is not None)
            process.send_signal(number)
            line = process.stderr.readline()
            waiting.released.set()
            lines = [line.rstrip("\n"), *process.communicate(timeout=LONG_S)[1].splitlines()]
        finally:
            process.kill()
    assert lines == [
        "c3d: finishing the videos in progress; press Ctrl-C again to cancel them",
        "c3d: 2 videos done, 4 clips; 4 not started",
        "c3d: interrupted; the same command continues with what is left",
    ]
    assert process.returncode == code
    out = videos.parent / "out"
    assert len(list(out.iterdir())) == 2
    with start(videos, waiting.target, stderr=subprocess.PIPE) as process:
        output = process.communicate(timeout=LONG_S)[1]
    assert (process.returncode, output) == (
        0,
        "c3d: 4 videos done, 8 clips; 2 skipped, done before\n",
    )


def test_second_ctrl_c_cancels_videos_and_leaves_no_unfinished_file(videos, waiting):
    with start(videos, waiting.target, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: waiting.in_flight or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("c3d: finishing")
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=LONG_S)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert output.strip() == "c3d: interrupted; files already written are complete"
    assert list((videos.parent / "out").iterdir()) == []


@pytest.mark.long
def test_terminal_shows_progress(videos, fake_serving):
    terminal, end = pty.openpty()
    with start(videos, fake_serving().target, stderr=end, stdout=end) as process:
        os.close(end)
        output = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # a terminal raises it when the other end is closed
                break
            if not part:
                break
            output += part
    os.close(terminal)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert "/6 videos" in text
    assert re.search(r"\d+\.\d clips/s", text)
    assert re.search(r"\d of \d+ in flight", text)
    assert text.strip().splitlines()[-1] == "c3d: 6 videos done, 12 clips"


def test_without_a_terminal_only_the_summary_is_printed(videos, fake_serving):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(videos, fake_serving().target, **pipes) as process:
        stdout, stderr = process.communicate(timeout=LONG_S)
    assert (process.returncode, stdout, stderr) == (0, "", "c3d: 6 videos done, 12 clips\n")
