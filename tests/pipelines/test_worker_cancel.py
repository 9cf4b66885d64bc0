"""A cancelled shard ends soon and leaves no file."""

import signal
import threading
import time

import pytest
from c3d_client import Cancelled
from c3d_pipelines.shards.worker import AnyEvent, do_shard
from support.shard_runs import after, files_in, job, mixed_rows, run_python

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def rows(tmp_path):
    return mixed_rows(tmp_path / "videos")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_cancel_ends_the_shard_at_once_even_with_a_silent_server(started, rows, out):
    server = started()
    settings = job(out, server.target, timeout_s=60.0)
    requested = threading.Event()
    released = threading.Event()

    def on_predict(*_):
        requested.set()
        released.wait(30)

    server.on_predict = on_predict
    cancel = threading.Event()
    threading.Thread(target=lambda: (requested.wait(10), cancel.set())).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel)
    released.set()
    assert time.monotonic() - began < 20
    assert files_in(out) == []
    server.on_predict = None
    assert do_shard(settings, rows, 0).counts["ok"] == 4


def test_cancel_ends_the_retries_of_a_server(started, rows, out):
    server = started()
    settings = job(out, server.target, patience_s=60.0)
    server.stop()
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel)
    assert time.monotonic() - began < 20


def test_cancel_between_two_videos_leaves_no_file(started, rows, out):
    cancel = threading.Event()
    settings = job(out, started().target, workers=1)
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel, on_progress=after(3, cancel.set))
    assert files_in(out) == []


def test_wait_for_any_of_two_events_wakes_when_either_is_set():
    for number in range(2):
        events = threading.Event(), threading.Event()
        either = AnyEvent(*events)
        assert not either.wait(0.01), number
        threading.Timer(0.05, events[number].set).start()
        began = time.monotonic()
        assert either.wait(20), number
        assert time.monotonic() - began < 5, number
        assert either.is_set(), number
    either = AnyEvent(threading.Event())
    threading.Timer(0.05, either.set).start()
    assert either.wait(20)


def test_former_name_of_cancel_is_accepted_with_a_warning(started, rows, out):
    halt = threading.Event()
    halt.set()
    with (
        pytest.warns(DeprecationWarning, match="halt is called cancel now"),
        pytest.raises(Cancelled),
    ):
        do_shard(job(out, started().target), rows, 0, halt=halt)
    assert files_in(out) == []


INTERRUPTED = """
import signal, sys
from c3d_pipelines.shards.worker import AnyEvent, do_shard
from support.shard_runs import job, mixed_rows

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
out, videos, target = sys.argv[1:]
settings = job(out, target, timeout_s=60.0)
print("ready", flush=True)
do_shard(settings, mixed_rows(videos), 0)
"""


def test_sigterm_as_ctrl_c_ends_the_process_soon_and_leaves_no_file(started, tmp_path, out):
    requested, released = threading.Event(), threading.Event()
    server = started()
    with run_python(INTERRUPTED, out, tmp_path / "videos", server.target) as process:
        assert process.stdout.readline() == "ready\n"
        server.on_predict = lambda *_: (requested.set(), released.wait(30))[2:] or None
        assert requested.wait(20)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
        assert time.monotonic() - began < 20
        released.set()
    assert files_in(out) == []
