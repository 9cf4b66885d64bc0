"""Videos in hand: the file that shows what a worker processed when it was killed."""

import json
import os
import threading
import time
from dataclasses import replace

import pytest
from c3d_client.core.files import atomic_file
from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards import in_hand
from c3d_pipelines.shards.in_hand import (
    Deaths,
    InHand,
    InHandFile,
    VideoInHand,
    deaths,
    read_in_hand,
    worker_died,
)
from c3d_pipelines.shards.schema import message_of, status_of
from c3d_pipelines.storage import Storage
from support.processes import LONG_S, wait_until
from support.s3_server import s3_server

A = ManifestRow("a", "/videos/a.mp4", 1, 0.0, "mtime:1")
B = ManifestRow("b", "https://user:secret@host/b.mp4?token=secret", 1, 0.0, "")


@pytest.fixture
def quick(monkeypatch):
    """Shorten the pauses and the heartbeat, and wait for a write as long as it takes."""
    monkeypatch.setattr(in_hand, "_WAIT_S", LONG_S)
    monkeypatch.setattr(in_hand, "_PAUSE_S", LONG_S)
    monkeypatch.setattr(in_hand, "_SETTLE_S", 0.02)
    monkeypatch.setattr(in_hand, "_HEARTBEAT_S", 0.05)


@pytest.fixture(params=["disk", "memory", "s3"])
def storage(request, tmp_path, monkeypatch):
    if request.param == "disk":
        yield Storage(tmp_path / "out")
    elif request.param == "memory":
        storage = Storage("memory://in-hand/out")
        yield storage
        assert storage.names() == []
    else:
        pytest.importorskip("s3fs", reason="s3fs is not installed: videos in hand on S3 not run")
        with s3_server(tmp_path) as server:
            server.use(monkeypatch)
            server.file_system().mkdir("data")
            yield Storage("s3://data/out")


def opened(storage, **changes):
    return InHandFile(storage, **{"run": "run-1", "shard": 3, "is_only_video": False, **changes})


def ids_of(storage):
    return [[video.video_id for video in record.videos] for record in read_in_hand(storage)]


def test_file_lists_a_video_before_its_work_begins_and_goes_at_the_end(storage, quick):
    before = time.time()
    with opened(storage, is_only_video=True) as file:
        with file.holding(A):
            [record] = read_in_hand(storage)
            assert (record.run, record.shard, record.is_only_video) == ("run-1", 3, True)
            assert record.videos == (VideoInHand("a", "/videos/a.mp4", "mtime:1"),)
            assert record.file == file.file == f"in_hand/run-1-3-{record.attempt}.json"
            assert before <= record.written_at <= time.time()
            with file.holding(B):
                assert ids_of(storage) == [["a", "b"]]
                assert b"secret" not in storage.read(file.file)
            wait_until(lambda: ids_of(storage) == [["a"]])
        wait_until(lambda: ids_of(storage) == [[]])
    assert storage.names() == []
    if storage.is_local:
        assert list(storage.path_of("").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_file_goes_after_an_error(tmp_path, error):
    storage = Storage(tmp_path)

    def fail():
        with opened(storage) as file, file.holding(A):
            assert len(read_in_hand(storage)) == 1
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_attempts_have_files_of_their_own(tmp_path):
    storage = Storage(tmp_path)
    with opened(storage) as one, opened(storage) as other, one.holding(A), other.holding(B):
        assert one.file != other.file
        assert sorted(ids_of(storage)) == [["a"], ["b"]]


def test_file_is_renewed_while_nothing_changes(tmp_path, quick):
    storage = Storage(tmp_path)
    with opened(storage) as file, file.holding(A):
        first = read_in_hand(storage)[0].written_at
        wait_until(lambda: read_in_hand(storage)[0].written_at > first)
        assert ids_of(storage) == [["a"]]


def test_readers_never_see_half_a_file(tmp_path, quick, caplog):
    storage = Storage(tmp_path)
    rows = [replace(A, video_id=f"{number} {'x' * 2000}") for number in range(60)]
    with opened(storage) as file, file.holding(A):
        for row in rows:
            with file.holding(row):
                [videos] = ids_of(storage)
                assert {"a", row.video_id} <= set(videos)
    assert caplog.messages == []


def test_starts_at_the_same_time_share_a_write(tmp_path, monkeypatch):
    monkeypatch.setattr(in_hand, "_WAIT_S", LONG_S)
    monkeypatch.setattr(in_hand, "_HEARTBEAT_S", LONG_S)
    storage, writes = Storage(tmp_path), []
    first, resume = threading.Event(), threading.Event()
    write_small = Storage.write_small

    def slow(self, name, text, **options):
        writes.append(len(json.loads(text)["videos"]))
        first.set()
        assert resume.wait(LONG_S)
        write_small(self, name, text, **options)

    monkeypatch.setattr(Storage, "write_small", slow)
    written = []
    # Called while all videos are held: their ends are written later.
    ready = threading.Barrier(17, action=lambda: written.extend(writes), timeout=LONG_S)

    def hold(number):
        with file.holding(replace(A, video_id=str(number))):
            ready.wait()

    with opened(storage) as file:
        assert first.wait(LONG_S)
        threads = [threading.Thread(target=hold, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(file._videos) == 16)
        resume.set()
        ready.wait()
        assert written == [0, 16]
        for thread in threads:
            thread.join()


def test_store_that_is_away_delays_no_video_for_long_and_is_noted_once(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(in_hand, "_PAUSE_S", 0.05)
    storage, is_away = Storage(tmp_path), threading.Event()
    write_small = Storage.write_small

    def write(self, name, text, **options):
        if is_away.is_set():
            raise StorageError(name, "cannot be written (slow down)")
        write_small(self, name, text, **options)

    monkeypatch.setattr(Storage, "write_small", write)
    is_away.set()
    with opened(storage) as file:
        with file.holding(A), file.holding(B):
            assert read_in_hand(storage) == []
        [line] = caplog.messages
        assert "cannot be written (slow down); if this worker is killed, the next run does" in line
        is_away.clear()
        with file.holding(A):
            wait_until(lambda: ids_of(storage) == [["a"]])
        # At its end it waits as long for the thread that writes.
        monkeypatch.setattr(in_hand, "_PAUSE_S", LONG_S)
    assert list(tmp_path.iterdir()) == []


def test_write_that_hangs_delays_only_the_first_video(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(in_hand, "_WAIT_S", 0.2)
    monkeypatch.setattr(in_hand, "_PAUSE_S", 0.2)
    resume = threading.Event()
    monkeypatch.setattr(Storage, "write_small", lambda *_, **__: resume.wait(2 * LONG_S))
    with opened(Storage(tmp_path)) as file:
        began = time.monotonic()
        with file.holding(A):
            assert time.monotonic() - began >= 0.2
        monkeypatch.setattr(in_hand, "_WAIT_S", LONG_S)
        began = time.monotonic()
        for _ in range(20):
            with file.holding(A):
                pass
        assert time.monotonic() - began < LONG_S  # none of them waited
    assert [("too long" in line, "is not removed" in line) for line in caplog.messages] == [
        (True, False),
        (False, True),
    ]
    resume.set()


def test_folder_that_vanishes_is_not_made_again(tmp_path, quick, caplog):
    storage = Storage(tmp_path / "out")
    with opened(storage) as file, file.holding(A):
        # Renamed: removing its files one by one would race with the thread that writes them.
        os.rename(tmp_path / "out", tmp_path / "elsewhere")
        wait_until(lambda: "No such file or directory" in caplog.text)
    assert not (tmp_path / "out").exists()


def test_folder_that_another_worker_removes_is_made_again(tmp_path, monkeypatch):
    storage, removed = Storage(tmp_path), []

    def remove_first(path, **options):
        if not removed:
            removed.append(path)
            (tmp_path / "in_hand").rmdir()
        return atomic_file(path, **options)

    monkeypatch.setattr("c3d_pipelines.storage.atomic_file", remove_first)
    storage.write_small("in_hand/x.json", "{}")
    assert storage.read("in_hand/x.json") == b"{}"
    assert len(removed) == 1


def test_file_that_cannot_be_understood_is_left_out(tmp_path, caplog):
    storage = Storage(tmp_path)
    storage.write("in_hand/x.json", "{")
    storage.write("in_hand/y.txt", "")
    with opened(storage) as file, file.holding(A):
        assert ids_of(storage) == [["a"]]
    assert "a list of videos in hand cannot be read" in caplog.text


def record(*videos, run="run-1", shard=0, written_at=0.0):
    listed = tuple(VideoInHand(video, f"/{video}", "k") for video in videos)
    return InHand(run, shard, "0", False, listed, written_at)


def test_attempt_is_over_when_its_file_is_five_minutes_old():
    assert not record(written_at=1000.0).is_over(1300.0)
    assert record(written_at=1000.0).is_over(1301.0)
    assert record().is_over()
    assert not record(written_at=time.time()).is_over()


def test_deaths_are_counted_by_video_and_key():
    records = [record("a", "b"), record("a", run="run-2"), record("a", "c", written_at=900.0)]
    assert deaths(records, now=1000.0) == {("a", "k"): Deaths(2, 1), ("b", "k"): Deaths(1, 0)}
    counts = deaths(records, run="run-1", shard=0, now=1000.0)
    assert counts["a", "k"] == Deaths(3, 1)
    assert counts["c", "k"] == Deaths(1, 0)
    assert deaths(records, run="run-1", shard=1, now=1000.0) == deaths(records, now=1000.0)


@pytest.mark.parametrize(
    ("times", "alone", "is_proof"), [(1, 1, False), (2, 0, False), (2, 1, True), (5, 2, True)]
)
def test_proof_is_two_deaths_of_which_one_alone(times, alone, is_proof):
    assert Deaths(times, alone).is_proof == is_proof


def test_error_of_a_video_with_which_workers_died_fits_its_row():
    error = worker_died(2)
    assert status_of(error) == "failed"
    assert message_of(error) == str(error)
    assert "killed 2 times while they processed this video" in str(error)
