"""Downloads: the whole, right file, or one clear line and no file; transient errors are retried."""

import resource
import shutil
import socket

import pooch
import pytest
from c3d_client.core.errors import UsageError
from c3d_export import fetch
from c3d_export.assets import Fingerprint
from c3d_export.errors import AssetError
from c3d_export.fetch import Attempts, download
from support.http_faults import (
    CONTENT,
    FINGERPRINT,
    answers,
    drops_after,
    hangs_up,
    in_chunks,
    never_answers,
    redirects,
    stalls_after,
    without_length,
)
from support.processes import wait_until

UNKNOWN = Fingerprint()
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"


@pytest.fixture
def target(tmp_path):
    """The path to download to, in a folder without other files."""
    return tmp_path / "weights.h5"


@pytest.fixture
def get(server, target):
    """Download the server's file with few attempts."""

    def get(fingerprint=FINGERPRINT, *, url=server.url, **options):
        attempts = Attempts(timeout_s=60, count=4, first_pause_s=0.001)
        return download(url, target, fingerprint=fingerprint, **{"attempts": attempts, **options})

    return get


@pytest.fixture
def failure(get, target):
    """Run a download that must fail, and return its error, which is one line; no file remains."""

    def failure(*arguments, **options):
        with pytest.raises(AssetError) as caught:
            get(*arguments, **options)
        assert list(target.parent.iterdir()) == []
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return failure


class TestWholeFile:
    def test_file_is_byte_for_byte_the_servers(self, get, target):
        get()
        assert target.read_bytes() == CONTENT
        assert list(target.parent.iterdir()) == [target]

    def test_existing_file_is_replaced_only_by_a_right_one(self, server, get, target):
        target.write_bytes(b"other")
        content, server.content = server.content, b"x" * len(CONTENT)
        with pytest.raises(AssetError, match="md5"):
            get()
        assert target.read_bytes() == b"other"
        assert list(target.parent.iterdir()) == [target]
        server.content = content
        get()
        assert target.read_bytes() == CONTENT

    def test_first_digits_of_a_sha256_are_compared(self, get, failure):
        assert "sha256" in failure(Fingerprint(sha256="00000000"))
        get(Fingerprint(sha256=FINGERPRINT.sha256[:8]))

    def test_progress_rises_to_the_total(self, get):
        calls = []
        get(progress=lambda received, total: calls.append((received, total)))
        assert calls == sorted(calls)
        assert len(calls) > 2
        assert calls[-1] == (len(CONTENT), len(CONTENT))

    def test_body_in_chunks_needs_no_length(self, server, get, target):
        for fingerprint in (FINGERPRINT, UNKNOWN):
            server.faults = [in_chunks]
            get(fingerprint)
            assert target.read_bytes() == CONTENT
            target.unlink()

    def test_checksum_decides_where_the_length_is_unknown(self, server, get, failure):
        server.faults = [without_length(count=100_000)]
        assert "it has 100,000 bytes; the published file has 300,000" in failure()
        server.faults = [without_length()]
        get()

    def test_server_that_keeps_the_connection_open_has_sent_the_file(self, server, get):
        server.faults = [stalls_after(len(CONTENT))]
        get(attempts=Attempts(timeout_s=60, count=1))


class TestTransientErrors:
    def test_is_retried_from_the_first_byte(self, server, get, target):
        faults = {
            "408": answers(408),
            "429": answers(429),
            "500": answers(500),
            "503": answers(503),
            "connection closed": hangs_up,
            "truncated": drops_after(100_000),
            "reset": drops_after(100_000, reset=True),
        }
        self.check_retried(faults, server, get, target)

    def test_stall_is_retried_from_the_first_byte(self, server, get, target, monkeypatch):
        class Downloader(pooch.HTTPDownloader):
            """Is patient in every attempt but the first, so that a busy machine is no stall."""

            patient = False

            def __call__(self, *arguments):
                if self.patient:
                    wait_until(lambda: server.requests)  # the first has its fault
                self.kwargs["timeout"] = 60 if self.patient else 0.3
                self.patient = True
                return super().__call__(*arguments)

        monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
        faults = {
            "no answer": never_answers,
            "stall": stalls_after(1000),
            "stall in the middle": stalls_after(100_000),
        }
        self.check_retried(faults, server, get, target)

    def check_retried(self, faults, server, get, target):
        for name, fault in faults.items():
            server.faults = [fault]
            server.requests.clear()
            get()
            assert target.read_bytes() == CONTENT, name
            assert len(server.requests) == 2, name
            assert not any("Range" in headers for _, headers in server.requests), name
            target.unlink()

    def test_last_attempt_is_reported(self, server, failure):
        faults = {
            "500 Internal Server Error": answers(500),
            "gave no answer": hangs_up,
            "0 bytes read, 300000 more expected": drops_after(0),
            "broke off after 65,536 of 300,000 bytes": drops_after(100_000),
            "broke off after": lambda *to: in_chunks(*to, ending=b""),
        }
        for text, fault in faults.items():
            server.always = fault
            server.requests.clear()
            message = failure()
            assert text in message, text
            assert "attempt 4, and the last; nothing was saved" in message, text
            assert len(server.requests) == 4, text

    def test_timeout_ends_a_stalled_connection(self, server, failure):
        server.always = never_answers  # for minutes
        assert "timed out" in failure(attempts=Attempts(timeout_s=0.1, count=1))


class TestPermanentErrors:
    def test_refusal_is_reported_and_not_retried(self, server, failure):
        for status in (401, 403, 404, 410, 451):
            server.always = answers(status)
            server.requests.clear()
            assert f"the server answers {status} " in failure(), status
            assert len(server.requests) == 1, status

    def test_wrong_content_is_refused_and_removed(self, server, failure):
        server.content = b"x" * len(CONTENT)
        message = failure()
        assert "its md5 begins with" in message
        assert "the published file's with" in message

    def test_web_page_is_recognised(self, server, failure):
        only_magic = Fingerprint(md5=FINGERPRINT.md5, magic=(b"\x89HDF",))
        for fingerprint in (FINGERPRINT, only_magic, UNKNOWN):
            for kind in ("text/html", "application/octet-stream"):
                for body in (PAGE, PAGE + b" " * 1000, PAGE + b" " * 400_000):
                    server.always = answers(200, {"Content-Type": kind}, body)
                    case = fingerprint, kind, len(body)
                    assert "it is a web page" in failure(fingerprint), case

    def test_another_format_is_detected_by_the_first_bytes(self, server, failure):
        server.content = b"PK\x03\x04" + b"x" * 50_000_000
        assert "it begins with b'PK" in failure(Fingerprint(magic=(b"\x89HDF",)))

    def test_wrong_length_is_detected_before_the_body_is_received(self, server, failure):
        server.content = CONTENT * 100
        message = failure(Fingerprint(size=len(CONTENT)))
        assert "30,000,000 bytes there; the published file has 300,000" in message

    def test_bytes_after_the_length_are_not_part_of_the_file(self, server, get, failure, target):
        server.always = answers(200, {"Content-Length": len(CONTENT)}, CONTENT + b"more")
        get()
        assert target.read_bytes() == CONTENT
        target.unlink()
        server.always = answers(200, {"Content-Length": 1000}, CONTENT)
        assert "1,000 bytes there; the published file has 300,000" in failure()

    def test_more_than_the_published_size_is_refused_in_chunks_too(self, server, failure):
        server.content = CONTENT + b"more"
        server.always = in_chunks
        assert "more than the 300,000 bytes" in failure()

    def test_endless_body_is_stopped(self, server, failure, monkeypatch):
        monkeypatch.setattr(fetch, "_LARGEST_BYTES", 1000)
        server.always = in_chunks
        assert "more than the 1,000 bytes" in failure(UNKNOWN)

    def test_file_whose_truncation_could_not_be_detected_is_refused(self, server, failure):
        server.always = without_length(count=1000)
        assert "a truncated file could not be detected" in failure(UNKNOWN)

    def test_empty_file_is_refused(self, server, failure):
        server.content = b""
        assert "it is empty" in failure(UNKNOWN)

    def test_body_that_cannot_be_decoded_is_refused(self, server, failure):
        server.always = answers(200, {"Content-Encoding": "gzip"}, CONTENT)
        assert "its body cannot be decoded (" in failure()
        assert len(server.requests) == 1


class TestRedirects:
    def test_redirects_are_followed(self, server, get, target):
        for status in (301, 302, 303, 307, 308):
            server.faults = [redirects("/a", status), redirects("/b", status)]
            server.requests.clear()
            get()
            assert target.read_bytes() == CONTENT, status
            assert [path for path, _ in server.requests] == ["/file", "/a", "/b"], status
            target.unlink()

    def test_endless_redirects_are_an_error(self, server, failure):
        circle = redirects("/file")
        for fault in (circle, lambda handler, site: redirects(f"/{site.sent}")(handler, site)):
            server.always = fault
            server.requests.clear()
            assert "it redirects in a circle, or too often" in failure()
            assert len(server.requests) < 40

    def test_redirects_lead_to_http_only(self, server, failure):
        for location in ("ftp://127.0.0.1/x", "file:///etc/hosts", "http://[x/"):
            server.always = redirects(location)
            message = failure()
            assert message.startswith(f"{server.url}: is, or leads to, no usable address"), location


class TestNoServer:
    @pytest.fixture
    def closed_url(self):
        """An address on this machine where no server listens."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{free.getsockname()[1]}/file"

    def test_unreachable_server_is_reported_at_once(self, failure, closed_url):
        message = failure(url=closed_url, attempts=Attempts())
        assert message.startswith(f"{closed_url}: cannot be reached (")
        assert message.endswith("is there a network?")

    def test_server_that_has_answered_before_is_retried(self, server, get, target, closed_url):
        server.faults = [answers(503), redirects(closed_url)]
        get()
        assert target.read_bytes() == CONTENT
        assert len(server.requests) == 3

    def test_unknown_host_is_reported_at_once(self, failure):
        message = failure(url="http://c3d.invalid/file", attempts=Attempts())
        assert message.startswith("http://c3d.invalid/file: cannot be reached (")

    def test_only_http_and_https_are_accepted(self, get):
        for url in ("ftp://x/y", "file:///etc/hosts", "models/x", ""):
            with pytest.raises(UsageError, match="is not an http or https URL"):
                get(url=url)

    def test_malformed_address_is_one_line(self, failure):
        for url in ("http://", "http://[/", "http://127.0.0.1:x/", "http://a..b/"):
            assert failure(url=url).startswith(f"{url}: "), url


class TestDisk:
    def test_write_error_is_reported_and_nothing_remains(self, get, failure, target):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            assert "cannot be written or read (File too large" in failure()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        get()

    def test_too_little_free_space_is_reported_before_the_body_is_received(
        self, failure, target, monkeypatch
    ):
        usage = shutil.disk_usage(target.parent)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        assert "needs 300,000 bytes, and 1,000 are free" in failure()

    def test_folder_that_cannot_be_written_is_an_error(self, server, target):
        target.with_name("file").write_bytes(b"")
        for folder in ("none", "file"):
            with pytest.raises(AssetError, match=r"cannot be written or read \((No|Not) "):
                download(server.url, target.parent / folder / "x")

    def test_folder_with_the_files_name_is_not_changed(self, get, target):
        target.mkdir()
        with pytest.raises(AssetError, match="cannot be written or read"):
            get()
        assert list(target.parent.iterdir()) == [target]
        assert target.is_dir()

    def test_interrupt_leaves_no_file(self, get, target):
        def interrupt(received, total):
            if received > 200_000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            get(progress=interrupt)
        assert list(target.parent.iterdir()) == []
