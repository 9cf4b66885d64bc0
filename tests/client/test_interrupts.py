"""The command on a terminal, and when somebody presses Ctrl-C."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.films import write_film


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        write_film(tmp_path / "in" / f"{number}.mp4", 40)
    return tmp_path / "in"


@pytest.fixture
def slow(fake_serving):
    """A server that answers each request after a moment, and tells when it was first asked."""
    asked = threading.Event()

    def on_predict(*_):
        asked.set()
        time.sleep(0.3)

    server = fake_serving(on_predict)
    server.asked = asked
    return server


def start(videos, target, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "c3d_client", "extract", str(videos), "--workers", "2"]
        + ["--out", str(videos.parent / "out"), "--server", target, "--batch-size", "1"],
        text=True,
        **how,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_ctrl_c_finishes_the_videos_in_hand_and_the_next_run_the_rest(
    videos, slow, number, code
):
    with start(videos, slow.target, stderr=subprocess.PIPE) as process:
        assert slow.asked.wait(30)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == code
    assert said == [
        "c3d: finishing the videos in progress; press Ctrl-C again to cancel them",
        "c3d: 2 videos done, 8 clips; 4 not started",
        "c3d: interrupted; the same command continues with what is left",
    ]
    out = videos.parent / "out"
    assert len(list(out.iterdir())) == 2
    slow.on_predict = None
    with start(videos, slow.target, stderr=subprocess.PIPE) as process:
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (
        0,
        "c3d: 4 videos done, 16 clips; 2 skipped, done before\n",
    )


def test_the_second_ctrl_c_gives_them_up_and_leaves_nothing_half_written(videos, fake_serving):
    asked, given_up = threading.Event(), threading.Event()

    def silent(*_):
        asked.set()
        given_up.wait(60)

    with start(videos, fake_serving(silent).target, stderr=subprocess.PIPE) as process:
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("c3d: finishing")
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        finally:
            given_up.set()
            process.kill()
    assert process.returncode == 130
    assert said.strip() == "c3d: interrupted; files already written are complete"
    assert list((videos.parent / "out").iterdir()) == []


def test_a_terminal_sees_how_far_it_is(videos, slow):
    terminal, end = pty.openpty()
    os.environ.setdefault("TERM", "xterm")
    with start(videos, slow.target, stderr=end, stdout=end) as process:
        os.close(end)
        seen = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # how a terminal says that nobody writes any more
                break
            if not part:
                break
            seen += part
    os.close(terminal)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "/6 videos" in text
    assert re.search(r"\d+\.\d clips/s", text)
    assert re.search(r"\d of \d+ in flight", text)
    assert text.strip().splitlines()[-1] == "c3d: 6 videos done, 24 clips"


def test_a_file_sees_the_summary_alone(videos, slow):
    slow.on_predict = None
    with start(videos, slow.target, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (0, "", "c3d: 6 videos done, 24 clips\n")
