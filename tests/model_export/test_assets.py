"""The published files: which are known, which are here, and whether they are what was published."""

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
    find_assets,
    found,
    found_weights,
    licence_note,
)
from c3d_export.fingerprint import Fingerprint

TF, KERAS = KNOWN_WEIGHTS[:2]
HDF5 = b"\x89HDF\r\n\x1a\n"


class TestCatalogue:
    def test_names_are_file_names_and_each_is_there_once(self):
        names = [asset.name for asset in CATALOGUE]
        assert len(set(names)) == len(names)
        assert not [name for name in names if "/" in name or name.startswith(".")]

    def test_it_has_every_format_that_is_about(self):
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

    @pytest.mark.parametrize("asset", CATALOGUE, ids=lambda asset: asset.name)
    def test_each_says_where_it_is_and_on_what_terms(self, asset):
        assert asset.about
        assert asset.page.startswith(("http://", "https://"))
        assert asset.licence == "non-commercial use, CC BY-NC 3.0"
        for url in asset.urls:
            assert urlsplit(url).scheme in ("http", "https")
            assert urlsplit(url).path.endswith(f"/{asset.name}")

    @pytest.mark.parametrize("asset", CATALOGUE, ids=lambda asset: asset.name)
    def test_each_can_be_told_from_a_web_page(self, asset):
        assert asset.known.wrong_start(b"<!DOCTYPE html>")

    @pytest.mark.parametrize("asset", CATALOGUE, ids=lambda asset: asset.name)
    def test_each_has_a_digest_or_a_beginning_to_know_it_by(self, asset):
        assert asset.known.has_digest or asset.known.magic

    def test_mmactions_name_ends_with_its_digest(self):
        (asset,) = find_assets(("c3d_sports1m_pretrain_20201016-dcc47ddc.pth",))
        assert asset.known.sha256 == "dcc47ddc"
        assert asset.classes == 0

    def test_the_sports1m_mean_comes_before_the_ucf101_one(self):
        assert MEAN_FILES[0].startswith("sport1m_")
        assert MEAN_FILES[1].startswith("train01_")

    def test_by_default_there_is_one_of_each_kind_that_can_be_fetched(self):
        chosen = find_assets(DEFAULT_NAMES)
        assert [asset.kind for asset in chosen] == ["weights", "mean", "labels"]
        assert all(asset.urls for asset in chosen)
        assert chosen[0].classes == 487
        assert chosen[2].name == LABELS_FILE

    @pytest.mark.parametrize(
        "path",
        [
            "mean/train01_16_128_171_mean.binaryproto",
            "mean/train01_16_128_171_mean.npy.bz2",
            "labels/sports1M_classes.txt",
        ],
    )
    def test_the_real_files_are_known(self, request, path):
        real = request.getfixturevalue("assets") / path
        (asset,) = find_assets((real.name,))
        assert assets.check(asset, real) == (True, "checksum right")


class TestFindAssets:
    def test_keeps_the_order_and_names_each_once(self):
        found = find_assets((LABELS_FILE, TF.name, LABELS_FILE))
        assert [asset.name for asset in found] == [LABELS_FILE, TF.name]

    @pytest.mark.parametrize("name", ["", "weights", "sports1m_weights_tf.h5", "../x"])
    def test_names_what_is_known(self, name):
        with pytest.raises(UsageError, match=rf"^{name!r} is no published file; .*c3d\.pickle"):
            find_assets((name,))


class TestFound:
    def test_an_empty_folder_or_none_has_none(self, tmp_path):
        assert found_weights(tmp_path) == found(tmp_path) == {}
        assert found_weights(tmp_path / "absent") == {}

    def test_a_file_of_that_name_and_other_content_is_wrong_and_not_used(self, tmp_path):
        (tmp_path / TF.name).write_bytes(HDF5 + b"not these")
        ((asset, (fits, said)),) = found(tmp_path).items()
        assert (asset, fits) == (TF, False)
        assert said.startswith("WRONG: its md5 begins with ")
        assert found_weights(tmp_path) == {}

    def test_a_file_without_a_published_checksum_says_so(self, tmp_path):
        (tmp_path / KERAS.name).write_bytes(HDF5 + b"anything")
        assert found_weights(tmp_path) == {KERAS: "no published checksum to compare with"}

    def test_a_web_page_saved_under_that_name_is_not_used(self, tmp_path):
        (tmp_path / KERAS.name).write_bytes(b"<!DOCTYPE html>")
        assert "web page" in found(tmp_path)[KERAS][1]
        assert found_weights(tmp_path) == {}

    def test_a_file_with_the_published_checksum_is_called_right(self, tmp_path, monkeypatch):
        known = Fingerprint(md5=hashlib.md5(b"weights").hexdigest())
        asset = Asset("w.h5", "weights", "somebody's", known)
        monkeypatch.setattr(assets, "CATALOGUE", (asset,))
        (tmp_path / "w.h5").write_bytes(b"weights")
        assert found_weights(tmp_path) == {asset: "checksum right"}

    def test_a_folder_of_that_name_is_no_file(self, tmp_path):
        (tmp_path / TF.name).mkdir()
        assert found(tmp_path) == {}

    def test_the_best_comes_first(self, tmp_path):
        for asset in reversed(CATALOGUE):
            (tmp_path / asset.name).write_bytes((asset.known.magic or (b"x",))[0])
        assert list(found(tmp_path)) == list(CATALOGUE)

    def test_only_weights_are_weights(self, tmp_path):
        (tmp_path / "train01_16_128_171_mean.npy").write_bytes(b"\x93NUMPY")
        assert len(found(tmp_path)) == 1
        assert found_weights(tmp_path) == {}


def test_people_are_told_of_the_licence():
    assert "non-commercial use (CC BY-NC 3.0)" in licence_note()
