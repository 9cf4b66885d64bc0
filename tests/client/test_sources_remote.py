"""Remote videos are listed, opened and read through a real S3 server and a real web server."""

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
from c3d_client.video import stores as remote
from c3d_client.video.sources import expand, fingerprint, open_source
from support.films import noise, write_film
from support.s3_server import s3_server
from support.web_server import web_server

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: remote videos not run")
pytest.importorskip("aiohttp", reason="aiohttp is not installed: remote videos not run")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, bytes]:
    """Forty frames each, of which no two are alike; the index of the first stands at its end."""
    folder = tmp_path_factory.mktemp("films")
    kinds = {"slow.mp4": {}, "fast.mp4": {"movflags": "faststart"}, "film.mkv": {}}
    return {
        name: write_film(folder / name, 40, draw=noise, container_options=options).read_bytes()
        for name, options in kinds.items()
    }


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A server with a bucket that holds a few objects; skips where it cannot run."""
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
    """The S3 server as the environment's own; gives fsspec's view of it, for writing."""
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
    """Retries that follow each other at once."""
    monkeypatch.setattr(stores, "_RETRY_AFTER_S", 0.001)


@pytest.fixture
def fresh(monkeypatch):
    """No connection of another test's: the environment is read again."""
    monkeypatch.setattr(stores, "_OPENED", {})


def frames(uri) -> int:
    with open_source(uri) as opened, av.open(opened) as container:
        return sum(1 for _ in container.decode(video=0))


def failure(uri, kind=VideoUnreadableError) -> str:
    """What is said of a video that cannot be decoded."""
    with pytest.raises(kind) as failed:
        frames(uri)
    assert failed.type is kind
    assert str(failed.value) == f"{failed.value.source}: {failed.value.reason}"
    assert "\n" not in failed.value.reason
    return failed.value.reason


def listed(*inputs, **options):
    return [source.name for source in expand(inputs, **options)]


# Object stores


@pytest.mark.parametrize("name", ["slow.mp4", "fast.mp4", "film.mkv"])
def test_a_film_on_s3_decodes_as_on_disk(bucket, films, name):
    bucket.pipe(f"videos/films/{name}", films[name])
    assert frames(f"s3://videos/films/{name}") == 40
    bucket.rm("videos/films", recursive=True)


def test_an_s3_folder_is_listed_as_one_on_disk(bucket):
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
def test_a_pattern_on_s3_is_matched_as_one_on_disk(bucket, pattern, expected):
    assert listed(f"s3://videos/{pattern}") == expected


def test_an_object_is_taken_without_asking_for_it():
    """No server is named here: videos are known by their suffix."""
    assert listed("s3://bucket/x/a.mp4", "gs://bucket/y/b.webm") == ["a.mp4", "b.webm"]


def test_an_object_of_any_name_is_taken(bucket):
    assert listed("s3://videos/in/raw/1.bin", "s3://videos/in/gone") == ["1.bin", "gone"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://videos/in/raw/", "no videos there"),
        ("s3://videos/in/gone/", "no videos there"),
        ("s3://videos/in/a.mp4/", "no videos there"),
        ("s3://videos/*.avi", "matches no videos"),
        ("s3://nobody/in/", "cannot be listed: there is no such bucket"),
        ("s3://nobody/*/x.mp4", "cannot be listed: there is no such bucket"),
    ],
)
def test_a_store_that_gives_no_videos_is_an_error(bucket, uri, reason):
    with pytest.raises(UsageError, match=reason):
        expand([uri])


@pytest.mark.parametrize(
    ("uri", "kind", "reason"),
    [
        ("s3://videos/in/gone.mp4", VideoUnreadableError, "there is no such object"),
        ("s3://nobody/in/a.mp4", VideoUnreadableError, "there is no such bucket"),
        ("s3://videos/in/deep", VideoUnreadableError, "is a folder, not a video"),
        ("s3://videos/in/nothing.mp4", VideoDecodeError, r"is empty \(0 bytes\)"),
    ],
)
def test_what_is_not_on_s3_is_one_clear_error(bucket, uri, kind, reason):
    with pytest.raises(VideoDecodeError, match=f"^{uri}: {reason}") as failed:
        frames(uri)
    assert failed.type is kind


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_as_such(bucket, fresh, monkeypatch, wrong):
    monkeypatch.setenv(wrong, "wrong")
    reason = failure("s3://videos/in/a.mp4")
    assert reason.startswith("access denied (Forbidden); check the name and AWS_ACCESS_KEY_ID and")
    with pytest.raises(VideoUnreadableError, match="access denied"):
        fingerprint("s3://videos/in/a.mp4")
    with pytest.raises(UsageError, match="s3://videos/in: cannot be listed: access denied"):
        expand(["s3://videos/in/"])
    with pytest.raises(UsageError, match=r"s3://videos/in: cannot be listed: access denied"):
        expand(["s3://videos/in/*.mp4"])


def test_no_credentials_are_named_as_such(bucket, fresh, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_ACCESS_KEY_ID" in failure("s3://videos/in/a.mp4")


def test_an_s3_server_that_is_not_there_is_one_clear_error(bucket, fresh, monkeypatch, nobody):
    monkeypatch.setattr(stores, "_TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{nobody}")
    assert "Could not connect" in failure("s3://videos/in/a.mp4")


def test_an_s3_server_that_says_nothing_is_given_up(bucket, fresh, monkeypatch):
    monkeypatch.setattr(stores, "_TRIES", 1)
    monkeypatch.setattr(stores, "_SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "timeout" in failure("s3://videos/in/a.mp4").lower()
        assert time.monotonic() - started < 15


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(bucket, films, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 14)
    bucket.pipe("videos/changing.mkv", films["film.mkv"])

    def read():
        with open_source("s3://videos/changing.mkv") as opened:
            assert opened.read(100) == films["film.mkv"][:100]
            bucket.pipe("videos/changing.mkv", films["slow.mp4"])
            opened.read()

    with pytest.raises(VideoUnreadableError, match="changing.mkv: was replaced while it was read"):
        read()
    bucket.rm("videos/changing.mkv")


def test_a_fingerprint_on_s3_changes_with_the_object(bucket):
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


def test_objects_in_memory_are_read_by_several_at_once(films):
    fsspec.filesystem("memory").pipe({f"/box/{name}": data for name, data in films.items()})
    assert listed("memory://box/") == ["fast.mp4", "film.mkv", "slow.mp4"]
    assert listed("memory://box/*.mp4") == ["fast.mp4", "slow.mp4"]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(frames, ["memory://box/slow.mp4"] * 8)) == {40}
    assert fingerprint("memory://box/fast.mp4")["size"] == len(films["fast.mp4"])
    assert failure("memory://box/gone.mp4") == "there is no such object"


def test_a_key_with_an_empty_part_is_found_and_named_without_it():
    fsspec.filesystem("memory").pipe({"/odd//x//a.mp4": b"x", "/odd/x/": b""})
    (source,) = expand(["memory://odd"])
    assert (source.uri, source.name) == ("memory://odd//x//a.mp4", "x/a.mp4")


# The web


@pytest.mark.parametrize("name", ["slow.mp4", "fast.mp4", "film.mkv"])
def test_a_film_on_the_web_decodes_as_on_disk_and_is_fetched_once(web, films, monkeypatch, name):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 14)
    web.files[f"/x/{name}"] = films[name]
    assert frames(f"{web.url}/x/{name}?token=1") == 40
    assert len(films[name]) <= web.sent <= len(films[name]) + (1 << 14)
    assert [method for method, _, _ in web.asked].count("HEAD") == 1


def test_a_url_is_sent_as_it_is_written(web, films):
    web.files["/a b.mp4"] = films["fast.mp4"]
    assert frames(f"{web.url}/a%20b.mp4?sig=a%2Fb%2B%3D&x=(1)") == 40
    assert {path for _, path, _ in web.asked} == {"/a%20b.mp4?sig=a%2Fb%2B%3D&x=(1)"}
    web.files["/ü.mp4"] = films["fast.mp4"]
    assert frames(f"{web.url}/ü.mp4") == 40


def test_the_environments_proxy_is_used(web, films, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", web.url)
    web.files["http://no-such-host.invalid/a.mp4"] = films["fast.mp4"]
    assert frames("http://no-such-host.invalid/a.mp4") == 40


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500, 503])
def test_a_refusal_is_named_by_its_status_and_shows_no_secrets(web, status, caplog):
    web.status = status
    uri = f"http://me:secret@{web.address}/a.mp4?token=abc"
    with caplog.at_level(logging.INFO), pytest.raises(VideoUnreadableError) as failed:
        frames(uri)
    assert f"/a.mp4?token=***: the server answered HTTP {status}" in str(failed.value)
    with pytest.raises(VideoUnreadableError, match=f"HTTP {status}"):
        fingerprint(uri)
    said = str(failed.value) + failed.value.source + caplog.text
    assert "secret" not in said
    assert "abc" not in said
    assert failed.value.__cause__ is None  # it would bring the whole URL into a traceback
    assert failed.value.__suppress_context__


def test_what_a_library_says_is_passed_on_without_secrets():
    uri = "https://me:secret@host/a b.mp4?token=abc"
    error = OSError(f"{uri} and\n'http://x:abc@proxy?key=secret'")
    expected = "https://***@host/a b.mp4?token=*** and 'http://***@proxy?key=***'"
    assert stores.reason(error, uri) == expected


def test_a_passing_failure_is_tried_again(web, films, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 14)
    web.files["/a.mp4"] = films["slow.mp4"]
    web.status, web.failures = 503, 2
    assert frames(f"{web.url}/a.mp4") == 40
    web.status, web.failures = 404, 2
    assert "HTTP 404" in failure(f"{web.url}/a.mp4")


@pytest.mark.parametrize("name", ["slow.mp4", "fast.mp4", "film.mkv"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_connection_that_breaks_is_an_error_and_never_a_shorter_film(
    web, films, monkeypatch, capfd, name, part
):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 14)
    web.files["/a"] = films[name]
    web.budget = int(len(films[name]) * part)
    assert failure(f"{web.url}/a") == "the connection was cut while reading; try again"
    web.budget = 1 << 60
    assert frames(f"{web.url}/a") == 40  # and nothing of it is left in this thread
    assert capfd.readouterr().err == ""


def test_after_a_failure_there_is_nothing_to_read_and_the_block_ends_with_it(web):
    web.files["/a"], web.budget = b"12345678", 4
    got = []

    def read():
        with open_source(f"{web.url}/a") as opened:
            for size in (2, -1, 2):
                opened.seek(0)
                got.append(opened.read(size))

    with pytest.raises(VideoUnreadableError, match="the connection was cut"):
        read()
    assert got == [b"", b"", b""]


def test_a_server_that_falls_silent_is_given_up(web, films, monkeypatch):
    monkeypatch.setattr(stores, "_SILENCE_S", 0.1)
    monkeypatch.setattr(stores, "_TRIES", 2)
    web.files["/a.mp4"] = films["fast.mp4"]
    web.budget, web.stalls = 5000, True
    started = time.monotonic()
    assert failure(f"{web.url}/a.mp4") == "the server was silent for 0.1 s"
    assert time.monotonic() - started < 15


def test_a_server_that_is_not_there_is_one_clear_error(nobody):
    assert "Cannot connect to host" in failure(f"http://{nobody}/a.mp4")
    assert "Cannot connect to host" in failure("http://no-such-host.invalid/a.mp4")
    with pytest.raises(VideoUnreadableError, match="Cannot connect to host"):
        fingerprint(f"http://{nobody}/a.mp4")


def test_a_server_that_serves_no_parts_is_named_as_such(web, films, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 14)
    web.files["/a.mp4"], web.ranges = films["slow.mp4"], False
    expected = "the server does not serve parts of a file; download it and give the file"
    assert failure(f"{web.url}/a.mp4") == expected
    web.lengths = False
    assert "does not say how long it is" in failure(f"{web.url}/a.mp4")


def test_what_is_no_video_stays_the_decoders_error(web):
    web.files["/a.mp4"] = b"<html>log in first</html>" * 100
    with pytest.raises(av.error.InvalidDataError):
        frames(f"{web.url}/a.mp4")
    web.files["/a.mp4"] = b""
    assert failure(f"{web.url}/a.mp4", VideoDecodeError) == "is empty (0 bytes)"


def test_a_fingerprint_on_the_web_is_a_matter_of_headers(web):
    web.files["/a.mp4"] = b"12345"
    assert fingerprint(f"{web.url}/a.mp4") == {"size": 5, "etag": '"one"'}
    assert [method for method, _, _ in web.asked] == ["HEAD"]


def test_leaving_early_is_no_error(web, films):
    web.files["/a.mp4"] = films["fast.mp4"]
    with open_source(f"{web.url}/a.mp4") as opened, av.open(opened) as container:
        next(container.decode(video=0))
    with pytest.raises(KeyError), open_source(f"{web.url}/a.mp4"):
        raise KeyError("the caller's own")


def test_several_threads_share_one_connection_pool(web, bucket, fresh, films):
    web.files["/a.mp4"] = films["slow.mp4"]
    bucket.pipe("videos/shared.mp4", films["slow.mp4"])
    uris = [f"{web.url}/a.mp4", "s3://videos/shared.mp4"] * 8
    ready = threading.Barrier(8)

    def one(uri):
        ready.wait(10)
        return frames(uri), id(stores.open_store(uri)[0])

    with ThreadPoolExecutor(8) as pool:
        counted, used = zip(*pool.map(one, uris), strict=True)
    assert counted == (40,) * 16
    assert len(set(used)) == 2
    bucket.rm("videos/shared.mp4")


def test_a_process_ends_without_leftovers(web, bucket, films, s3):
    web.files["/a.mp4"] = films["slow.mp4"]
    bucket.pipe("videos/shared.mp4", films["slow.mp4"])
    code = (
        "import sys, av\n"
        "from c3d_client.video.sources import open_source\n"
        "for uri in sys.argv[1:]:\n"
        "    with open_source(uri) as opened, av.open(opened) as container:\n"
        "        print(sum(1 for _ in container.decode(video=0)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code]
        + [f"{web.url}/a.mp4", "s3://videos/shared.mp4"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("40\n40\n", "", 0)
    bucket.rm("videos/shared.mp4")
