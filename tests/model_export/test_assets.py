"""The published files: the catalogue, their fingerprints, and the check of a folder."""

import hashlib
from urllib.parse import urlsplit

import pytest
from c3d_client.core.errors import UsageError
from c3d_export import assets
from c3d_export.assets import (
    CATALOGUE,
    DEFAULT_NAMES,
    KNOWN_WEIGHTS,
    LABELS_FILE,
    MEAN_FILES,
    Asset,
    Fingerprint,
    check_folder,
    find_assets,
    licence_note,
    usable_weights,
)

TF, KERAS = KNOWN_WEIGHTS[:2]
HDF5 = b"\x89HDF\r\n\x1a\n"

CONTENT = b"\x89HDF" + b"x" * 3_000_000  # read in several blocks
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class TestCatalogue:
    def test_names_are_unique_file_names(self):
        names = [asset.name for asset in CATALOGUE]
        assert len(set(names)) == len(names)
        assert not [name for name in names if "/" in name or name.startswith(".")]

    def test_every_published_format_is_there(self):
        assert {asset.name for asset in KNOWN_WEIGHTS} == {
            "conv3d_deepnetA_sport1m_iter_1900000",
            "c3d_ucf101_finetune_whole_iter_20000",
            "C3D_Sport1M_weights_keras_2.2.4.h5",
            "sports1M_weights_tf.h5",
            "c3d-sports1M_weights.h5",
            "c3d.pickle",
            "c3d-pretrained.pth",
            "c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
            "c3d_model.pkl",
        }

    def test_each_asset_has_addresses_and_a_fingerprint(self):
        for asset in CATALOGUE:
            assert asset.about, asset.name
            assert asset.page.startswith(("http://", "https://")), asset.name
            assert asset.fingerprint.has_digest or asset.fingerprint.magic, asset.name
            assert asset.fingerprint.wrong_start(b"<!DOCTYPE html>"), asset.name
            for url in asset.urls:
                assert urlsplit(url).scheme in ("http", "https"), url
                assert urlsplit(url).path.endswith(f"/{asset.name}"), url

    def test_mmactions_name_ends_with_its_digest(self):
        (asset,) = find_assets(("c3d_sports1m_pretrain_20201016-dcc47ddc.pth",))
        assert asset.fingerprint.sha256 == "dcc47ddc"
        assert asset.classes == 0

    def test_sports1m_mean_comes_before_the_ucf101_one(self):
        assert MEAN_FILES[0].startswith("sport1m_")
        assert MEAN_FILES[1].startswith("train01_")

    def test_default_files_are_one_of_each_kind_and_can_be_downloaded(self):
        defaults = find_assets(DEFAULT_NAMES)
        assert [asset.kind for asset in defaults] == ["weights", "mean", "labels"]
        assert all(asset.urls for asset in defaults)
        assert defaults[0].classes == 487
        assert defaults[2].name == LABELS_FILE

    def test_real_files_have_the_published_fingerprints(self, request):
        folder = request.getfixturevalue("assets")
        for path in (
            folder / "mean/train01_16_128_171_mean.binaryproto",
            folder / "mean/train01_16_128_171_mean.npy.bz2",
            folder / "labels/sports1M_classes.txt",
        ):
            (asset,) = find_assets((path.name,))
            assert assets.check(asset, path) == (True, "checksum right"), path


class TestFindAssets:
    def test_order_is_kept_and_duplicates_are_dropped(self):
        names = [asset.name for asset in find_assets((LABELS_FILE, TF.name, LABELS_FILE))]
        assert names == [LABELS_FILE, TF.name]

    def test_unknown_name_is_an_error_with_the_known_ones(self):
        for name in ("", "weights", "sports1m_weights_tf.h5", "../x"):
            with pytest.raises(UsageError, match=rf"^{name!r} is no published file; .*c3d\.pickle"):
                find_assets((name,))


class TestFingerprint:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(CONTENT)
        return path

    def test_right_file_has_no_problem(self, path):
        for fingerprint in (
            Fingerprint(),
            Fingerprint(size=len(CONTENT), md5=MD5, sha256=SHA256, magic=(b"PK", b"\x89HDF")),
            Fingerprint(sha256=SHA256[:8]),
        ):
            assert fingerprint.problem(path) == "", fingerprint

    def test_problem_has_the_observed_and_the_expected_value(self, path):
        for fingerprint, text in (
            (Fingerprint(size=3), "it has 3,000,004 bytes; the published file has 3"),
            (
                Fingerprint(md5="0" * 32),
                f"md5 begins with {MD5[:16]}; the published file's with 0000",
            ),
            (Fingerprint(sha256="1" * 64), f"sha256 begins with {SHA256[:16]}; "),
            (Fingerprint(md5=MD5, sha256="1" * 8), "sha256"),
            (Fingerprint(magic=(b"PK", b"BZh")), "begins with b'PK' or b'BZh'"),
        ):
            assert text in fingerprint.problem(path), fingerprint

    def test_web_page_is_recognised(self, path):
        starts = (b"<!DOCTYPE html>", b"<html>", b"\xef\xbb\xbf\r\n <HTML lang=en>")
        for start in (*starts, b"<!doctype HTML x"):
            path.write_bytes(start + b" " * 1000)
            for fingerprint in (Fingerprint(), Fingerprint(size=3, md5=MD5, magic=(b"PK",))):
                assert "web page" in fingerprint.problem(path), start

    def test_empty_file_is_never_right(self, path):
        path.write_bytes(b"")
        assert Fingerprint().problem(path) == "it is empty"

    def test_impossible_values_are_refused(self):
        for values in (
            {"size": 0},
            {"size": -1},
            {"md5": "abc"},
            {"md5": MD5.upper()},
            {"sha256": SHA256[:7]},
            {"sha256": SHA256 + "0"},
            {"sha256": "g" * 64},
        ):
            with pytest.raises(UsageError):
                Fingerprint(**values)


class TestFolder:
    def test_empty_or_missing_folder_has_no_files(self, tmp_path):
        assert usable_weights(tmp_path) == check_folder(tmp_path) == {}
        assert usable_weights(tmp_path / "absent") == {}

    def test_file_with_other_content_is_wrong_and_not_used(self, tmp_path):
        (tmp_path / TF.name).write_bytes(HDF5 + b"not these")
        ((asset, (usable, text)),) = check_folder(tmp_path).items()
        assert (asset, usable) == (TF, False)
        assert text.startswith("WRONG: its md5 begins with ")
        assert usable_weights(tmp_path) == {}

    def test_missing_published_checksum_is_reported(self, tmp_path):
        (tmp_path / KERAS.name).write_bytes(HDF5 + b"anything")
        assert usable_weights(tmp_path) == {KERAS: "no published checksum to compare with"}

    def test_web_page_saved_under_an_assets_name_is_not_used(self, tmp_path):
        (tmp_path / KERAS.name).write_bytes(b"<!DOCTYPE html>")
        assert "web page" in check_folder(tmp_path)[KERAS][1]
        assert usable_weights(tmp_path) == {}

    def test_right_checksum_is_reported(self, tmp_path, monkeypatch):
        fingerprint = Fingerprint(md5=hashlib.md5(b"weights").hexdigest())
        asset = Asset("w.h5", "weights", "test weights", fingerprint)
        monkeypatch.setattr(assets, "KNOWN_WEIGHTS", (asset,))
        (tmp_path / "w.h5").write_bytes(b"weights")
        assert usable_weights(tmp_path) == {asset: "checksum right"}

    def test_folder_with_an_assets_name_is_ignored(self, tmp_path):
        (tmp_path / TF.name).mkdir()
        assert check_folder(tmp_path) == {}

    def test_best_asset_comes_first(self, tmp_path):
        for asset in reversed(CATALOGUE):
            (tmp_path / asset.name).write_bytes((asset.fingerprint.magic or (b"x",))[0])
        assert list(check_folder(tmp_path)) == list(CATALOGUE)

    def test_mean_files_are_no_weights(self, tmp_path):
        (tmp_path / "train01_16_128_171_mean.npy").write_bytes(b"\x93NUMPY")
        assert len(check_folder(tmp_path)) == 1
        assert usable_weights(tmp_path) == {}


def test_licence_note_names_the_terms():
    assert "non-commercial use (CC BY-NC 3.0)" in licence_note()
