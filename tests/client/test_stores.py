"""Videos in object stores and on web servers: listing, reading and errors, with real servers."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import av
import pytest
from c3d_client.core.errors import UsageError, VideoDecodeError, VideoUnreadableError
from c3d_client.video import stores
from c3d_client.video.sources import Scan, expand, fingerprint, open_source
from support.processes import LONG_S
from support.s3_server import s3_server
from support.videos import noise, write_video
from support.web_server import web_server

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: remote videos not run")
pytest.importorskip("aiohttp", reason="aiohttp is not installed: remote videos not run")


@pytest.fixture(scope="module")
def sample_videos(tmp_path_factory) -> dict[str, bytes]:
    """Videos of 40 different frames; the MP4 called slow has its index at the end."""
    folder = tmp_path_factory.mktemp("videos")
    kinds = {"slow.mp4": {}, "fast.mp4": {"movflags": "faststart"}, "video.mkv": {}}
    return {
        name: write_video(folder / name, 40, draw=noise, container_options=options).read_bytes()
        for name, options in kinds.items()
    }


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """An S3 server with a bucket of a few objects; skips where the server cannot run."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: videos on S3 not run")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        store = fsspec.filesystem(
            "s3", endpoint_url=server.endpoint, key=server.access_key, secret=server.secret_key
        )
        store.mkdir("videos")
        for key in ("in/a.mp4", "in/ü #1 [x].mp4", "in/deep/b.mkv", "in/deep/er/c.mp4"):
            store.pipe(f"videos/{key}", b"x")
        for key in ("in/notes.txt", "in/.hidden.mp4", "in/.no/d.mp4", "in/raw/1.bin", "in/empty/"):
            store.pipe(f"videos/{key}", b"x")
        store.pipe("videos/in/nothing.mp4", b"")
        yield server, store


@pytest.fixture
def bucket(s3, monkeypatch):
    """The S3 server, named in the environment; returns its fsspec file system, for writing."""
    server, store = s3
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return store


@pytest.fixture
def web():
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    """Shorten the pauses between retries."""
    monkeypatch.setattr(stores, "_RETRY_AFTER_S", 0.001)


@pytest.fixture
def new_connections(monkeypatch):
    """Open new connections, so that the environment is read again."""
    monkeypatch.setattr(stores, "_OPENED", {})


def frames(uri) -> int:
    with open_source(uri) as opened, av.open(opened) as container:
        return sum(1 for _ in container.decode(video=0))


def failure(uri, kind=VideoUnreadableError) -> str:
    """Return the reason why a video cannot be decoded."""
    with pytest.raises(kind) as caught:
        frames(uri)
    assert caught.type is kind
    assert str(caught.value) == f"{caught.value.source}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def test_objects_left_out_are_counted_and_all_objects_can_be_taken(bucket):
    bucket.pipe("videos/kinds/a.gif", b"x")
    bucket.pipe("videos/kinds/b.bin", b"x")
    bucket.pipe("videos/kinds/.hidden", b"x")
    bucket.pipe("videos/kinds/a.gif.npz", b"x")
    bucket.pipe("videos/kinds/empty/", b"")
    for inputs in ("s3://videos/kinds", "s3://videos/kinds/", "s3://videos/kinds/*"):
        scan = Scan()
        assert listed(inputs, scan=scan) == ["a.gif"]
        assert scan.left_out == {".bin": 1}
        assert listed(inputs, scan=Scan(any_file=True)) == ["a.gif", "b.bin"]
    bucket.rm("videos/kinds/a.gif")
    with pytest.raises(UsageError, match=r"; 1 file left out: 1 \.bin; --any takes all$"):
        expand(["s3://videos/kinds"])
    bucket.rm("videos/kinds", recursive=True)


def listed(*inputs, **options):
    return [source.name for source in expand(inputs, **options)]


# Object stores


@pytest.mark.parametrize("name", ["slow.mp4", "fast.mp4", "video.mkv"])
def test_video_on_s3_decodes_as_on_disk(bucket, sample_videos, name):
    bucket.pipe(f"videos/films/{name}", sample_videos[name])
    assert frames(f"s3://videos/films/{name}") == 40
    bucket.rm("videos/films", recursive=True)


def test_s3_folder_is_listed_as_on_disk(bucket):
    expected = ["a.mp4", "deep/b.mkv", "deep/er/c.mp4", "nothing.mp4", "ü #1 [x].mp4"]
    assert listed("s3://videos/in/") == listed("s3://videos/in") == expected
    assert listed("s3://videos/in/**") == expected
    assert listed("s3://videos") == listed("s3://videos/") == [f"in/{name}" for name in expected]
    assert listed("s3://videos/in", root="s3://videos") == [f"in/{name}" for name in expected]
    assert [source.uri for source in expand(["s3://videos/in/deep/"])] == [
        "s3://videos/in/deep/b.mkv",
        "s3://videos/in/deep/er/c.mp4",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.mp4", ["a.mp4", "nothing.mp4", "ü #1 [x].mp4"]),
        ("in/d*/*", ["deep/b.mkv", "deep/er/c.mp4"]),
        ("in/**/?.mp4", ["a.mp4", "deep/er/c.mp4"]),
        ("i[n]/a.mp4", ["in/a.mp4"]),
        ("*/raw/*.bin", ["in/raw/1.bin"]),
        ("in/ü #1 [x].mp4", ["ü #1 [x].mp4"]),
    ],
)
def test_s3_pattern_matches_as_on_disk(bucket, pattern, expected):
    assert listed(f"s3://videos/{pattern}") == expected


def test_object_with_a_video_suffix_causes_no_request():
    """There is no server: videos are recognised by their suffix."""
    assert listed("s3://bucket/x/a.mp4", "gs://bucket/y/b.webm") == ["a.mp4", "b.webm"]


def test_object_of_any_name_is_accepted(bucket):
    assert listed("s3://videos/in/raw/1.bin", "s3://videos/in/gone") == ["1.bin", "gone"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://videos/in/raw/", "no videos there"),
        ("s3://videos/in/gone/", "no videos there"),
        ("s3://videos/in/a.mp4/", "no videos there"),
        ("s3://videos/*.avi", "matches no videos"),
        ("s3://missing/in/", "cannot be listed: there is no such bucket"),
        ("s3://missing/*/x.mp4", "cannot be listed: there is no such bucket"),
    ],
)
def test_folder_or_pattern_without_videos_on_s3_is_an_error(bucket, uri, reason):
    with pytest.raises(UsageError, match=reason):
        expand([uri])


@pytest.mark.parametrize(
    ("uri", "kind", "reason"),
    [
        ("s3://videos/in/gone.mp4", VideoUnreadableError, "there is no such object"),
        ("s3://missing/in/a.mp4", VideoUnreadableError, "there is no such bucket"),
        ("s3://videos/in/deep", VideoUnreadableError, "is a folder, not a video"),
        ("s3://videos/in/nothing.mp4", VideoDecodeError, r"is empty \(0 bytes\)"),
    ],
)
def test_missing_and_empty_objects_are_errors(bucket, uri, kind, reason):
    with pytest.raises(VideoDecodeError, match=f"^{uri}: {reason}") as failed:
        frames(uri)
    assert failed.type is kind


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named(bucket, new_connections, monkeypatch, wrong):
    monkeypatch.setenv(wrong, "wrong")
    reason = failure("s3://videos/in/a.mp4")
    assert reason.startswith("access denied (Forbidden); check the name and AWS_ACCESS_KEY_ID and")
    with pytest.raises(VideoUnreadableError, match="access denied"):
        fingerprint("s3://videos/in/a.mp4")
    with pytest.raises(UsageError, match="s3://videos/in: cannot be listed: access denied"):
        expand(["s3://videos/in/"])
    with pytest.raises(UsageError, match=r"s3://videos/in: cannot be listed: access denied"):
        expand(["s3://videos/in/*.mp4"])


def test_missing_credentials_are_named(bucket, new_connections, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_ACCESS_KEY_ID" in failure("s3://videos/in/a.mp4")


def test_missing_s3_server_is_an_error(bucket, new_connections, monkeypatch, closed_port):
    monkeypatch.setattr(stores, "_TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{closed_port}")
    assert "Could not connect" in failure("s3://videos/in/a.mp4")


def test_silent_s3_server_is_a_timeout(bucket, new_connections, monkeypatch):
    monkeypatch.setattr(stores, "_TRIES", 1)
    monkeypatch.setattr(stores, "_SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "timeout" in failure("s3://videos/in/a.mp4").lower()
        assert time.monotonic() - started < 15


def test_object_that_is_replaced_while_it_is_read_is_an_error(bucket, sample_videos, monkeypatch):
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1 << 14)
    bucket.pipe("videos/changing.mkv", sample_videos["video.mkv"])

    def read():
        with open_source("s3://videos/changing.mkv") as opened:
            assert opened.read(100) == sample_videos["video.mkv"][:100]
            bucket.pipe("videos/changing.mkv", sample_videos["slow.mp4"])
            opened.read()

    with pytest.raises(VideoUnreadableError, match="changing.mkv: was replaced while it was read"):
        read()
    bucket.rm("videos/changing.mkv")


def test_fingerprint_on_s3_changes_with_the_object(bucket):
    uri = "s3://videos/changing.mp4"
    bucket.pipe("videos/changing.mp4", b"one")
    first = fingerprint(uri)
    assert first == fingerprint(uri)
    assert first["size"] == 3
    assert set(first) == {"size", "etag", "modified"}
    bucket.pipe("videos/changing.mp4", b"two")
    assert fingerprint(uri)["etag"] != first["etag"]
    bucket.rm("videos/changing.mp4")
    for missing in (uri, "s3://videos/in"):
        with pytest.raises(VideoUnreadableError, match="no such object|is a folder"):
            fingerprint(missing)


def test_objects_in_memory_can_be_read_by_several_threads(sample_videos):
    fsspec.filesystem("memory").pipe({f"/box/{name}": data for name, data in sample_videos.items()})
    assert listed("memory://box/") == ["fast.mp4", "slow.mp4", "video.mkv"]
    assert listed("memory://box/*.mp4") == ["fast.mp4", "slow.mp4"]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(frames, ["memory://box/slow.mp4"] * 8)) == {40}
    assert fingerprint("memory://box/fast.mp4")["size"] == len(sample_videos["fast.mp4"])
    assert failure("memory://box/gone.mp4") == "there is no such object"


def test_object_name_with_an_empty_part():
    fsspec.filesystem("memory").pipe({"/odd//x//a.mp4": b"x", "/odd/x/": b""})
    (source,) = expand(["memory://odd"])
    assert (source.uri, source.name) == ("memory://odd//x//a.mp4", "x/a.mp4")


# Web servers


@pytest.mark.parametrize("name", ["slow.mp4", "fast.mp4", "video.mkv"])
def test_video_on_a_web_server_decodes_as_on_disk_and_is_fetched_once(
    web, sample_videos, monkeypatch, name
):
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1 << 14)
    web.files[f"/x/{name}"] = sample_videos[name]
    assert frames(f"{web.url}/x/{name}?token=1") == 40
    assert len(sample_videos[name]) <= web.sent <= len(sample_videos[name]) + (1 << 14)
    assert [method for method, _, _ in web.requests].count("HEAD") == 1


def test_url_is_sent_unchanged(web, sample_videos):
    web.files["/a b.mp4"] = sample_videos["fast.mp4"]
    assert frames(f"{web.url}/a%20b.mp4?sig=a%2Fb%2B%3D&x=(1)") == 40
    assert {path for _, path, _ in web.requests} == {"/a%20b.mp4?sig=a%2Fb%2B%3D&x=(1)"}
    web.files["/ü.mp4"] = sample_videos["fast.mp4"]
    assert frames(f"{web.url}/ü.mp4") == 40


def test_proxy_of_the_environment_is_used(web, sample_videos, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", web.url)
    web.files["http://no-such-host.invalid/a.mp4"] = sample_videos["fast.mp4"]
    assert frames("http://no-such-host.invalid/a.mp4") == 40


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500, 503])
def test_http_error_names_its_status_and_no_secrets(web, status, caplog):
    web.status = status
    uri = f"http://me:secret@{web.address}/a.mp4?token=abc"
    with caplog.at_level(logging.INFO), pytest.raises(VideoUnreadableError) as failed:
        frames(uri)
    assert f"/a.mp4?token=***: the server answered HTTP {status}" in str(failed.value)
    with pytest.raises(VideoUnreadableError, match=f"HTTP {status}"):
        fingerprint(uri)
    messages = str(failed.value) + failed.value.source + caplog.text
    assert "secret" not in messages
    assert "abc" not in messages
    assert failed.value.__cause__ is None  # it would show the whole URL in a traceback
    assert failed.value.__suppress_context__


def test_message_of_a_library_is_redacted():
    uri = "https://me:secret@host/a b.mp4?token=abc"
    error = OSError(f"{uri} and\n'http://x:abc@proxy?key=secret'")
    expected = "https://***@host/a b.mp4?token=*** and 'http://***@proxy?key=***'"
    assert stores.reason(error, uri) == expected


def test_transient_http_errors_are_retried(web, sample_videos, monkeypatch):
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1 << 14)
    web.files["/a.mp4"] = sample_videos["slow.mp4"]
    web.status, web.failures = 503, 2
    assert frames(f"{web.url}/a.mp4") == 40
    web.status, web.failures = 404, 2
    assert "HTTP 404" in failure(f"{web.url}/a.mp4")


@pytest.mark.parametrize("name", ["slow.mp4", "fast.mp4", "video.mkv"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_broken_connection_is_an_error_and_never_a_shorter_video(
    web, sample_videos, monkeypatch, capfd, name, part
):
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1 << 14)
    web.files["/a"] = sample_videos[name]
    web.budget = int(len(sample_videos[name]) * part)
    assert failure(f"{web.url}/a") == "the connection was cut while reading; try again"
    web.budget = 1 << 60
    assert frames(f"{web.url}/a") == 40  # the error does not affect the next video of this thread
    assert capfd.readouterr().err == ""


def test_failed_read_returns_nothing_and_ends_the_block_with_its_error(web):
    web.files["/a"], web.budget = b"12345678", 4
    blocks = []

    def read():
        with open_source(f"{web.url}/a") as opened:
            for size in (2, -1, 2):
                opened.seek(0)
                blocks.append(opened.read(size))

    with pytest.raises(VideoUnreadableError, match="the connection was cut"):
        read()
    assert blocks == [b"", b"", b""]


def test_silent_web_server_is_a_timeout(web, sample_videos, monkeypatch):
    monkeypatch.setattr(stores, "_SILENCE_S", 0.1)
    monkeypatch.setattr(stores, "_TRIES", 2)
    web.files["/a.mp4"] = sample_videos["fast.mp4"]
    web.budget, web.stalls = 5000, True
    started = time.monotonic()
    assert failure(f"{web.url}/a.mp4") == "the server was silent for 0.1 s"
    assert time.monotonic() - started < 15


def test_missing_web_server_is_an_error(closed_port):
    assert "Cannot connect to host" in failure(f"http://{closed_port}/a.mp4")
    assert "Cannot connect to host" in failure("http://no-such-host.invalid/a.mp4")
    with pytest.raises(VideoUnreadableError, match="Cannot connect to host"):
        fingerprint(f"http://{closed_port}/a.mp4")


def test_web_server_without_range_requests_is_an_error(web, sample_videos, monkeypatch):
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1 << 14)
    web.files["/a.mp4"], web.ranges = sample_videos["slow.mp4"], False
    expected = "the server does not serve parts of a file; download it and give the file"
    assert failure(f"{web.url}/a.mp4") == expected
    web.lengths = False
    assert "does not say how long it is" in failure(f"{web.url}/a.mp4")


def test_decoder_errors_are_not_changed(web):
    web.files["/a.mp4"] = b"<html>log in first</html>" * 100
    with pytest.raises(av.error.InvalidDataError):
        frames(f"{web.url}/a.mp4")
    web.files["/a.mp4"] = b""
    assert failure(f"{web.url}/a.mp4", VideoDecodeError) == "is empty (0 bytes)"


def test_fingerprint_on_a_web_server_is_one_head_request(web):
    web.files["/a.mp4"] = b"12345"
    assert fingerprint(f"{web.url}/a.mp4") == {"size": 5, "etag": '"one"'}
    assert [method for method, _, _ in web.requests] == ["HEAD"]


def test_reading_can_be_ended_early(web, sample_videos):
    web.files["/a.mp4"] = sample_videos["fast.mp4"]
    with open_source(f"{web.url}/a.mp4") as opened, av.open(opened) as container:
        next(container.decode(video=0))
    with pytest.raises(KeyError), open_source(f"{web.url}/a.mp4"):
        raise KeyError("raised by the caller")


def test_threads_share_one_connection_pool(web, bucket, new_connections, sample_videos):
    web.files["/a.mp4"] = sample_videos["slow.mp4"]
    bucket.pipe("videos/shared.mp4", sample_videos["slow.mp4"])
    uris = [f"{web.url}/a.mp4", "s3://videos/shared.mp4"] * 8
    ready = threading.Barrier(8)

    def count_and_store(uri):
        ready.wait(LONG_S)
        return frames(uri), id(stores.open_store(uri)[0])

    with ThreadPoolExecutor(8) as pool:
        counts, store_ids = zip(*pool.map(count_and_store, uris), strict=True)
    assert counts == (40,) * 16
    assert len(set(store_ids)) == 2
    bucket.rm("videos/shared.mp4")


def test_process_ends_without_warnings(web, bucket, sample_videos, s3):
    web.files["/a.mp4"] = sample_videos["slow.mp4"]
    bucket.pipe("videos/shared.mp4", sample_videos["slow.mp4"])
    code = (
        "import sys, av\n"
        "from c3d_client.video.sources import open_source\n"
        "for uri in sys.argv[1:]:\n"
        "    with open_source(uri) as opened, av.open(opened) as container:\n"
        "        print(sum(1 for _ in container.decode(video=0)))\n"
    )
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code]
        + [f"{web.url}/a.mp4", "s3://videos/shared.mp4"],
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )
    assert (process.stdout, process.stderr, process.returncode) == ("40\n40\n", "", 0)
    bucket.rm("videos/shared.mp4")
