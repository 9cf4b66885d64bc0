"""Listing of inputs on a disk, in a bucket and in a manifest, with their keys."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from c3d_client.core.errors import C3DError, UsageError
from c3d_client.core.uri import Uri
from c3d_client.video import stores
from c3d_client.video.sources import Scan
from c3d_pipelines.errors import ManifestError, StorageError
from c3d_pipelines.inputs import content_keys as keys_module
from c3d_pipelines.inputs.content_keys import content_key, quick_key, with_keys
from c3d_pipelines.inputs.listing import list_inputs
from c3d_pipelines.inputs.manifest import SUFFIXES, ManifestRow, write_manifest
from support.processes import LONG_S
from support.s3_server import s3_server

NAMES = ["a.MKV", "b.mp4", "deep/c.avi", "deep/é #1 [x].webm", "z/d.mp4"]
OTHERS = ["notes.txt", ".hidden.mp4", ".git/d.mp4", "deep/.no/e.mp4"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos with [x] spaces"
    for name in NAMES + OTHERS:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (root / "folder.mp4").mkdir()
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a bucket of the same files."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: listing on S3 not run")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        store = running.file_system()
        store.mkdir("bucket")
        for name in NAMES + OTHERS:
            store.pipe(f"bucket/in/{name}", name.encode())
        store.pipe("bucket/elsewhere/x.mp4", b"x")
        store.pipe("bucket/in/empty/", b"")
        yield running, store


@pytest.fixture
def bucket(server, monkeypatch):
    """The bucket with its environment set, as an fsspec file system to write to."""
    running, store = server
    running.use(monkeypatch)
    return store


def refusal(videos, kind=ManifestError):
    """Return the one-line error of a listing."""
    with pytest.raises(kind) as caught:
        list_inputs(str(videos))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids(videos, **options):
    return [row.video_id for row in list_inputs(str(videos), **options)]


# On a disk


def test_folder_lists_each_video_once_by_path_and_nothing_else(folder):
    rows = list_inputs(str(folder))
    assert [row.video_id for row in rows] == NAMES
    assert [row.uri for row in rows] == [str(folder / name) for name in NAMES]
    assert [row.size_bytes for row in rows] == [len(name.encode()) for name in NAMES]
    assert rows == list_inputs(f"file://{str(folder).replace(' ', '%20')}/")


def test_paths_do_not_depend_on_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert list_inputs(folder.name) == list_inputs(str(folder))
    monkeypatch.chdir(folder)
    for videos in (".", "./", "../" + folder.name, "z/.."):
        assert list_inputs(videos) == list_inputs(str(folder))
    assert list_inputs("deep/*")[0].uri == str(folder / "deep/c.avi")


def test_patterns_and_single_videos_are_listed_as_a_shell_does(folder):
    assert ids(folder / "*.mp4") == ["b.mp4"]
    assert ids(folder / "deep/*") == ["c.avi", "é #1 [x].webm"]
    assert ids(folder / "**/*.[am]*") == ["b.mp4", "deep/c.avi", "z/d.mp4"]
    assert ids(folder / "deep/é #1 [x].webm") == ["é #1 [x].webm"]


def test_quick_key_is_the_files_size_and_time(folder):
    (row,) = list_inputs(str(folder / "b.mp4"))
    status = os.stat(folder / "b.mp4")
    assert row.key == f"stat:5-{status.st_mtime_ns}"
    os.utime(folder / "b.mp4", ns=(1, 1))
    assert list_inputs(row.uri)[0].key == "stat:5-1"


def test_content_key_depends_on_the_bytes_alone(folder):
    before = list_inputs(str(folder), keys="content")
    assert [row.key for row in before] == [
        f"sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in NAMES
    ]
    assert [row.size_bytes for row in before] == [len(name.encode()) for name in NAMES]
    os.utime(folder / "b.mp4", ns=(1, 1))
    assert list_inputs(str(folder), keys="content") == before


def test_content_key_covers_all_of_a_long_file(tmp_path):
    data = os.urandom(2**21 + 5)
    (tmp_path / "a.mp4").write_bytes(data)
    assert content_key(str(tmp_path / "a.mp4")) == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_unreadable_video_is_an_input_without_key(folder):
    (folder / "lost.mp4").symlink_to("missing")
    os.mkfifo(folder / "pipe")
    (folder / "pipe.mp4").symlink_to("pipe")
    for kind in ("quick", "content"):
        rows = {row.video_id: row for row in list_inputs(str(folder), keys=kind)}
        assert rows["lost.mp4"] == ManifestRow("lost.mp4", str(folder / "lost.mp4"))
        assert len(rows) == len(NAMES) + 2
    assert rows["pipe.mp4"].key == ""


def test_name_that_is_not_utf8_is_an_input_whose_uri_opens_it(folder):
    path = os.path.join(os.fsencode(folder), b"50%\xff.mp4")
    Path(os.fsdecode(path)).write_bytes(b"12345")
    row = list_inputs(str(folder))[0]
    quoted = quote(str(folder))
    assert (row.video_id, row.uri) == (r"50%\xff.mp4", f"file://{quoted}/50%25%FF.mp4")
    assert (row.size_bytes, row.key[:5]) == (5, "stat:")
    assert os.fsencode(Uri(row.uri).local_path) == path
    # The same row from the file alone, from its URL, and from each kind of manifest.
    assert list_inputs(os.fsdecode(path)) == list_inputs(row.uri) == [row]
    for kind in SUFFIXES:
        manifest = str(folder.parent / f"list{kind}")
        write_manifest(manifest, [row])
        assert list_inputs(manifest) == [row], kind
    digest = hashlib.sha256(b"12345").hexdigest()
    assert list_inputs(row.uri, keys="content")[0].key == f"sha256:{digest}"


def test_two_names_of_one_id_are_refused_in_one_line(folder):
    for name in (b"z/\xff.mp4", rb"z/\xff.mp4"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).touch()
    message = refusal(folder)
    assert r"two files would both be listed as z/\xff.mp4" in message
    assert "rename one of them" in message


def test_files_left_out_are_counted_and_all_files_can_be_taken(folder):
    scan = Scan()
    list_inputs(str(folder), scan=scan)
    assert scan.left_out == {".txt": 1}
    scan = Scan()
    list_inputs(str(folder / "*.mp4"), scan=scan)
    assert not scan.left_out
    everything = Scan(any_file=True)
    rows = list_inputs(str(folder), scan=everything)
    assert sorted([*NAMES, "notes.txt"]) == [row.video_id for row in rows]
    assert not everything.left_out
    assert ids(folder / "notes.txt", scan=Scan(any_file=True)) == ["notes.txt"]


def test_the_data_set_of_the_run_is_not_searched(folder):
    for name in ("shards/1.parquet", "runs/1/report.html", "odd.mp4"):
        path = folder / "features" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for results in (folder / "features", f"file://{folder}/features".replace(" ", "%20")):
        scan = Scan(results=results)
        assert [row.video_id for row in list_inputs(str(folder), scan=scan)] == NAMES
        assert scan.left_out == {".txt": 1}
    assert "features/odd.mp4" in ids(folder)


def test_listing_without_videos_is_one_line(folder, tmp_path):
    (tmp_path / "none").mkdir()
    assert "no videos there (files named" in refusal(tmp_path / "none")
    (tmp_path / "none" / "a.bin").touch()
    assert refusal(tmp_path / "none").endswith("; 1 file left out: 1 .bin; --any takes all")
    assert "matches no videos" in refusal(folder / "*.ogv")
    assert "no such file or folder" in refusal(tmp_path / "absent")
    assert "no such file or folder" in refusal(tmp_path / "absent.mp4")
    assert "has neither the name of a video" in refusal(folder / "notes.txt")
    assert "no such file" in refusal(folder / "*.csv")
    for videos in ("rtsp://host/stream", "ftp://host/a.mp4"):
        assert "cannot be listed there" in refusal(videos)
    for videos in ("s3://", "s3:///a.mp4", "s3://*/a.mp4"):
        assert "names no bucket; give s3://BUCKET/DIR" in refusal(videos)
    for videos in ("", "  "):
        assert "is empty" in refusal(videos, UsageError)
    with pytest.raises(UsageError, match="keys is 'slow'; give one of quick, content"):
        list_inputs(str(folder), keys="slow")


# In a bucket


def test_bucket_is_listed_like_a_folder_without_a_request_per_object(bucket, monkeypatch):
    monkeypatch.setattr(keys_module, "fingerprint", None)
    rows = list_inputs("s3://bucket/in")
    assert [row.video_id for row in rows] == NAMES
    assert [row.uri for row in rows] == [f"s3://bucket/in/{name}" for name in NAMES]
    assert [row.size_bytes for row in rows] == [len(name.encode()) for name in NAMES]
    md5 = [hashlib.md5(name.encode()).hexdigest() for name in NAMES]
    assert [row.key for row in rows] == [f"etag:{digest}" for digest in md5]
    assert rows == list_inputs("s3://bucket/in/") == list_inputs("s3://bucket/in/**")
    assert len(list_inputs("s3://bucket")) == len(rows) + 1


def test_objects_left_out_are_counted_and_all_objects_can_be_taken(bucket):
    for videos in ("s3://bucket/in", "s3://bucket/in/", "s3://bucket/in/*", "s3://bucket/*/**"):
        scan = Scan()
        list_inputs(videos, scan=scan)
        assert scan.left_out == {".txt": 1}, videos
    assert "notes.txt" in ids("s3://bucket/in", scan=Scan(any_file=True))
    results = Scan(results="s3://bucket/in/deep")
    assert ids("s3://bucket/in", scan=results) == [n for n in NAMES if not n.startswith("deep")]


def test_patterns_match_in_a_bucket(bucket):
    assert ids("s3://bucket/in/*.mp4") == ["b.mp4"]
    assert ids("s3://bucket/*/deep/*") == ["in/deep/c.avi", "in/deep/é #1 [x].webm"]
    assert ids("s3://bucket/in/deep/é #1 [x].webm") == ["é #1 [x].webm"]
    listed = {row.uri: row for row in list_inputs("s3://bucket/in/**")}
    assert all(listed[row.uri].key == row.key for row in list_inputs("s3://bucket/in/*/*"))


def test_object_has_the_same_key_however_it_is_listed(bucket):
    listed = list_inputs("s3://bucket/in", keys="content")
    write_manifest(
        "s3://bucket/lists/m.parquet", [ManifestRow(row.video_id, row.uri) for row in listed]
    )
    assert list_inputs("s3://bucket/lists/m.parquet") == listed
    assert list_inputs("s3://bucket/in/b.mp4") == [row for row in listed if row.video_id == "b.mp4"]
    bucket.pipe("bucket/in/b.mp4", b"b.mp5")
    changed = [row for row in list_inputs("s3://bucket/in") if row not in listed]
    assert [row.video_id for row in changed] == ["b.mp4"]
    bucket.pipe("bucket/in/b.mp4", b"b.mp4")


def test_two_objects_whose_names_differ_in_a_slash_are_two_inputs():
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: buckets not run")
    store = fsspec.filesystem("memory")
    for name in ("e.mp4", "/e.mp4"):
        store.pipe(f"/slashes/z/{name}", b"x")
    rows = list_inputs("memory://slashes")
    assert [row.video_id for row in rows] == ["z//e.mp4", "z/e.mp4"]
    assert len({row.uri for row in rows}) == 2
    store.rm("/slashes", recursive=True)


def test_bucket_without_videos_is_one_line(bucket):
    for absent in ("s3://bucket/absent", "s3://bucket/in/absent.mp4", "s3://bucket/in/empty/"):
        assert "no videos there" in refusal(absent)
    assert "matches no videos" in refusal("s3://bucket/in/*.ogv")
    assert "has neither the name of a video" in refusal("s3://bucket/in/notes.txt")
    assert "no such file" in refusal("s3://bucket/absent.csv")
    for videos in ("s3://absent", "s3://absent/in/*", "s3://absent/in/*/a.mp4"):
        assert "there is no such bucket" in refusal(videos)


def test_forbidden_bucket_is_one_line_without_the_secret(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    for videos in ("s3://bucket/in", "s3://bucket/in/*/*.avi", "s3://bucket/in/b.mp4"):
        message = refusal(videos)
        assert "access denied" in message
        assert "AWS_SECRET_ACCESS_KEY" in message
        assert "another secret" not in message
    assert "access denied" in refusal("s3://bucket/lists/m.csv", StorageError)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(stores, "_OPENED", {})
    assert "AWS_ACCESS_KEY_ID" in refusal("s3://bucket/in")


def test_unreachable_store_is_one_line(bucket, monkeypatch):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # without listening
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
        monkeypatch.setattr(stores, "_TRIES", 1)
        assert "Could not connect" in refusal("s3://bucket/in")


# Of a manifest


def test_manifest_rows_keep_their_values_and_the_rest_is_looked_up(folder, tmp_path):
    written = [
        ManifestRow("one", str(folder / "a.MKV"), 7, 2.5, "sha256:stored"),
        ManifestRow("two", str(folder / "b.mp4"), 99, 3.5),
        ManifestRow("three", f"file://{folder}/z/d.mp4".replace(" ", "%20")),
    ]
    write_manifest(tmp_path / "m.csv", written)
    first, two, three = list_inputs(str(tmp_path / "m.csv"))
    assert first == written[0]
    assert (two.size_bytes, two.duration_s) == (5, 3.5)
    assert two.key == list_inputs(str(folder / "b.mp4"))[0].key
    assert (three.size_bytes, three.key.partition("-")[0]) == (7, "stat:7")
    hashed = list_inputs(str(tmp_path / "m.csv"), keys="content")
    digests = [hashlib.sha256(name).hexdigest() for name in (b"b.mp4", b"z/d.mp4")]
    assert [row.key for row in hashed] == [
        "sha256:stored",
        *(f"sha256:{digest}" for digest in digests),
    ]


def test_missing_or_denied_objects_are_inputs(bucket, tmp_path):
    uris = ["s3://bucket/in/b.mp4", "s3://bucket/absent.mp4", "s3://absent/a.mp4", "rtsp://h/a"]
    rows = [ManifestRow(uri, uri) for uri in [*uris, "/absent/a.mp4"]]
    write_manifest(tmp_path / "m.jsonl", rows)
    listed = list_inputs(str(tmp_path / "m.jsonl"))
    assert listed[0].key.startswith("etag:")
    assert listed[1:] == rows[1:]


def test_keys_are_looked_up_in_parallel_and_stay_in_order(monkeypatch):
    together = threading.Barrier(16, timeout=LONG_S)

    def slow(uri):
        together.wait()
        return {"size": len(uri), "etag": uri}

    monkeypatch.setattr(keys_module, "fingerprint", slow)
    rows = [ManifestRow(f"v{n}", f"memory://{n % 4}/{n:03}.mp4") for n in range(160)]
    keyed = with_keys(rows)
    assert [row.key for row in keyed] == [f"etag:{row.uri}" for row in rows]
    assert [row.video_id for row in keyed] == [row.video_id for row in rows]


def test_only_a_store_that_never_answers_is_skipped(monkeypatch, caplog):
    requested = []

    def fingerprint(uri):
        requested.append(uri)
        if "dead" in uri:
            raise keys_module.VideoUnreadableError(uri, "no answer")
        return {"size": 1, "etag": uri}

    monkeypatch.setattr(keys_module, "fingerprint", fingerprint)
    rows = [
        ManifestRow(f"{s}{n}", f"s3://{s}/{n}.mp4") for n in range(1000) for s in ("dead", "up")
    ]
    keyed = with_keys(rows)
    assert [bool(row.key) for row in keyed] == [row.video_id.startswith("up") for row in rows]
    assert sum("dead" in uri for uri in requested) == 64
    assert "s3://dead: none of 64 videos could be looked up" in caplog.text


def test_error_that_is_not_of_one_video_is_raised(monkeypatch):
    def fingerprint(uri):
        raise UsageError("a library is missing")

    monkeypatch.setattr(keys_module, "fingerprint", fingerprint)
    with pytest.raises(C3DError, match="a library is missing"):
        with_keys([ManifestRow("a", "s3://b/a.mp4")])


def test_quick_key_uses_the_best_property():
    for properties, key in [
        ({"size": 5, "mtime_ns": 7}, "stat:5-7"),
        ({"size": 5, "etag": '"ab-3"', "modified": "now"}, "etag:ab-3"),
        ({"size": 5, "etag": "gcs=/1", "checksum": "md5=="}, "checksum:md5=="),
        ({"size": 5, "modified": "2026-01-01"}, "modified:2026-01-01-5"),
        ({"modified": "2026-01-01"}, "modified:2026-01-01-"),
        ({"size": 5}, ""),
        ({}, ""),
    ]:
        assert quick_key(properties) == key, (properties, key)
