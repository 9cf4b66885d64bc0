"""`c3d extract` on a terminal, and when it receives SIGINT or SIGTERM."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.videos import write_video


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        write_video(tmp_path / "in" / f"{number}.mp4", 40)
    return tmp_path / "in"


@pytest.fixture
def slow(fake_serving):
    """A slow server, with an event that is set at the first request."""
    requested = threading.Event()

    def on_predict(*_):
        requested.set()
        time.sleep(0.3)

    server = fake_serving(on_predict)
    server.requested = requested
    return server


def start(videos, target, **streams):
    return subprocess.Popen(
        [sys.executable, "-m", "c3d_client", "extract", str(videos), "--workers", "2"]
        + ["--out", str(videos.parent / "out"), "--server", target, "--batch-size", "1"],
        text=True,
        **streams,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_finishes_started_videos_and_the_next_run_the_rest(videos, slow, number, code):
    with start(videos, slow.target, stderr=subprocess.PIPE) as process:
        assert slow.requested.wait(30)
        process.send_signal(number)
        lines = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == code
    assert lines == [
        "c3d: finishing the videos in progress; press Ctrl-C again to cancel them",
        "c3d: 2 videos done, 8 clips; 4 not started",
        "c3d: interrupted; the same command continues with what is left",
    ]
    out = videos.parent / "out"
    assert len(list(out.iterdir())) == 2
    slow.on_predict = None
    with start(videos, slow.target, stderr=subprocess.PIPE) as process:
        output = process.communicate(timeout=60)[1]
    assert (process.returncode, output) == (
        0,
        "c3d: 4 videos done, 16 clips; 2 skipped, done before\n",
    )


def test_second_ctrl_c_cancels_videos_and_leaves_no_unfinished_file(videos, fake_serving):
    requested, ended = threading.Event(), threading.Event()

    def wait(*_):
        requested.set()
        ended.wait(60)

    with start(videos, fake_serving(wait).target, stderr=subprocess.PIPE) as process:
        try:
            assert requested.wait(30)
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("c3d: finishing")
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=60)[1]
        finally:
            ended.set()
            process.kill()
    assert process.returncode == 130
    assert output.strip() == "c3d: interrupted; files already written are complete"
    assert list((videos.parent / "out").iterdir()) == []


def test_terminal_shows_progress(videos, slow):
    terminal, end = pty.openpty()
    os.environ.setdefault("TERM", "xterm")
    with start(videos, slow.target, stderr=end, stdout=end) as process:
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
    assert text.strip().splitlines()[-1] == "c3d: 6 videos done, 24 clips"


def test_without_a_terminal_only_the_summary_is_printed(videos, slow):
    slow.on_predict = None
    with start(videos, slow.target, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (0, "", "c3d: 6 videos done, 24 clips\n")
