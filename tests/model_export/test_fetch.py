"""Published files are fetched one by one; each ends as a line; what failed is told in words."""

import io
import socket

import pytest
from c3d_client.core.errors import UsageError
from c3d_export import assets
from c3d_export.assets import CATALOGUE, Asset, find_assets
from c3d_export.download import Patience
from c3d_export.errors import AssetError
from c3d_export.fetch import Fetched, ProgressLine, by_hand, fetch
from c3d_export.fingerprint import Fingerprint
from support.http_faults import CONTENT, KNOWN, answers, drops_after

IMPATIENT = Patience(timeout_s=0.3, attempts=2, backoff_s=0.001)


@pytest.fixture
def catalogue(server, monkeypatch):
    """Published files whose addresses are this machine's."""
    mirrored = (f"{server.url}/gone", f"{server.url}/mirror")
    published = (
        Asset("one.h5", "weights", "the first", KNOWN, (server.url,), page="http://one"),
        Asset("two.h5", "weights", "the second", KNOWN, mirrored, page="http://two"),
        Asset(
            "three.h5", "weights", "in a browser", Fingerprint(magic=(b"\x89",)), page="http://3"
        ),
    )
    monkeypatch.setattr(assets, "CATALOGUE", published)
    monkeypatch.setattr("c3d_export.fetch.DEFAULT_NAMES", ("one.h5",))
    return published


@pytest.fixture
def get(catalogue, tmp_path):
    def get(*names, **options):
        return list(fetch(names, tmp_path / "models", **{"patience": IMPATIENT, **options}))

    return get


def outcomes(results):
    return {result.asset.name: result.outcome for result in results}


class TestFetch:
    def test_makes_the_folder_and_fetches_what_a_servable_needs(self, get, tmp_path):
        (result,) = get()
        path = tmp_path / "models" / "one.h5"
        assert path.read_bytes() == CONTENT
        assert str(result) == f"fetched  {path}: checksum right"

    def test_what_is_there_is_not_fetched_again(self, server, get):
        get()
        server.requests.clear()
        assert outcomes(get()) == outcomes(get(overwrite=True)) == {"one.h5": "there"}
        assert server.requests == []

    def test_a_wrong_file_is_left_unless_it_is_to_be_overwritten(self, get, tmp_path):
        path = tmp_path / "models" / "one.h5"
        path.parent.mkdir()
        path.write_bytes(b"other")
        (result,) = get()
        assert result.outcome == "failed"
        assert "WRONG: " in result.said
        assert path.read_bytes() == b"other"
        assert outcomes(get(overwrite=True)) == {"one.h5": "fetched"}
        assert path.read_bytes() == CONTENT

    def test_one_that_fails_does_not_stop_the_next(self, server, get):
        server.faults = [answers(404)]
        results = get("one.h5", "three.h5", "two.h5")
        assert outcomes(results) == {"one.h5": "failed", "three.h5": "failed", "two.h5": "fetched"}
        assert "404 Not Found" in results[0].said
        assert all(str(result).count("\n") == 0 for result in results)

    def test_another_address_is_asked_where_the_first_has_nothing(self, server, get):
        server.faults = [answers(404)]
        assert outcomes(get("two.h5")) == {"two.h5": "fetched"}
        assert [path for path, _ in server.requests] == ["/file/gone", "/file/mirror"]

    def test_but_not_where_half_of_it_came(self, server, get):
        server.faults = [drops_after(1000), answers(500)]
        assert outcomes(get("two.h5")) == {"two.h5": "failed"}
        assert outcomes(get("two.h5")) == {"two.h5": "fetched"}
        assert server.ranges == ["", "bytes=1000-", "bytes=1000-"]

    def test_each_is_told_of_as_it_comes(self, server, catalogue, tmp_path):
        results = fetch(["one.h5", "two.h5"], tmp_path, patience=IMPATIENT)
        assert next(results).asset.name == "one.h5"
        assert len(server.requests) == 1

    def test_progress_names_the_asset(self, get, catalogue):
        seen = []
        get("one.h5", progress=lambda *far: seen.append(far))
        assert seen[-1] == (catalogue[0], len(CONTENT), len(CONTENT))

    def test_a_file_for_the_browser_is_checked_once_it_is_there(self, get, tmp_path):
        (result,) = get("three.h5")
        assert (result.outcome, result.said) == (
            "failed",
            "it cannot be fetched without a browser",
        )
        (tmp_path / "models" / "three.h5").write_bytes(b"\x89HDF")
        (result,) = get("three.h5")
        assert (result.outcome, result.said) == ("there", "no published checksum to compare with")
        (tmp_path / "models" / "three.h5").write_bytes(b"<html>")
        assert "web page" in get("three.h5")[0].said

    def test_unknown_names_are_refused_before_anything_is_made(self, catalogue, tmp_path):
        with pytest.raises(UsageError, match=r"'x' is no published file; known are one\.h5"):
            fetch(["one.h5", "x"], tmp_path / "models")
        assert not (tmp_path / "models").exists()

    def test_a_folder_that_cannot_be_made_is_named(self, catalogue, tmp_path):
        (tmp_path / "models").write_bytes(b"")
        with pytest.raises(AssetError, match="models: cannot be made"):
            fetch([], tmp_path / "models")

    def test_without_a_network_every_file_is_a_line(self, catalogue, get, monkeypatch):
        def nobody(*_, **__):
            raise socket.gaierror(-3, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        (result,) = get("one.h5", patience=Patience())
        assert result.outcome == "failed"
        assert result.said.endswith("name resolution); is there a network?")


class TestByHand:
    def test_says_what_from_where_to_where_and_on_what_terms(self, tmp_path):
        (asset,) = find_assets(("sports1M_classes.txt",))
        text = by_hand([asset], tmp_path)
        for part in (asset.about, asset.urls[0], asset.page, str(tmp_path / asset.name)):
            assert part in text
        assert "6,503 bytes" in text
        assert asset.known.md5 in text
        assert asset.known.sha256 in text
        assert "non-commercial use, CC BY-NC 3.0" in text

    def test_names_all_of_them(self, tmp_path):
        text = by_hand(CATALOGUE, tmp_path)
        assert all(f"  {asset.name}\n" in text for asset in CATALOGUE)
        assert "dcc47ddc..." in text


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgressLine:
    asset = CATALOGUE[0]

    def test_is_written_a_few_times_a_second(self):
        now = iter([0.0] + [0.01 * n for n in range(1000)])
        stream = Terminal()
        line = ProgressLine(stream, clock=lambda: next(now))
        for done in range(300):
            line(self.asset, done * 1_000_000, 300_000_000)
        assert 2 <= stream.getvalue().count("\r") <= 16
        assert "MB of 300.0 MB" in stream.getvalue()

    def test_says_how_far_where_the_length_is_not_known(self):
        stream = Terminal()
        ProgressLine(stream)(self.asset, 2_500_000, None)
        assert stream.getvalue() == f"\r{self.asset.name}: 2.5 MB"

    def test_is_taken_away(self):
        stream = Terminal()
        line = ProgressLine(stream)
        line(self.asset, 1_000_000, 2_000_000)
        line.clear()
        assert stream.getvalue().endswith(
            f"\r{' ' * len(f'{self.asset.name}: 1.0 MB of 2.0 MB, 50%')}\r"
        )
        line.clear()

    def test_is_not_written_where_nobody_looks(self):
        stream = io.StringIO()
        line = ProgressLine(stream)
        line(self.asset, 1, 2)
        line.clear()
        assert stream.getvalue() == ""


def test_a_result_is_one_line(tmp_path):
    result = Fetched(CATALOGUE[0], tmp_path, "there", "checksum right")
    assert str(result) == f"there    {tmp_path}: checksum right"
