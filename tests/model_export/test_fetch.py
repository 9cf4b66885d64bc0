"""Published files are fetched one by one, each with one line of result; and the command `fetch`."""

import contextlib
import io
import socket

import pytest
from c3d_client.core.errors import UsageError
from c3d_export import assets
from c3d_export.assets import CATALOGUE, Asset, Fingerprint, find_assets
from c3d_export.errors import AssetError
from c3d_export.fetch import Attempts, Fetched, ProgressLine, by_hand, fetch
from support.http_faults import (
    CONTENT,
    FINGERPRINT,
    answers,
    drops_after,
    hangs_up,
    never_answers,
    redirects,
    without_length,
)

TWICE = Attempts(timeout_s=60, count=2, first_pause_s=0.001)
IMPATIENT = Attempts(timeout_s=0.3, count=2, first_pause_s=0.001)


@contextlib.contextmanager
def closed_port():
    """Yield a port at which nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def catalogue(server, monkeypatch):
    """Published files with addresses on this machine."""
    mirrored = (f"{server.url}/gone", f"{server.url}/mirror")
    magic = Fingerprint(magic=(b"\x89",))
    published = (
        Asset("one.h5", "weights", "the first", FINGERPRINT, (server.url,), page="http://one"),
        Asset("two.h5", "weights", "the second", FINGERPRINT, mirrored, page="http://two"),
        Asset("three.h5", "weights", "in a browser", magic, page="http://three"),
    )
    monkeypatch.setattr(assets, "CATALOGUE", published)
    monkeypatch.setattr("c3d_export.fetch.DEFAULT_NAMES", ("one.h5",))
    return published


@pytest.fixture
def get(catalogue, tmp_path):
    def get(*names, **options):
        return list(fetch(names, tmp_path / "models", **{"attempts": TWICE, **options}))

    return get


def outcomes(results):
    return {result.asset.name: result.outcome for result in results}


class TestFetch:
    def test_default_files_are_fetched_into_a_new_folder(self, get, tmp_path):
        (result,) = get()
        path = tmp_path / "models" / "one.h5"
        assert path.read_bytes() == CONTENT
        assert str(result) == f"fetched  {path}: checksum right"

    def test_right_files_are_not_fetched_again(self, server, get):
        get()
        server.requests.clear()
        assert outcomes(get()) == outcomes(get(overwrite=True)) == {"one.h5": "there"}
        assert server.requests == []

    def test_wrong_file_is_replaced_only_with_overwrite(self, get, tmp_path):
        path = tmp_path / "models" / "one.h5"
        path.parent.mkdir()
        path.write_bytes(b"other")
        (result,) = get()
        assert result.outcome == "failed"
        assert result.detail.startswith("WRONG: it has 5 bytes")
        assert "it was not changed: move it away, or overwrite it" in result.detail
        assert path.read_bytes() == b"other"
        assert outcomes(get(overwrite=True)) == {"one.h5": "fetched"}
        assert path.read_bytes() == CONTENT

    def test_wrong_file_stays_where_the_download_fails(self, server, get, tmp_path):
        path = tmp_path / "models" / "one.h5"
        path.parent.mkdir()
        path.write_bytes(b"other")
        server.always = answers(404)
        assert outcomes(get(overwrite=True)) == {"one.h5": "failed"}
        assert path.read_bytes() == b"other"

    def test_folder_with_an_assets_name_is_not_changed(self, server, get, tmp_path):
        path = tmp_path / "models" / "one.h5"
        path.mkdir(parents=True)
        for overwrite in (False, True):
            (result,) = get(overwrite=overwrite)
            assert result.outcome == "failed"
            assert result.detail.startswith("it exists and is not a file")
        assert path.is_dir()
        assert server.requests == []

    def test_file_that_fails_does_not_stop_the_others(self, server, get):
        server.faults = [answers(404)]
        results = get("one.h5", "three.h5", "two.h5")
        assert outcomes(results) == {"one.h5": "failed", "three.h5": "failed", "two.h5": "fetched"}
        assert "404 Not Found" in results[0].detail
        assert all(str(result).count("\n") == 0 for result in results)

    def test_next_address_is_used_where_the_first_fails(self, server, get):
        server.faults = [answers(404)]
        assert outcomes(get("two.h5")) == {"two.h5": "fetched"}
        assert [path for path, _ in server.requests] == ["/file/gone", "/file/mirror"]

    def test_errors_of_all_addresses_are_reported(self, server, get, tmp_path):
        server.faults = [answers(404), answers(403)]
        (result,) = get("two.h5")
        assert result.outcome == "failed"
        assert "404 Not Found" in result.detail
        assert "403 Forbidden" in result.detail
        assert list((tmp_path / "models").iterdir()) == []

    def test_results_are_yielded_one_by_one(self, server, catalogue, tmp_path):
        results = fetch(["one.h5", "two.h5"], tmp_path, attempts=TWICE)
        assert next(results).asset.name == "one.h5"
        assert len(server.requests) == 1

    def test_progress_names_the_asset(self, get, catalogue):
        calls = []
        get("one.h5", progress=lambda *call: calls.append(call))
        assert calls[-1] == (catalogue[0], len(CONTENT), len(CONTENT))

    def test_file_from_a_browser_is_checked_once_it_is_there(self, get, tmp_path):
        path = tmp_path / "models" / "three.h5"
        (result,) = get("three.h5")
        assert result.outcome == "failed"
        assert result.detail == "it cannot be fetched without a browser"
        path.write_bytes(b"\x89HDF")
        (result,) = get("three.h5")
        assert result.outcome == "there"
        assert result.detail == "no published checksum to compare with"
        path.write_bytes(b"<html>")
        assert "web page" in get("three.h5")[0].detail

    def test_unknown_names_are_refused_before_the_folder_is_created(self, catalogue, tmp_path):
        with pytest.raises(UsageError, match=r"'x' is no published file; known are one\.h5"):
            fetch(["one.h5", "x"], tmp_path / "models")
        assert not (tmp_path / "models").exists()

    def test_folder_that_cannot_be_created_is_an_error(self, catalogue, tmp_path):
        (tmp_path / "models").write_bytes(b"")
        with pytest.raises(AssetError, match="models: cannot be created"):
            fetch([], tmp_path / "models")

    def test_without_a_network_every_file_has_a_line(self, get, monkeypatch):
        def getaddrinfo(*_, **__):
            raise socket.gaierror(-3, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        (result,) = get("one.h5", attempts=Attempts())
        assert result.outcome == "failed"
        assert "name resolution" in result.detail
        assert "is there a network?" in result.detail


class TestCommand:
    def test_output_has_the_licence_and_the_results(self, run, tmp_path, catalogue):
        code, out, _ = run("fetch", "one.h5", "--models", tmp_path)
        assert code == 0
        assert "CC BY-NC 3.0" in out
        assert f"fetched  {tmp_path / 'one.h5'}: checksum right" in out
        assert (tmp_path / "one.h5").read_bytes() == CONTENT

    def test_instructions_are_printed_for_what_cannot_be_fetched(self, run, tmp_path, catalogue):
        code, out, err = run("fetch", "three.h5", "--models", tmp_path)
        assert code == 2
        assert "http://three" in out
        assert err == "c3d-export: 1 not fetched: three.h5; see above\n"
        assert list(tmp_path.iterdir()) == []

    def test_unknown_name_is_refused(self, run, tmp_path, catalogue):
        code, _, err = run("fetch", "four.h5", "--models", tmp_path)
        assert code == 2
        assert "'four.h5' is no published file; known are one.h5, two.h5" in err
        assert f"{tmp_path}/four.h5 is not there; put it there" in err
        (tmp_path / "four.h5").write_text("mine")
        assert run("fetch", "four.h5", "--models", tmp_path)[2].endswith("four.h5 is there\n")

    def test_exit_code_tells_whether_a_later_try_may_succeed(
        self, server, run, tmp_path, catalogue, monkeypatch
    ):
        wrong = b"x" * len(CONTENT)
        later, final = 75, 2
        faults = {
            "502": (answers(502), later),
            "of a proxy or a storage service": (answers(520), later),
            "too many requests": (answers(429), later),
            "cut": (drops_after(1000), later),
            "reset": (drops_after(1000, reset=True), later),
            "no answer": (never_answers, later),
            "closed": (hangs_up, later),
            "cut, of unknown length": (without_length(count=1000), later),
            "404": (answers(404), final),
            "403": (answers(403), final),
            "another file": (answers(200, {"Content-Length": len(wrong)}, wrong), final),
            "a page": (answers(200, {}, b"<html>Sign in</html>"), final),
            "a circle": (redirects("/file"), final),
        }
        for name, (fault, expected) in faults.items():
            server.always = fault
            attempts = IMPATIENT if fault is never_answers else TWICE
            monkeypatch.setattr("c3d_export.fetch.Attempts", lambda attempts=attempts: attempts)
            code, _, err = run("fetch", "one.h5", "--models", tmp_path)
            assert (code, err) == (expected, "c3d-export: 1 not fetched: one.h5; see above\n"), name
            assert list(tmp_path.iterdir()) == [], name

    def test_code_of_a_later_try_needs_one_address_of_each_file(
        self, server, run, tmp_path, catalogue, monkeypatch
    ):
        monkeypatch.setattr("c3d_export.fetch.Attempts", lambda: TWICE)
        server.faults = [answers(404), answers(520)]
        assert run("fetch", "two.h5", "--models", tmp_path)[0] == 75
        server.faults = [answers(520), answers(404)]
        assert run("fetch", "two.h5", "--models", tmp_path)[0] == 75
        # Two files, of which one is published for browsers alone.
        server.faults = [answers(520)]
        assert run("fetch", "one.h5", "three.h5", "--models", tmp_path)[0] == 2

    def test_network_that_is_missing_may_come_later(self, run, tmp_path, catalogue, monkeypatch):
        def getaddrinfo(*_, **__):
            raise socket.gaierror(-3, "Temporary failure in name resolution")

        with closed_port() as port:
            refused = Asset("r.h5", "weights", "", FINGERPRINT, (f"http://127.0.0.1:{port}/r",))
            monkeypatch.setattr(assets, "CATALOGUE", (*catalogue, refused))
            code, out, _ = run("fetch", "r.h5", "--models", tmp_path)
            assert code == 75
            assert "Connection refused); is there a network?" in out
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert run("fetch", "one.h5", "--models", tmp_path)[0] == 75


class TestByHand:
    def test_instructions_have_content_addresses_target_and_terms(self, tmp_path):
        (asset,) = find_assets(("sports1M_classes.txt",))
        text = by_hand([asset], tmp_path)
        for part in (asset.about, asset.urls[0], asset.page, str(tmp_path / asset.name)):
            assert part in text
        assert "6,503 bytes" in text
        assert asset.fingerprint.md5 in text
        assert asset.fingerprint.sha256 in text
        assert "non-commercial use, CC BY-NC 3.0" in text

    def test_all_assets_are_named(self, tmp_path):
        text = by_hand(CATALOGUE, tmp_path)
        assert all(f"  {asset.name}\n" in text for asset in CATALOGUE)
        assert "dcc47ddc..." in text


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgressLine:
    asset = CATALOGUE[0]

    def test_line_is_written_a_few_times_a_second(self):
        times_s = iter([0.0] + [0.01 * n for n in range(1000)])
        stream = Terminal()
        line = ProgressLine(stream, clock=lambda: next(times_s))
        for megabytes in range(300):
            line(self.asset, megabytes * 1_000_000, 300_000_000)
        assert 2 <= stream.getvalue().count("\r") <= 16
        assert "MB of 300.0 MB" in stream.getvalue()

    def test_line_has_the_size_where_the_total_is_unknown(self):
        stream = Terminal()
        ProgressLine(stream)(self.asset, 2_500_000, None)
        assert stream.getvalue() == f"\r{self.asset.name}: 2.5 MB"

    def test_clear_removes_the_line(self):
        stream = Terminal()
        line = ProgressLine(stream)
        line(self.asset, 1_000_000, 2_000_000)
        line.clear()
        width = len(f"{self.asset.name}: 1.0 MB of 2.0 MB, 50%")
        assert stream.getvalue().endswith(f"\r{' ' * width}\r")
        line.clear()

    def test_nothing_is_written_to_other_streams(self):
        stream = io.StringIO()
        line = ProgressLine(stream)
        line(self.asset, 1, 2)
        line.clear()
        assert stream.getvalue() == ""


def test_result_is_one_line(tmp_path):
    result = Fetched(CATALOGUE[0], tmp_path, "there", "checksum right")
    assert str(result) == f"there    {tmp_path}: checksum right"
