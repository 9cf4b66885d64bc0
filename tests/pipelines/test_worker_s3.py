"""A shard with videos and files in a real bucket."""

from dataclasses import replace

import pytest
from c3d_client.video import stores
from c3d_client.video.sources import fingerprint
from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.content_keys import quick_key
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards import worker
from c3d_pipelines.shards.commits import name_of, read_parts, read_report
from c3d_pipelines.shards.in_hand import InHand, VideoInHand
from c3d_pipelines.shards.reader import parquet_file
from c3d_pipelines.shards.schema import clip_file, report_file, video_file
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.s3_server import s3_server
from support.shard_runs import after, job
from support.videos import write_video


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket with two videos, an empty file, and a file that is not a video."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: shards on S3 not run")
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        server.use(patch)
        store = server.file_system()
        store.mkdir("videos")
        content = write_video(folder / "a.mp4", 40).read_bytes()
        for name, data in {
            "a.mp4": content,
            "b.mp4": content,
            "c.mp4": b"",
            "d.mp4": b"x" * 99,
        }.items():
            store.pipe(f"videos/{name}", data)
        yield store


def planned(name):
    uri = f"s3://videos/{name}"
    properties = fingerprint(uri)
    return ManifestRow(name, uri, int(properties["size"]), 0.0, quick_key(properties))


def test_shard_is_read_from_and_written_to_a_bucket(bucket, server):
    rows = [planned(name) for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4")]
    rows.append(ManifestRow("e.mp4", "s3://videos/e.mp4", 0, 0.0, "etag:gone"))
    rows.append(ManifestRow("f.mp4", "s3://no-such-bucket/f.mp4"))
    bucket.pipe("videos/b.mp4", bucket.cat("videos/a.mp4") + b"\0\0\0\x08free")
    settings = job("s3://videos/out", server.target)
    report = do_shard(settings, rows, 0)
    storage = Storage("s3://videos/out")
    assert storage.names() == sorted(
        [clip_file(report.name), report_file(report.name), video_file(report.name)]
    )
    assert read_report(storage, report.name) == report
    with parquet_file(storage, video_file(report.name)) as file:
        stored = file.read().to_pylist()
    statuses = ["ok", "ok", "corrupt", "corrupt", "unreadable", "unreadable"]
    assert [item["status"] for item in stored] == statuses
    assert stored[0]["key"] == rows[0].key
    # The video was replaced after planning.
    assert stored[1]["key"] == planned("b.mp4").key != rows[1].key
    assert stored[4]["key"] == "etag:gone"
    assert "there is no such object" in stored[4]["error_message"]
    assert do_shard(settings, rows, 0) == report


def test_parts_in_a_bucket_are_continued(bucket, server, monkeypatch):
    rows = [planned(name) for name in ("a.mp4", "c.mp4", "b.mp4")]
    settings = job("s3://videos/parts", server.target, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_commit_after", lambda elapsed_s: -1.0)
        with pytest.raises(ZeroDivisionError):
            do_shard(settings, rows, 0, on_progress=after(2, lambda: 1 / 0))
    storage = Storage("s3://videos/parts")
    [part] = read_parts(storage, name_of(settings, rows))
    assert [file.partition("/")[0] for file in storage.names()] == ["clips", "shards", "shards"]
    answered = len(server.requests)
    left = InHand("run-1", 0, "0", False, (VideoInHand("b.mp4", rows[2].uri, rows[2].key),), 0.0)
    storage.write_small(left.file, left.to_json())
    reported = []
    report = do_shard(settings, rows, 0, on_progress=reported.append)
    assert len(server.requests) == answered + 1
    assert [item.done for item in reported] == [2, 3, 3]
    assert report.counts == {"ok": 2, "too_short": 0, "corrupt": 1, "unreadable": 0, "failed": 0}
    assert [len(read_parts(storage, report.name)), part.videos] == [3, 1]
    assert not storage.names("in_hand")
    assert do_shard(settings, rows, 0) == report


def test_missing_or_forbidden_bucket_is_one_line(bucket, server, monkeypatch):
    settings = job("s3://videos/out", server.target)
    missing = replace(settings, out="s3://no-such-bucket/out")
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket/out/.*no such bucket"):
        do_shard(missing, [planned("a.mp4")], 0)
    monkeypatch.setattr(stores, "_OPENED", {})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="access denied") as failed:
        do_shard(settings, [ManifestRow("g", "s3://videos/a.mp4")], 0)
    assert "wrong" not in str(failed.value)
