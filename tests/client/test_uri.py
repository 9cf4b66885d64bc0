"""Paths and URLs: redacting, splitting, joining, resolving and comparing."""

import os
from pathlib import Path

import pytest
from c3d_client.core.uri import Uri, redact, redact_urls

REDACTED = {
    "a/b?c=d&e@f.mp4": "a/b?c=d&e@f.mp4",
    "https://host/a.mp4": "https://host/a.mp4",
    "https://me:secret@host:8/a=b.mp4": "https://***@host:8/a=b.mp4",
    "https://token@host/@user/a.mp4": "https://***@host/@user/a.mp4",
    "rtsp://me:s#c?r@t@camera/1": "rtsp://***@camera/1",
    "https://h/a.mp4?X-Amz-Signature=ab%2F==&part=2;x=3#t=4": (
        "https://h/a.mp4?X-Amz-Signature=***&part=***;x=***#t=***"
    ),
    "https://h/a.mp4?secret": "https://h/a.mp4?***",
    "https://h?token=secret": "https://h?token=***",
    "s3://bucket/what?#1.mp4": "s3://bucket/what?#1.mp4",
    "s3://key:secret@bucket/a.mp4?versionId=1": "s3://***@bucket/a.mp4?versionId=***",
    "HTTPS://me:secret@host/a.mp4": "HTTPS://***@host/a.mp4",
    "": "",
}


def test_str_and_repr_contain_no_secrets():
    for raw, redacted in REDACTED.items():
        uri = Uri(raw)
        assert str(uri) == redact(raw) == redacted
        assert repr(uri) == f"Uri({redacted!r})"
        assert uri.raw == raw


def test_redacting_twice_changes_nothing():
    for raw in REDACTED:
        assert redact(redact(raw)) == redact(raw), raw


def test_every_url_in_a_message_is_redacted():
    message = "GET https://me:abc@host/a?key=abc failed, 'http://x:abc@proxy' too; see a/b.txt"
    expected = "GET https://***@host/a?key=*** failed, 'http://***@proxy' too; see a/b.txt"
    assert redact_urls(message) == expected


def test_paths_bytes_and_uris_become_uris(tmp_path):
    assert Uri.of(tmp_path) == Uri.of(str(tmp_path)) == Uri(str(tmp_path))
    assert Uri.of(Uri("a.mp4")) == Uri("a.mp4")
    assert Uri.of(Path(os.fsdecode(b"\xff.mp4"))).raw == os.fsdecode(b"\xff.mp4")


def test_scheme_store_bucket_path_and_name():
    cases = {
        # raw: (scheme, store, bucket, path, name)
        "a/b.mp4": ("", "", "", "a/b.mp4", "b.mp4"),
        "/a/b.mp4": ("", "", "", "/a/b.mp4", "b.mp4"),
        "a://b": ("", "", "", "a://b", "b"),  # one letter is no scheme
        "x/y://b": ("", "", "", "x/y://b", "b"),
        "file:///a%20b/c.mp4": ("file", "", "", "/a b/c.mp4", "c.mp4"),
        "s3://bucket/in/a.mp4": ("s3", "s3", "bucket", "in/a.mp4", "a.mp4"),
        "S3A://bucket/a.mp4": ("s3a", "s3", "bucket", "a.mp4", "a.mp4"),
        "gs://bucket": ("gs", "gcs", "bucket", "", "bucket"),
        "gcs://bucket/x/": ("gcs", "gcs", "bucket", "x/", "x"),
        "https://host:8/x/a.mp4?t=1": ("https", "http", "host:8", "x/a.mp4?t=1", "a.mp4"),
        "http://me:pw@host/a.mp4": ("http", "http", "me:pw@host", "a.mp4", "a.mp4"),
        "memory://box/a.mp4": ("memory", "memory", "box", "a.mp4", "a.mp4"),
        "rtsp://camera/live/1": ("rtsp", "", "camera", "live/1", "1"),
    }
    for raw, expected in cases.items():
        uri = Uri(raw)
        values = (uri.scheme, uri.store, uri.bucket, uri.path, uri.name)
        assert values == expected, raw


def test_only_stores_of_objects_are_object_stores():
    for raw in ("s3://b/a", "s3a://b/a", "gs://b/a", "gcs://b/a", "memory://b/a"):
        assert Uri(raw).is_object_store, raw
    for raw in ("a.mp4", "file:///a", "http://h/a", "https://h/a", "rtsp://h/a", "ftp://h/a"):
        assert not Uri(raw).is_object_store, raw


def test_local_path():
    cases = {
        "a b.mp4": "a b.mp4",
        "/a/%41.mp4": "/a/%41.mp4",  # only URLs are percent-encoded
        "file:///a%20b/%231.mp4": "/a b/#1.mp4",
        "file://localhost/a.mp4": "/a.mp4",
        "FILE:///a.mp4": "/a.mp4",
        "file:///%FF%C3%A9.mp4": os.fsdecode(b"/\xff\xc3\xa9.mp4"),
        "": "",
        "s3://bucket/a.mp4": None,
        "https://host/a.mp4": None,
        "rtsp://camera/1": None,
    }
    for raw, path in cases.items():
        assert Uri(raw).local_path == path, raw
        assert Uri(raw).is_local is (path is not None), raw


def test_parts_leave_out_user_query_and_dots():
    cases = {
        "https://me:pw@host/x%20y/./a.mp4?s=1#t": ["host", "x y", "a.mp4"],
        "https://host/x/..": ["host", "x"],
        "https://host//x///a.mp4": ["host", "x", "a.mp4"],
        "https://host?token=a/b": ["host"],
        "http://host/a%2F..%2Fb.mp4": ["host", "a", "b.mp4"],
        "s3://bucket/what?.mp4": ["bucket", "what?.mp4"],
        "s3://bucket/a/#1.mp4": ["bucket", "a", "#1.mp4"],
        "s3://bucket/a/%41.mp4": ["bucket", "a", "%41.mp4"],
        "s3://bucket/a.mp4?versionId=x/y": ["bucket", "a.mp4"],
    }
    for raw, parts in cases.items():
        assert Uri(raw).parts == parts, raw


def test_versions_of_objects():
    assert Uri("s3://bucket/a.mp4?versionId=1").has_version
    for raw in ("s3://bucket/a.mp4?v=1", "s3://bucket/a.mp4", "https://host/a.mp4?versionId=1"):
        assert not Uri(raw).has_version, raw


def test_join():
    cases = {
        ("a", "b.mp4"): "a/b.mp4",
        ("a/", "b/c.mp4"): "a/b/c.mp4",
        ("/", "b.mp4"): "/b.mp4",
        ("s3://bucket", "b.mp4"): "s3://bucket/b.mp4",
        ("s3://bucket/x/", "what?#1.mp4"): "s3://bucket/x/what?#1.mp4",
        ("s3://bucket/x", "/b.mp4"): "s3://bucket/x//b.mp4",  # the name of an object may be empty
    }
    for (folder, name), expected in cases.items():
        assert Uri(folder).join(name) == Uri(expected), (folder, name)


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = {
        ("s3://bucket/lists", "a.mp4"): "s3://bucket/lists/a.mp4",
        ("s3://bucket/lists/new/", "../a.mp4"): "s3://bucket/lists/a.mp4",
        ("s3://bucket", "../../a.mp4"): "s3://bucket/a.mp4",
        ("s3://bucket/lists", "what?#1.mp4"): "s3://bucket/lists/what?#1.mp4",
        ("s3://bucket/lists", "https://host/a.mp4"): "https://host/a.mp4",
        ("s3://bucket/lists", "/data/a.mp4"): "/data/a.mp4",
        ("/data/lists", "../a.mp4"): "/data/a.mp4",
        ("lists", "a.mp4"): str(tmp_path / "lists/a.mp4"),
        ("lists", "s3://bucket/a.mp4"): "s3://bucket/a.mp4",
    }
    for (folder, reference), expected in cases.items():
        assert Uri(folder).resolve(reference) == Uri(expected), (folder, reference)


def test_relative_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    below = {
        ("v/x/a.mp4", "v"): "x/a.mp4",
        (str(tmp_path / "v/a.mp4"), "v"): "a.mp4",
        ("v/a.mp4", f"file://{tmp_path}"): "v/a.mp4",
        ("s3://bucket/in/x/a.mp4", "s3://bucket/in/"): "x/a.mp4",
        ("https://u:p@host/data/x%20y/a.mp4?s=1", "https://host/data"): "x y/a.mp4",
    }
    for (raw, root), name in below.items():
        assert Uri(raw).relative_to(Uri(root)) == name, (raw, root)
    for raw, root in (
        ("a.mp4", "v"),
        ("a.mp4", "https://host/"),
        ("https://host/a.mp4", "v"),
        ("https://host/database/a.mp4", "https://host/data"),
        ("http://host/data/a.mp4", "https://host/data"),
        ("s3://data/a.mp4", "https://host/data"),
    ):
        assert Uri(raw).relative_to(Uri(root)) is None, (raw, root)


def test_split_before():
    def is_marked(part: str) -> bool:
        return "*" in part

    assert Uri("s3://b/x/*/y*.mp4").split_before(is_marked) == (Uri("s3://b/x"), ("*", "y*.mp4"))
    assert Uri("s3://b/x.mp4").split_before(is_marked) == (Uri("s3://b/x.mp4"), ())


def test_canonical_addresses_of_the_same_file_are_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "a b.mp4")
    for raw in ("a b.mp4", "./x/../a b.mp4", f"file://{tmp_path}/a%20b.mp4"):
        assert Uri(raw).canonical() == Uri(path), raw
    assert Uri("s3a://bucket/a.mp4").canonical() == Uri("s3://bucket/a.mp4").canonical()
    assert Uri("gs://bucket/a.mp4").canonical() == Uri("gcs://bucket/a.mp4").canonical()
    assert Uri("HTTPS://host/a.mp4").canonical() == Uri("https://host/a.mp4").canonical()
    assert Uri("http://host/a.mp4").canonical() != Uri("https://host/a.mp4").canonical()
    assert Uri("s3://bucket/A.mp4").canonical() != Uri("s3://bucket/a.mp4").canonical()


def test_a_uri_is_a_value():
    assert len({Uri("a"), Uri("a"), Uri("b")}) == 2
    with pytest.raises(AttributeError):
        Uri("a").raw = "b"
