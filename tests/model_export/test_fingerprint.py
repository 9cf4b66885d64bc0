"""A file is known by its length, digests and beginning; what is wrong is said against what is."""

import hashlib

import pytest
from c3d_client.core.errors import UsageError
from c3d_export.fingerprint import Fingerprint

CONTENT = b"\x89HDF" + b"x" * 3_000_000  # read in more than one block
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize(
    "known",
    [
        Fingerprint(),
        Fingerprint(size=len(CONTENT), md5=MD5, sha256=SHA256, magic=(b"PK", b"\x89HDF")),
        Fingerprint(sha256=SHA256[:8]),
    ],
)
def test_the_right_file_has_no_problem(path, known):
    assert known.problem(path) == ""


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (Fingerprint(size=3), "it has 3,000,004 bytes; the published file has 3"),
        (Fingerprint(md5="0" * 32), f"md5 begins with {MD5[:16]}; the published file's with 0000"),
        (Fingerprint(sha256="1" * 64), f"sha256 begins with {SHA256[:16]}; "),
        (Fingerprint(md5=MD5, sha256="1" * 8), "sha256"),
        (Fingerprint(magic=(b"PK", b"BZh")), "begins with b'PK' or b'BZh'"),
    ],
)
def test_what_is_wrong_is_said_against_what_is_expected(path, known, said):
    assert said in known.problem(path)


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html>", b"<html>", b"\xef\xbb\xbf\r\n <HTML lang=en>", b"<!doctype HTML x"]
)
def test_a_web_page_is_called_one(path, page):
    path.write_bytes(page + b" " * 1000)
    for known in (Fingerprint(), Fingerprint(size=3, md5=MD5, magic=(b"PK",))):
        assert "web page" in known.problem(path)


def test_an_empty_file_is_never_right(path):
    path.write_bytes(b"")
    assert Fingerprint().problem(path) == "it is empty"


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": -1},
        {"md5": "abc"},
        {"md5": MD5.upper()},
        {"sha256": SHA256[:7]},
        {"sha256": SHA256 + "0"},
        {"sha256": "g" * 64},
    ],
)
def test_what_no_file_can_have_is_refused(wrong):
    with pytest.raises(UsageError):
        Fingerprint(**wrong)
