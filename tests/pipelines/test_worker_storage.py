"""The worker with a disk that is full or vanishes, and with a bucket that is away."""

import shutil

import pytest
from c3d_pipelines.errors import StorageError
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.shard_runs import after, files_in, job, mixed_rows, run_python

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def rows(tmp_path):
    return mixed_rows(tmp_path / "videos")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


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


@pytest.mark.parametrize("group_rows", [8, 10_000])  # fails while rows are added, and at the end
def test_full_disk_is_one_line_and_leaves_no_file(narrow_server, bikes, out, group_rows):
    # A limit on the process's file sizes makes the same calls fail as a full disk.
    with run_python(FULL_DISK, out, bikes, narrow_server.target, group_rows) as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    lines = output.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{out}/clips/")
    assert lines[0].endswith("cannot be written (File too large)")
    assert files_in(out) == []


def test_folder_that_cannot_be_written_is_one_line(started, rows, out):
    settings = job(out, started().target)
    for folder in out.iterdir():
        folder.rmdir()
    out.rmdir()
    out.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cannot be written \((Not a dir|File exists)"):
        do_shard(settings, rows, 0)


def test_folder_that_vanishes_is_one_line(started, rows, out):
    settings = job(out, started().target, workers=1)

    def vanish():
        shutil.rmtree(out)

    with pytest.raises(StorageError, match=r"cannot be written \(No such file or directory\)"):
        do_shard(settings, rows, 0, on_progress=after(3, vanish))
    assert not out.exists()


class FailingBucket:
    """A bucket in memory whose first uploads fail."""

    def __init__(self, monkeypatch, errors):
        self.storage = Storage("memory://bulk/out")
        self.errors = list(errors)
        self.sound = self.storage._store.put_file
        monkeypatch.setattr(self.storage._store, "put_file", self.put_file)

    def put_file(self, *args, **kwargs):
        if self.errors:
            raise self.errors.pop(0)
        return self.sound(*args, **kwargs)


def test_temporary_outage_of_a_bucket_costs_no_video(started, rows, monkeypatch):
    settings = job("memory://bulk/out", started().target)
    bucket = FailingBucket(
        monkeypatch, [OSError("slow down"), TimeoutError(), ConnectionError("gone")]
    )
    report = do_shard(settings, rows, 0)
    assert bucket.errors == []
    assert read_report(bucket.storage, report.name) == report
    bucket.storage._store.rm("/bulk", recursive=True)


@pytest.mark.parametrize(
    ("error", "attempts"), [(PermissionError("denied"), 1), (OSError("slow down"), 3)]
)
def test_bucket_that_does_not_come_back_is_one_line(started, rows, monkeypatch, error, attempts):
    settings = job("memory://bulk/out", started().target, patience_s=0.3)
    bucket = FailingBucket(monkeypatch, [error] * 1000)
    with pytest.raises(StorageError, match="cannot be written"):
        do_shard(settings, rows, 0)
    assert 1000 - len(bucket.errors) >= attempts
    assert len(bucket.errors) == 999 or attempts > 1
    assert bucket.storage.names() == []
