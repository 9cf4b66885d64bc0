"""The worker with a disk that is full or vanishes, and with a bucket that is away."""

import errno
from types import SimpleNamespace

import pytest
from c3d_pipelines.errors import StorageError
from c3d_pipelines.shards import retry
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.processes import LONG_S
from support.shard_runs import after, files_in, job, run_python

pytestmark = pytest.mark.usefixtures("short_pauses")


FULL_DISK = """
import resource, sys
from c3d_pipelines.errors import StorageError
from c3d_pipelines.shards import writer as shard_writer
from c3d_pipelines.shards.worker import do_shard
from support.shard_runs import job, row

shard_writer._CLIP_GROUP_ROWS = int(sys.argv[4])
settings = job(sys.argv[1], sys.argv[3])
rows = [row(sys.argv[2], str(number)) for number in range(4)]
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
try:
    do_shard(settings, rows, 0)
except StorageError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("group_rows", [8, 10_000])  # fails while rows are added, and at the end
def test_full_disk_is_one_line_and_leaves_no_file(narrow_server, bikes, out, group_rows):
    # A limit on the process's file sizes makes the same calls fail as a full disk.
    with run_python(FULL_DISK, out, bikes, narrow_server.target, group_rows) as process:
        output = process.communicate(timeout=LONG_S)[0]
    assert process.returncode == 0
    lines = output.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{out}/clips/")
    assert lines[0].endswith("cannot be written (File too large)")
    assert files_in(out) == []


def test_folder_that_cannot_be_written_is_one_line(server, rows, out):
    settings = job(out, server.target)
    for folder in out.iterdir():
        folder.rmdir()
    out.rmdir()
    out.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cannot be written \((Not a dir|File exists)"):
        do_shard(settings, rows, 0)


def test_folder_that_vanishes_is_one_line(server, rows, out):
    settings = job(out, server.target, workers=1)
    # Renamed: removing its files one by one would race with the worker, which writes new ones.
    with pytest.raises(StorageError, match=r"cannot be written \(No such file or directory\)"):
        do_shard(settings, rows, 0, on_progress=after(3, lambda: out.rename(f"{out}-elsewhere")))
    assert not out.exists()


def test_error_of_the_callers_function_is_not_called_one_of_the_disk(server, rows, out):
    def on_progress(progress):
        raise BrokenPipeError(errno.EPIPE, "the terminal is closed")

    with pytest.raises(BrokenPipeError, match="the terminal is closed"):
        do_shard(job(out, server.target), rows, 0, on_progress=on_progress)
    assert files_in(out) == []


def failing_bucket(monkeypatch, errors):
    """Return a bucket in memory whose first uploads raise the errors, which are removed."""
    storage = Storage("memory://bulk/out")
    put_file = storage._store.put_file

    def fail(*args, **kwargs):
        if errors:
            raise errors.pop(0)
        return put_file(*args, **kwargs)

    monkeypatch.setattr(storage._store, "put_file", fail)
    return storage


def test_temporary_outage_of_a_bucket_costs_no_video(server, rows, monkeypatch):
    settings = job("memory://bulk/out", server.target)
    errors = [OSError("slow down"), TimeoutError(), ConnectionError("reset")]
    storage = failing_bucket(monkeypatch, errors)
    report = do_shard(settings, rows, 0)
    assert errors == []
    assert read_report(storage, report.name) == report
    storage._store.rm("/bulk", recursive=True)


@pytest.mark.parametrize(
    ("error", "attempts"), [(PermissionError("denied"), 1), (OSError("slow down"), 4)]
)
def test_bucket_that_does_not_come_back_is_one_line(server, rows, monkeypatch, error, attempts):
    settings = job("memory://bulk/out", server.target, patience_s=0.3)
    errors = [error] * 1000
    storage = failing_bucket(monkeypatch, errors)
    # A clock by which each attempt takes a tenth of a second.
    clock = SimpleNamespace(monotonic=lambda: (1000 - len(errors)) / 10)
    monkeypatch.setattr(retry, "time", clock)
    with pytest.raises(StorageError, match="cannot be written"):
        do_shard(settings, rows, 0)
    assert 1000 - len(errors) == attempts
    assert storage.names() == []
