"""A cancelled shard ends soon, writes no file, and has no failure rows for cancelled videos."""

import signal
import threading
import time

import pytest
from c3d_client import C3DClient, Cancelled
from c3d_pipelines.shards import writer as shard_writer
from c3d_pipelines.shards.worker import AnyEvent, do_shard
from c3d_pipelines.shards.writer import ShardWriter
from support.shard_runs import after, files_in, job, run_python

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_cancel_ends_the_shard_at_once_even_with_a_silent_server(server, rows, out):
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


def test_cancel_ends_the_retries_of_a_server(server, rows, out):
    settings = job(out, server.target, patience_s=60.0)
    server.stop()
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel)
    assert time.monotonic() - began < 20


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
        time.sleep(0.2)

    # A video is cancelled while the shard's event is not set.
    with monkeypatch.context() as patch:
        patch.setattr(C3DClient, "extract", cancel_video)
        with pytest.raises(Cancelled):
            do_shard(settings, rows, 0)
    # The shard is cancelled while the server computes.
    server.on_predict = cancel_shard
    with pytest.raises(Cancelled):
        do_shard(settings, rows, 0, cancel=cancel)
    assert not [error for error in errors if isinstance(error, Cancelled)]
    assert files_in(out) == []
    server.on_predict = None
    assert do_shard(settings, rows, 0).counts["failed"] == 0


def test_wait_for_any_of_two_events_ends_when_either_is_set():
    for number in range(2):
        events = threading.Event(), threading.Event()
        any_event = AnyEvent(*events)
        assert not any_event.wait(0.01), number
        threading.Timer(0.05, events[number].set).start()
        began = time.monotonic()
        assert any_event.wait(20), number
        assert time.monotonic() - began < 5, number
        assert any_event.is_set(), number
    any_event = AnyEvent(threading.Event())
    threading.Timer(0.05, any_event.set).start()
    assert any_event.wait(20)


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
from support.shard_runs import job, mixed_rows

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
out, videos, target = sys.argv[1:]
settings = job(out, target, timeout_s=60.0)
print("ready", flush=True)
do_shard(settings, mixed_rows(videos), 0)
"""


def test_sigterm_as_ctrl_c_ends_the_process_soon_and_leaves_no_file(server, tmp_path, out):
    requested, released = threading.Event(), threading.Event()

    def wait_until_released(*_):
        requested.set()
        released.wait(30)

    with run_python(INTERRUPTED, out, tmp_path / "videos", server.target) as process:
        assert process.stdout.readline() == "ready\n"
        server.on_predict = wait_until_released
        assert requested.wait(20)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
        assert time.monotonic() - began < 20
        released.set()
    assert files_in(out) == []
