"""A cancelled shard ends soon, writes no file, and has no failure rows for cancelled videos."""

import signal
import subprocess
import threading
import time

import pytest
from c3d_client import C3DClient, Cancelled
from c3d_pipelines.shards import writer as shard_writer
from c3d_pipelines.shards.worker import AnyEvent, do_shard
from c3d_pipelines.shards.writer import ShardWriter
from support.processes import LONG_S
from support.shard_runs import after, files_in, job, run_python

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def silent(server):
    """Return a function: from now on the server answers no request until the test has ended.

    It returns the event of the first request.
    """
    requested, released = threading.Event(), threading.Event()

    def on_predict(*_):
        requested.set()
        released.wait(3 * LONG_S)

    def be_silent():
        server.on_predict = on_predict
        return requested

    yield be_silent
    released.set()


def test_cancel_ends_the_shard_at_once_even_with_a_silent_server(server, silent, rows, out):
    settings = job(out, server.target, timeout_s=2 * LONG_S)
    requested, cancel = silent(), threading.Event()
    canceller = threading.Thread(target=lambda: requested.wait(LONG_S) and cancel.set())
    canceller.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel)
    assert time.monotonic() - began < LONG_S  # not at the request's deadline
    canceller.join()
    assert files_in(out) == []
    server.on_predict = None
    assert do_shard(settings, rows, 0).counts["ok"] == 4


def test_cancel_ends_the_retries_of_a_server(server, rows, out):
    settings = job(out, server.target, patience_s=2 * LONG_S)
    server.stop()
    cancel = threading.Event()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel)
    assert time.monotonic() - began < LONG_S  # not at the end of the patience
    timer.join()


def test_cancel_between_two_videos_leaves_no_file(server, rows, out):
    cancel = threading.Event()
    settings = job(out, server.target, workers=1)
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel, on_progress=after(3, cancel.set))
    assert files_in(out) == []


def test_cancelled_video_is_never_a_failure_row(server, rows, out, monkeypatch):
    """Cancelled is a C3DError, which a worker must not store as the error of a video."""
    errors = []

    class RecordingWriter(ShardWriter):
        def add_failed(self, row, error):
            errors.append(error)
            return super().add_failed(row, error)

    monkeypatch.setattr(shard_writer, "ShardWriter", RecordingWriter)
    settings = job(out, server.target, workers=2)
    cancel = threading.Event()

    def cancel_video(*args, **kwargs):
        raise Cancelled

    def cancel_shard(*_):
        cancel.set()
        released.wait(LONG_S)

    released = threading.Event()
    # A video is cancelled while the shard's event is not set.
    with monkeypatch.context() as patch:
        patch.setattr(C3DClient, "extract", cancel_video)
        with pytest.raises(Cancelled):
            do_shard(settings, rows, 0)
    # The shard is cancelled while the server computes.
    server.on_predict = cancel_shard
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel)
    released.set()
    assert not [error for error in errors if isinstance(error, Cancelled)]
    assert files_in(out) == []
    server.on_predict = None
    assert do_shard(settings, rows, 0).counts["failed"] == 0


def test_wait_for_any_of_two_events_ends_when_either_is_set():
    for number in range(3):
        events = [threading.Event(), threading.Event()]
        any_event = AnyEvent(*events)
        events.append(any_event)
        assert not any_event.wait(0.01), number
        timer = threading.Timer(0.05, events[number].set)
        timer.start()
        assert any_event.wait(), number  # without a limit: it ends with the event
        assert any_event.is_set(), number
        timer.join()


def test_former_name_of_cancel_is_accepted_with_a_warning(server, rows, out):
    halt = threading.Event()
    halt.set()
    with (
        pytest.warns(DeprecationWarning, match="halt is called cancel now"),
        pytest.raises(Cancelled),
    ):
        do_shard(job(out, server.target), rows, 0, halt=halt)
    assert files_in(out) == []


INTERRUPTED = """
import signal, sys
from c3d_pipelines.shards.worker import AnyEvent, do_shard
from support.processes import LONG_S
from support.shard_runs import job, mixed_rows

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
out, videos, target = sys.argv[1:]
settings = job(out, target, timeout_s=2 * LONG_S)
rows = mixed_rows(videos)
print("ready", flush=True)
sys.stdin.readline()
do_shard(settings, rows, 0)
"""


def test_sigterm_as_ctrl_c_ends_the_process_soon_and_leaves_no_file(server, silent, tmp_path, out):
    arguments = out, tmp_path / "videos", server.target
    with run_python(INTERRUPTED, *arguments, stdin=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            requested = silent()  # the preflight was answered
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert requested.wait(LONG_S)
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONG_S) != 0  # long before the request's deadline
        finally:
            process.kill()
    assert files_in(out) == []
