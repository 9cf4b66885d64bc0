"""Whatever the server does, no half or wrong file has the name; what passes is tried again."""

import socket

import pytest
from c3d_client.core.errors import UsageError
from c3d_export import download as download_module
from c3d_export.download import Patience
from c3d_export.fingerprint import Fingerprint
from support.http_faults import (
    CONTENT,
    KNOWN,
    answers,
    drops_after,
    hangs_up,
    in_chunks,
    never_answers,
    redirects,
    stalls_after,
    without_length,
)

UNKNOWN = Fingerprint()
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


class TestTroubleThatPasses:
    @pytest.mark.parametrize(
        "fault",
        [answers(500), answers(503), answers(429), hangs_up, never_answers, stalls_after(1000)],
        ids=["500", "503", "429", "hangs up", "never answers", "stalls"],
    )
    def test_is_tried_again(self, server, get, target, fault):
        server.faults = [fault]
        get()
        assert target.read_bytes() == CONTENT
        assert len(server.requests) == 2

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            (answers(500), "500 Internal Server Error"),
            (hangs_up, "gave no answer"),
            (drops_after(0), "ended after 0 of 300,000 bytes"),
            (lambda *to: in_chunks(*to, ending=b""), "broke off after"),
        ],
        ids=["500", "hangs up", "truncates", "truncates chunks"],
    )
    def test_ends_after_so_many_attempts(self, server, refused, target, fault, said):
        server.always = fault
        message = refused()
        assert said in message
        assert "attempt 4, and the last" in message
        assert len(server.requests) == 4

    def test_a_stalled_connection_is_given_up_in_time(self, server, refused):
        server.always = never_answers
        assert "timed out" in refused(patience=Patience(timeout_s=0.1, attempts=1))

    def test_pauses_double(self, server, refused, monkeypatch):
        pauses = []
        monkeypatch.setattr(download_module.time, "sleep", pauses.append)
        server.always = answers(502)
        refused(patience=Patience(attempts=8, backoff_s=1))
        assert pauses == [1, 2, 4, 8, 16, 30, 30]


class TestTroubleThatStays:
    @pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
    def test_a_refusal_is_named_and_not_repeated(self, server, refused, target, status):
        server.always = answers(status)
        assert f"the server says {status} " in refused()
        assert len(server.requests) == 1
        assert left(target) == []

    def test_wrong_content_is_refused_and_removed(self, server, refused, target):
        server.content = b"x" * len(CONTENT)
        message = refused()
        assert "its md5 begins with" in message
        assert "the published file's with" in message
        assert left(target) == []

    @pytest.mark.parametrize("known", [KNOWN, Fingerprint(md5=KNOWN.md5, magic=(b"\x89HDF",))])
    @pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
    @pytest.mark.parametrize("padding", [0, 1000])
    def test_a_web_page_is_called_one(self, server, refused, target, known, kind, padding):
        server.always = answers(200, {"Content-Type": kind}, PAGE + b" " * padding)
        assert "it is a web page" in refused(known)
        assert left(target) == []

    def test_a_page_is_called_one_where_nothing_is_known(self, server, refused):
        server.always = answers(200, body=PAGE)
        assert "it is a web page" in refused(UNKNOWN)

    def test_a_file_of_another_format_is_seen_at_its_beginning(self, server, refused):
        server.content = b"PK\x03\x04" + b"x" * 50_000_000
        assert "it begins with b'PK" in refused(Fingerprint(magic=(b"\x89HDF",)))

    def test_another_length_than_published_is_seen_before_it_comes(self, server, refused, target):
        server.content = CONTENT * 100
        message = refused(Fingerprint(size=len(CONTENT)))
        assert "30,000,000 bytes there; the published file has 300,000" in message
        assert left(target) == []

    @pytest.mark.parametrize("known", [UNKNOWN, KNOWN])
    def test_more_than_its_length_says_is_refused(self, server, refused, target, known):
        server.always = answers(200, {"Content-Length": len(CONTENT)}, CONTENT + b"more")
        assert "more than the 300,000 bytes" in refused(known)
        assert left(target) == []

    def test_more_than_published_is_refused_in_chunks_too(self, server, refused):
        server.content = CONTENT + b"more"
        server.always = in_chunks
        assert "more than the 300,000 bytes" in refused()

    def test_a_server_without_end_is_stopped(self, server, refused, monkeypatch):
        monkeypatch.setattr(download_module, "_LARGEST_BYTES", 1000)
        server.always = in_chunks
        assert "more than the 1,000 bytes" in refused(UNKNOWN)

    def test_half_a_file_that_would_not_show_is_not_taken(self, server, refused, target):
        server.always = without_length(count=1000)
        assert "half a file would not show" in refused(UNKNOWN)
        assert left(target) == []

    def test_an_empty_file_is_none(self, server, refused, target):
        server.content = b""
        assert "it is empty" in refused(UNKNOWN)
        assert left(target) == []

    def test_a_packed_body_is_not_taken_for_the_file(self, server, refused):
        server.always = answers(200, {"Content-Encoding": "gzip"}, CONTENT)
        assert "packed (gzip)" in refused()


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307])
    def test_are_followed_with_what_was_asked_for(self, server, get, target, status):
        server.faults = [redirects("/a", status), redirects("/b", status), drops_after(1000)]
        server.faults += [redirects("/c", status)]
        get()
        assert target.read_bytes() == CONTENT
        assert [path for path, _ in server.requests] == ["/file", "/a", "/b", "/file", "/c"]
        assert server.ranges == ["", "", "", "bytes=1000-", "bytes=1000-"]

    def test_in_a_circle_end(self, server, refused):
        server.always = redirects("/file")
        assert "redirects in a circle, too often" in refused()
        assert len(server.requests) < 10

    def test_without_end_end(self, server, refused):
        server.always = lambda handler, site: redirects(f"/{len(site.requests)}")(handler, site)
        assert "too often" in refused()
        assert len(server.requests) < 15

    @pytest.mark.parametrize("to", ["ftp://127.0.0.1/x", "file:///etc/hosts", "http://[x/"])
    def test_lead_to_http_alone(self, server, refused, target, to):
        server.always = redirects(to)
        assert refused().startswith(f"{server.url}: ")
        assert left(target) == []


class TestNoServer:
    @pytest.fixture
    def nobody(self):
        """An address on this machine at which nobody listens."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{free.getsockname()[1]}/file"

    def test_nobody_there_is_said_at_once(self, refused, nobody, target):
        message = refused(url=nobody, patience=Patience())
        assert message.startswith(f"{nobody}: cannot be reached (")
        assert message.endswith("is there a network?")
        assert left(target) == []

    def test_a_network_that_was_there_is_waited_for(self, server, get, target, nobody):
        server.faults = [drops_after(1000), redirects(nobody)]
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == ["", "bytes=1000-", "bytes=1000-"]

    def test_a_name_that_nobody_has_is_said_at_once(self, refused):
        message = refused(url="http://c3d.invalid/file", patience=Patience())
        assert "http://c3d.invalid/file: " in message

    @pytest.mark.parametrize("url", ["ftp://x/y", "file:///etc/hosts", "models/x", ""])
    def test_only_http_and_https(self, get, url):
        with pytest.raises(UsageError, match="is not an http or https URL"):
            get(url=url)

    @pytest.mark.parametrize("url", ["http://", "http://[/", "http://127.0.0.1:x/"])
    def test_an_address_that_is_none_is_one_line(self, refused, url):
        refused(url=url)
