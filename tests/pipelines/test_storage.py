"""Storage of a dataset on a disk and in a bucket: files appear whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client.video import stores
from c3d_pipelines import storage as module
from c3d_pipelines.errors import StorageError
from c3d_pipelines.storage import Storage
from support.processes import LONG_S
from support.s3_server import s3_server

NAMES = ["index.parquet", "runs/a b/ü #1%20?[x].json", "shards/日本.parquet", "x+y=z&.md"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one bucket, in the environment."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: storage on S3 not tested")
    with s3_server(tmp_path_factory.mktemp("s3")) as running, pytest.MonkeyPatch.context() as patch:
        running.use(patch)
        running.file_system().mkdir("bucket")
        yield running


@pytest.fixture
def bucket(server) -> Storage:
    """A folder of the bucket for one test."""
    return Storage(f"s3://bucket/a folder/ü {secrets.token_hex(4)}")


@pytest.fixture(params=["disk", "s3"])
def storage(request, tmp_path) -> Storage:
    """An empty folder, on a disk and in a bucket."""
    if request.param == "disk":
        return Storage(tmp_path / "out put" / "ü")
    return request.getfixturevalue("bucket")


def refused(call, *parts: str) -> str:
    """Return the one-line error of a call, which has the given parts."""
    with pytest.raises(StorageError) as failed:
        call()
    message = str(failed.value)
    assert "\n" not in message
    assert message == f"{failed.value.uri}: {failed.value.reason}"
    for part in parts:
        assert part in message
    return message


def begin_and_fail(storage: Storage, name: str, error: BaseException) -> Path:
    """Write half a file, raise an error, and return the path that was written."""
    paths = []

    def write() -> None:
        with storage.writing(name) as path:
            paths.append(path)
            path.write_bytes(b"half of the new file")
            raise error

    expected = StorageError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write()
    return paths[0]


def table(rows: int) -> pa.Table:
    numbers = np.random.default_rng(rows).random(rows * 64, dtype=np.float32)
    features = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 64)
    return pa.table({"row": pa.array(range(rows)), "feature": features})


# A disk and a bucket


def test_written_file_is_read_and_listed_under_its_name(storage):
    for name in NAMES:
        storage.write(name, f"of {name}")
    assert storage.names() == sorted(NAMES)
    assert storage.names("runs") == storage.names("runs/a b") == ["runs/a b/ü #1%20?[x].json"]
    for name in NAMES:
        assert storage.read(name) == f"of {name}".encode()
        assert storage.size(name) == len(f"of {name}".encode())
        assert storage.uri_of(name).raw == f"{storage.uri}/{name}"
    assert Storage(storage.uri.raw + "/").names() == sorted(NAMES)


def test_missing_folder_is_empty(storage):
    assert storage.names() == storage.names("shards") == []
    assert storage.read("index.parquet") is None
    assert storage.size("index.parquet") is None
    storage.remove("index.parquet")


def test_file_is_replaced_when_it_is_written_again(storage):
    storage.write("a.json", b"old and longer")
    storage.write("a.json", b"new")
    assert (storage.read("a.json"), storage.size("a.json")) == (b"new", 3)
    storage.remove("a.json")
    assert storage.names() == []


def test_folder_is_not_a_file(storage):
    storage.write("runs/one/plan.parquet", b"x")
    assert storage.size("runs") is None
    assert storage.read("runs/one/plan.parquet/below") is None
    assert storage.size("runs/one/plan.parquet/below") is None
    storage.remove("runs/one/plan.parquet/below")
    assert storage.names("runs/on") == []


def test_empty_file_exists(storage):
    storage.write("empty", b"")
    assert (storage.read("empty"), storage.size("empty"), storage.names()) == (b"", 0, ["empty"])


def test_parquet_is_written_by_its_path_and_read_at_random(storage):
    full = table(20_000)
    with storage.writing("shards/a.parquet") as path:
        with pq.ParquetWriter(path, full.schema) as writer:
            for start in range(0, full.num_rows, 4_000):
                writer.write_table(full.slice(start, 4_000))
        assert storage.names() == []
    assert storage.size("shards/a.parquet") > 1 << 20
    with storage.reading("shards/a.parquet") as file:
        parts = pq.ParquetFile(file)
        assert parts.metadata.num_row_groups == 5
        assert parts.read_row_group(3).equals(full.slice(12_000, 4_000))
        assert parts.read_row_group(0, columns=["row"])["row"].to_pylist() == list(range(4_000))
    with storage.reading("shards/a.parquet") as file:
        assert pq.read_table(file).equals(full)


def test_error_while_writing_keeps_the_old_file(storage):
    storage.write("a.json", b"old")
    for error in (ZeroDivisionError(), KeyboardInterrupt(), SystemExit(1), OSError("any")):
        assert not begin_and_fail(storage, "a.json", error).exists()
        assert not begin_and_fail(storage, "b.json", error).exists()
    assert storage.names() == ["a.json"]
    assert storage.read("a.json") == b"old"


def test_defect_in_the_block_is_not_a_storage_error(storage):
    storage.write("a.parquet", b"no Parquet")
    with storage.reading("a.parquet") as file, pytest.raises(pa.ArrowInvalid):
        pq.read_table(file)
    with pytest.raises(pa.ArrowInvalid), storage.reading("a.parquet") as file:
        pq.read_table(file)
    with pytest.raises(KeyError), storage.writing("b") as _:
        raise KeyError("b")


def test_missing_file_cannot_be_opened(storage):
    with pytest.raises(StorageError, match="cannot be read"), storage.reading("missing.parquet"):
        pass


def test_one_of_several_concurrent_writers_wins_completely(storage):
    contents = [bytes([n]) * (100_000 + n) for n in range(8)]
    together = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        with storage.writing("one") as path:
            path.write_bytes(content)
            together.wait(LONG_S)

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert storage.read("one") in contents
    assert storage.names() == ["one"]


def test_hidden_files_are_not_listed(storage):
    for name in (".hidden", "shards/.c3d-0123", ".git/config", "runs/.x/y", "shown"):
        storage.write(name, b"x")
    assert storage.names() == ["shown"]
    assert storage.names("runs") == []


def test_full_disk_is_one_line(storage):
    def write() -> None:
        with storage.writing("a.parquet") as path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    refused(write, f"{storage.uri}/a.parquet: cannot be written (", "No space left on device)")
    assert storage.names() == []


def test_unusable_addresses_are_refused():
    refused(lambda: Storage(""), "is no folder")
    refused(lambda: Storage("  "), "is no folder")
    refused(lambda: Storage("https://host/a?sig=secret"), "cannot be written to", "sig=***")
    refused(lambda: Storage("ftp://host/a"), "is not a path, file://, s3:// or gs://")
    for uri in ("s3://", "s3:///", "gs://"):
        refused(lambda uri=uri: Storage(uri), f"names no bucket; give {uri[:2]}://BUCKET/DIR")
    message = refused(lambda: Storage("s3://key:hush@bucket/out"), "holds credentials")
    assert "hush" not in message


def test_missing_library_is_reported_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(stores, "_OPENED", {})
    import fsspec

    def missing(name: str):
        raise ImportError(f"install {name}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    message = refused(lambda: Storage("gs://bucket/out"), "pip install 'c3d-client[gcs]'")
    assert message.count("gs://bucket/out") == 1


# A disk


def test_path_may_be_a_file_url(tmp_path):
    storage = Storage(f"file://{tmp_path}/a%20b")
    storage.write("x", b"x")
    assert (tmp_path / "a b" / "x").read_bytes() == b"x"
    assert storage.is_local
    assert Storage(f"file://localhost{tmp_path}/a%20b").names() == ["x"]


def test_file_is_synced_before_its_name(tmp_path, monkeypatch):
    """The written file is synced and renamed, and then its folder is synced."""
    steps = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        steps.append(("sync", status.st_ino, stat.S_ISDIR(status.st_mode)))

    def replace(old: Path, new: Path) -> None:
        steps.append(("name", os.stat(old).st_ino, False))
        rename(old, new)

    rename = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with Storage(tmp_path).writing("a.parquet") as path:
        pq.write_table(table(10), path)
    file, folder = (tmp_path / "a.parquet").stat().st_ino, tmp_path.stat().st_ino
    assert steps == [("sync", file, False), ("name", file, False), ("sync", folder, True)]
    assert pq.read_table(tmp_path / "a.parquet").equals(table(10))


def test_file_system_that_cannot_sync_folders_is_accepted(tmp_path, monkeypatch):
    def cannot(path: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    def broken(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "sync", cannot)
    Storage(tmp_path).write("a", b"x")
    monkeypatch.setattr(module, "sync", broken)
    refused(lambda: Storage(tmp_path).write("a", b"x"), "cannot be written (Input/output error)")


def test_file_instead_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    storage = Storage(tmp_path / "out")
    refused(lambda: storage.write("index.parquet", b""), "out/index.parquet: cannot be written (")
    assert (storage.names(), storage.read("x"), storage.size("x")) == ([], None, None)
    (tmp_path / "index.parquet").mkdir()
    refused(lambda: Storage(tmp_path).write("index.parquet", b""), "Is a directory")
    refused(lambda: Storage(tmp_path).read("index.parquet"), "cannot be read (Is a directory)")
    assert sorted(os.listdir(tmp_path)) == ["index.parquet", "out"]


@pytest.fixture
def unprivileged():
    """Run the test as a user to whom file modes apply; root becomes another user."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_without_permission_is_one_line(tmp_path, request):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if os.stat(folder).st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(0o755)
    storage = Storage(tmp_path)
    storage.write("shards/a.parquet", b"x")
    (tmp_path / "shards").chmod(0)
    request.getfixturevalue("unprivileged")
    refused(lambda: storage.write("index.parquet", b""), "cannot be written (Permission denied)")
    # Not an empty list, which would mean that nothing is done yet.
    refused(storage.names, "cannot be listed (Permission denied)")
    refused(lambda: storage.size("shards/a.parquet"), "cannot be looked up (Permission denied)")
    refused(lambda: storage.read("shards/a.parquet"), "cannot be read (Permission denied)")
    refused(lambda: storage.remove("shards/a.parquet"), "cannot be removed (Permission denied)")


def test_write_beyond_the_file_size_limit_is_one_line(tmp_path):
    """A limit of the process makes a write fail half-way, like a full disk."""
    import resource
    import signal

    storage = Storage(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = refused(
            lambda: storage.write("big", bytes(1_000_000)), "big: cannot be written ("
        )
        with pytest.raises(StorageError), storage.writing("a.parquet") as path:
            pq.write_table(table(20_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "File too large" in message
    assert os.listdir(tmp_path) == []


# A bucket


def test_uploaded_file_is_removed_from_this_machine(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    bucket.write("a.json", b"x")
    begin_and_fail(bucket, "b.json", ZeroDivisionError())
    assert os.listdir(tmp_path) == []


def test_missing_temporary_folder_is_reported_for_this_machine(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "missing"))
    message = f"on this machine, below {tmp_path}/missing: No such file or directory"
    refused(lambda: bucket.write("a.json", b"x"), str(bucket.uri_of("a.json")), message)


def test_objects_have_a_content_type(bucket):
    bucket.write("runs/a/report.html", "<p>")
    bucket.write("dataset.json", "{}")
    kinds = {
        name: bucket._store.info(f"{bucket._root}/{name}")["ContentType"]
        for name in ("runs/a/report.html", "dataset.json")
    }
    assert kinds == {"runs/a/report.html": "text/html", "dataset.json": "application/json"}


def test_prefix_of_another_folder_is_a_different_folder(bucket):
    bucket.write("a", b"x")
    neighbour = Storage(bucket.uri.raw + "-2")
    neighbour.write("b", b"y")
    assert (bucket.names(), neighbour.names()) == (["a"], ["b"])


def test_folder_markers_are_not_files(bucket):
    store, root = bucket._store, bucket._root
    store.call_s3("put_object", Bucket=root.split("/")[0], Key=root.split("/", 1)[1] + "/")
    store.call_s3("put_object", Bucket=root.split("/")[0], Key=root.split("/", 1)[1] + "/shards/")
    bucket.write("shards/a.json", b"x")
    assert bucket.names() == ["shards/a.json"]
