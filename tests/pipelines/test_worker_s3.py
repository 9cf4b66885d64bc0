"""A shard whose videos lie in a real bucket, and whose files go into one."""

import pytest
from c3d_client.video import stores
from c3d_client.video.sources import fingerprint
from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.content_keys import quick_key
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards.commits import read_report
from c3d_pipelines.shards.reader import parquet_file
from c3d_pipelines.shards.schema import clip_file, report_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.films import write_film
from support.s3_server import s3_server
from support.shard_runs import job


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket with two videos, one that is empty, and one that is none."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: shards on S3 not run")
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setattr(stores, "_OPENED", {})
        store = Storage("s3://videos")._store
        store.mkdir("videos")
        film = write_film(folder / "a.mp4", 40).read_bytes()
        for name, data in {"a.mp4": film, "b.mp4": film, "c.mp4": b"", "d.mp4": b"x" * 99}.items():
            store.pipe(f"videos/{name}", data)
        yield store


@pytest.fixture
def server(started):
    return started()


def asked(name):
    uri = f"s3://videos/{name}"
    told = fingerprint(uri)
    return ManifestRow(name, uri, int(told["size"]), 0.0, quick_key(told))


def test_from_a_bucket_into_a_bucket(bucket, server):
    rows = [asked(name) for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4")]
    rows.append(ManifestRow("e.mp4", "s3://videos/e.mp4", 0, 0.0, "etag:gone"))
    rows.append(ManifestRow("f.mp4", "s3://nobody/f.mp4"))
    bucket.pipe("videos/b.mp4", bucket.cat("videos/a.mp4") + b"\0\0\0\x08free")
    settings = job("s3://videos/out", server.target)
    report = do_shard(settings, rows, 0)
    storage = Storage("s3://videos/out")
    assert storage.names() == sorted(
        [clip_file(report.name), report_file(report.name), video_file(report.name)]
    )
    assert read_report(storage, report.name) == report
    with parquet_file(storage, video_file(report.name)) as file:
        found = file.read().to_pylist()
    statuses = ["ok", "ok", "corrupt", "corrupt", "unreadable", "unreadable"]
    assert [one["status"] for one in found] == statuses
    assert found[0]["key"] == rows[0].key
    # It was replaced between the plan and the reading.
    assert found[1]["key"] == asked("b.mp4").key != rows[1].key
    assert found[4]["key"] == "etag:gone"
    assert "there is no such object" in found[4]["error_message"]
    assert do_shard(settings, rows, 0) == report


def test_a_bucket_that_is_not_there_or_not_ours_is_one_clear_line(bucket, server, monkeypatch):
    settings = job("s3://videos/out", server.target)
    elsewhere = type(settings)(**{**vars(settings), "out": "s3://nobody/out"})
    with pytest.raises(StorageError, match=r"^s3://nobody/out/.*no such bucket"):
        do_shard(elsewhere, [asked("a.mp4")], 0)
    monkeypatch.setattr(stores, "_OPENED", {})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="access denied") as failed:
        do_shard(settings, [ManifestRow("g", "s3://videos/a.mp4")], 0)
    assert "wrong" not in str(failed.value)
